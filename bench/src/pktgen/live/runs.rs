//! The commands that send: `run`, `throughput`, `back-to-back` and `syn-flood`.

use std::sync::Arc;
use std::time::Duration;

use gyre::wire::tcp::TcpFlags;

use super::ends::Owned;
use super::progress::Progress;
use super::rig::Rig;
use super::trials::{Load, Sized, Trials};
use crate::args::{self, PortArgs, ReportArgs, TrafficArgs, TrialArgs};
use crate::frame::{Templates, Transport};
use crate::machine::{Machine, timestamp_now};
use crate::plan::{TrafficPlan, Usage, own_address};
use crate::random::Random;
use crate::report::{Figure, Report, TrafficSetup, TrialRow, goal_name};
use crate::search::{SearchPlan, longest_burst, search};
use crate::sizes::SizeMix;
use crate::stop::Stop;
use crate::traffic::Order;
use crate::trial::LimitedBy;
use crate::units::Rate;

/// Phases of a search between the rough and the final one, as CSIT has them.
const MIDDLE_PHASES: u32 = 2;

/// A run being made: trials and the report on them.
pub struct Session {
    pub trials: Trials,
    pub report: Report,
}

impl Session {
    /// Opens the ports and learns the next hop. `profile` names the run.
    pub fn open(ports: &PortArgs, traffic: &TrafficArgs, profile: &str) -> anyhow::Result<Self> {
        let started = timestamp_now();
        let stop = Stop::on_signals()?;
        let plan = TrafficPlan::new(traffic)?;
        let address = ports.address.unwrap_or(own_address(plan.service));
        if address.is_ipv4() != plan.service.is_ipv4() {
            let text = format!("--address {address} is not of the family of --to {}", plan.service);
            return Err(Usage(text).into());
        }
        let mut rig = Rig::open(ports, plan.largest_bytes(), &stop)?;
        let target = ports.gateway.unwrap_or(plan.service.ip());
        let dst_mac = match ports.dst_mac {
            Some(mac) => mac,
            None => rig.learn_mac(address, target, ports.wait, &stop)?,
        };
        let schedule = plan.schedule();
        let clients = plan.clients.clone();
        let owned = Owned { mac: rig.rx_mac(), address, clients };
        let progress = Progress::new();
        let drain = Duration::from_millis(500);
        let trials =
            Trials { rig, plan, schedule, dst_mac, owned, stop, progress, drain, stream: 0 };
        let report = new_report(&trials, profile, started);
        Ok(Session { trials, report })
    }

    /// `rate` for frames of `mean_bytes` on this line.
    pub fn fps(&self, rate: Rate, mean_bytes: f64) -> Result<f64, Usage> {
        rate.frames_per_second(mean_bytes, self.trials.rig.line_mbps()).map_err(Usage::of)
    }

    fn templates(&self, mix: &SizeMix) -> Result<Arc<Templates>, Usage> {
        self.trials.plan.templates(self.trials.rig.mac(), self.trials.dst_mac, mix)
    }

    /// Opens every flow and warms up at `fps`.
    fn warm_up(&mut self, args: &TrialArgs, mix: &SizeMix, fps: f64) -> anyhow::Result<()> {
        self.trials.drain = args.drain;
        let templates = self.templates(mix)?;
        if !args.no_open {
            let open_fps = self.fps(args.open_rate, mix.mean_bytes())?;
            self.open_flows(open_fps, &templates)?;
        }
        self.trials.progress.title("warming up");
        self.trials.stamped(&templates, Load::timed(fps, args.warm_up.as_secs_f64()))?;
        Ok(())
    }

    /// A datagram of every flow; in TCP a SYN and then the ACK that ends the handshake.
    fn open_flows(&mut self, fps: f64, stamped: &Arc<Templates>) -> anyhow::Result<()> {
        let flows = u64::from(self.trials.plan.clients.flows());
        // Nothing is given up here: a flow that is not opened would be opened while measuring.
        let load = Load::burst(fps, flows);
        self.trials.progress.title(format!("opening {flows} flows"));
        if self.trials.plan.transport == Transport::Udp {
            self.trials.unfollowed(stamped, Order::Each, load)?;
            return Ok(());
        }
        for flags in [TcpFlags::SYN, TcpFlags::ACK] {
            let bare = self.bare(flags)?;
            self.trials.unfollowed(&bare, Order::Each, load)?;
        }
        Ok(())
    }

