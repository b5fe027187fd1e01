//! Scripts word by word, since no other generator is at hand to read them here.

use super::*;
use crate::clients::Clients;
use gyre::wire::ethernet::MacAddr;

fn plan(size: &str) -> TrafficPlan {
    TrafficPlan {
        service: "198.19.0.1:80".parse().unwrap(),
        transport: Transport::Udp,
        clients: Clients::new([198, 18, 0, 2].into(), 254, 1024, 254 * 100).unwrap(),
        sizes: vec![size.parse().unwrap()],
        distribution: Distribution::Uniform,
        seed: 1,
    }
}

fn path(plan: &TrafficPlan) -> Path {
    plan.path(MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2]))
}

#[test]
fn pktgen_script_steps_through_all_pairs() {
    let plan = plan("64");
    let text = pktgen_dpdk(&plan, &path(&plan), 10.0).unwrap();
    // 100 ports and 254 addresses would meet only half the pairs.
    let expected = "\
# Traffic of gyre-pktgen for Pktgen-DPDK, port 0: load it with -f, stop with `stop 0`.
# 25654 flows: 254 addresses and 101 ports that step together.
stop 0
set 0 count 0
set 0 size 64
set 0 rate 10
range 0 proto udp
range 0 src mac 02:00:00:00:00:01 02:00:00:00:00:01 02:00:00:00:00:01 00:00:00:00:00:00
range 0 dst mac 02:00:00:00:00:02 02:00:00:00:00:02 02:00:00:00:00:02 00:00:00:00:00:00
range 0 src ip 198.18.0.2 198.18.0.2 198.18.0.255 0.0.0.1
range 0 dst ip 198.19.0.1 198.19.0.1 198.19.0.1 0.0.0.0
range 0 src port 1024 1024 1124 1
range 0 dst port 80 80 80 0
range 0 size 64 64 64 0
enable 0 range
start 0
";
    assert_eq!(text, expected);
}

#[test]
fn trex_profile_has_the_mix_and_the_clients() {
    let plan = plan("imix");
    let text = trex(&plan, &path(&plan), 12_000.0).unwrap();
    for line in [
        "SIZES = [(60, 7000.000, 0), (590, 4000.000, 1), (1514, 1000.000, 2)]",
        "STLVmTupleGen(name=\"client\", ip_min=3323068418, ip_max=3323068671,",
        "port_min=1024, port_max=1123, limit_flows=25400),",
        "STLVmWrFlowVar(fv_name=\"client.ip\", pkt_offset=\"IP.src\"),",
        "/ IP(src=\"198.18.0.2\", dst=\"198.19.0.1\")",
        "/ UDP(sport=1024, dport=80))",
    ] {
        assert!(text.contains(line), "no `{line}` in\n{text}");
    }
}

#[test]
fn what_a_generator_cannot_say_is_refused() {
    let mix = plan("imix");
    let error = pktgen_dpdk(&mix, &path(&mix), 10.0).unwrap_err().to_string();
    assert!(error.contains("--pcap"), "{error}");
    let mut zipf = plan("64");
    zipf.distribution = Distribution::Zipf(1.0);
    assert!(trex(&zipf, &path(&zipf), 1.0).is_err());
    assert!(percent(Rate::FramesPerSecond(1e6), 64.0, None).is_err());
    let share = percent(Rate::MegabitsPerSecond(500.0), 64.0, Some(1000.0)).unwrap();
    assert!((share - 50.0).abs() < 1e-9);
}
