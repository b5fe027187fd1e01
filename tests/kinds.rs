//! Kinds of services through the packet path: which service a packet is for, and what server it
//! then gets.

#[path = "support/mod.rs"]
mod support;

use std::net::{IpAddr, SocketAddr};

use gyre::config::check;
use gyre::counters::{Counter, DropReason, WorkerCounters};
use gyre::dataplane::{RxMeta, Verdict};
use gyre::message::{FlowFilter, FromWorker, RowKind, Sweep, SweepAction};
use gyre::model::*;
use gyre::wire::tcp::TcpFlags;
use support::*;

const VIP: &str = "10.1.0.1";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A director that runs the services of a configuration.
fn director(services: &str) -> Director {
    let text = format!(
        "[[port]]\nname = \"p\"\ndevice = \"net_null0\"\naddresses = [\"10.2.0.1/24\"]\n\
         [local_addresses]\npool = {{ port = \"p\", addresses = [\"10.2.0.1\"] }}\n{services}"
    );
    let checked = check(&text).unwrap_or_else(|problems| panic!("{problems:#?}"));
    let mut director = Director::new(KernelMode::Tap);
    let wanted = Desired { removal: Removal::Now, ..checked.desired };
    director.change(|registry, hops| registry.apply(&wanted, hops)).unwrap();
    director
}

/// Where the first packet of a client to that address went.
fn first(
    director: &mut Director,
    protocol: Protocol,
    client: SocketAddr,
    to: SocketAddr,
) -> Option<SocketAddr> {
    let ip = from_client(client.ip(), to.ip());
    let frame = match protocol {
        Protocol::Tcp => ip.tcp(client.port(), to.port()).flags(TcpFlags::SYN).build(),
        Protocol::Udp => ip.udp(client.port(), to.port()).build(),
    };
    director.receive(CLIENT, &frame).sent_on().filter(|nic| *nic == SERVER)?;
    let row = director.flows().into_iter().find(|row| {
        (row.protocol, row.client.into(), row.virtual_address.into()) == (protocol, client, to)
    })?;
    Some(row.server.into())
}

fn server_of(director: &mut Director, port: u16) -> Option<String> {
    let client = SocketAddr::new(ip("10.0.0.7"), port);
    let to = SocketAddr::new(ip(VIP), port);
    first(director, Protocol::Tcp, client, to).map(|server| server.to_string())
}

#[test]
fn exact_port_goes_before_the_range_and_a_group_before_both() {
    let mut director = director(
        "[[service]]\naddress = \"10.1.0.1:8000-8010\"\n\
         [[service.server]]\naddress = \"10.2.0.11\"\n\
         [[service]]\naddress = \"10.1.0.1:8001\"\n\
         [[service.server]]\naddress = \"10.2.0.12\"\n\
         [[service]]\ngroup = \"web\"\nforwarding = \"fullnat\"\nlocal_addresses = \"pool\"\n\
         match = [{ address = \"10.1.0.1:8002\" }, { address = \"10.1.0.0/16:443\" }]\n\
         [[service.server]]\naddress = \"10.2.0.13\"\n\
         [[service.server]]\naddress = \"10.2.0.14:9\"\nweight = 0",
    );
    for (port, server) in [
        (8000, Some("10.2.0.11:8000")),
        (8001, Some("10.2.0.12:8001")),
        (8002, Some("10.2.0.13:8002")),
        (8010, Some("10.2.0.11:8010")),
        (443, Some("10.2.0.13:443")),
        (8011, None),
    ] {
        assert_eq!(server_of(&mut director, port).as_deref(), server, "port {port}");
    }
}