    fn bare(&self, flags: TcpFlags) -> Result<Arc<Templates>, Usage> {
        let path = self.trials.plan.path(self.trials.rig.mac(), self.trials.dst_mac);
        Templates::bare(&path, flags).map(Arc::new).map_err(Usage::of)
    }

    fn sized<'a>(&'a mut self, mix: &SizeMix, title: &str) -> Result<Sized<'a>, Usage> {
        let templates = self.templates(mix)?;
        let title = format!("{title}, {mix} bytes");
        Ok(Sized { trials: &mut self.trials, templates, title })
    }

    /// Prints and writes the report.
    pub fn deliver(mut self, args: &ReportArgs) -> anyhow::Result<()> {
        if self.trials.stop.is_set() {
            self.report.remarks.push("stopped by a signal: figures are of what was done".into());
        }
        self.report.finish();
        self.report.deliver(args)
    }
}

fn new_report(trials: &Trials, profile: &str, started: String) -> Report {
    let plan = &trials.plan;
    let clients = &plan.clients;
    Report {
        tool: format!("gyre-pktgen {}", env!("CARGO_PKG_VERSION")),
        command: std::env::args().collect(),
        started,
        machine: Machine::this(),
        dpdk: gyre::dpdk::version(),
        memory: trials.rig.eal.memory().summary(),
        ports: trials.rig.port_setups(),
        traffic: TrafficSetup {
            profile: profile.to_owned(),
            protocol: if plan.transport == Transport::Udp { "UDP" } else { "TCP" },
            to: plan.service.to_string(),
            from: clients.first().to_string(),
            from_last: clients.last().to_string(),
            client_ports: clients.ports(),
            dst_mac: trials.dst_mac.to_string(),
            flows: clients.flows(),
            flows_touched: trials.schedule.distinct_flows(),
            distribution: plan.distribution.to_string(),
            seed: plan.seed,
            sizes: plan.sizes.iter().map(ToString::to_string).collect(),
        },
        figures: Vec::new(),
        connections: None,
        trials: Vec::new(),
        remarks: Vec::new(),
    }
}

/// `run`: one rate, every size.
pub fn run(args: &args::Run) -> anyhow::Result<()> {
    let mut session = Session::open(&args.ports, &args.traffic, "run")?;
    for mix in session.trials.plan.sizes.clone() {
        if session.trials.stop.is_set() {
            break;
        }
        let fps = session.fps(args.rate, mix.mean_bytes())?;
        session.warm_up(&args.trial, &mix, fps)?;
        let templates = session.templates(&mix)?;
        session.trials.progress.title(format!("{mix} bytes"));
        let load = Load::timed(fps, args.duration.as_secs_f64());
        let trial = session.trials.stamped(&templates, load)?;
        session.report.figures.push(Figure::of_trial("run", &mix, &trial));
    }
    session.deliver(&args.reports)
}

/// `throughput`: NDR and PDR of every size, and latency below the NDR.
pub fn throughput(args: &args::Throughput) -> anyhow::Result<()> {
    let mut session = Session::open(&args.ports, &args.traffic, "throughput")?;
    for mix in session.trials.plan.sizes.clone() {
        if session.trials.stop.is_set() {
            break;
        }
        throughput_of(&mut session, args, &mix)?;
    }
    session.deliver(&args.reports)
}

