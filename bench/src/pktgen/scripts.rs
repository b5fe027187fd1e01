//! The same traffic in other generators' words: commands for Pktgen-DPDK and a stateless profile
//! for TRex. Neither carries our stamps, so loss and latency are theirs to tell.

use std::fmt::Write;

use super::frame::{FCS_BYTES, Path, Transport};
use super::plan::{TrafficPlan, Usage};
use super::schedule::Distribution;
use super::sizes::SizeMix;
use super::units::Rate;

fn check(plan: &TrafficPlan, whom: &str) -> Result<(), Usage> {
    match plan.distribution {
        Distribution::Uniform => Ok(()),
        Distribution::Zipf(_) => Err(Usage(format!(
            "{whom} cannot draw flows by Zipf's law; write a capture with --pcap and replay it, or \
             take --distribution uniform"
        ))),
    }
}

fn protocol(transport: Transport) -> &'static str {
    if transport == Transport::Udp { "udp" } else { "tcp" }
}

/// Commands for Pktgen-DPDK's port 0, to be loaded with its `-f`. `percent` of the line.
///
/// Its ranges step together, so that addresses and ports in coprime numbers give all pairs.
pub fn pktgen_dpdk(plan: &TrafficPlan, path: &Path, percent: f64) -> Result<String, Usage> {
    check(plan, "Pktgen-DPDK")?;
    let [size] = plan.single_size()?.sizes()[..] else {
        return Err(Usage(
            "Pktgen-DPDK's ranges know no weights of sizes; write a capture with --pcap and load \
             it with its -s, or take one size"
                .to_owned(),
        ));
    };
    let clients = &plan.clients;
    let (hosts, wanted) = (clients.hosts(), clients.flows().div_ceil(clients.hosts()));
    let (first_port, _) = clients.ports();
    let most = u32::from(u16::MAX - first_port) + 1;
    let ports = (wanted..=most).find(|&ports| gcd(hosts, ports) == 1).unwrap_or(wanted);
    let last_port = u32::from(first_port) + ports - 1;
    let (service, protocol) = (path.service, protocol(path.transport));
    let (first, last) = (clients.first(), clients.last());
    let kind = if service.is_ipv4() { "ipv4" } else { "ipv6" };
    let (still, step) = if service.is_ipv4() { ("0.0.0.0", "0.0.0.1") } else { ("::", "::1") };
    let mut text = format!(
        "# Traffic of gyre-pktgen for Pktgen-DPDK, port 0: load it with -f, stop with `stop 0`.\n\
         # {flows} flows: {hosts} addresses and {ports} ports that step together.\n\
         stop 0\nset 0 count 0\nset 0 size {size}\nset 0 rate {percent}\n",
        flows = u64::from(hosts) * u64::from(ports) / u64::from(gcd(hosts, ports)),
    );
    let ip = service.ip();
    let (src_mac, dst_mac, dport) = (path.src_mac, path.dst_mac, service.port());
    let no_mac = "00:00:00:00:00:00";
    // Newer releases only, and the default of older ones.
    if service.is_ipv6() {
        let _ = writeln!(text, "range 0 type {kind}");
    }
    let _ = write!(
        text,
        "range 0 proto {protocol}\n\
         range 0 src mac {src_mac} {src_mac} {src_mac} {no_mac}\n\
         range 0 dst mac {dst_mac} {dst_mac} {dst_mac} {no_mac}\n\
         range 0 src ip {first} {first} {last} {step}\n\
         range 0 dst ip {ip} {ip} {ip} {still}\n\
         range 0 src port {first_port} {first_port} {last_port} 1\n\
         range 0 dst port {dport} {dport} {dport} 0\n\
         range 0 size {size} {size} {size} 0\n\
         enable 0 range\nstart 0\n"
    );
    Ok(text)
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// A stateless profile for TRex: `start -f FILE`. `fps` frames a second over all sizes.
pub fn trex(plan: &TrafficPlan, path: &Path, fps: f64) -> Result<String, Usage> {
    check(plan, "TRex's tuple generator")?;
    let mix = plan.single_size()?;
    let clients = &plan.clients;
    let is_ipv4 = path.service.is_ipv4();
    let (layer, low) = if is_ipv4 { ("IP", "") } else { ("IPv6", ", offset_fixup=12") };
    let l4 = if path.transport == Transport::Udp { "UDP" } else { "TCP" };
    let flags = if path.transport == Transport::Tcp { ", flags=\"PA\"" } else { "" };
    // The generator counts in 32 bits; in IPv6 those are the address's last.
    let low_bits = |address| super::clients::bits(address) as u32;
    let (ip_min, ip_max) = (low_bits(clients.first()), low_bits(clients.last()));
    let (port_min, port_max) = clients.ports();
    Ok(format!(
        r#"# Traffic of gyre-pktgen as a stateless TRex profile: `start -f FILE --port 0`.
from trex_stl_lib.api import *

# Frame size in bytes without FCS, frames a second, first frame in microseconds.
SIZES = [{sizes}]


class Clients(object):
    """{flows} flows from {first} on, each address before the next port."""

    def engine(self):
        return STLScVmRaw([
            STLVmTupleGen(name="client", ip_min={ip_min}, ip_max={ip_max},
                          port_min={port_min}, port_max={port_max}, limit_flows={flows}),
            STLVmWrFlowVar(fv_name="client.ip", pkt_offset="{layer}.src"{low}),
            STLVmWrFlowVar(fv_name="client.port", pkt_offset="{l4}.sport"),
            STLVmFixChecksumHw(l3_offset="{layer}", l4_offset="{l4}",
                               l4_type=CTRexVmInsFixHwCs.L4_TYPE_{l4}),
        ])

    def stream(self, size, pps, delay_us):
        base = (Ether(src="{src_mac}", dst="{dst_mac}")
                / {layer}(src="{first}", dst="{dst}")
                / {l4}(sport={port_min}, dport={dport}{flags}))
        packet = STLPktBuilder(pkt=base / (b"\0" * max(0, size - len(base))), vm=self.engine())
        return STLStream(packet=packet, isg=delay_us, mode=STLTXCont(pps=pps))

    def get_streams(self, direction=0, **kwargs):
        return [self.stream(*size) for size in SIZES]


def register():
    return Clients()
"#,
        sizes = trex_sizes(mix, fps),
        flows = clients.flows(),
        first = clients.first(),
        src_mac = path.src_mac,
        dst_mac = path.dst_mac,
        dst = path.service.ip(),
        dport = path.service.port(),
    ))
}

fn trex_sizes(mix: &SizeMix, fps: f64) -> String {
    let pattern = mix.pattern();
    let share = |at: usize| {
        let count = pattern.iter().filter(|&&part| usize::from(part) == at).count();
        fps * count as f64 / pattern.len() as f64
    };
    let sizes = mix.sizes().into_iter().enumerate();
    let parts: Vec<String> =
        sizes.map(|(at, size)| format!("({}, {:.3}, {at})", size - FCS_BYTES, share(at))).collect();
    parts.join(", ")
}

/// A rate as Pktgen-DPDK takes it: a share of the line.
pub fn percent(rate: Rate, mean_bytes: f64, line_mbps: Option<f64>) -> Result<f64, Usage> {
    match (rate, line_mbps) {
        (Rate::Percent(percent), _) => Ok(percent),
        (rate, Some(mbps)) => {
            let fps = rate.frames_per_second(mean_bytes, Some(mbps)).map_err(Usage::of)?;
            Ok((fps / super::units::line_fps(mbps, mean_bytes) * 100.0).min(100.0))
        }
        (rate, None) => Err(Usage(format!(
            "Pktgen-DPDK takes rates in percent of the line: give --rate in % or --line-rate MBIT \
             beside {rate}"
        ))),
    }
}

#[cfg(test)]
#[path = "scripts_tests.rs"]
mod tests;