#[test]
fn a_group_schedules_all_its_matches_as_one() {
    let mut director = director(
        "[[service]]\ngroup = \"mixed\"\nscheduler = \"rr\"\n\
         match = [{ address = \"10.1.0.1:80\" }, \
         { address = \"10.1.0.2:53\", protocol = \"udp\" }]\n\
         [[service.server]]\naddress = \"10.2.0.11\"\n[[service.server]]\naddress = \"10.2.0.12\"",
    );
    let client = |port| SocketAddr::new(ip("10.0.0.7"), port);
    let (web, dns) = (SocketAddr::new(ip(VIP), 80), SocketAddr::new(ip("10.1.0.2"), 53));
    let picks = [
        first(&mut director, Protocol::Tcp, client(1), web),
        first(&mut director, Protocol::Udp, client(1), dns),
        first(&mut director, Protocol::Tcp, client(2), web),
        first(&mut director, Protocol::Tcp, client(2), dns),
    ];
    let picks = picks.map(|pick| pick.map(|server| server.to_string()));
    let expected = [Some("10.2.0.12:80"), Some("10.2.0.11:53"), Some("10.2.0.12:80"), None];
    assert_eq!(picks, expected.map(|server| server.map(str::to_owned)));
    let (spec, service) = director.registry.service(&ServiceKey::group("mixed").unwrap()).unwrap();
    assert_eq!((spec.matches.len(), service.servers.len()), (2, 2));
}

#[test]
fn what_makes_no_service_is_refused_with_a_remedy() {
    for (text, problem) in [
        ("group = \"web\"", "the group matches nothing; add a [[service.match]]"),
        (
            "group = \"web\"\n\
             match = [{ address = \"10.1.0.1:80\" }, { address = \"[fd00::1]:80\" }]",
            "the group mixes IPv4 and IPv6; make one group for each family",
        ),
        (
            "address = \"10.1.0.1:80\"\nmatch = [{ address = \"10.1.0.1:81\" }]",
            "a service with an address has no matches; give `group` a name",
        ),
        (
            "group = \"web\"\naddress = \"10.1.0.1:80\"\nmatch = [{ address = \"10.1.0.1:81\" }]",
            "`address` and `group` both say what the service is; remove one; a group takes its \
             addresses from [[service.match]]",
        ),
        (
            "address = \"10.1.0.1:80-90\"\nserver = [{ address = \"10.2.0.11:80\" }]",
            "DR cannot change ports to 80; leave the server's port out, or use another forwarding",
        ),
        ("group = \"a b\"", "`a b` cannot name a group"),
        ("name = \"web\"", "`address` is missing"),
    ] {
        let whole = format!("[[port]]\nname = \"p\"\ndevice = \"net_null0\"\n[[service]]\n{text}");
        let problems: Vec<String> = check(&whole)
            .unwrap_err()
            .iter()
            .map(|p| format!("{}; {}", p.message, p.remedy))
            .collect();
        assert!(problems.iter().any(|line| line.starts_with(problem)), "{text}: {problems:#?}");
    }
}

const ONE_DR_SERVER: &str =
    "[[service]]\naddress = \"10.1.0.1:80\"\n[[service.server]]\naddress = \"10.2.0.11\"\n";

/// A client's segment to the VIP's port 80, and whether it went to a server.
fn segment(director: &mut Director, client_port: u16, flags: TcpFlags) -> bool {
    let tcp = from_client(ip("10.0.0.7"), ip(VIP)).tcp(client_port, 80);
    director.receive(CLIENT, &tcp.flags(flags).build()).sent_on() == Some(SERVER)
}

/// State and seconds left of the flow of a client's port.
fn flow(director: &Director, client_port: u16) -> Option<(&'static str, u32)> {
    let row = director.flow(SocketAddr::new(ip("10.0.0.7"), client_port))?;
    Some((row.state.name(), row.expires_ms.div_ceil(1000)))
}

#[test]
fn a_services_timeouts_go_before_the_general_ones_and_a_change_is_met_with_the_next_packet() {
    let mut director = director(
        &("[semantics.timeouts]\nestablished = 700\nsyn_recv = 30\n".to_owned()
            + ONE_DR_SERVER
            + "[service.timeouts]\nsyn_recv = 20\n"),
    );
    assert!(segment(&mut director, 1, TcpFlags::SYN));
    assert_eq!(flow(&director, 1), Some(("SYN_RECV", 20)));
    assert!(segment(&mut director, 1, TcpFlags::ACK));
    assert_eq!(flow(&director, 1), Some(("ESTABLISHED", 700)));
    let mut semantics = director.registry.snapshot().semantics;
    semantics.timeouts.established_ms = 50_000;
    director.change(|registry, _| Ok(registry.set_semantics(semantics))).unwrap();
    assert_eq!(flow(&director, 1), Some(("ESTABLISHED", 700)));
    assert!(segment(&mut director, 1, TcpFlags::ACK));
    assert_eq!(flow(&director, 1), Some(("ESTABLISHED", 50)));
}

