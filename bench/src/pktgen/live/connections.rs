//! `connections`: the clients of `cycles` on a port.

use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc;
use std::sync::{Arc, atomic::Ordering};
use std::time::{Duration, Instant};

use gyre::dpdk::{Mbuf, MbufPool, MbufVec, TscClock};
use gyre::wire::ethernet::MacAddr;
use gyre::wire::ip::IpProtocol;
use gyre::wire::tcp::Tcp;

use super::ends::{Owned, Shared, publish};
use super::rig::{Ends, send_bytes};
use super::runs::Session;
use crate::args::{self, Idle, TrafficArgs};
use crate::clients::{address, bits};
use crate::cycles::{Cycles, Heard, Say};
use crate::frame::Transport;
use crate::incoming;
use crate::pacer::Pacer;
use crate::plan::Usage;
use crate::report::{ConnectionFigures, Latency};
use crate::segment::{HEADERS_BYTES_MAX, Segment};
use crate::stop::Stop;

const BURST: usize = 32;
/// Room for a full segment on Ethernet.
const REQUEST_BYTES_MAX: u16 = 1400;
const REQUEST_HEAD: &[u8] = b"GET / HTTP/1.0\r\nX-Fill: ";
const REQUEST_TAIL: &[u8] = b"\r\n\r\n";
/// Connections opened and given up in the time of one poll, so that receiving is not starved.
const OPEN_MAX: usize = 32;

/// The clients' core.
struct ClientCore {
    ends: Ends,
    pool: MbufPool,
    clock: TscClock,
    cycles: Cycles,
    pacer: Pacer,
    owned: Owned,
    dst_mac: MacAddr,
    src_mac: MacAddr,
    service: SocketAddr,
    request: Vec<u8>,
    outgoing: MbufVec,
    incoming: MbufVec,
    /// Segments that could not be sent for want of mbufs or room in the port.
    unsent: u64,
}

impl ClientCore {
    fn turn(&mut self, now_ns: u64, is_open: bool) -> bool {
        let mut is_busy = self.receive();
        while let Some(reset) = self.cycles.expire(now_ns) {
            self.say(reset);
        }
        let due = if is_open { self.pacer.due(now_ns, OPEN_MAX) } else { 0 };
        for _ in 0..due {
            if let Some(syn) = self.cycles.open_next(now_ns) {
                self.say(syn);
            }
        }
        is_busy |= due > 0;
        self.flush();
        is_busy
    }

    fn receive(&mut self) -> bool {
        if self.ends.rx.rx_burst(&mut self.incoming) == 0 {
            return false;
        }
        let now_ns = self.clock.now().0;
        let mut frames = std::mem::take(&mut self.incoming);
        for mbuf in &frames {
            match self.heard(mbuf.bytes()) {
                Some(heard) => {
                    let says = self.cycles.hear(heard, now_ns);
                    says.into_iter().flatten().for_each(|say| self.say(say));
                }
                None => self.answer(mbuf.bytes()),
            }
        }
        Mbuf::free_bulk(&mut frames);
        true
    }

    /// A segment of the service's to one of our clients.
    fn heard(&self, bytes: &[u8]) -> Option<Heard> {
        let found = incoming::locate(bytes).filter(|found| found.protocol == IpProtocol::TCP)?;
        let (tcp, _) = Tcp::parse(found.segment).ok()?;
        if (found.src, tcp.src_port()) != (self.service.ip(), self.service.port()) {
            return None;
        }
        Some(Heard {
            flow: self.owned.clients.flow(bits(found.dst), tcp.dst_port())?,
            seq: tcp.sequence().0,
            ack: tcp.acknowledgment().0,
            flags: tcp.flags(),
            payload_bytes: found.segment.len().saturating_sub(tcp.header_bytes()) as u32,
        })
    }

    fn answer(&mut self, bytes: &[u8]) {
        let Some(answer) = self.owned.answer(bytes) else { return };
        let queue = self.ends.answers.as_mut().unwrap_or(&mut self.ends.tx);
        // A lost answer is asked for again.
        send_bytes(queue, &self.pool, &answer);
    }

    fn say(&mut self, say: Say) {
        if self.outgoing.is_full() {
            self.flush();
        }
        let Some(mut mbuf) = Mbuf::alloc(&self.pool) else {
            self.unsent += 1;
            return;
        };
        let client = self.owned.clients.client(say.flow);
        let ip: IpAddr = address(self.service.ip(), client.address);
        let segment = Segment {
            macs: (self.src_mac, self.dst_mac),
            src: SocketAddr::new(ip, client.src_port),
            dst: self.service,
            numbers: (say.seq, say.ack),
            flags: say.flags,
            payload: if say.carries_request { &self.request } else { &[] },
        };
        let mut frame = mbuf.frame();
        let room = HEADERS_BYTES_MAX + self.request.len();
        let written = frame.set_len(room).ok().and_then(|()| segment.write(frame.bytes_mut()));
        let (start, _) = frame.extent();
        match written {
            Some(length) => {
                mbuf.set_extent(start, start + length);
                self.outgoing.push(mbuf);
            }
            None => self.unsent += 1,
        }
    }

    fn flush(&mut self) {
        if self.outgoing.is_empty() {
            return;
        }
        let now = Instant::now();
        while !self.outgoing.is_empty() && now.elapsed() < Duration::from_millis(1) {
            self.ends.tx.tx_burst(&mut self.outgoing);
        }
        self.unsent += self.outgoing.len() as u64;
        self.outgoing.clear();
    }

