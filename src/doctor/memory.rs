//! Hugepages and the limits of the process.

use super::{Finding, Machine, Subject, devices, is_pci};
use crate::config::Hugepages;

const HUGEPAGES: &str = "hugepages";
const LIMITS: &str = "limits";

/// Bytes that a connection takes of hugepages at most, index and timer included; a test of
/// `dataplane::flow_table` holds the tables to them.
const FLOW_BYTES: u64 = 128;
const FLOW_IPV6_BYTES: u64 = 192;
/// Frames and what DPDK needs besides, for each worker, at a standard MTU.
const WORKER_MIB: u64 = 64;

/// Free pages against what the configuration is going to take.
pub fn hugepages(machine: &Machine, subject: &Subject) -> Vec<Finding> {
    let (free, total) = pages(machine, "sys/kernel/mm/hugepages");
    let never = subject.config.as_ref().is_some_and(|c| c.runtime.hugepages == Hugepages::Never);
    if never && !has_pci(subject) {
        return vec![Finding::info(HUGEPAGES, "not used (`hugepages = \"never\"`)")];
    }
    let wanted_mib = subject.config.as_ref().map_or(0, |config| {
        let runtime = &config.runtime;
        let flows = runtime.connections * FLOW_BYTES + runtime.connections_ipv6 * FLOW_IPV6_BYTES;
        u64::from(runtime.worker_count()) * ((flows >> 20) + WORKER_MIB)
    });
    let (free_mib, total_mib) = (free >> 20, total >> 20);
    let remedy = format!(
        "reserve them: `sysctl -w vm.nr_hugepages={0}`, and on the kernel's command line to keep \
         them over a restart, or `gyre-bind-nic --hugepages {0} --persist` (`scripts/bind-nic` in \
         the sources)",
        (wanted_mib.max(512)).div_ceil(2)
    );
    if subject.running.is_some() {
        let evidence = format!("{total_mib} MiB reserved, {free_mib} MiB free beside what runs");
        return vec![if total > 0 {
            Finding::ok(HUGEPAGES, evidence)
        } else {
            none(subject, remedy)
        }];
    }
    if total == 0 {
        return vec![none(subject, remedy)];
    }
    let evidence = format!("{free_mib} MiB free of {total_mib}; about {wanted_mib} MiB wanted");
    let mut findings = vec![if free_mib < wanted_mib {
        Finding::warning(HUGEPAGES, evidence, remedy)
    } else {
        Finding::ok(HUGEPAGES, evidence)
    }];
    findings.extend(nodes_without(machine));
    findings
}

fn none(subject: &Subject, remedy: String) -> Finding {
    let evidence = "none reserved".to_owned();
    if has_pci(subject) {
        Finding::error(HUGEPAGES, format!("{evidence}, and a PCI port needs them"), remedy)
    } else {
        Finding::warning(HUGEPAGES, format!("{evidence}: about half the speed"), remedy)
    }
}

fn has_pci(subject: &Subject) -> bool {
    subject.ports().iter().flat_map(devices).any(is_pci)
}

/// Free and reserved bytes of all page sizes below a directory of `hugepages-2048kB`s.
fn pages(machine: &Machine, directory: &str) -> (u64, u64) {
    let of_size = |name: String| {
        let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let count = |what| machine.number(&format!("{directory}/{name}/{what}_hugepages"));
        let bytes = |count: Option<i64>| count.and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
        Some((bytes(count("free")) * (kib << 10), bytes(count("nr")) * (kib << 10)))
    };
    let sizes = machine.list(directory).into_iter().filter_map(of_size);
    sizes.fold((0, 0), |sum, size| (sum.0 + size.0, sum.1 + size.1))
}

/// NUMA nodes that have cores and no pages, where others have some.
fn nodes_without(machine: &Machine) -> Vec<Finding> {
    let nodes = "sys/devices/system/node";
    let node = |name: &String| name.strip_prefix("node").is_some_and(|n| n.parse::<u32>().is_ok());
    let names: Vec<String> = machine.list(nodes).into_iter().filter(node).collect();
    let reserved = |name: &String| pages(machine, &format!("{nodes}/{name}/hugepages")).1;
    let has_cores = |name: &&String| !machine.cores(&format!("{nodes}/{name}/cpulist")).is_empty();
    let bare = names.iter().filter(has_cores).filter(|name| reserved(name) == 0);
    let bare: Vec<&str> = bare.map(String::as_str).collect();
    if bare.is_empty() || bare.len() == names.len() {
        return Vec::new();
    }
    let evidence = format!("none on {}; its workers would use memory far away", bare.join(", "));
    let remedy = format!(
        "`echo 512 > /sys/devices/system/node/{}/hugepages/hugepages-2048kB/nr_hugepages`",
        bare[0]
    );
    vec![Finding::warning(HUGEPAGES, evidence, remedy)]
}