#[test]
fn drop_packet_drops_one_first_packet_in_ten() {
    let text = "[semantics]\ndrop_packet = \"always\"\n".to_owned() + ONE_DR_SERVER;
    let mut director = director(&text);
    let passed = (1001..=1100).filter(|port| segment(&mut director, *port, TcpFlags::SYN)).count();
    assert_eq!((passed, director.drops(DropReason::DropPacket)), (90, 10));
}

/// A SYN is dropped before it gets a cookie, a proof never: its sender would not come again.
#[test]
fn drop_packet_drops_syns_before_synproxy_answers_them_and_no_proofs() {
    let text = "[semantics]\ndrop_packet = \"always\"\n[[service]]\naddress = \"10.1.0.1:80\"\n\
                forwarding = \"fullnat\"\nlocal_addresses = \"pool\"\nsynproxy = true\n\
                [[service.server]]\naddress = \"10.2.0.11\"";
    let mut director = director(text);
    let mut proven = 0;
    for port in 1001..=1100 {
        let tcp = || from_client(ip("10.0.0.7"), ip(VIP)).tcp(port, 80);
        let out = director.receive(CLIENT, &tcp().seq(9).flags(TcpFlags::SYN).build());
        if out.sent_on() != Some(CLIENT) {
            continue;
        }
        let cookie = u32::from_be_bytes(out.frame[38..42].try_into().unwrap());
        let proof = tcp().seq(10).ack(cookie.wrapping_add(1)).flags(TcpFlags::ACK).build();
        proven += usize::from(director.receive(CLIENT, &proof).sent_on() == Some(SERVER));
    }
    assert_eq!((proven, director.drops(DropReason::DropPacket)), (90, 10));
}

#[test]
fn a_worker_short_of_flows_drops_first_packets_and_half_open_flows_but_no_established_ones() {
    let text = "[semantics]\ndrop_packet = \"pressure\"\ndrop_entry = \"pressure\"\n".to_owned()
        + ONE_DR_SERVER;
    let mut director = director(&text);
    for port in 2001..=2500 {
        assert!(segment(&mut director, port, TcpFlags::SYN), "no pressure yet");
        assert!(segment(&mut director, port, TcpFlags::ACK));
    }
    for port in 2501..=3000 {
        assert!(segment(&mut director, port, TcpFlags::SYN), "not seen as pressure yet");
    }
    // 24 entries of 1024 are free, 32 should be: of the spare ones 8 are missing.
    director.advance(0.1);
    let passed = (3001..=3010).filter(|port| segment(&mut director, *port, TcpFlags::SYN)).count();
    assert!(passed < 10 && director.drops(DropReason::DropPacket) > 0, "{passed} passed");
    director.advance(40.0);
    assert!(director.state.counters.flows_shed.get() > 0);
    let flows = director.flows();
    let established = flows.iter().filter(|row| row.state.name() == "ESTABLISHED").count();
    assert_eq!(established, 500);
    assert!(flows.len() < 993, "{} flows are left", flows.len());
}

