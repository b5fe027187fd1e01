//! The command line, and what is wrong with it. What it asks for is worked out in `plan`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use gyre::wire::ethernet::MacAddr;

use super::frame::Transport;
use super::schedule::Distribution;
use super::sizes::SizeList;
use super::units::{Rate, parse_duration, parse_ratio};

const AFTER: &str = "\
Ports are PCI addresses (bound to vfio-pci) or DPDK devargs, such as 0000:3b:00.0, \
net_af_packet0,iface=eth1 or net_memif0,role=client,socket=/run/memif.sock,socket-abstract=no.\n\n\
Exit codes: 0 done, 1 failed, 2 bad usage. bench/README.md explains every figure.";

/// Sends measured traffic at a load balancer and says what became of it.
#[derive(Debug, Parser)]
#[command(name = "gyre-pktgen", version, after_help = AFTER, max_term_width = 100)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Send at one rate for a while; count loss, order, duplicates and latency
    Run(Run),
    /// Search the highest rate without loss (NDR) and with little loss (PDR), after RFC 2544
    Throughput(Throughput),
    /// Search the longest burst at line rate that is not lost in part (RFC 2544, 26.4)
    BackToBack(BackToBack),
    /// Open, use and close TCP connections at a rate; `reflect` answers them
    Connections(Connections),
    /// Flood with SYNs from spoofed sources within the client range; count the answers
    SynFlood(SynFlood),
    /// Send every frame back where it came from, and answer TCP as a server
    Reflect(Reflect),
    /// Write the traffic as a capture or as a script for another generator; needs no port
    Write(Write),
}

/// What the traffic is.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Traffic")]
pub struct TrafficArgs {
    /// Where to: the virtual service (default: 198.19.0.1:80, or 2001:2:0:8000::1 and port 80)
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub to: Option<SocketAddr>,
    /// IPv6 when --to does not say
    #[arg(long)]
    pub ipv6: bool,
    /// UDP or TCP
    #[arg(long, value_enum, default_value_t = Transport::Udp)]
    pub protocol: Transport,
    /// First client address [default: 198.18.0.2 or 2001:2::2]
    #[arg(long, value_name = "ADDRESS")]
    pub from: Option<IpAddr>,
    /// Client addresses in use, going round [default: 254, fewer if there are fewer flows]
    #[arg(long)]
    pub hosts: Option<u32>,
    /// First client port; each address goes up from there
    #[arg(long, value_name = "PORT", default_value_t = super::clients::FIRST_PORT_DEFAULT)]
    pub first_port: u16,
    /// Flows (client address and port pairs)
    #[arg(long, default_value_t = 1)]
    pub flows: u32,
    /// How frames fall on flows: `uniform` (each once a round) or `zipf:S`
    #[arg(long, default_value = "uniform")]
    pub distribution: Distribution,
    /// Seed of every random choice
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Frame sizes with FCS, measured one after another: `64`, `64,512`, `imix`, `rfc2544`,
    /// `64:7+594:4+1518:1` [default: the least that the protocol allows]
    #[arg(long, value_name = "SIZES")]
    pub size: Option<SizeList>,
}

/// Where traffic goes out and comes in.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Ports")]
pub struct PortArgs {
    /// Port that sends, and receives unless --rx-port does
    #[arg(long, value_name = "DEVICE")]
    pub port: String,
    /// Port that receives, where traffic comes back by another way
    #[arg(long, value_name = "DEVICE")]
    pub rx_port: Option<String>,
    /// Queues of the port that receives, for a peer that sends by several: a memif has as many
    /// rings as its client has queues
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub rx_queues: u16,
    /// Core that sends [default: the last this process may use]
    #[arg(long)]
    pub core: Option<usize>,
    /// Core that receives [default: the sending one does both]
    #[arg(long)]
    pub rx_core: Option<usize>,
    /// The next hop's MAC address [default: asked for by ARP or neighbour discovery]
    #[arg(long, value_name = "MAC")]
    pub dst_mac: Option<MacAddr>,
    /// Whose MAC address to ask for [default: the address in --to]
    #[arg(long, value_name = "ADDRESS")]
    pub gateway: Option<IpAddr>,
    /// The generator's own address, for asking and answering [default: 198.18.0.1 or 2001:2::1]
    #[arg(long, value_name = "ADDRESS")]
    pub address: Option<IpAddr>,
    /// Speed of the line in Mbit/s [default: what the port tells]
    #[arg(long, value_name = "MBIT")]
    pub line_rate: Option<f64>,
    /// MTU of the ports in bytes [default: the device's]
    #[arg(long)]
    pub mtu: Option<u16>,
    /// What a core does when there is nothing to do
    #[arg(long, value_enum, default_value_t = Idle::Poll)]
    pub idle: Idle,
    /// Use ordinary pages even if there are hugepages
    #[arg(long)]
    pub no_huge: bool,
    /// mbufs to reserve
    #[arg(long, default_value_t = 16_383)]
    pub mbufs: u32,
    /// How long to wait for the link and for the next hop's MAC address
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "10s")]
    pub wait: Duration,
}

