//! `reflect`: the far end on a port, until told to stop.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use gyre::dpdk::{Mbuf, MbufPool, MbufVec, Nic, QueuePair};
use gyre::wire::ethernet::MacAddr;

use super::rig::{PortWish, allowed_cores, choose_core, open_port, send_bytes, start_dpdk};
use crate::args::{self, Idle};
use crate::neighbour;
use crate::reflection::{Reflected, reflect as turn_round};
use crate::report;
use crate::stop::Stop;

/// How long a full port may hold up a burst.
const SEND_WITHIN: Duration = Duration::from_millis(50);

/// What became of frames.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
struct Counts {
    /// Frames received.
    received: u64,
    /// Frames sent back.
    reflected: u64,
    /// Frames that need no answer.
    silent: u64,
    /// Questions about addresses answered.
    answered: u64,
    /// Frames that cannot be turned round.
    foreign: u64,
    /// Answers that the port did not take in time.
    dropped: u64,
}

struct Reflector {
    queue: QueuePair,
    pool: MbufPool,
    mac: MacAddr,
    addresses: Vec<std::net::IpAddr>,
    reply_mac: Option<MacAddr>,
    idle: Idle,
    counts: Counts,
}

impl Reflector {
    fn run(mut self, stop: &Stop, end: Option<Instant>) -> Counts {
        let mut frames = MbufVec::new();
        while !stop.is_set() && end.is_none_or(|end| Instant::now() < end) {
            if self.queue.rx.rx_burst(&mut frames) == 0 {
                if self.idle == Idle::Yield {
                    thread::yield_now();
                }
                continue;
            }
            self.counts.received += frames.len() as u64;
            let mut back = MbufVec::new();
            for mbuf in frames.drain(..) {
                if let Some(mbuf) = self.turn(mbuf) {
                    back.push(mbuf);
                }
            }
            self.send(&mut back);
        }
        self.counts
    }

    fn turn(&mut self, mut mbuf: Mbuf) -> Option<Mbuf> {
        let mut frame = mbuf.frame();
        let outcome = turn_round(&mut frame, self.reply_mac);
        let (start, end) = frame.extent();
        match outcome {
            Reflected::Answer => {
                mbuf.set_extent(start, end);
                return Some(mbuf);
            }
            Reflected::Silent => self.counts.silent += 1,
            Reflected::Foreign => self.answer(mbuf.bytes()),
        }
        None
    }

    fn answer(&mut self, bytes: &[u8]) {
        let is_ours = |ip| self.addresses.contains(&ip);
        let Some(answer) = neighbour::answer(bytes, self.mac, is_ours) else {
            self.counts.foreign += 1;
            return;
        };
        self.counts.answered += 1;
        send_bytes(&mut self.queue.tx, &self.pool, &answer);
    }

    fn send(&mut self, back: &mut MbufVec) {
        let started = Instant::now();
        while !back.is_empty() && started.elapsed() < SEND_WITHIN {
            self.counts.reflected += self.queue.tx.tx_burst(back) as u64;
        }
        self.counts.dropped += back.len() as u64;
        back.clear();
    }
}

/// Reflects until SIGINT, SIGTERM or the time given, then says what it counted.
pub fn reflect(args: &args::Reflect) -> anyhow::Result<()> {
    let stop = Stop::on_signals()?;
    let first = allowed_cores().first().copied().unwrap_or(0);
    let core = choose_core(args.core, first, "--core")?;
    let device = args.port.as_str();
    let wish = PortWish { device, mtu: args.mtu, no_huge: args.no_huge, mbufs: args.mbufs };
    let (eal, pool) = start_dpdk(&wish, &[wish.device])?;
    let (nic, queue) = open_port(wish.device, args.mtu, &pool)?;
    let reflector = Reflector {
        queue,
        pool,
        mac: MacAddr(nic.mac()),
        addresses: args.address.clone(),
        reply_mac: args.reply_mac,
        idle: args.idle,
        counts: Counts::default(),
    };
    let end = args.duration.map(|duration| Instant::now() + duration);
    let (tell, told) = mpsc::channel();
    let body = move || {
        let _ = tell.send(reflector.run(&stop, end));
    };
    let worker = eal.spawn_worker("reflect", core, body)?;
    announce(&nic, core);
    let counts = told.recv().map_err(|_| anyhow::anyhow!("the core ended by itself"))?;
    worker.join();
    println!(
        "{} received, {} sent back, {} without answer, {} questions answered, {} foreign, {} \
         dropped",
        counts.received,
        counts.reflected,
        counts.silent,
        counts.answered,
        counts.foreign,
        counts.dropped
    );
    if let Some(path) = &args.json {
        report::write(path, &(serde_json::to_string_pretty(&counts)? + "\n"))?;
    }
    Ok(())
}

fn announce(nic: &Nic, core: usize) {
    println!("reflecting on {} ({}), core {core}", nic.device(), MacAddr(nic.mac()));
}
