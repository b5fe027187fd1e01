//! Captures through the very packet path that workers run: no DPDK, no root, the captures'
//! timestamps as clock. One worker; next hops are those of the configuration.

mod capture;
mod report;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use capture::{CaptureIn, CaptureOut, Captured};
pub use report::{FlowReport, PortReport, Report};

use crate::config::{Checked, Config};
use crate::counters::{DropReason, ReplyKind, WorkerCounters};
use crate::dataplane::{Burst, RxMeta, Verdict, WorkerConfig, WorkerState, process_burst};
use crate::frame::Frame;
use crate::limits::{HEADROOM_BYTES, SERVERS_MAX, SERVICES_MAX};
use crate::memory::MemoryError;
use crate::model::next_hops::{NextHops, NicLink};
use crate::model::{
    KernelMode, NextHopId, NicId, NicModel, Registry, RegistryConfig, Snapshot, Steering, WorkerId,
};
use crate::time::{NANOS_PER_MILLI, Nanos};

/// Room for a frame and what is added to it.
const BUFFER_BYTES: usize = 1 << 16;
/// How often timers run where the capture has nothing, in milliseconds.
const TICK_MILLIS: u64 = 100;

/// Why a replay did not take place.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A file cannot be opened or created.
    #[error("{}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The system's word.
        source: std::io::Error,
    },
    /// A capture cannot be read or written.
    #[error("{}: {what}; give an Ethernet capture in pcap or pcapng", path.display())]
    Capture {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// No such port in the configuration.
    #[error("no port is named `{name}`; the configuration has {known}")]
    NoPort {
        /// As given.
        name: String,
        /// Those there are.
        known: String,
    },
    /// A port lacks what a device would tell.
    #[error(
        "port `{0}` has no `mac`: replay has no device to ask; add the MAC address that frames \
         in the capture are sent to"
    )]
    NoMac(String),
    /// The configuration cannot be built.
    #[error("{0}")]
    Spec(String),
    /// Flow memory cannot be had.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

/// A port's capture.
#[derive(Clone, Debug)]
pub struct PortFile {
    /// Port name in the configuration.
    pub port: String,
    /// Capture file.
    pub path: PathBuf,
}

/// Runs the captures of `inputs` through the packet path and writes what each port sends.
///
/// Frames of all inputs are taken in the order of their timestamps; of two with the same, that of
/// the input named first.
pub fn run(
    checked: &Checked,
    inputs: &[PortFile],
    outputs: &[PortFile],
) -> Result<Report, ReplayError> {
    let mut replay = Replay::new(checked)?;
    let mut sources = Vec::new();
    for input in inputs {
        let nic = replay.nic(&input.port)?;
        sources.push(Source::open(nic, &input.path)?);
    }
    for output in outputs {
        let nic = replay.nic(&output.port)?;
        replay.outputs[nic.index()] = Some(CaptureOut::create(&output.path)?);
    }
    while let Some(source) = earliest(&mut sources) {
        let frame = source.take()?;
        replay.frame(source.nic, &frame)?;
    }
    Ok(replay.finish())
}

/// An input with its next frame.
struct Source {
    nic: NicId,
    capture: CaptureIn,
    next: Option<Captured>,
}

impl Source {
    fn open(nic: NicId, path: &Path) -> Result<Self, ReplayError> {
        let mut capture = CaptureIn::open(path)?;
        let next = capture.next()?;
        Ok(Source { nic, capture, next })
    }

    fn take(&mut self) -> Result<Captured, ReplayError> {
        let next = self.capture.next()?;
        let none = Captured { at: Nanos(0), bytes: Vec::new(), is_cut: false };
        Ok(std::mem::replace(&mut self.next, next).unwrap_or(none))
    }
}

fn earliest(sources: &mut [Source]) -> Option<&mut Source> {
    sources
        .iter_mut()
        .filter(|source| source.next.is_some())
        .min_by_key(|source| source.next.as_ref().map(|frame| frame.at))
}

/// One worker's director over captures.
struct Replay {
    names: Vec<String>,
    snapshot: Arc<Snapshot>,
    state: Option<WorkerState>,
    config: WorkerConfig,
    hops: NextHops,
    outputs: Vec<Option<CaptureOut>>,
    buffer: Vec<u8>,
    clock: Option<(Nanos, Nanos)>,
    report: Report,
}

