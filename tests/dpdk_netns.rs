//! The DPDK layer on kernel interfaces: af_packet, af_xdp and net_tap in network namespaces of the
//! test's own. Needs root.
//!
//! Among them are the facts about af_packet that the packet path relies on.
#![cfg(feature = "dpdk")]

mod dpdk_support;
mod harness;

use std::net::UdpSocket;
use std::process::{self, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dpdk_support::{eal, is_case, open, pool, refusal, run_case};
use gyre::dpdk::{Eal, Mbuf, MbufPool, MbufVec, Nic, NicConfig, NicError, QueuePair, WorkerThread};
use harness::namespaces;

const GYRE_IP: &str = "10.77.0.1";
const PEER_IP: &str = "10.77.0.2";
const ECHO_PORT: u16 = 9000;
const UDP_HEADERS_BYTES: usize = 14 + 20 + 8;

/// Two namespaces joined by a veth pair: `ga0` for gyre, which has no address, and `gb0` for a
/// peer that knows gyre's MAC.
struct Lab {
    gyre: String,
    peer: String,
}

impl Lab {
    fn new(mtu: u16) -> Self {
        static LABS: AtomicU64 = AtomicU64::new(0);
        let number = LABS.fetch_add(1, Ordering::Relaxed);
        let name = |end: &str| format!("gyre-dpdk-{}-{number}-{end}", process::id());
        let lab = Lab { gyre: name("a"), peer: name("b") };
        let (gyre, peer) = (lab.gyre.as_str(), lab.peer.as_str());
        ip(&format!("netns add {gyre}"));
        ip(&format!("netns add {peer}"));
        ip(&format!("-n {gyre} link add ga0 mtu {mtu} type veth peer gb0 netns {peer}"));
        ip(&format!("-n {gyre} link set ga0 address 02:00:00:00:77:01 up"));
        ip(&format!("-n {peer} link set gb0 address 02:00:00:00:77:02 mtu {mtu} up"));
        ip(&format!("-n {peer} addr add {PEER_IP}/24 dev gb0"));
        ip(&format!(
            "-n {peer} neigh add {GYRE_IP} lladdr 02:00:00:00:77:01 dev gb0 nud permanent"
        ));
        lab
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for name in [&self.gyre, &self.peer] {
            let _ = Command::new("ip").args(["netns", "del", name]).output();
        }
    }
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {error}");
}

/// Runs `gyre` in the lab's one namespace and, when it asks for it by `run_peer`, `peer` in the
/// other, each in a process of its own.
fn in_lab(test: &str, mtu: u16, gyre: impl FnOnce(), peer: impl FnOnce()) {
    if is_case(&format!("{test}/gyre")) {
        gyre();
    } else if is_case(&format!("{test}/peer")) {
        peer();
    } else {
        let lab = Lab::new(mtu);
        run_case(test, &format!("{test}/gyre"), Some(&lab.gyre));
    }
}

/// Runs the test's peer in the namespace beside this process's.
fn run_peer(test: &str) {
    let output = Command::new("ip").args(["netns", "identify"]).output().unwrap();
    let own = String::from_utf8(output.stdout).unwrap();
    let peer = format!("{}b", own.trim().strip_suffix('a').unwrap());
    run_case(test, &format!("{test}/peer"), Some(&peer));
}

/// Workers that send every UDP frame back where it came from, until dropped.
struct Echo {
    stop: Arc<AtomicBool>,
    workers: Vec<WorkerThread>,
    counts: Vec<Arc<AtomicU64>>,
}

impl Echo {
    fn start(eal: &Eal, queues: Vec<QueuePair>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (mut workers, mut counts) = (Vec::new(), Vec::new());
        for (index, mut queue) in queues.into_iter().enumerate() {
            let count = Arc::new(AtomicU64::new(0));
            let (own_stop, own_count) = (Arc::clone(&stop), Arc::clone(&count));
            let work = move || {
                while !own_stop.load(Ordering::Relaxed) {
                    own_count.fetch_add(echo_once(&mut queue), Ordering::Relaxed);
                }
            };
            let name = format!("echo-{index}");
            workers.push(eal.spawn_worker(&name, eal.main_core(), work).unwrap());
            counts.push(count);
        }
        Echo { stop, workers, counts }
    }

    /// Frames sent back by each worker.
    fn stop(self) -> Vec<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.workers.into_iter().for_each(|worker| worker.join());
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }
}

