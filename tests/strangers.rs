//! Floods by the burst answer as frame by frame: two directors, one without the fast path, get the
//! same SYNs, cookies right and wrong, and servers' answers, and agree on verdicts, bytes, flows
//! and counts.

#[path = "support/mod.rs"]
mod support;

use std::net::{IpAddr, SocketAddr};

use gyre::counters::{DropReason, ReplyKind};
use gyre::dataplane::Verdict;
use gyre::limits::SYNPROXY_STRAYS_PER_SECOND;
use gyre::model::*;
use gyre::wire::tcp::{TcpFlags, TcpOption};
use proptest::prelude::*;
use support::*;

const VIPS: [&str; 2] = ["10.1.0.1", "fd00:1::1"];
const RIPS: [&str; 2] = ["10.2.0.11", "fd00:2::b"];
/// Ports of the services: SYNPROXY in FULLNAT, in NAT, with lists and a limit, with a client's
/// address for the server; one without SYNPROXY; and none.
const PORTS: [u16; 6] = [80, 81, 82, 83, 84, 85];
const SYN: TcpFlags = TcpFlags::SYN;
const ACK: TcpFlags = TcpFlags::ACK;

fn services() -> Vec<ServiceSpec> {
    let mut services = Vec::new();
    for family in 0..2 {
        for (at, port) in PORTS.into_iter().enumerate().take(5) {
            let key = ServiceKey::new(Protocol::Tcp, VIPS[family].parse().unwrap(), port);
            let mut spec = ServiceSpec::new(key, SchedulerSpec::RoundRobin);
            spec.synproxy = port != 84;
            let mode = if port == 81 { ForwardMode::Nat } else { ForwardMode::FullNat };
            spec.pool = (mode == ForwardMode::FullNat).then(|| "pool".into());
            if port == 82 {
                spec.deny = vec![["10.0.0.9/32", "fd00:c::9/128"][family].parse().unwrap()];
                spec.connections_max = Some(1);
            }
            if port == 83 {
                spec.client_address = ClientAddress::Toa { kind: 254, on_syn: false };
                spec.mss_max = Some(1300);
            }
            let rip = RIPS[family].parse().unwrap();
            let mut server = server(SocketAddr::new(rip, 8000 + at as u16), 1, mode);
            // The second connection finds no server, until the first has gone.
            server.upper_threshold = if port == 81 { 1 } else { 0 };
            spec.servers = vec![server];
            services.push(spec);
        }
    }
    services
}

fn with_services(mut director: Director, defends: bool) -> Director {
    let mut wanted = desired(services());
    if defends {
        wanted.semantics.drop_packet = Defence::Always;
    }
    director.change(|registry, hops| registry.apply(&wanted, hops)).unwrap();
    director
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Syn,
    /// The cookie that this client was given last, plus so much.
    Ack(u32),
    /// The server's answer to the SYN it was sent last, with options or without.
    Server(bool),
    /// Anything.
    Flags(u8),
}

/// One frame of a script.
#[derive(Clone, Copy, Debug)]
struct Step {
    family: usize,
    client: u8,
    client_port: u16,
    port: u16,
    what: What,
    options: u8,
    payload: usize,
    change: Option<(usize, u8)>,
}

fn step() -> impl Strategy<Value = Step> {
    let what = prop_oneof![
        10 => Just(What::Syn),
        4 => Just(What::Ack(0)),
        4 => any::<u32>().prop_map(What::Ack),
        2 => any::<bool>().prop_map(What::Server),
        1 => any::<u8>().prop_map(What::Flags),
    ];
    let port = prop_oneof![8 => 80..84u16, 1 => 84..86u16];
    let client_port = prop_oneof![30 => 5000..5004u16, 1 => Just(20u16)];
    let whose = (0..2usize, 7..10u8, client_port, port);
    let change = prop::option::weighted(0.03, (0..90usize, any::<u8>()));
    let payload = prop_oneof![6 => Just(0usize), 1 => 1..40usize];
    (whose, what, any::<u8>(), payload, change).prop_map(
        |(whose, what, options, payload, change)| {
            let (family, client, client_port, port) = whose;
            Step { family, client, client_port, port, what, options, payload, change }
        },
    )
}

/// What the directors have said, as far as the next frames depend on it.
#[derive(Default)]
struct Heard {
    /// Cookie by client and service.
    cookies: std::collections::HashMap<(SocketAddr, SocketAddr), u32>,
    /// SYNs that servers got: from, to, sequence number.
    syns: Vec<(SocketAddr, SocketAddr, u32)>,
}