#[test]
fn switches_are_read_and_written_as_the_kernels() {
    let text = "[semantics]\nconn_reuse_mode = 2\nexpire_nodest_conn = true\nsloppy_tcp = true\n\
                secure_tcp = \"always\"\npmtu_disc = false\n[semantics.timeouts]\nudp = 7\n";
    let director = director(text);
    let semantics = director.snapshot.semantics;
    let expected = Semantics {
        conn_reuse: ConnReuse::EndedOrHalfSeen,
        expire_nodest_conn: true,
        sloppy_tcp: true,
        secure_tcp: Defence::Always,
        pmtu_disc: false,
        timeouts: Timeouts { udp_ms: 7000, ..Timeouts::default() },
        ..Semantics::default()
    };
    assert_eq!(semantics, expected);
    let written = gyre::config::Semantics::from(&semantics);
    assert_eq!(Semantics::from(&written), expected);
    let problems = check("[semantics]\nconn_reuse_mode = 3\nsecure_tcp = \"2\"").unwrap_err();
    let messages: Vec<_> = problems.iter().map(|problem| problem.message.as_str()).collect();
    assert!(messages.iter().any(|m| m.contains("3 is out of range")), "{messages:?}");
    assert!(messages.iter().any(|m| m.contains("\"2\" is unknown")), "{messages:?}");
}

#[test]
fn port_0_without_persistence_is_refused_with_the_remedy() {
    for (text, problem) in [
        (
            "address = \"10.1.0.1:0\"",
            "port 0 (all ports) needs persistence; set persistence_timeout",
        ),
        (
            "address = \"10.1.0.1:80\"\npersistence_timeout = 60\npersistence_prefix = 64",
            "no such length of a client's network; use 1 to 32",
        ),
        ("address = \"10.1.0.1:80\"\none_packet = true", "one-packet scheduling is for UDP"),
        ("address = \"10.1.0.1:80\"\nmark = 7", "a service with an address has no mark"),
        (
            "address = \"10.1.0.1:80\"\npersistence_prefix = 24",
            "persistence_prefix has no effect without persistence_timeout",
        ),
    ] {
        let whole = format!("[[port]]\nname = \"p\"\ndevice = \"net_null0\"\n[[service]]\n{text}");
        let problems: Vec<String> =
            check(&whole).unwrap_err().iter().map(ToString::to_string).collect();
        assert!(problems.iter().any(|line| line.contains(problem)), "{text}: {problems:#?}");
    }
}

#[test]
fn templates_are_listed_held_by_flows_and_deleted() {
    let text = ONE_DR_SERVER.to_owned() + "[[service.server]]\naddress = \"10.2.0.12\"\n";
    let text =
        text.replacen("[[service.server]]", "persistence_timeout = 30\n[[service.server]]", 1);
    let mut director = director(&text);
    assert!(segment(&mut director, 2001, TcpFlags::SYN));
    let list = |director: &mut Director, action| {
        let sweep = Sweep {
            job: 1,
            action,
            filter: FlowFilter::default(),
            matches_max: u32::MAX,
            start: 0,
        };
        director.state.start_sweep(sweep);
        let (mut rows, snapshot) = (Vec::new(), director.snapshot.clone());
        while director.state.is_sweeping() {
            director.state.sweep(&snapshot, director.now, |event| {
                if let FromWorker::Row(_, _, row) = event {
                    rows.push((row.kind, row.client.1, row.state.name(), row.expires_ms / 1000));
                }
                true
            });
        }
        rows
    };
    let rows = list(&mut director, SweepAction::List);
    let flow = (RowKind::Flow, 2001, "SYN_RECV", 60);
    assert_eq!(rows, [flow, (RowKind::Template, 0, "NONE", 30)]);
    // Its flow outlives its time: 60 s more.
    director.advance(31.0);
    let rows = list(&mut director, SweepAction::List);
    assert!(matches!(rows[1], (RowKind::Template, 0, "NONE", 58..=60)), "{rows:?}");
    list(&mut director, SweepAction::Delete);
    assert_eq!(list(&mut director, SweepAction::List), []);
    let left = director.state.counters.templates.iter().flatten().map(|held| held.get());
    assert_eq!(left.sum::<u64>(), 0, "slots are held no more");
}

