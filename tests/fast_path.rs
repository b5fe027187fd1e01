//! The fast path answers as the general one does: two directors, one without it, get the same
//! frames, and agree on verdicts, bytes, flows and counts.

#[path = "support/mod.rs"]
mod support;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use gyre::message::FlowRow;
use gyre::model::*;
use gyre::wire::tcp::{TcpFlags, TcpOption};
use proptest::prelude::*;
use support::*;

const CLIENTS: [&str; 2] = ["10.0.0.7", "fd00:c::7"];
const RIPS: [&str; 2] = ["10.2.0.11", "fd00:2::b"];
const GUE: Tunnel = Tunnel::Gue { port: 6080, checksum: GueChecksum::Sum };
/// Mode, tunnel and TTL policy of the services, by the last digit of their VIP.
const KINDS: [(ForwardMode, Tunnel, TtlPolicy); 9] = [
    (ForwardMode::DirectRoute, Tunnel::Ipip, TtlPolicy::ByMode),
    (ForwardMode::DirectRoute, Tunnel::Ipip, TtlPolicy::Decrement),
    (ForwardMode::Nat, Tunnel::Ipip, TtlPolicy::ByMode),
    (ForwardMode::FullNat, Tunnel::Ipip, TtlPolicy::ByMode),
    (ForwardMode::FullNat, Tunnel::Ipip, TtlPolicy::Keep),
    (ForwardMode::Tunnel, Tunnel::Ipip, TtlPolicy::ByMode),
    (ForwardMode::Tunnel, Tunnel::Gre { checksum: true }, TtlPolicy::ByMode),
    (ForwardMode::Tunnel, GUE, TtlPolicy::ByMode),
    (ForwardMode::Local, Tunnel::Ipip, TtlPolicy::ByMode),
];

fn vip(family: usize, kind: usize) -> IpAddr {
    [format!("10.1.0.{}", kind + 1), format!("fd00:1::{}", kind + 1)][family].parse().unwrap()
}

fn services() -> Vec<ServiceSpec> {
    let mut services = Vec::new();
    for family in 0..2 {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            for (at, (mode, tunnel, ttl)) in KINDS.into_iter().enumerate() {
                let key = ServiceKey::new(protocol, vip(family, at), 80);
                let mut spec = ServiceSpec::new(key, SchedulerSpec::RoundRobin);
                spec.pool = (mode == ForwardMode::FullNat).then(|| "pool".into());
                spec.ttl = ttl;
                // Two port-mapped services of one server would share its replies.
                let keeps_port = !matches!(mode, ForwardMode::Nat | ForwardMode::FullNat);
                let port = if keeps_port { 80 } else { 8000 + at as u16 };
                let local = mode == ForwardMode::Local;
                let rip = if local { ["127.0.0.1", "::1"][family] } else { RIPS[family] };
                let endpoint = SocketAddr::new(rip.parse().unwrap(), port);
                let mut server = server(endpoint, 1, mode);
                server.tunnel = tunnel;
                spec.servers = vec![server];
                services.push(spec);
            }
        }
    }
    services
}

fn with_services(mut director: Director) -> Director {
    let wanted = desired(services());
    director.change(|registry, hops| registry.apply(&wanted, hops)).unwrap();
    director
}

/// One frame of a script.
#[derive(Clone, Debug)]
struct Step {
    family: usize,
    kind: usize,
    is_udp: bool,
    client_port: u16,
    from_server: bool,
    flags: u8,
    ttl: u8,
    payload: usize,
    has_checksum: bool,
    has_options: bool,
    change: Option<(usize, u8)>,
    cut: Option<usize>,
    /// Milliseconds until the next one.
    pause_ms: u64,
}

/// Nearly always data of the few flows there are.
fn step() -> impl Strategy<Value = Step> {
    let whose = (0..2usize, 0..KINDS.len(), any::<bool>(), 5000..5002u16, any::<bool>());
    let ack = TcpFlags::ACK.0;
    let flags = prop_oneof![
        12 => Just(ack),
        6 => Just(ack | TcpFlags::PSH.0),
        2 => Just(TcpFlags::SYN.0),
        2 => Just(ack | TcpFlags::SYN.0),
        3 => Just(ack | TcpFlags::FIN.0),
        1 => Just(ack | TcpFlags::RST.0),
        1 => any::<u8>(),
    ];
    let ttl = prop_oneof![20 => Just(64u8), 1 => 0..4u8];
    let payload = prop_oneof![4 => 0..40usize, 1 => 1380..1480usize];
    let how = (flags, ttl, payload, prop::bool::weighted(0.9), prop::bool::weighted(0.2));
    let change = prop::option::weighted(0.05, (0..80usize, any::<u8>()));
    let cut = prop::option::weighted(0.03, 0..120usize);
    let pause = prop_oneof![20 => Just(0u64), 1 => 1..400_000u64];
    (whose, how, change, cut, pause).prop_map(|(whose, how, change, cut, pause_ms)| {
        let (family, kind, is_udp, client_port, from_server) = whose;
        let (flags, ttl, payload, has_checksum, has_options) = how;
        Step {
            family,
            kind,
            is_udp,
            client_port,
            from_server,
            flags,
            ttl,
            payload,
            has_checksum,
            has_options,
            change,
            cut,
            pause_ms,
        }
    })
}