fn throughput_of(
    session: &mut Session,
    args: &args::Throughput,
    mix: &SizeMix,
) -> anyhow::Result<()> {
    let max_fps = session.fps(args.max_rate, mix.mean_bytes())?;
    let min_fps = session.fps(args.min_rate, mix.mean_bytes())?;
    if min_fps >= max_fps {
        let text =
            format!("--min-rate {} is not below --max-rate {}", args.min_rate, args.max_rate);
        return Err(Usage(text).into());
    }
    session.warm_up(&args.trial, mix, min_fps)?;
    let plan = SearchPlan {
        loss_ratios: args.loss.clone(),
        min_fps,
        max_fps,
        first_s: args.first_duration.as_secs_f64().min(args.duration.as_secs_f64()),
        final_s: args.duration.as_secs_f64(),
        middle_phases: MIDDLE_PHASES,
        precision: args.precision.max(1e-4),
        trials_max: args.trials_max,
    };
    let searched = search(&plan, &mut session.sized(mix, "searching")?)?;
    let rows = searched.trials.iter().map(|trial| TrialRow::of(mix, trial));
    session.report.trials.extend(rows);
    for found in &searched.found {
        match Figure::of_search(mix, found) {
            Some(figure) => session.report.figures.push(figure),
            None => session.report.remarks.push(format!(
                "{}, {mix} bytes: not even {min_fps:.0} pps passed",
                goal_name(found.loss_ratio)
            )),
        }
    }
    let ndr = searched.found.iter().min_by(|a, b| a.loss_ratio.total_cmp(&b.loss_ratio));
    let Some(ndr) = ndr.and_then(|found| Some((found.loss_ratio, found.lower.as_ref()?))) else {
        return Ok(());
    };
    let (goal, ndr_fps) = (goal_name(ndr.0), ndr.1.load_fps);
    for share in &args.latency_at {
        if session.trials.stop.is_set() {
            break;
        }
        let device = session.sized(mix, "measuring latency")?;
        let load = Load::timed(ndr_fps * share / 100.0, plan.final_s);
        device.trials.progress.title("measuring latency");
        let templates = Arc::clone(&device.templates);
        let trial = device.trials.stamped(&templates, load)?;
        let what = format!("latency at {share}% of {goal}");
        session.report.figures.push(Figure::of_trial(what, mix, &trial));
    }
    Ok(())
}

/// `back-to-back`: the longest burst of every size.
pub fn back_to_back(args: &args::BackToBack) -> anyhow::Result<()> {
    let mut session = Session::open(&args.ports, &args.traffic, "back-to-back")?;
    for mix in session.trials.plan.sizes.clone() {
        let fps = session.fps(args.rate, mix.mean_bytes())?;
        let frames_max = (fps * args.burst_max.as_secs_f64()) as u64;
        session.warm_up(&args.trial, &mix, fps.min(1e5))?;
        let mut bursts = Vec::new();
        for _ in 0..args.repeat.max(1) {
            if !session.trials.stop.is_set() {
                let mut device = session.sized(&mix, "searching the longest burst")?;
                bursts.push(longest_burst(&mut device, fps, frames_max.max(1))?);
            }
        }
        let sum: u64 = bursts.iter().map(|burst| burst.frames).sum();
        let mean = sum as f64 / bursts.len().max(1) as f64;
        // One more of that length, for the other figures.
        let templates = session.templates(&mix)?;
        let trial = session.trials.stamped(&templates, Load::burst(fps, (mean as u64).max(1)))?;
        let limited_by = if bursts.iter().any(|burst| burst.is_sender_short) {
            LimitedBy::Sender
        } else if bursts.iter().all(|burst| burst.is_max) {
            LimitedBy::MaxRate
        } else {
            LimitedBy::Device
        };
        session.report.figures.push(Figure {
            burst_frames: Some(mean),
            limited_by: Some(limited_by),
            ..Figure::of_trial("back-to-back", &mix, &trial)
        });
    }
    session.deliver(&args.reports)
}

/// `syn-flood`: SYNs of random clients.
pub fn syn_flood(args: &args::SynFlood) -> anyhow::Result<()> {
    let traffic = TrafficArgs { protocol: Transport::Tcp, ..args.traffic.clone() };
    let mut session = Session::open(&args.ports, &traffic, "syn-flood")?;
    let mix = SizeMix::one(crate::sizes::FRAME_BYTES_MIN);
    let fps = session.fps(args.rate, mix.mean_bytes())?;
    let templates = session.bare(TcpFlags::SYN)?;
    session.trials.progress.title("flooding");
    let order = Order::Random(Random::new(session.trials.plan.seed));
    let load = Load::timed(fps, args.duration.as_secs_f64());
    let (trial, handshakes) = session.trials.unfollowed(&templates, order, load)?;
    session.report.figures.push(Figure::of_trial("syn-flood", &mix, &trial));
    session.report.remarks.push(format!(
        "{} SYNs sent; answered by {} SYN-ACKs and {} resets (`back` counts SYN-ACKs, `lost` SYNs \
         without one)",
        trial.sent, handshakes.syn_acks, handshakes.resets
    ));
    session.deliver(&args.reports)
}