#[test]
fn a_full_table_of_templates_is_a_counted_drop() {
    let text = ONE_DR_SERVER.replacen(
        "[[service.server]]",
        "persistence_timeout = 30\n[[service.server]]",
        1,
    );
    let mut director = director(&text);
    for n in 0..1025u32 {
        let client = SocketAddr::new(IpAddr::V4((0x0a00_0100 + n).into()), 2001);
        let tcp = from_client(client.ip(), ip(VIP)).tcp(client.port(), 80);
        let syn = tcp.flags(TcpFlags::SYN).build();
        director.receive(CLIENT, &syn);
        let reset = from_client(client.ip(), ip(VIP)).tcp(client.port(), 80);
        director.receive(CLIENT, &reset.flags(TcpFlags::FIN).build());
        if n % 128 == 0 {
            // Flows make room, templates do not.
            director.state.start_sweep(Sweep {
                job: 1,
                action: SweepAction::Delete,
                filter: FlowFilter {
                    state: Some(gyre::message::FlowState::TimeWait),
                    ..FlowFilter::default()
                },
                matches_max: u32::MAX,
                start: 0,
            });
            let snapshot = director.snapshot.clone();
            while director.state.is_sweeping() {
                director.state.sweep(&snapshot, director.now, |_| true);
            }
        }
    }
    assert_eq!(director.drops(DropReason::TemplatesFull), 1);
}

/// What a configuration of services behind one port asks for.
fn checked(services: &str) -> Desired {
    let text = format!("[[port]]\nname = \"p\"\ndevice = \"net_null0\"\n{services}");
    check(&text).unwrap().desired
}

/// Workers that hand frames and notes to each other.
struct Workers {
    directors: Vec<Director>,
    /// Times a frame was handed off, by frame.
    hops: Vec<u8>,
}

impl Workers {
    fn new(count: u8, services: &str) -> Self {
        let wanted = Desired { removal: Removal::Now, ..checked(services) };
        let directors = (0..count).map(|worker| {
            let mut director = Director::of_many(KernelMode::Tap, WorkerId(worker), count);
            director.change(|registry, hops| registry.apply(&wanted, hops)).unwrap();
            director
        });
        Workers { directors: directors.collect(), hops: Vec::new() }
    }

    /// Where a client's frame that comes to worker `at` ends, and at which worker.
    fn receive(&mut self, at: usize, frame: &[u8]) -> (usize, Outcome) {
        self.receive_on(CLIENT, at, frame)
    }

    fn receive_on(&mut self, nic: NicId, mut at: usize, frame: &[u8]) -> (usize, Outcome) {
        let mut rx = RxMeta { nic, ..RxMeta::default() };
        loop {
            let (outcome, errand) = self.directors[at].receive_from(&rx, frame);
            let notes = self.directors[at].state.notes.take();
            notes.iter().for_each(|(to, note)| self.directors[to.index()].state.hear(note));
            let Verdict::HandOff(owner, _) = outcome.verdict else {
                self.hops.push(rx.hops);
                return (at, outcome);
            };
            assert_eq!(outcome.frame, frame, "handed off as it came");
            (at, rx.hops, rx.errand) = (owner.index(), rx.hops + 1, errand);
        }
    }
}