/// Locked memory and open files: of the running process, else of this one.
pub fn limits(machine: &Machine, subject: &Subject) -> Vec<Finding> {
    let pid = subject.running.as_ref().map(|running| running.status.pid.to_string());
    let who = pid.clone().map_or("this shell".to_owned(), |pid| format!("gyre (pid {pid})"));
    let path = format!("proc/{}/limits", pid.as_deref().unwrap_or("self"));
    let Some(text) = machine.read(&path) else { return Vec::new() };
    // Columns `name  soft  hard  unit`; gyre raises the soft limit to the hard one by itself.
    let hard = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().nth(1).map(str::to_owned)
    };
    let mut findings = Vec::new();
    if let Some(locked) = hard("Max locked memory").filter(|limit| limit != "unlimited") {
        let evidence = format!("{who} may lock {locked} bytes of memory");
        let remedy = "`LimitMEMLOCK=infinity` in the unit, or `ulimit -l unlimited`".to_owned();
        findings.push(match has_pci(subject) {
            true => Finding::warning(LIMITS, format!("{evidence}; vfio maps all of it"), remedy),
            false => Finding::info(LIMITS, evidence),
        });
    }
    if let Some(files) = hard("Max open files").and_then(|limit| limit.parse::<u64>().ok())
        && files < 4096
    {
        let evidence = format!("{who} may open {files} files; clients and checks take one each");
        let remedy = "`LimitNOFILE=1048576` in the unit, or `ulimit -Hn 1048576`".to_owned();
        findings.push(Finding::warning(LIMITS, evidence, remedy));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(LIMITS, format!("{who}: locked memory and open files suffice")));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::machine::tests::machine;
    use super::super::{Severity, tests::subject};
    use super::*;

    const FREE: &str = "sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";
    const ALL: &str = "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";

    #[test]
    fn hugepages_are_compared_with_what_is_wanted() {
        let virtual_port = subject("device = \"net_null0\"", "");
        let pci_port = subject("device = \"0000:3b:00.0\"", "");
        let severity = |pages: &str, subject: &Subject| {
            let (machine, _root) = machine(&[(FREE, pages), (ALL, pages)], &[]);
            hugepages(&machine, subject)[0].severity
        };
        assert_eq!(severity("0", &virtual_port), Severity::Warning);
        assert_eq!(severity("0", &pci_port), Severity::Error);
        assert_eq!(severity("10", &pci_port), Severity::Warning);
        assert_eq!(severity("1024", &pci_port), Severity::Ok);
    }

    #[test]
    fn a_node_without_hugepages_is_named() {
        let node = |n: u32, file: &str| format!("sys/devices/system/node/node{n}/{file}");
        let pages = "hugepages/hugepages-2048kB/nr_hugepages";
        let (a, b, c, d) = (node(0, pages), node(1, pages), node(0, "cpulist"), node(1, "cpulist"));
        let files =
            [(FREE, "1024"), (ALL, "1024"), (&a, "1024"), (&b, "0"), (&c, "0-3"), (&d, "4-7")];
        let (machine, _root) = machine(&files, &[]);
        let found = hugepages(&machine, &subject("device = \"net_null0\"", ""));
        assert!(found[1].evidence.contains("node1"), "{found:?}");
        assert!(found[1].remedy.as_ref().unwrap().contains("node1/hugepages"), "{found:?}");
    }

    #[test]
    fn small_limits_are_told_with_the_units_words() {
        let text = "Limit   Soft   Hard   Units\nMax open files   1024   1024   files\n\
                    Max locked memory   8388608   8388608   bytes\n";
        let (machine, _root) = machine(&[("proc/self/limits", text)], &[]);
        let found = limits(&machine, &subject("device = \"0000:3b:00.0\"", ""));
        let all = format!("{found:?}");
        assert!(all.contains("LimitMEMLOCK=infinity") && all.contains("LimitNOFILE"), "{all}");
    }
}
