//! Reports character by character, from figures made by hand.

use super::*;
use crate::tracker::{Counts, new_histogram};

fn report() -> Report {
    let mut latency = new_histogram();
    (1..=1000u64).for_each(|n| latency.saturating_record(n * 10));
    let counts = Counts { received: 995, out_of_order: 2, ..Counts::default() };
    let trial = Trial {
        load_fps: 1000.0,
        duration_s: 1.0,
        asked: 1000,
        sent: 1000,
        receiver_drops: 0,
        counts,
        latency,
    };
    let short = Trial { asked: 2000, load_fps: 2000.0, ..trial.clone() };
    let mix = SizeMix::one(64);
    let ndr = Found {
        loss_ratio: 0.005,
        lower: Some(trial.clone()),
        upper: Some(Trial { load_fps: 1004.0, ..trial.clone() }),
        is_complete: true,
        limited_by: Some(LimitedBy::Device),
    };
    let mut report = Report {
        tool: "gyre-pktgen 0.1.0".to_owned(),
        command: vec!["gyre-pktgen".to_owned(), "run".to_owned()],
        started: "2026-01-02T03:04:05Z".to_owned(),
        machine: Machine {
            host: "lab".to_owned(),
            cpu: "some CPU".to_owned(),
            cores: 2,
            memory_mib: 1024,
            kernel: "6.1.0".to_owned(),
            hugepages_mib: 0,
        },
        dpdk: "DPDK 22.11.11".to_owned(),
        memory: "ordinary pages".to_owned(),
        ports: vec![PortSetup {
            role: "sends and receives",
            device: "net_null0".to_owned(),
            driver: "net_null".to_owned(),
            mac: "02:00:00:00:00:01".to_owned(),
            mtu: 1500,
            line_mbps: Some(10_000.0),
            core: 1,
        }],
        traffic: TrafficSetup {
            profile: "run".to_owned(),
            protocol: "UDP",
            to: "198.19.0.1:80".to_owned(),
            from: "198.18.0.2".to_owned(),
            from_last: "198.18.0.2".to_owned(),
            client_ports: (1024, 1024),
            dst_mac: "02:00:00:00:00:02".to_owned(),
            flows: 1,
            flows_touched: 1,
            distribution: "uniform".to_owned(),
            seed: 1,
            sizes: vec!["64".to_owned()],
        },
        figures: vec![
            Figure::of_search(&mix, &ndr).unwrap(),
            Figure { latency_ns: None, ..Figure::of_trial("run", &mix, &short) },
        ],
        connections: None,
        trials: vec![TrialRow::of(&mix, &trial)],
        remarks: Vec::new(),
    };
    report.finish();
    report
}

#[test]
fn markdown_shows_figures_limits_and_the_whole_set_up() {
    let expected = "\
# gyre-pktgen 0.1.0 run

| what | frame | pps asked | pps back | Mbit/s | sent | lost | loss | dup | out of order |
|---|---|---:|---:|---:|---:|---:|---:|---:|---:|
| PDR 0.5% | 64 | 1000 | 995 | 0.67 | 1000 | 5 | 0.500000% | 0 | 2 |
| run | 64 | 2000 | 995 | 0.67 | 1000 | 5 | 0.500000% | 0 | 2 |

| latency, us | frame | min | p50 | p90 | p99 | p99.9 | p99.99 | max |
|---|---|---:|---:|---:|---:|---:|---:|---:|
| PDR 0.5% | 64 | 0.0 | 5.0 | 9.0 | 9.9 | 10.0 | 10.0 | 10.0 |

- run, 64 bytes: the generator could not send as fast as asked (1000 of 2000 frames left it): \
this is its limit, not the device's

## Set-up

| | |
|---|---|
| command | `gyre-pktgen run` |
| started | 2026-01-02T03:04:05Z |
| machine | lab: some CPU, 2 cores, 1024 MiB, hugepages 0 MiB, Linux 6.1.0 |
| DPDK | DPDK 22.11.11; ordinary pages |
| traffic | UDP to 198.19.0.1:80 by 02:00:00:00:00:02 |
| clients | 198.18.0.2 to 198.18.0.2, ports 1024 to 1024: 1 flows (1 touched in a round), \
uniform, seed 1 |
| frame sizes | 64 |
| port, sends and receives | `net_null0` (net_null), 02:00:00:00:00:01, MTU 1500, line 10000 \
Mbit/s, core 1 |
";
    assert_eq!(markdown::text(&report()), expected);
}

#[test]
fn csv_has_a_line_for_each_figure_and_as_many_cells_as_names() {
    let text = csv::text(&report());
    let lines: Vec<&str> = text.split("\r\n").collect();
    assert_eq!(lines.len(), 4, "a header, two figures, and the end");
    let names = lines[0].split(',').count();
    assert!(lines[1..3].iter().all(|line| line.split(',').count() == names), "{text}");
    assert_eq!(
        lines[1],
        "PDR 0.5%,64,1000.000,1000.000,995.000,0.669,1004.000,1.000000,1000,1000,995,5,\
         0.005000000,0,2,0,0,,10,5003,9007,9903,9991,10007,10007,device"
    );
    assert!(lines[2].ends_with(",sender"), "{}", lines[2]);
}

#[test]
fn json_says_all_that_the_others_say() {
    let value: serde_json::Value =
        serde_json::from_str(&serde_json::to_string(&report()).unwrap()).unwrap();
    assert_eq!(value["figures"][0]["what"], "PDR 0.5%");
    assert_eq!(value["figures"][0]["failed_fps"], 1004.0);
    assert_eq!(value["figures"][0]["latency_ns"]["frames"], 1000);
    assert_eq!(value["figures"][1]["limited_by"], "sender");
    assert_eq!(value["traffic"]["seed"], 1);
    assert_eq!(value["machine"]["kernel"], "6.1.0");
    assert_eq!(value["trials"][0]["loss_ratio"], 0.005);
}

#[test]
fn goals_are_named_as_people_name_them() {
    assert_eq!(goal_name(0.0), "NDR");
    assert_eq!(goal_name(0.005), "PDR 0.5%");
}