#[test]
fn one_worker_decides_for_a_client_network_and_flows_stay_with_their_owners() {
    for count in [2, 4, 8] {
        let mut workers = Workers::new(
            count,
            "[[service]]\naddress = \"10.1.0.1:80\"\nscheduler = \"rr\"\n\
             persistence_timeout = 60\npersistence_prefix = 24\n\
             server = [{ address = \"10.2.0.11\" }, { address = \"10.2.0.12\" }, \
             { address = \"10.2.0.13\" }]\n",
        );
        let mut servers = std::collections::HashMap::new();
        let mut owners = std::collections::HashSet::new();
        for n in 0..600u32 {
            let client = IpAddr::from([10, 7, (n % 5) as u8, (n / 5) as u8]);
            let port = 2000 + n as u16;
            let syn = from_client(client, ip(VIP)).tcp(port, 80).flags(TcpFlags::SYN).build();
            let (at, outcome) = workers.receive(n as usize % usize::from(count), &syn);
            assert_eq!(outcome.sent_on(), Some(SERVER));
            let mac = outcome.frame[..6].to_vec();
            assert_eq!(servers.entry(n % 5).or_insert(mac.clone()), &mac, "network {}", n % 5);
            owners.insert(at);
            // The flow is its owner's alone; what follows needs one step at most.
            let ack = from_client(client, ip(VIP)).tcp(port, 80).flags(TcpFlags::ACK).build();
            let (same, outcome) = workers.receive((at + 1) % usize::from(count), &ack);
            assert_eq!((same, &outcome.frame[..6]), (at, &mac[..]));
            assert_eq!(workers.hops.pop(), Some(1));
            assert!(workers.hops.pop().unwrap() <= 3);
        }
        assert_eq!(owners.len(), usize::from(count), "flows are spread, decisions are not");
        // Each network's template is at one worker, and assured by flows at others.
        let mut templates = Vec::new();
        for director in &workers.directors {
            let state = &director.state;
            let ids =
                std::iter::successors(state.next_template(0), |id| state.next_template(id.0 + 1));
            templates.extend(
                ids.filter_map(|id| state.template_row(id, &director.snapshot, director.now)),
            );
        }
        assert_eq!(templates.len(), 5);
        // Shadows hold slots, but each template is counted once.
        let sum = |read: fn(&WorkerCounters) -> &[Counter]| -> u64 {
            let each = workers.directors.iter().map(|director| {
                read(&director.state.counters).iter().map(Counter::get).sum::<u64>()
            });
            each.sum()
        };
        assert_eq!(sum(|counters| &counters.own_templates), 5);
        assert!(sum(|counters| &counters.templates[0]) > 5);
        assert!(templates.iter().all(|row| row.state.name() == "ASSURED"), "{templates:#?}");
        outlive(&mut workers, 5);
    }
}

/// Lets time pass: templates are held as long as flows hang on them anywhere, and no longer.
fn outlive(workers: &mut Workers, count: usize) {
    let listed = |workers: &Workers| -> usize {
        let rows = workers.directors.iter().map(|director| {
            let state = &director.state;
            let ids =
                std::iter::successors(state.next_template(0), |id| state.next_template(id.0 + 1));
            let rows =
                ids.filter_map(|id| state.template_row(id, &director.snapshot, director.now));
            rows.count()
        });
        rows.sum()
    };
    pass(workers, 300.0);
    assert_eq!(listed(workers), count, "flows live for 900 s");
    pass(workers, 700.0);
    assert_eq!(listed(workers), 0);
    no_template_is_left(workers);
}

/// Lets time pass at all workers, which tell each other what there is to tell.
fn pass(workers: &mut Workers, seconds: f64) {
    for _ in 0..(seconds / 5.0) as u32 {
        workers.directors.iter_mut().for_each(|director| director.advance(5.0));
        for at in 0..workers.directors.len() {
            for (to, note) in workers.directors[at].state.notes.take() {
                workers.directors[to.index()].state.hear(&note);
            }
        }
    }
}

fn no_template_is_left(workers: &Workers) {
    for director in &workers.directors {
        let counters = &director.state.counters;
        let kinds = counters.templates.iter().chain([&counters.own_templates]);
        let held = kinds.flatten().map(|held| held.get());
        assert_eq!(held.sum::<u64>(), 0, "shadows are gone too");
    }
}

fn number(frame: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(frame[at..at + 4].try_into().unwrap())
}

/// Sequence number of a TCP segment over IPv4 without options.
const SEQ: usize = 14 + 20 + 4;