fn echo_once(queue: &mut QueuePair) -> u64 {
    let mut frames = MbufVec::new();
    if queue.rx.rx_burst(&mut frames) == 0 {
        thread::sleep(Duration::from_micros(50));
        return 0;
    }
    frames.retain(turn_round);
    let wanted = frames.len();
    let deadline = Instant::now() + Duration::from_secs(1);
    while !frames.is_empty() && Instant::now() < deadline {
        queue.tx.tx_burst(&mut frames);
    }
    (wanted - frames.len()) as u64
}

/// Swaps addresses and ports of a UDP frame to `ECHO_PORT`; `false` for any other frame.
fn turn_round(mbuf: &mut Mbuf) -> bool {
    let mut frame = mbuf.frame();
    let bytes = frame.bytes_mut();
    let is_udp = bytes.len() >= UDP_HEADERS_BYTES
        && bytes[12..14] == [8, 0]
        && bytes[14] == 0x45
        && bytes[23] == 17
        && bytes[36..38] == ECHO_PORT.to_be_bytes();
    if !is_udp {
        return false;
    }
    for (start, len) in [(0, 6), (26, 4), (34, 2)] {
        let (one, two) = bytes[start..start + 2 * len].split_at_mut(len);
        one.swap_with_slice(two);
    }
    // The veth left it unfilled. 0 is "none" for UDP over IPv4.
    bytes[40..42].copy_from_slice(&[0, 0]);
    true
}