/// What a core does when there is nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Idle {
    /// Look again at once: right for figures.
    Poll,
    /// Let others run: right where cores are shared.
    Yield,
}

/// Where results go besides standard output.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Reports")]
pub struct ReportArgs {
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the figures as CSV
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// Write the report as Markdown
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
}

/// How trials are run.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Trials")]
pub struct TrialArgs {
    /// Traffic before the first measured frame, at the first trial's rate; every flow is opened
    /// before that in any case
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "1s")]
    pub warm_up: Duration,
    /// Rate at which flows are opened
    #[arg(long, value_name = "RATE", default_value = "100kpps")]
    pub open_rate: Rate,
    /// How long to wait for stragglers behind the last frame
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "500ms")]
    pub drain: Duration,
    /// Do not open flows before measuring
    #[arg(long)]
    pub no_open: bool,
}

/// `run`.
#[derive(Debug, clap::Args)]
pub struct Run {
    #[command(flatten)]
    pub ports: PortArgs,
    #[command(flatten)]
    pub traffic: TrafficArgs,
    #[command(flatten)]
    pub trial: TrialArgs,
    #[command(flatten)]
    pub reports: ReportArgs,
    /// How fast: `1.5Mpps`, `900Mbit` (on the wire) or `50%` of the line
    #[arg(long, default_value = "100%")]
    pub rate: Rate,
    /// How long
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "10s")]
    pub duration: Duration,
}

/// `throughput`.
#[derive(Debug, clap::Args)]
pub struct Throughput {
    #[command(flatten)]
    pub ports: PortArgs,
    #[command(flatten)]
    pub traffic: TrafficArgs,
    #[command(flatten)]
    pub trial: TrialArgs,
    #[command(flatten)]
    pub reports: ReportArgs,
    /// Loss ratios to search for, in one go; 0 is NDR
    #[arg(long, value_name = "RATIOS", value_delimiter = ',', value_parser = parse_ratio,
          default_value = "0,0.5%")]
    pub loss: Vec<f64>,
    /// Highest rate to try
    #[arg(long, value_name = "RATE", default_value = "100%")]
    pub max_rate: Rate,
    /// Lowest rate to try
    #[arg(long, value_name = "RATE", default_value = "1kpps")]
    pub min_rate: Rate,
    /// Length of trials that decide
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "10s")]
    pub duration: Duration,
    /// Length of the first, rough trials
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "1s")]
    pub first_duration: Duration,
    /// How close the bounds must come, as a share of the rate
    #[arg(long, value_name = "SHARE", value_parser = parse_ratio, default_value = "0.5%")]
    pub precision: f64,
    /// Most trials of one frame size
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    pub trials_max: usize,
    /// Shares of the NDR, in percent, at which latency is measured
    #[arg(long, value_name = "PERCENT", value_delimiter = ',', default_value = "10,50,90")]
    pub latency_at: Vec<f64>,
}