/// The ACK that proves a cookie may ask another worker which server its client gets.
#[test]
fn synproxy_and_persistence_over_several_workers_lose_no_connection() {
    for count in [2, 4, 8] {
        let mut workers = Workers::new(
            count,
            "[[service]]\naddress = \"10.1.0.1:80\"\nscheduler = \"rr\"\nsynproxy = true\n\
             forwarding = \"nat\"\npersistence_timeout = 60\npersistence_prefix = 24\n\
             server = [{ address = \"10.2.0.11:8080\" }, { address = \"10.2.0.12:8080\" }, \
             { address = \"10.2.0.13:8080\" }]\n",
        );
        let mut servers = std::collections::HashMap::new();
        let mut asked = 0;
        for n in 0..300u32 {
            let client = IpAddr::from([10, 7, (n % 5) as u8, (n / 5) as u8]);
            let port = 2000 + n as u16;
            let tcp = || from_client(client, ip(VIP)).tcp(port, 80);
            let mut queue = (n as usize..).map(|n| n % usize::from(count));
            let mut queue = || queue.next().unwrap();
            let syn = tcp().flags(TcpFlags::SYN).seq(1000).build();
            let (_, cookie) = workers.receive(queue(), &syn);
            assert_eq!(cookie.sent_on(), Some(CLIENT));
            let cookie = number(&cookie.frame, SEQ).wrapping_add(1);
            // The client proves it, and speaks at once.
            let ack = tcp().flags(TcpFlags::ACK).seq(1001).ack(cookie).build();
            let (at, out) = workers.receive(queue(), &ack);
            assert_eq!((out.sent_on(), out.frame[14 + 20 + 13]), (Some(SERVER), TcpFlags::SYN.0));
            let hops = workers.hops.pop().unwrap();
            assert!(hops <= 3, "{hops}");
            asked += u32::from(hops >= 2);
            let rip = IpAddr::from(<[u8; 4]>::try_from(&out.frame[30..34]).unwrap());
            assert_eq!(servers.entry(n % 5).or_insert(rip), &rip, "network {}", n % 5);
            let request = tcp().flags(TcpFlags::ACK).seq(1001).ack(cookie).payload(b"GET").build();
            let (same, out) = workers.receive(queue(), &request);
            assert_eq!((same, out.verdict), (at, Verdict::Drop(DropReason::SynproxyConsumed)));
            // The server's answer joins the halves, and what the client said goes to it.
            let answer = from_server(rip, client).tcp(8080, port);
            let answer = answer.flags(TcpFlags::SYN | TcpFlags::ACK).seq(70_000).ack(1001).build();
            let (same, _) = workers.receive_on(SERVER, queue(), &answer);
            assert_eq!(same, at);
            let director = &mut workers.directors[at];
            let mut said = Vec::new();
            director.state.outbox.drain(|nic, bytes| said.push((nic, bytes.to_vec())));
            let has_request = said.iter().any(|(nic, b)| *nic == SERVER && b.ends_with(b"GET"));
            assert!(has_request, "{n}: {said:02x?}");
            let row = director.flow(SocketAddr::new(client, port)).unwrap();
            assert_eq!((row.state.name(), row.server), ("ESTABLISHED", (rip, 8080)));
        }
        assert!(asked > 50, "{asked} of 300 asked another worker");
        assert!(servers.values().collect::<std::collections::HashSet<_>>().len() > 1);
    }
}

#[test]
fn client_is_served_while_the_workers_hear_of_persistence_one_by_one() {
    let one = |more: &str| {
        let server = "server = [{ address = \"10.2.0.11\" }]";
        format!("[[service]]\naddress = \"10.1.0.1:80\"\n{more}{server}\n")
    };
    let persistent = "persistence_timeout = 60\n";
    let wanted = |more| Desired { removal: Removal::Now, ..checked(&one(more)) };
    let mut workers = Workers::new(2, &one(persistent));
    let syn = |workers: &mut Workers, n: u8| {
        let client = from_client(IpAddr::from([10, 7, 0, n]), ip(VIP)).tcp(2000, 80);
        let (at, outcome) = workers.receive(0, &client.flags(TcpFlags::SYN).build());
        (at, outcome.sent_on(), workers.hops.pop().unwrap())
    };
    // The owner of all templates of these clients hears of it later than those that ask.
    for late in 0..2 {
        let change = |registry: &mut Registry, hops: HopFor| registry.apply(&wanted(""), hops);
        workers.directors[late].change(change).unwrap();
        let asked = (0..100).filter(|n| {
            let (at, sent, hops) = syn(&mut workers, 100 * late as u8 + n);
            assert_eq!(sent, Some(SERVER));
            at != late && hops >= 2
        });
        assert!(asked.count() > 10);
        let change =
            |registry: &mut Registry, hops: HopFor| registry.apply(&wanted(persistent), hops);
        workers.directors[late].change(change).unwrap();
    }
}