/// Every flow of a director.
fn rows(director: &Director) -> Vec<FlowRow> {
    let flows = &director.state.flows;
    let ids = std::iter::successors(flows.next_live(0), |id| flows.next_live(id.0 + 1));
    ids.filter_map(|id| director.state.row(id, director.now)).collect()
}

impl Step {
    fn protocol(&self) -> Protocol {
        if self.is_udp { Protocol::Udp } else { Protocol::Tcp }
    }

    /// The frame: a server's, where the flow has a reply to make, else the client's.
    fn frame(&self, rows: &[FlowRow]) -> (NicId, Vec<u8>) {
        let client = (CLIENTS[self.family].parse().unwrap(), self.client_port);
        let vip = vip(self.family, self.kind);
        let row = rows.iter().find(|row| {
            row.client == client && row.virtual_address.0 == vip && row.protocol == self.protocol()
        });
        let answered = |row: &&FlowRow| {
            self.from_server && matches!(row.mode, ForwardMode::Nat | ForwardMode::FullNat)
        };
        let (nic, builder, src_port, dst_port) = match row.filter(answered) {
            Some(row) => {
                let to = row.local.unwrap_or(client);
                (SERVER, from_server(row.server.0, to.0), row.server.1, to.1)
            }
            None => (CLIENT, from_client(client.0, vip), self.client_port, 80),
        };
        let (builder, payload) = (builder.ttl(self.ttl), vec![0x5a; self.payload]);
        let mut frame = if self.is_udp {
            let udp = builder.udp(src_port, dst_port).payload(&payload);
            if self.has_checksum { udp.build() } else { udp.no_checksum().build() }
        } else {
            let tcp = builder.tcp(src_port, dst_port).seq(7).ack(9).flags(TcpFlags(self.flags));
            let stamps = TcpOption::Timestamps { value: 5, echo: 6 };
            let tcp = if self.has_options { tcp.option(stamps) } else { tcp };
            tcp.payload(&payload).build()
        }
        .to_vec();
        // As on a wire: never below Ethernet's smallest frame.
        frame.resize(frame.len().max(60), 0);
        if let Some((at, value)) = self.change
            && let Some(byte) = frame.get_mut(at)
        {
            *byte = value;
        }
        frame.truncate(self.cut.unwrap_or(usize::MAX));
        (nic, frame)
    }
}

/// All that two directors must agree on in the end.
fn counts(director: &Director) -> Vec<u64> {
    let counters = &director.state.counters;
    let mut counts: Vec<u64> = counters.drops.iter().map(|count| count.get()).collect();
    counts.extend(counters.replies.iter().map(|count| count.get()));
    for server in &counters.servers {
        let fields = [&server.flows, &server.active, &server.connections];
        let passed = [&server.in_packets, &server.in_bytes, &server.out_packets, &server.out_bytes];
        counts.extend(fields.iter().chain(&passed).map(|count| count.get()));
    }
    counts
}

/// A burst to both, compared.
fn compare(
    (fast, general): (&mut Director, &mut Director),
    frames: &[(NicId, Vec<u8>)],
) -> Result<(), TestCaseError> {
    let (left, right) = (fast.receive_mixed(frames), general.receive_mixed(frames));
    for (at, (left, right)) in left.iter().zip(&right).enumerate() {
        prop_assert_eq!(left, right, "frame {} of the burst: {:02x?}", at, frames[at].1);
    }
    prop_assert_eq!(counts(fast), counts(general));
    prop_assert_eq!(format!("{:?}", rows(fast)), format!("{:?}", rows(general)));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn both_paths_agree(
        bursts in prop::collection::vec(prop::collection::vec(step(), 1..20), 1..12),
        has_many_servers in any::<bool>(),
    ) {
        let mut fast = with_services(Director::new(KernelMode::Tap));
        if has_many_servers {
            // As where each has a line of counters far away.
            Arc::make_mut(&mut fast.snapshot).server_slots = 100_000;
        }
        let mut general = with_services(Director::general(KernelMode::Tap));
        for burst in &bursts {
            let known = rows(&fast);
            let frames: Vec<_> = burst.iter().map(|step| step.frame(&known)).collect();
            compare((&mut fast, &mut general), &frames)?;
            let pause = burst.iter().map(|step| step.pause_ms).max().unwrap_or(0) as f64 / 1e3;
            fast.advance(pause);
            general.advance(pause);
        }
        prop_assert_eq!(general.state.counters.fast_frames.get(), 0);
    }
}

/// One client's connection, packet by packet.
struct Talk {
    step: Step,
}

impl Talk {
    fn new(family: usize, kind: usize) -> Self {
        let step = Step {
            family,
            kind,
            is_udp: false,
            client_port: 5000,
            from_server: false,
            flags: TcpFlags::SYN.0,
            ttl: 64,
            payload: 0,
            has_checksum: true,
            has_options: false,
            change: None,
            cut: None,
            pause_ms: 0,
        };
        Talk { step }
    }