/// Sends datagrams of `payload_bytes` from `flows` ports, each five times, and wants them back.
fn expect_echoes(flows: u16, payload_bytes: usize) {
    for flow in 0..flows {
        let socket = UdpSocket::bind((PEER_IP, 20_000 + flow)).unwrap();
        socket.connect((GYRE_IP, ECHO_PORT)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        for round in 0..5_u8 {
            let sent: Vec<u8> =
                (0..payload_bytes).map(|i| (i as u8) ^ round ^ (flow as u8)).collect();
            socket.send(&sent).unwrap();
            let mut got = vec![0; payload_bytes + 1];
            let len = socket.recv(&mut got).unwrap();
            assert!(got[..len] == sent, "flow {flow} round {round}: {len} bytes came back");
        }
    }
}

/// Polls until a frame satisfies `wanted`, and returns it.
fn receive(queues: &mut [QueuePair], wanted: impl Fn(&[u8]) -> bool) -> Mbuf {
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut frames = MbufVec::new();
    while Instant::now() < deadline {
        for queue in queues.iter_mut() {
            queue.rx.rx_burst(&mut frames);
        }
        if let Some(at) = frames.iter().position(|frame| wanted(frame.bytes())) {
            return frames.remove(at);
        }
        frames.clear();
        thread::sleep(Duration::from_millis(1));
    }
    panic!("the frame did not come");
}

fn af_packet_passes_frames_both_ways_on_two_queues() {
    let test = "af_packet_passes_frames_both_ways_on_two_queues";
    let gyre = || {
        let eal = eal();
        let pool = pool(&eal);
        let (nic, queues) = open("net_af_packet0,iface=ga0", 2, &pool);
        assert_eq!((nic.queues(), nic.mtu(), nic.rss()), (2, 1500, None));
        assert_eq!(nic.mac(), [2, 0, 0, 0, 0x77, 1]);
        assert_eq!(nic.kernel_interface(), Some("ga0"));
        assert!(nic.device().contains("qpairs=2"), "{}", nic.device());
        assert!(nic.link().is_up);
        let echo = Echo::start(&eal, queues);
        run_peer(test);
        let by_worker = echo.stop();
        assert_eq!(by_worker.iter().sum::<u64>(), 64 * 5);
        assert!(by_worker.iter().all(|&count| count > 0), "spread over queues: {by_worker:?}");
        let stats = nic.stats().unwrap();
        assert!(stats.rx_frames >= 320 && stats.tx_frames == 320, "{stats:?}");
        nic.close().unwrap();
        assert_eq!(pool.in_use(), 0);
    };
    in_lab(test, 1500, gyre, || expect_echoes(64, 100));
}

fn jumbo_frames_pass_whole_and_small_ring_frames_are_refused() {
    let test = "jumbo_frames_pass_whole_and_small_ring_frames_are_refused";
    let gyre = || {
        let eal = eal();
        let small = pool(&eal);
        let device = "net_af_packet0,iface=ga0";
        let cut = refusal(&NicConfig::new(format!("{device},framesz=2048")), &small);
        assert!(
            matches!(cut, NicError::RingFrameTooSmall { mtu: 9000, mtu_max: 1968, .. }),
            "{cut}"
        );
        let narrow = refusal(&NicConfig::new(device), &small);
        assert!(matches!(narrow, NicError::MbufTooSmall { mtu: 9000, .. }), "{narrow}");
        let room = MbufPool::data_room_for_device(device, 9000).unwrap();
        let pool = MbufPool::create(&eal, "jumbo", 2047, 128, room).unwrap();
        let (nic, queues) = open(device, 1, &pool);
        let echo = Echo::start(&eal, queues);
        run_peer(test);
        assert_eq!(echo.stop(), [4 * 5]);
        nic.close().unwrap();
        // A configured MTU becomes the interface's.
        let config = NicConfig { mtu: Some(1400), ..NicConfig::new(device) };
        let (nic, queues) = Nic::open(&config, &pool).unwrap();
        assert_eq!(nic.mtu(), 1400);
        drop((nic, queues));
        assert_eq!((pool.in_use(), small.in_use()), (0, 0));
    };
    in_lab(test, 9000, gyre, || expect_echoes(4, 8900));
}

fn link_follows_the_interface_below() {
    let test = "link_follows_the_interface_below";
    let gyre = || {
        let eal = eal();
        let pool = pool(&eal);
        ip("link set ga0 down");
        let (nic, queues) = open("net_af_packet0,iface=ga0", 1, &pool);
        // The kernel tells of carriers with up to a second's delay.
        let becomes = |is_up, why| {
            let deadline = Instant::now() + Duration::from_secs(5);
            while nic.link().is_up != is_up {
                assert!(Instant::now() < deadline, "{why}");
                thread::sleep(Duration::from_millis(20));
            }
        };
        becomes(true, "opening a port sets its interface up");
        run_peer(test);
        becomes(false, "the other end is down");
        ip("link del ga0");
        assert!(!nic.link().is_up, "the interface is gone");
        drop((queues, nic));
        assert_eq!(pool.in_use(), 0);
    };
    in_lab(test, 1500, gyre, || ip("link set gb0 down"));
}

/// What the packet path must know of af_packet: it sees the host's own frames, and fragments come
/// reassembled, cut to the ring frame.
fn af_packet_shows_own_frames_and_reassembled_fragments() {
    let test = "af_packet_shows_own_frames_and_reassembled_fragments";
    let gyre = || {
        let eal = eal();
        let pool = pool(&eal);
        let (nic, mut queues) = open("net_af_packet0,iface=ga0", 2, &pool);
        ip(&format!("addr add {GYRE_IP}/24 dev ga0"));
        ip(&format!("neigh add {PEER_IP} lladdr 02:00:00:00:77:02 dev ga0 nud permanent"));
        let socket = UdpSocket::bind((GYRE_IP, 0)).unwrap();
        socket.send_to(b"from the host itself", (PEER_IP, 9)).unwrap();
        let own = receive(&mut queues, |bytes| bytes.ends_with(b"from the host itself"));
        assert_eq!(own.bytes()[6..12], nic.mac());
        run_peer(test);
        let whole = receive(&mut queues, |bytes| {
            bytes.len() > UDP_HEADERS_BYTES && bytes[36..38] == ECHO_PORT.to_be_bytes()
        });
        let ip_bytes = u16::from_be_bytes([whole.bytes()[16], whole.bytes()[17]]);
        assert_eq!((ip_bytes, whole.bytes()[20] & 0x3f), (20 + 8 + 4000, 0), "no fragment");
        assert_eq!(whole.len(), 2048 - 66, "cut to the ring frame");
        assert_eq!(nic.stats().unwrap().rx_errors, 0, "and no counter moves");
        drop((own, whole, queues));
        nic.close().unwrap();
        assert_eq!(pool.in_use(), 0);
    };
    let peer = || {
        let socket = UdpSocket::bind((PEER_IP, 0)).unwrap();
        socket.send_to(&[7; 4000], (GYRE_IP, ECHO_PORT)).unwrap();
    };
    in_lab(test, 1500, gyre, peer);
}

fn af_xdp_falls_back_to_the_queues_an_interface_has() {
    let test = "af_xdp_falls_back_to_the_queues_an_interface_has";
    let gyre = || {
        let eal = eal();
        let pool = MbufPool::create(&eal, "test", 16_383, 128, 2176).unwrap();
        let (nic, queues) = open("net_af_xdp0,iface=ga0", 2, &pool);
        assert_eq!(nic.queues(), 1, "a veth has no combined channels");
        let echo = Echo::start(&eal, queues);
        run_peer(test);
        assert_eq!(echo.stop(), [4 * 5]);
        nic.close().unwrap();
    };
    in_lab(test, 1500, gyre, || expect_echoes(4, 100));
}

fn tap_port_appears_with_its_queues_and_vanishes_on_close() {
    let test = "tap_port_appears_with_its_queues_and_vanishes_on_close";
    let gyre = || {
        let eal = eal();
        let pool = pool(&eal);
        let (nic, mut queues) = open("net_tap0,iface=gt0", 2, &pool);
        assert_eq!((nic.queues(), nic.driver()), (2, "net_tap"));
        ip("addr add 10.78.0.1/24 dev gt0");
        ip("link set gt0 up");
        ip("neigh add 10.78.0.2 lladdr 02:00:00:00:78:02 dev gt0 nud permanent");
        let socket = UdpSocket::bind(("10.78.0.1", 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket.connect(("10.78.0.2", ECHO_PORT)).unwrap();
        socket.send(b"to the tap").unwrap();
        let mut frame = receive(&mut queues, |bytes| bytes.ends_with(b"to the tap"));
        assert!(turn_round(&mut frame));
        let mut frames = MbufVec::new();
        frames.push(frame);
        assert_eq!(queues[0].tx.tx_burst(&mut frames), 1);
        let mut got = [0; 64];
        let len = socket.recv(&mut got).unwrap();
        assert_eq!(&got[..len], b"to the tap");
        drop(queues);
        nic.close().unwrap();
        assert_eq!(pool.in_use(), 0);
        let gone = Command::new("ip").args(["link", "show", "gt0"]).output().unwrap();
        assert!(!gone.status.success(), "gt0 is still there");
    };
    in_lab(test, 1500, gyre, || ());
}

fn main() {
    harness::run(cases!(&[namespaces];
        af_packet_passes_frames_both_ways_on_two_queues,
        jumbo_frames_pass_whole_and_small_ring_frames_are_refused,
        link_follows_the_interface_below,
        af_packet_shows_own_frames_and_reassembled_fragments,
        af_xdp_falls_back_to_the_queues_an_interface_has,
        tap_port_appears_with_its_queues_and_vanishes_on_close,
    ))
}
