//! Cores that workers run on: kept free, at full speed, near their NIC; and the clock they read.

use std::collections::BTreeSet;

use super::{Finding, Machine, Subject, devices, is_pci};

const CPU: &str = "sys/devices/system/cpu";

/// Cores that are configured, or nothing where gyre chooses them itself.
fn configured(subject: &Subject) -> BTreeSet<u32> {
    let cores = subject.config.as_ref().and_then(|config| config.runtime.cores.as_ref());
    cores.into_iter().flatten().map(|core| u32::from(*core)).collect()
}

fn words(cores: impl IntoIterator<Item = u32>) -> String {
    cores.into_iter().map(|core| core.to_string()).collect::<Vec<_>>().join(",")
}

/// Whether anything else may run on the workers' cores.
pub fn isolation(machine: &Machine, subject: &Subject) -> Vec<Finding> {
    const ISOLATION: &str = "isolcpus";
    let wanted = configured(subject);
    let online = machine.cores(&format!("{CPU}/online"));
    let isolated = machine.cores(&format!("{CPU}/isolated"));
    if wanted.is_empty() {
        let isolated = Some(words(isolated)).filter(|words| !words.is_empty());
        let isolated = isolated.unwrap_or_else(|| "none".into());
        let evidence = format!("`cores` is not configured; isolated: {isolated}");
        return vec![Finding::info(ISOLATION, evidence)];
    }
    let mut findings = Vec::new();
    let absent = words(wanted.difference(&online).copied());
    if !absent.is_empty() {
        let evidence = format!("there is no core {absent}; online are {}", words(online));
        let remedy = "correct `cores` in [runtime]".to_owned();
        return vec![Finding::error(ISOLATION, evidence, remedy)];
    }
    let shared = words(wanted.difference(&isolated).copied());
    let ticking = words(wanted.difference(&machine.cores(&format!("{CPU}/nohz_full"))).copied());
    let list = words(wanted.iter().copied());
    let remedy =
        format!("kernel command line: `isolcpus={list} nohz_full={list} rcu_nocbs={list}`");
    match (shared.is_empty(), ticking.is_empty()) {
        (false, _) => {
            let evidence = format!("the kernel may run other programs on core {shared}");
            findings.push(Finding::warning(ISOLATION, evidence, remedy));
        }
        (true, false) => {
            let evidence = format!("isolated, but the kernel's tick interrupts core {ticking}");
            findings.push(Finding::warning("nohz_full", evidence, remedy));
        }
        (true, true) => {
            findings.push(Finding::ok(ISOLATION, format!("cores {list} are the workers' alone")));
        }
    }
    findings.extend(siblings(machine, &wanted));
    findings
}

/// Two workers on one physical core share its speed.
fn siblings(machine: &Machine, wanted: &BTreeSet<u32>) -> Option<Finding> {
    let shared = wanted.iter().find_map(|core| {
        let path = format!("{CPU}/cpu{core}/topology/thread_siblings_list");
        let both: Vec<u32> = machine.cores(&path).intersection(wanted).copied().collect();
        (both.len() > 1).then_some(both)
    })?;
    let evidence = format!("workers' cores {} are threads of one core", words(shared));
    let remedy = "give each worker a physical core: `lscpu -e` shows them".to_owned();
    Some(Finding::warning("siblings", evidence, remedy))
}

/// Whether cores run at full speed all the time.
pub fn governor(machine: &Machine, subject: &Subject) -> Vec<Finding> {
    const GOVERNOR: &str = "governor";
    let wanted = configured(subject);
    let cores = if wanted.is_empty() { machine.cores(&format!("{CPU}/online")) } else { wanted };
    let of = |core: u32| {
        let path = format!("{CPU}/cpu{core}/cpufreq/scaling_governor");
        machine.read(&path).map(|governor| (core, governor))
    };
    let known: Vec<(u32, String)> = cores.into_iter().filter_map(of).collect();
    if known.is_empty() {
        let evidence = "frequencies are not this kernel's to choose (no cpufreq)";
        return vec![Finding::ok(GOVERNOR, evidence)];
    }
    let slow = known.iter().find(|(_, governor)| governor != "performance");
    vec![match slow {
        None => Finding::ok(GOVERNOR, "performance"),
        Some((core, governor)) => Finding::warning(
            GOVERNOR,
            format!("core {core} has the governor `{governor}`: a burst meets a slow core"),
            "`cpupower frequency-set -g performance`".to_owned(),
        ),
    }]
}

/// Whether ports and cores are on the same node.
pub fn numa(machine: &Machine, subject: &Subject) -> Vec<Finding> {
    const NUMA: &str = "numa";
    let nodes = machine.list("sys/devices/system/node");
    let nodes = nodes.iter().filter_map(|name| name.strip_prefix("node")?.parse::<u32>().ok());
    let nodes: Vec<u32> = nodes.collect();
    if nodes.len() < 2 {
        return vec![Finding::ok(NUMA, "one node")];
    }
    let wanted = configured(subject);
    let near = |node| machine.cores(&format!("sys/devices/system/node/node{node}/cpulist"));
    let mut findings = Vec::new();
    for port in subject.ports() {
        for device in devices(port).filter(|device| is_pci(device)) {
            let path = format!("sys/bus/pci/devices/{}/numa_node", full_address(device));
            let node = machine.number(&path).filter(|node| *node >= 0);
            let Some(node) = node else { continue };
            let far = words(wanted.difference(&near(node)).copied());
            let here = words(near(node));
            findings.push(if far.is_empty() {
                Finding::ok(NUMA, format!("port {} is on node {node}, as its cores", port.name))
            } else {
                let evidence =
                    format!("port {} ({device}) is on node {node}, core {far} is not", port.name);
                let remedy = format!("cores of that node: {here}; set `cores` in [runtime]");
                Finding::warning(NUMA, evidence, remedy)
            });
        }
    }
    if findings.is_empty() {
        findings.push(Finding::info(NUMA, format!("{} nodes; no PCI port", nodes.len())));
    }
    findings
}