#[test]
fn no_template_is_left_of_a_flow_that_could_not_be_made() {
    let mut workers = Workers::new(
        2,
        "[local_addresses]\n\
         pool = { port = \"p\", addresses = [\"10.2.0.1\"], ports = [2000, 2001] }\n\
         [[service]]\naddress = \"10.1.0.1:80\"\nforwarding = \"fullnat\"\n\
         local_addresses = \"pool\"\npersistence_timeout = 60\n\
         server = [{ address = \"10.2.0.11\" }]\n",
    );
    let mut opened = 0;
    for n in 0..100 {
        let syn = from_client(IpAddr::from([10, 7, 0, n]), ip(VIP)).tcp(2000, 80);
        let (_, outcome) = workers.receive(0, &syn.flags(TcpFlags::SYN).build());
        opened += usize::from(outcome.sent_on() == Some(SERVER));
    }
    assert_eq!(opened, 2, "each worker has a source port");
    pass(&mut workers, 200.0);
    no_template_is_left(&workers);
}

/// Opens a connection of a FULLNAT service and closes it, both ways; the worker that owns it, and
/// the hand-offs of its first packet.
fn open_and_close(workers: &mut Workers, client: (IpAddr, u16)) -> (usize, u8) {
    let said = |flags, seq, ack| {
        from_client(client.0, ip(VIP)).tcp(client.1, 80).flags(flags).seq(seq).ack(ack).build()
    };
    let (at, out) = workers.receive(0, &said(TcpFlags::SYN, 1000, 0));
    let hops = workers.hops.pop().unwrap();
    assert_eq!(out.sent_on(), Some(SERVER));
    let ((lip, port), (rip, _)) = {
        let row = workers.directors[at].flow(client.into()).unwrap();
        (row.local.unwrap(), row.server)
    };
    let ack = TcpFlags::ACK;
    let answers = |flags, seq, ack| {
        from_server(rip, lip).tcp(80, port).flags(flags).seq(seq).ack(ack).build()
    };
    workers.receive_on(SERVER, 0, &answers(TcpFlags::SYN | ack, 5000, 1001));
    workers.receive(0, &said(ack, 1001, 5001));
    workers.receive(0, &said(TcpFlags::FIN | ack, 1001, 5001));
    workers.receive_on(SERVER, 0, &answers(TcpFlags::FIN | ack, 5001, 1002));
    workers.receive(0, &said(ack, 1002, 5002));
    (at, hops)
}

#[test]
fn flow_that_takes_over_the_port_of_its_networks_last_one_keeps_their_template() {
    let mut workers = Workers::new(
        2,
        "[local_addresses]\n\
         pool = { port = \"p\", addresses = [\"10.2.0.1\"], ports = [2000, 2001] }\n\
         [[service]]\naddress = \"10.1.0.1:80\"\nforwarding = \"fullnat\"\n\
         local_addresses = \"pool\"\npersistence_timeout = 60\npersistence_prefix = 24\n\
         server = [{ address = \"10.2.0.11\" }]\n",
    );
    let opened: Vec<_> = (1..40)
        .map(|n| open_and_close(&mut workers, (IpAddr::from([10, 7, 0, n]), 2000)))
        .collect();
    let reused = |director: &Director| director.state.counters.lips[0].reused.get();
    assert!(workers.directors.iter().all(|director| reused(director) > 5));
    let (asker, _) = *opened.iter().find(|(at, hops)| *hops > u8::from(*at != 0)).unwrap();
    // The template has its 60 s and then 60 s more, as long as a flow lives: 120 s.
    pass(&mut workers, 100.0);
    let flows = workers.directors[asker].flows();
    assert_eq!(flows.len(), 1, "{flows:#?}");
    assert!(workers.directors[1 - asker].state.next_template(0).is_some());
    pass(&mut workers, 300.0);
    no_template_is_left(&workers);
}