    /// Opens until `end_ns`, then waits for what is open, and no longer than it may last.
    fn run(mut self, times: Times, idle: Idle, stop: &Stop, shared: &Arc<Shared>) -> Ran {
        let mut closing_ns = None;
        loop {
            let now_ns = self.clock.now().0;
            if closing_ns.is_none() && (now_ns >= times.end_ns || stop.is_set()) {
                closing_ns = Some(now_ns);
            }
            let is_busy = self.turn(now_ns.min(times.end_ns.max(now_ns)), closing_ns.is_none());
            let counts = self.cycles.counts();
            publish(shared, Some(counts.opened), Some(counts.completed));
            if let Some(closing_ns) = closing_ns
                && (self.cycles.open() == 0 || now_ns > closing_ns + 2 * times.timeout_ns)
            {
                return Ran { core: self, closing_ns };
            }
            if !is_busy && idle == Idle::Yield {
                std::thread::yield_now();
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Times {
    end_ns: u64,
    timeout_ns: u64,
}

struct Ran {
    core: ClientCore,
    closing_ns: u64,
}

/// A request of `bytes` that a web server understands too, if there is room for one.
fn request(bytes: u16) -> Vec<u8> {
    let length = usize::from(bytes);
    let fill = length.saturating_sub(REQUEST_HEAD.len() + REQUEST_TAIL.len());
    let mut text = [REQUEST_HEAD, &vec![b'x'; fill], REQUEST_TAIL].concat();
    text.truncate(length);
    text
}

/// Opens, uses and closes connections at a rate.
pub fn connections(args: &args::Connections) -> anyhow::Result<()> {
    if args.request == 0 || args.request > REQUEST_BYTES_MAX {
        let text = format!("--request takes 1 to {REQUEST_BYTES_MAX} bytes");
        return Err(Usage(text).into());
    }
    let Rate::FramesPerSecond(rate) = args.rate else {
        let text = format!("--rate {} is no number of connections; write `5000`", args.rate);
        return Err(Usage(text).into());
    };
    let traffic = TrafficArgs { protocol: Transport::Tcp, ..args.traffic.clone() };
    let mut session = Session::open(&args.ports, &traffic, "connections")?;
    let timeout_ns = args.timeout.as_nanos() as u64;
    let start_ns = session.trials.rig.clock.now().0;
    let end_ns = start_ns + args.duration.as_nanos() as u64;
    let core = client_core(&mut session, args, start_ns, rate)?;
    let ran = run_core(&mut session, core, Times { end_ns, timeout_ns })?;
    let seconds = (ran.closing_ns - start_ns) as f64 / 1e9;
    let ClientCore { ends, cycles, pacer, unsent, .. } = ran.core;
    session.trials.rig.put_ends(ends);
    let counts = cycles.counts();
    let asked = pacer.asked(ran.closing_ns.min(end_ns));
    let short = asked.saturating_sub(counts.opened + counts.no_free_flow);
    let (connect, cycle) = cycles.latencies();
    if unsent > 0 {
        let text = format!("{unsent} segments did not fit the generator's port: its limit");
        session.report.remarks.push(text);
    }
    if counts.no_free_flow > 0 {
        session.report.remarks.push(format!(
            "{} connections were not opened as all {} flows were in use; raise --flows",
            counts.no_free_flow,
            session.trials.plan.clients.flows()
        ));
    }
    session.report.connections = Some(ConnectionFigures {
        asked_per_second: rate,
        completed_per_second: counts.completed as f64 / seconds,
        counts,
        connect_ns: Latency::of(connect),
        cycle_ns: Latency::of(cycle),
        is_sender_short: unsent > 0 || short as f64 > (asked as f64 * 0.001).max(1.0),
    });
    session.deliver(&args.reports)
}

fn client_core(
    session: &mut Session,
    args: &args::Connections,
    start_ns: u64,
    rate: f64,
) -> anyhow::Result<ClientCore> {
    let trials = &mut session.trials;
    let plan = &trials.plan;
    let timeout_ns = args.timeout.as_nanos() as u64;
    Ok(ClientCore {
        ends: trials.rig.take_ends()?,
        pool: trials.rig.pool.clone(),
        clock: trials.rig.clock.clone(),
        cycles: Cycles::new(plan.clients.flows(), args.request, timeout_ns, plan.seed),
        pacer: Pacer::new(rate, start_ns, u64::MAX),
        owned: trials.owned.clone(),
        dst_mac: trials.dst_mac,
        src_mac: trials.rig.mac(),
        service: plan.service,
        request: request(args.request),
        outgoing: MbufVec::new(),
        incoming: MbufVec::new(),
        unsent: 0,
    })
}

fn run_core(session: &mut Session, core: ClientCore, times: Times) -> anyhow::Result<Ran> {
    let trials = &mut session.trials;
    let shared = Arc::new(Shared::default());
    let (tell, told) = mpsc::channel();
    let (idle, stop, own_shared) = (trials.rig.idle, trials.stop.clone(), Arc::clone(&shared));
    let body = move || drop(tell.send(core.run(times, idle, &stop, &own_shared)));
    let worker = trials.rig.eal.spawn_worker("pktgen", trials.rig.cores.0, body)?;
    let started = Instant::now();
    trials.progress.title("connections opened and completed");
    let ran = loop {
        match told.recv_timeout(Duration::from_millis(200)) {
            Ok(ran) => break ran,
            Err(mpsc::RecvTimeoutError::Disconnected) => anyhow::bail!("the core ended by itself"),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
        let opened = shared.sent.load(Ordering::Relaxed);
        trials.progress.show(started.elapsed(), opened, shared.received.load(Ordering::Relaxed));
    };
    trials.progress.clear();
    worker.join();
    Ok(ran)
}

use crate::units::Rate;

const _: () = assert!(OPEN_MAX <= BURST);