/// `3b:00.0` is in domain 0.
pub fn full_address(device: &str) -> String {
    let has_domain = device.matches(':').count() == 2;
    if has_domain { device.to_owned() } else { format!("0000:{device}") }
}

/// Whether the time stamp counter is a clock.
pub fn clock(machine: &Machine) -> Vec<Finding> {
    const CLOCK: &str = "clock";
    let info = machine.read("proc/cpuinfo").unwrap_or_default();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags")).unwrap_or_default();
    let has = |flag: &str| flags.split_whitespace().any(|found| found == flag);
    let missing: Vec<&str> =
        ["constant_tsc", "nonstop_tsc"].into_iter().filter(|flag| !has(flag)).collect();
    let source = "sys/devices/system/clocksource/clocksource0/current_clocksource";
    let source = machine.read(source).unwrap_or_default();
    let mut findings = Vec::new();
    if !missing.is_empty() {
        let evidence = format!("the processor does not promise {}", missing.join(" and "));
        let remedy = "timers may run fast or slow with its frequency: fix the frequency (governor \
                      `performance`), and in a VM pass the host's TSC through";
        findings.push(Finding::warning(CLOCK, evidence, remedy.to_owned()));
    }
    if source != "tsc" && !source.is_empty() {
        // The kernel found the counter wanting, or a hypervisor offers its own clock.
        findings.push(Finding::info(CLOCK, format!("the kernel's clock is {source}, not tsc")));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(CLOCK, "tsc, constant and never stopped"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::machine::tests::machine;
    use super::super::{Severity, tests::subject};
    use super::*;

    const NULL: &str = "device = \"net_null0\"";

    #[test]
    fn workers_cores_are_compared_with_isolcpus_and_nohz_full() {
        let two = subject(NULL, "cores = [2, 3]");
        let judge = |isolated: &str, nohz: &str| {
            let files = [
                ("sys/devices/system/cpu/online", "0-7"),
                ("sys/devices/system/cpu/isolated", isolated),
                ("sys/devices/system/cpu/nohz_full", nohz),
            ];
            let (machine, _root) = machine(&files, &[]);
            let found = isolation(&machine, &two).remove(0);
            (found.check, found.severity, found.remedy.unwrap_or_default())
        };
        assert_eq!(judge("2-3", "2-3").1, Severity::Ok);
        let (check, severity, remedy) = judge("2", "2-3");
        assert_eq!((check, severity), ("isolcpus", Severity::Warning));
        assert!(remedy.contains("isolcpus=2,3"), "{remedy}");
        assert_eq!(judge("2-3", "").0, "nohz_full");
        let (machine, _root) = machine(&[("sys/devices/system/cpu/online", "0-1")], &[]);
        let found = isolation(&machine, &two).remove(0);
        assert_eq!(found.severity, Severity::Error);
        assert!(found.evidence.contains("no core 2,3"), "{found:?}");
    }

    #[test]
    fn threads_of_one_core_are_told() {
        let files = [
            ("sys/devices/system/cpu/online", "0-7"),
            ("sys/devices/system/cpu/cpu2/topology/thread_siblings_list", "2,6"),
        ];
        let (machine, _root) = machine(&files, &[]);
        let found = isolation(&machine, &subject(NULL, "cores = [2, 6]"));
        assert!(found.iter().any(|found| found.check == "siblings"), "{found:?}");
    }

    #[test]
    fn a_saving_governor_is_told_and_none_is_fine() {
        let one = subject(NULL, "cores = [1]");
        let path = "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor";
        let judge = |files: &[(&str, &str)]| {
            let (machine, _root) = machine(files, &[]);
            governor(&machine, &one).remove(0)
        };
        assert_eq!(judge(&[]).severity, Severity::Ok);
        assert_eq!(judge(&[(path, "performance")]).severity, Severity::Ok);
        assert!(judge(&[(path, "powersave")]).evidence.contains("powersave"));
    }

    #[test]
    fn a_core_far_from_its_nic_is_told() {
        let files = [
            ("sys/devices/system/node/node0/cpulist", "0-3"),
            ("sys/devices/system/node/node1/cpulist", "4-7"),
            ("sys/bus/pci/devices/0000:3b:00.0/numa_node", "1"),
        ];
        let (machine, _root) = machine(&files, &[]);
        let found = numa(&machine, &subject("device = \"3b:00.0\"", "cores = [3, 4]"));
        assert_eq!(found[0].severity, Severity::Warning);
        assert!(found[0].evidence.contains("core 3"), "{found:?}");
        let found = numa(&machine, &subject("device = \"3b:00.0\"", "cores = [4]"));
        assert_eq!(found[0].severity, Severity::Ok);
    }

    #[test]
    fn an_unsteady_clock_is_told() {
        let source = "sys/devices/system/clocksource/clocksource0/current_clocksource";
        let judge = |flags: &str, clock: &str| {
            let (machine, _root) = machine(&[("proc/cpuinfo", flags), (source, clock)], &[]);
            super::clock(&machine).remove(0).severity
        };
        let good = "flags : fpu constant_tsc nonstop_tsc";
        assert_eq!(judge(good, "tsc"), Severity::Ok);
        assert_eq!(judge(good, "kvm-clock"), Severity::Info);
        assert_eq!(judge("flags : fpu constant_tsc", "tsc"), Severity::Warning);
    }
}