impl Replay {
    fn new(checked: &Checked) -> Result<Self, ReplayError> {
        let config = &checked.config;
        let nics = nics(config)?;
        let links = nics.iter().map(|nic| NicLink {
            nic: nic.id,
            interface: None,
            mac: nic.mac,
            mtu: nic.mtu,
        });
        let mut hops = NextHops::new(links.collect());
        hops.set_static(&config.static_neighbours(), &config.static_routes(|_| true));
        let steering = Arc::new(Steering::for_workers(1));
        let address_pairs_max = config.runtime.address_pairs as usize;
        let bounds = RegistryConfig::new(steering);
        let mut registry = Registry::new(RegistryConfig { address_pairs_max, ..bounds });
        registry.set_nics(nics.clone());
        registry
            .apply(&checked.desired, &mut |rip: IpAddr| {
                hops.hop_for_server(rip).unwrap_or(NextHopId::NONE)
            })
            .map_err(|problems| {
                let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
                ReplayError::Spec(lines.join("\n"))
            })?;
        if let Some(update) = hops.take_routes() {
            registry.set_routes(update.table);
        }
        let flows = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
        Ok(Replay {
            names: config.port.iter().map(|port| port.name.clone()).collect(),
            snapshot: registry.snapshot().clone(),
            state: None,
            config: WorkerConfig {
                worker: WorkerId(0),
                workers: 1,
                flows_v4_max: flows(config.runtime.connections),
                flows_v6_max: flows(config.runtime.connections_ipv6),
                source_port_spaces: config.runtime.address_pairs as usize,
                // Fixed, so that a replay gives the same frames each time.
                seed: 0x6779_7265_7265_706c,
                counters: Arc::new(WorkerCounters::with_bounds(SERVERS_MAX, SERVICES_MAX, 1024)),
            },
            hops,
            outputs: (0..nics.len()).map(|_| None).collect(),
            buffer: vec![0; BUFFER_BYTES + 2 * HEADROOM_BYTES],
            clock: None,
            report: Report::default(),
        })
    }

    fn nic(&self, name: &str) -> Result<NicId, ReplayError> {
        let at = self.names.iter().position(|known| known == name);
        at.map(|at| NicId(at as u8))
            .ok_or_else(|| ReplayError::NoPort { name: name.into(), known: self.names.join(", ") })
    }

    /// Starts the worker at the first frame's time, and runs timers up to this one's.
    fn tick(&mut self, at: Nanos) -> Result<Nanos, ReplayError> {
        let Some((first, last)) = self.clock else {
            let mut state = WorkerState::new(&self.config, at)?;
            for (id, hop) in self.hops.all() {
                state.set_next_hop(id, hop);
            }
            state.adopt(&self.snapshot);
            self.state = Some(state);
            self.clock = Some((at, at));
            return Ok(at);
        };
        // A capture may step back; the clock may not.
        let now = at.max(last);
        let mut step = last;
        while step < now {
            step = now.min(step + TICK_MILLIS * NANOS_PER_MILLI);
            self.expire(step)?;
        }
        self.clock = Some((first, now));
        Ok(now)
    }

    fn expire(&mut self, now: Nanos) -> Result<(), ReplayError> {
        if let Some(state) = &mut self.state {
            while state.expire(&self.snapshot, now) > 0 {}
            state.events.clear();
        }
        self.send_outbox(now)
    }

    fn frame(&mut self, nic: NicId, captured: &Captured) -> Result<(), ReplayError> {
        let now = self.tick(captured.at)?;
        self.report.frames += 1;
        self.report.cut_frames += u64::from(captured.is_cut);
        self.port(nic).received += 1;
        self.process(RxMeta { nic, ..RxMeta::default() }, &captured.bytes, now)?;
        // Fragments that waited for this one, and those that waited for them.
        while let Some((rx, bytes)) = self.resumed() {
            self.process(rx, &bytes, now)?;
        }
        Ok(())
    }

    fn resumed(&mut self) -> Option<(RxMeta, Vec<u8>)> {
        let mut resumed = None;
        self.state.as_mut()?.resume_fragments(1, |rx, bytes| resumed = Some((rx, bytes.to_vec())));
        resumed
    }