/// Source, destination, sequence number and flags of a frame that is sent.
fn read(frame: &[u8]) -> Option<(SocketAddr, SocketAddr, u32, TcpFlags)> {
    let (src, dst, l4): (IpAddr, IpAddr, usize) = match frame.get(12..14)? {
        [0x08, 0x00] => {
            let at = |at: usize| <[u8; 4]>::try_from(&frame[at..at + 4]).unwrap();
            (at(26).into(), at(30).into(), 34)
        }
        _ => {
            let at = |at: usize| <[u8; 16]>::try_from(&frame[at..at + 16]).unwrap();
            (at(22).into(), at(38).into(), 54)
        }
    };
    let tcp = frame.get(l4..l4 + 20)?;
    let port = |at: usize| u16::from_be_bytes([tcp[at], tcp[at + 1]]);
    let seq = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
    Some((SocketAddr::new(src, port(0)), SocketAddr::new(dst, port(2)), seq, TcpFlags(tcp[13])))
}

impl Heard {
    fn hear(&mut self, outcomes: &[Outcome]) {
        let sent = outcomes.iter().filter(|outcome| outcome.sent_on().is_some());
        let extra = outcomes.iter().flat_map(|outcome| outcome.extra.iter().map(|(_, f)| f));
        for frame in sent.map(|outcome| &outcome.frame).chain(extra) {
            match read(frame) {
                Some((src, dst, seq, flags)) if flags == SYN | ACK => {
                    self.cookies.insert((dst, src), seq);
                }
                Some((src, dst, seq, flags)) if flags == SYN => self.syns.push((src, dst, seq)),
                _ => {}
            }
        }
    }
}

impl Step {
    fn frame(&self, heard: &mut Heard) -> (NicId, Vec<u8>) {
        let client = [format!("10.0.0.{}", self.client), format!("fd00:c::{:x}", self.client)];
        let client = SocketAddr::new(client[self.family].parse().unwrap(), self.client_port);
        let vip = SocketAddr::new(VIPS[self.family].parse().unwrap(), self.port);
        let cookie = heard.cookies.get(&(client, vip)).copied().unwrap_or(0);
        let first = 0xffff_fff0 + u32::from(self.client_port % 4);
        let (from, to, flags, seq, ack) = match self.what {
            What::Syn => (client, vip, SYN, first, 0),
            What::Ack(off) => {
                let ack = cookie.wrapping_add(1).wrapping_add(off);
                (client, vip, ACK, first.wrapping_add(1), ack)
            }
            What::Server(_) => match heard.syns.pop() {
                Some((src, dst, seq)) => (dst, src, SYN | ACK, 77, seq.wrapping_add(1)),
                None => (client, vip, SYN, first, 0),
            },
            What::Flags(flags) => (client, vip, TcpFlags(flags), first, 9),
        };
        let is_server = from != client;
        let builder = if is_server { from_server } else { from_client }(from.ip(), to.ip());
        let mut tcp = builder.tcp(from.port(), to.port()).seq(seq).ack(ack).flags(flags);
        let has = |bit: u8| self.options >> bit & 1 == 1;
        if self.what == What::Server(true) || has(0) {
            tcp = tcp.option(TcpOption::Mss(if has(5) { 1460 } else { 1000 }));
        }
        if has(1) {
            tcp = tcp.option(TcpOption::SackPermitted);
        }
        if has(2) || has(6) {
            tcp = tcp.option(TcpOption::Timestamps { value: 500, echo: 0 });
        }
        if has(3) || has(6) {
            tcp = tcp.option(TcpOption::Nop).option(TcpOption::WindowScale(self.options >> 4));
        }
        let payload = vec![0x5a; if flags.contains(SYN) { 0 } else { self.payload }];
        let mut frame = tcp.payload(&payload).build().to_vec();
        frame.resize(frame.len().max(60), 0);
        if let Some((at, value)) = self.change
            && let Some(byte) = frame.get_mut(at)
        {
            *byte = value;
        }
        (if is_server { SERVER } else { CLIENT }, frame)
    }
}

/// All that two directors must agree on in the end.
fn counts(director: &Director) -> Vec<u64> {
    let counters = &director.state.counters;
    let mut counts: Vec<u64> = counters.drops.iter().map(|count| count.get()).collect();
    counts.extend(counters.replies.iter().map(|count| count.get()));
    for service in &counters.services {
        let fields = [&service.flows, &service.connections, &service.refused];
        let cookies = [&service.cookies_sent, &service.cookies_proven];
        counts.extend(fields.iter().chain(&cookies).map(|count| count.get()));
    }
    for server in &counters.servers {
        counts.extend([&server.flows, &server.active, &server.connections].map(|c| c.get()));
    }
    counts
}

fn compare(
    (fast, general): (&mut Director, &mut Director),
    frames: &[(NicId, Vec<u8>)],
) -> Result<Vec<Outcome>, TestCaseError> {
    let (left, right) = (fast.receive_mixed(frames), general.receive_mixed(frames));
    for (at, (left, right)) in left.iter().zip(&right).enumerate() {
        prop_assert_eq!(left, right, "frame {} of the burst: {:02x?}", at, frames[at].1);
    }
    prop_assert_eq!(counts(fast), counts(general));
    prop_assert_eq!(format!("{:?}", fast.flows()), format!("{:?}", general.flows()));
    Ok(left)
}

