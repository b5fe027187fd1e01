//! A line with delay and loss: a thread that carries frames between two interfaces.
//!
//! The machine's kernel has no netem. Loss is drawn from a seed and the frame's number, counted
//! apart for large and small frames and for each direction, so that two transfers after the same
//! `reseed` lose the same of their data frames whatever their handshakes looked like.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::ppoll;
use nix::sys::time::TimeSpec;

use crate::Case;
use crate::lab::{Lab, Namespace};
use crate::link::RawPort;

pub const CASES: &[Case] = &[("the_relay_delays_and_loses", the_relay_delays_and_loses)];

/// Frames larger than this are counted as data.
const LARGE_BYTES: usize = 1000;

/// What the line does to frames.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// Each way.
    pub delay: Duration,
    /// One frame in so many is lost; 0 loses next to none.
    pub loss_one_in: u64,
    pub seed: u64,
}

/// A running line; it ends with this value.
pub struct Relay {
    stop: Arc<AtomicBool>,
    seed: Arc<AtomicU64>,
    lost: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

/// One direction: in at one port, out at the other.
struct Way {
    from: usize,
    line: Line,
    /// Frames so far, small and large.
    counts: [u64; 2],
    waiting: VecDeque<(Instant, Vec<u8>)>,
}

/// SplitMix64: every input bit moves every output bit.
fn mix(value: u64) -> u64 {
    let z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Way {
    fn new(from: usize, line: Line) -> Self {
        Way { from, line, counts: [0; 2], waiting: VecDeque::new() }
    }

    /// Takes what came in; the number of frames lost.
    fn take(&mut self, ports: &[RawPort; 2]) -> u64 {
        let mut lost = 0;
        while let Some(frame) = ports[self.from].receive(Duration::ZERO) {
            let large = usize::from(frame.len() > LARGE_BYTES);
            self.counts[large] += 1;
            let draw =
                mix(self.line.seed ^ mix((self.from * 2 + large) as u64) ^ self.counts[large]);
            if draw.is_multiple_of(self.line.loss_one_in) {
                lost += 1;
            } else {
                self.waiting.push_back((Instant::now() + self.line.delay, frame));
            }
        }
        lost
    }

    /// Sends what is due; how long until the next is.
    fn give(&mut self, ports: &[RawPort; 2]) -> Duration {
        loop {
            let Some((due, _)) = self.waiting.front() else { return Duration::from_millis(50) };
            let left = due.saturating_duration_since(Instant::now());
            if !left.is_zero() {
                return left;
            }
            if let Some((_, frame)) = self.waiting.pop_front() {
                ports[1 - self.from].send(&frame);
            }
        }
    }
}

impl Relay {
    /// Joins two interfaces of `space`.
    pub fn start(space: &Namespace, interfaces: (&str, &str), line: Line) -> Relay {
        let stop = Arc::new(AtomicBool::new(false));
        let seed = Arc::new(AtomicU64::new(line.seed));
        let lost = Arc::new(AtomicU64::new(0));
        let (ready, is_ready) = mpsc::channel();
        let names = [interfaces.0.to_string(), interfaces.1.to_string()];
        let (stopped, wanted, losses) = (stop.clone(), seed.clone(), lost.clone());
        let thread = space.spawn(move || {
            let ports = names.map(|name| RawPort::open(&name, false));
            ready.send(()).unwrap();
            let mut ways = [0, 1].map(|from| Way::new(from, line));
            while !stopped.load(Ordering::Relaxed) {
                let seed = wanted.load(Ordering::Relaxed);
                if seed != ways[0].line.seed {
                    ways = [0, 1].map(|from| Way::new(from, Line { seed, ..line }));
                }
                let idle = ways.iter_mut().map(|way| way.give(&ports)).min().unwrap();
                let mut fds = [ports[0].poll_fd(), ports[1].poll_fd()];
                let _ = ppoll(&mut fds, Some(TimeSpec::from_duration(idle)), None);
                let gone: u64 = ways.iter_mut().map(|way| way.take(&ports)).sum();
                losses.fetch_add(gone, Ordering::Relaxed);
            }
        });
        is_ready.recv().unwrap();
        Relay { stop, seed, lost, thread: Some(thread) }
    }

    /// Starts the count of frames afresh with another seed; frames on the way are dropped, so do
    /// it between transfers.
    pub fn reseed(&self, seed: u64) {
        self.seed.store(seed, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(120));
    }

    /// Frames lost so far.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// The instrument by itself: without it the bulk test would prove less than it says.
fn the_relay_delays_and_loses() {
    let mut lab = Lab::new();
    let (client, server) = (lab.namespace("client"), lab.namespace("server"));
    let middle = lab.silent_namespace("middle");
    lab.cable((&client, "eth0"), (&middle, "left"));
    lab.cable((&server, "eth0"), (&middle, "right"));
    client.ip("addr add 10.1.0.2/24 dev eth0");
    server.ip("addr add 10.1.0.3/24 dev eth0");
    let line = Line { delay: Duration::from_millis(10), loss_one_in: 100, seed: 1 };
    let relay = Relay::start(&middle, ("left", "right"), line);
    let said = client.run("ping", &["-q", "-c10", "-i0.05", "-W1", "10.1.0.3"]);
    let times = said.lines().find(|line| line.starts_with("rtt ")).unwrap();
    let shortest: f64 = times.split(['=', '/']).nth(4).unwrap().trim().parse().unwrap();
    assert!((20.0..25.0).contains(&shortest), "{said}");
    let bytes = crate::servers::pattern(3, 2_000_000);
    let (ours, theirs) = (bytes.clone(), bytes.clone());
    let address = crate::servers::at("10.1.0.3", 7000);
    let _server = crate::servers::start_tcp(&server, address, move |stream| {
        let _ = crate::servers::exchange(&stream, &theirs, &ours);
    });
    let stream = client.enter(|| std::net::TcpStream::connect(address).unwrap());
    crate::servers::exchange(&stream, &bytes, &bytes).unwrap();
    let lost = relay.lost();
    assert!((5..100).contains(&lost), "{lost} frames lost of about 2,800 data frames");
}