    fn process(&mut self, rx: RxMeta, bytes: &[u8], now: Nanos) -> Result<(), ReplayError> {
        let Some(state) = &mut self.state else { return Ok(()) };
        let len = bytes.len().min(BUFFER_BYTES);
        let place = HEADROOM_BYTES..HEADROOM_BYTES + len;
        self.buffer[place.clone()].copy_from_slice(&bytes[..len]);
        let decided = {
            let mut burst = Burst::new();
            let frame = Frame::new(&mut self.buffer, place.start, place.end);
            if burst.push(frame, rx).is_ok() {
                process_burst(state, &self.snapshot, &mut burst, now);
            }
            burst.slots.first().map(|slot| (slot.verdict, slot.frame.extent()))
        };
        state.events.clear();
        // As a worker does: a PROXY header precedes the segment that it announces.
        self.send_outbox(now)?;
        if let Some((Some(verdict), (start, end))) = decided {
            self.carry_out(verdict, start..end, now)?;
        }
        Ok(())
    }

    fn carry_out(
        &mut self,
        verdict: Verdict,
        extent: std::ops::Range<usize>,
        now: Nanos,
    ) -> Result<(), ReplayError> {
        let name = match verdict {
            Verdict::Transmit(nic) => {
                self.port(nic).sent += 1;
                if let Some(Some(output)) = self.outputs.get_mut(nic.index()) {
                    output.write(now, &self.buffer[extent])?;
                }
                "transmit"
            }
            Verdict::ToKernel(nic) => {
                self.port(nic).to_kernel += 1;
                "to_kernel"
            }
            Verdict::AwaitNeighbour(_) | Verdict::AwaitAddress(..) => "await_neighbour",
            Verdict::HandOff(..) => "hand_off",
            Verdict::Parked => "parked",
            Verdict::Drop(_) => "drop",
        };
        *self.report.verdicts.entry(name).or_default() += 1;
        Ok(())
    }

    fn send_outbox(&mut self, now: Nanos) -> Result<(), ReplayError> {
        let Some(state) = &mut self.state else { return Ok(()) };
        let mut extra = Vec::new();
        state.outbox.drain(|nic, bytes| extra.push((nic, bytes.to_vec())));
        for (nic, bytes) in extra {
            self.port(nic).sent += 1;
            if let Some(Some(output)) = self.outputs.get_mut(nic.index()) {
                output.write(now, &bytes)?;
            }
        }
        Ok(())
    }

    fn port(&mut self, nic: NicId) -> &mut PortReport {
        let name = self.names.get(nic.index()).cloned().unwrap_or_default();
        self.report.ports.entry(name).or_default()
    }

    fn finish(mut self) -> Report {
        let counters = &self.config.counters;
        let named = |count: u64, name| (count > 0).then_some((name, count));
        let report = &mut self.report;
        report.drops = DropReason::ALL
            .iter()
            .filter_map(|reason| named(counters.drops[*reason as usize].get(), reason.name()))
            .collect();
        report.replies = ReplyKind::ALL
            .iter()
            .filter_map(|kind| named(counters.replies[*kind as usize].get(), kind.name()))
            .collect();
        report.flows_created = counters.flows_created.get();
        report.flows_expired = counters.flows_expired.get();
        if let (Some((first, last)), Some(state)) = (self.clock, &self.state) {
            report.seconds = last.since(first) as f64 / 1e9;
            let ids = std::iter::successors(state.flows.next_live(0), |id| {
                state.flows.next_live(id.0 + 1)
            });
            report.flows = ids.filter_map(|id| state.row(id, last)).map(Into::into).collect();
        }
        self.report
    }
}

fn nics(config: &Config) -> Result<Vec<NicModel>, ReplayError> {
    let nic = |(at, port): (usize, &crate::config::Port)| {
        let mac = port.mac.ok_or_else(|| ReplayError::NoMac(port.name.clone()))?;
        Ok(NicModel {
            id: NicId(at as u8),
            name: port.name.clone(),
            mac: mac.0,
            mtu: port.mtu.unwrap_or(1500),
            // What the kernel would do is not replayed; its share of frames is counted.
            kernel: KernelMode::Tap,
            vlan: port.vlan,
            addresses: port.addresses.iter().map(|address| address.address).collect(),
        })
    };
    config.port.iter().enumerate().map(nic).collect()
}