/// Uses up the second's stray ACKs, so that false cookies are dropped.
fn spend(director: &mut Director) {
    let mut heard = Heard::default();
    let step = Step {
        family: 0,
        client: 200,
        client_port: 9,
        port: 80,
        what: What::Ack(5),
        options: 0,
        payload: 0,
        change: None,
    };
    let (nic, frame) = step.frame(&mut heard);
    for _ in 0..SYNPROXY_STRAYS_PER_SECOND {
        director.receive(nic, &frame);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn bursts_are_answered_as_frames_alone(
        bursts in prop::collection::vec(prop::collection::vec(step(), 1..40), 1..8),
        is_flood in any::<bool>(),
        defends in prop::bool::weighted(0.2),
        pause in 0..3u8,
    ) {
        let mut fast = with_services(Director::new(KernelMode::Tap), defends);
        let mut general = with_services(Director::general(KernelMode::Tap), defends);
        if is_flood {
            spend(&mut fast);
            spend(&mut general);
        }
        let mut heard = Heard::default();
        for burst in &bursts {
            let frames: Vec<_> = burst.iter().map(|step| step.frame(&mut heard)).collect();
            heard.hear(&compare((&mut fast, &mut general), &frames)?);
            let pause = [0.0, 0.2, 40.0][usize::from(pause)];
            fast.advance(pause);
            general.advance(pause);
        }
    }
}

/// A flood from many clients to both families, with the options of a scanner, of Linux, and none.
fn flood(what: What) -> Vec<Step> {
    let options = [0, 1, 0b111];
    (0..60)
        .map(|at| Step {
            family: usize::from(at % 5 == 4),
            client: 10 + at,
            client_port: 5000 + u16::from(at),
            port: 80,
            what,
            options: options[usize::from(at) % 3],
            payload: 0,
            change: None,
        })
        .collect()
}

#[test]
fn flood_of_syns_is_answered_without_the_general_path() {
    let mut fast = with_services(Director::new(KernelMode::Tap), false);
    let mut general = with_services(Director::general(KernelMode::Tap), false);
    let mut heard = Heard::default();
    let frames: Vec<_> = flood(What::Syn).iter().map(|step| step.frame(&mut heard)).collect();
    let outcomes = compare((&mut fast, &mut general), &frames).unwrap();
    heard.hear(&outcomes);
    assert!(outcomes.iter().all(|outcome| outcome.sent_on() == Some(CLIENT)));
    assert_eq!(fast.state.counters.replies[ReplyKind::SynCookie as usize].get(), 60);
    let fast_frames = |director: &Director| director.state.counters.fast_frames.get();
    assert_eq!((fast_frames(&fast), fast_frames(&general)), (60, 0));
    // Each cookie is good.
    let acks: Vec<_> = flood(What::Ack(0)).iter().map(|step| step.frame(&mut heard)).collect();
    compare((&mut fast, &mut general), &acks).unwrap();
    assert_eq!(fast.flows().len(), 60);
}

#[test]
fn flood_of_false_cookies_is_dropped_without_the_general_path() {
    let mut fast = with_services(Director::new(KernelMode::Tap), false);
    let mut general = with_services(Director::general(KernelMode::Tap), false);
    spend(&mut fast);
    spend(&mut general);
    let before = fast.state.counters.fast_frames.get();
    let mut heard = Heard::default();
    let frames: Vec<_> = flood(What::Ack(5)).iter().map(|step| step.frame(&mut heard)).collect();
    let outcomes = compare((&mut fast, &mut general), &frames).unwrap();
    let dropped = Verdict::Drop(DropReason::SynproxyBadCookie);
    assert!(outcomes.iter().all(|outcome| outcome.verdict == dropped));
    // One in 32 has six bits right by chance, and is looked at in full.
    let fast_frames = fast.state.counters.fast_frames.get() - before;
    assert!((50..=60).contains(&fast_frames), "{fast_frames}");
}

#[test]
fn another_workers_syns_are_handed_to_it() {
    let director =
        |worker| with_services(Director::of_many(KernelMode::Tap, WorkerId(worker), 2), false);
    let mut heard = Heard::default();
    let frames: Vec<_> = flood(What::Syn).iter().map(|step| step.frame(&mut heard)).collect();
    let of = |worker: u8| -> Vec<Verdict> {
        let outcomes = director(worker).receive_mixed(&frames);
        outcomes.iter().map(|outcome| outcome.verdict).collect()
    };
    let (first, second) = (of(0), of(1));
    for (first, second) in first.iter().zip(&second) {
        let answered = |verdict: &Verdict| matches!(verdict, Verdict::Transmit(CLIENT));
        let handed = |verdict: &Verdict, to| matches!(verdict, Verdict::HandOff(w, _) if w.0 == to);
        assert!(
            answered(first) && handed(second, 0) || answered(second) && handed(first, 1),
            "{first:?} {second:?}"
        );
    }
    let by_first = first.iter().filter(|verdict| matches!(verdict, Verdict::Transmit(_))).count();
    assert!((10..50).contains(&by_first), "{by_first}");
}