    fn client(&mut self, director: &mut Director, flags: TcpFlags) {
        (self.step.flags, self.step.from_server) = (flags.0, false);
        self.say(director);
    }

    /// What the server says, where the director sees it.
    fn server(&mut self, director: &mut Director, flags: TcpFlags) {
        if matches!(KINDS[self.step.kind].0, ForwardMode::Nat | ForwardMode::FullNat) {
            (self.step.flags, self.step.from_server) = (flags.0, true);
            self.say(director);
        }
    }

    fn say(&mut self, director: &mut Director) {
        let (nic, frame) = self.step.frame(&rows(director));
        director.receive(nic, &frame);
    }
}

/// All but the first packet of a connection, and the first one's is the general path's alone.
#[test]
fn connections_open_and_close_on_the_fast_path() {
    let (syn, ack, fin) = (TcpFlags::SYN, TcpFlags::ACK, TcpFlags::FIN | TcpFlags::ACK);
    for (family, kind) in (0..2).flat_map(|f| (0..KINDS.len()).map(move |k| (f, k))) {
        let mut director = with_services(Director::new(KernelMode::Tap));
        let mut talk = Talk::new(family, kind);
        talk.client(&mut director, syn);
        assert_eq!(director.state.counters.fast_frames.get(), 0, "{:?}", KINDS[kind]);
        talk.server(&mut director, syn | ack);
        talk.client(&mut director, ack);
        talk.client(&mut director, fin);
        talk.server(&mut director, fin);
        talk.client(&mut director, ack);
        let expected = match KINDS[kind].0 {
            ForwardMode::Local => 0,
            ForwardMode::Nat | ForwardMode::FullNat => 5,
            ForwardMode::DirectRoute | ForwardMode::Tunnel => 3,
        };
        let passed = director.state.counters.fast_frames.get();
        assert_eq!(passed, expected, "{:?}, family {family}", KINDS[kind]);
    }
}

/// ESTABLISHED outlives SYN_RECV, whose timer is left to fire; FIN_WAIT ends before it would.
#[test]
fn a_timer_left_where_it_was_ends_its_flow_neither_early_nor_late() {
    for (flags, lives_s, gone_s) in [
        (vec![TcpFlags::ACK], 899.0, 32.0),
        (vec![TcpFlags::ACK, TcpFlags::FIN | TcpFlags::ACK], 119.0, 6.0),
    ] {
        let mut director = with_services(Director::new(KernelMode::Tap));
        let mut talk = Talk::new(0, 0);
        talk.client(&mut director, TcpFlags::SYN);
        director.advance(30.0);
        flags.iter().for_each(|flags| talk.client(&mut director, *flags));
        // In steps, as turns would: a timer that fires early is set anew.
        (0..lives_s as usize).for_each(|_| director.advance(1.0));
        assert_eq!(director.state.flows.len(), 1, "{flags:?} ended early");
        (0..gone_s as usize).for_each(|_| director.advance(1.0));
        assert_eq!(director.state.flows.len(), 0, "{flags:?} ended late");
    }
}

/// Opens a flow of every kind and sends data: which of it went the fast way?
#[test]
fn established_flows_of_every_mode_take_the_fast_path() {
    let mut director = with_services(Director::new(KernelMode::Tap));
    let mut wanted = 0;
    for (family, kind, is_udp) in
        (0..2).flat_map(|f| (0..KINDS.len()).flat_map(move |k| [(f, k, false), (f, k, true)]))
    {
        let mut step = Step {
            family,
            kind,
            is_udp,
            client_port: 5000,
            from_server: false,
            flags: TcpFlags::SYN.0,
            ttl: 64,
            payload: 20,
            has_checksum: true,
            has_options: false,
            change: None,
            cut: None,
            pause_ms: 0,
        };
        let mut say = |flags: TcpFlags, from_server: bool| {
            (step.flags, step.from_server) = (flags.0, from_server);
            let (nic, frame) = step.frame(&rows(&director));
            director.receive(nic, &frame)
        };
        let answers = matches!(KINDS[kind].0, ForwardMode::Nat | ForwardMode::FullNat);
        say(TcpFlags::SYN, false);
        if answers {
            say(TcpFlags::SYN | TcpFlags::ACK, true);
        }
        say(TcpFlags::ACK, false);
        let before = director.state.counters.fast_frames.get();
        let mut say = |flags: TcpFlags, from_server: bool| {
            (step.flags, step.from_server) = (flags.0, from_server);
            let (nic, frame) = step.frame(&rows(&director));
            director.receive(nic, &frame)
        };
        for _ in 0..3 {
            say(TcpFlags::ACK, false);
            say(TcpFlags::ACK | TcpFlags::PSH, answers);
        }
        let passed = director.state.counters.fast_frames.get() - before;
        let expected = if KINDS[kind].0 == ForwardMode::Local { 0 } else { 6 };
        assert_eq!(passed, expected, "{:?}, family {family}, UDP {is_udp}", KINDS[kind]);
        wanted += expected;
    }
    assert!(wanted > 100);
}