/// `back-to-back`.
#[derive(Debug, clap::Args)]
pub struct BackToBack {
    #[command(flatten)]
    pub ports: PortArgs,
    #[command(flatten)]
    pub traffic: TrafficArgs,
    #[command(flatten)]
    pub trial: TrialArgs,
    #[command(flatten)]
    pub reports: ReportArgs,
    /// Rate within a burst
    #[arg(long, default_value = "100%")]
    pub rate: Rate,
    /// Longest burst to try, as time at that rate
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "2s")]
    pub burst_max: Duration,
    /// Searches to average over
    #[arg(long, default_value_t = 5)]
    pub repeat: u32,
}

/// `connections`.
#[derive(Debug, clap::Args)]
pub struct Connections {
    #[command(flatten)]
    pub ports: PortArgs,
    #[command(flatten)]
    pub traffic: TrafficArgs,
    #[command(flatten)]
    pub reports: ReportArgs,
    /// Connections opened a second
    #[arg(long, default_value = "1000")]
    pub rate: Rate,
    /// How long
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "10s")]
    pub duration: Duration,
    /// When an unanswered connection counts as failed
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "1s")]
    pub timeout: Duration,
    /// Bytes of the request
    #[arg(long, value_name = "BYTES", default_value_t = 64)]
    pub request: u16,
}

/// `syn-flood`.
#[derive(Debug, clap::Args)]
pub struct SynFlood {
    #[command(flatten)]
    pub ports: PortArgs,
    #[command(flatten)]
    pub traffic: TrafficArgs,
    #[command(flatten)]
    pub reports: ReportArgs,
    /// SYNs a second
    #[arg(long, default_value = "100%")]
    pub rate: Rate,
    /// How long
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "10s")]
    pub duration: Duration,
}

/// `reflect`.
#[derive(Debug, clap::Args)]
pub struct Reflect {
    /// Port to receive and send on
    #[arg(long, value_name = "DEVICE")]
    pub port: String,
    /// Core to run on [default: the first this process may use]
    #[arg(long)]
    pub core: Option<usize>,
    /// Addresses to answer ARP and neighbour questions for
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    pub address: Vec<IpAddr>,
    /// Where replies go [default: the frame's sender, which in direct routing is the director]
    #[arg(long, value_name = "MAC")]
    pub reply_mac: Option<MacAddr>,
    /// Stop by itself after this time [default: on SIGINT or SIGTERM]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub duration: Option<Duration>,
    /// What the core does when there is nothing to do
    #[arg(long, value_enum, default_value_t = Idle::Poll)]
    pub idle: Idle,
    /// MTU of the port in bytes [default: the device's]
    #[arg(long)]
    pub mtu: Option<u16>,
    /// Use ordinary pages even if there are hugepages
    #[arg(long)]
    pub no_huge: bool,
    /// mbufs to reserve
    #[arg(long, default_value_t = 16_383)]
    pub mbufs: u32,
    /// Write the counts as JSON when stopping
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// `write`.
#[derive(Debug, clap::Args)]
pub struct Write {
    #[command(flatten)]
    pub traffic: TrafficArgs,
    /// Capture to write
    #[arg(long, value_name = "FILE")]
    pub pcap: Option<PathBuf>,
    /// Frames in the capture
    #[arg(long, value_name = "COUNT", default_value_t = 1000)]
    pub frames: u64,
    /// Command file for Pktgen-DPDK to write
    #[arg(long, value_name = "FILE")]
    pub pktgen_dpdk: Option<PathBuf>,
    /// Stateless profile for TRex to write
    #[arg(long, value_name = "FILE")]
    pub trex: Option<PathBuf>,
    /// How fast, for times in the capture and rates in the scripts (not in percent for captures
    /// and TRex unless --line-rate is given)
    #[arg(long, default_value = "1Mpps")]
    pub rate: Rate,
    /// Speed of the line in Mbit/s
    #[arg(long, value_name = "MBIT")]
    pub line_rate: Option<f64>,
    /// The sender's MAC address
    #[arg(long, value_name = "MAC", default_value = "02:00:00:00:00:01")]
    pub src_mac: MacAddr,
    /// The next hop's MAC address
    #[arg(long, value_name = "MAC", default_value = "02:00:00:00:00:02")]
    pub dst_mac: MacAddr,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn command_line_is_consistent() {
        Args::command().debug_assert();
    }
}
