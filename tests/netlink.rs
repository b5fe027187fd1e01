//! Next hops from a real kernel: links, routes, neighbours and set-up of interfaces, each test in
//! network namespaces of its own. Needs root.
//!
//! A test starts itself again inside its director's namespace, as gyre runs under `ip netns exec`.

mod harness;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use gyre::control::netlink::interface::{BlockingInterfaces, disable_duplicate_detection};
use gyre::control::netlink::{self, NetlinkHandle};
use gyre::model::next_hops::{HopRow, HopState, KernelEvent, NextHops, NicFacts, NicLink};
use gyre::model::{NextHopId, NicId, RouteTable, RouteTarget};
use harness::{INSIDE, namespaces};
use tokio::sync::mpsc::Receiver;

const NIC: NicId = NicId(0);
const PATIENCE: Duration = Duration::from_secs(20);

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn run(program: &str, words: &str) -> Output {
    Command::new(program).args(words.split_whitespace()).output().unwrap()
}

fn ip(words: &str) -> String {
    let output = run("ip", words);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {words}: {complaint}");
    String::from_utf8(output.stdout).unwrap()
}

/// `ip` in the servers' namespace.
fn peer_ip(words: &str) -> String {
    ip(&format!("-n {} {words}", std::env::var(INSIDE).unwrap()))
}

/// Deletes namespaces, and with them what is in them.
struct Namespaces(Vec<String>);

impl Drop for Namespaces {
    fn drop(&mut self) {
        self.0.iter().for_each(|name| drop(run("ip", &format!("netns del {name}"))));
    }
}

/// Two namespaces, `lan` of the director's joined to `peer` of the servers'. Gives true in the copy
/// of the test that runs in the director's; the outer one waits for that and gives false.
fn inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let tag = format!("gnl{}{}", std::process::id(), test.len());
    let director = format!("{tag}d-{}", &test[..8]);
    let servers = format!("{tag}s-{}", &test[..8]);
    ip(&format!("netns add {director}"));
    let _namespaces = Namespaces(vec![director.clone(), servers.clone()]);
    ip(&format!("netns add {servers}"));
    ip(&format!("-n {director} link add lan type veth peer name peer netns {servers}"));
    ip(&format!("-n {director} link set lo up"));
    ip(&format!("-n {director} addr add 10.0.0.2/24 dev lan"));
    ip(&format!("-n {director} addr add 2001:db8::2/64 dev lan nodad"));
    ip(&format!("-n {director} link set lan up"));
    ip(&format!("-n {servers} addr add 10.0.0.9/24 dev peer"));
    ip(&format!("-n {servers} addr add 10.0.0.1/24 dev peer"));
    ip(&format!("-n {servers} addr add 2001:db8::9/64 dev peer nodad"));
    ip(&format!("-n {servers} link set peer up"));
    let this = std::env::current_exe().unwrap();
    let status = Command::new("ip")
        .args(["netns", "exec", &director])
        .arg(this)
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, &servers)
        .status()
        .unwrap();
    assert!(status.success(), "{test} failed inside its namespace, see above");
    false
}

/// What control does with the parts, in small.
struct Control {
    hops: NextHops,
    handle: NetlinkHandle,
    batches: Receiver<Vec<KernelEvent>>,
    table: RouteTable,
    facts: Vec<NicFacts>,
}

impl Control {
    async fn start() -> Self {
        let interface = Some("lan".to_owned());
        let nic = NicLink { nic: NIC, interface, mac: [0; 6], mtu: 1500 };
        let (handle, mut batches) = netlink::start(&["lan".to_owned()]).await.unwrap();
        let mut hops = NextHops::new(vec![nic]);
        let first = batches.try_recv().expect("the dump is there when start returns");
        hops.apply(&first);
        let (table, facts) = (RouteTable::default(), Vec::new());
        let mut control = Control { hops, handle, batches, table, facts };
        control.pass_on();
        control
    }

    fn pass_on(&mut self) {
        if let Some(update) = self.hops.take_routes() {
            self.table = RouteTable::clone(&update.table);
        }
        if let Some(wanted) = self.hops.take_wanted() {
            self.handle.want(wanted);
        }
        if let Some(facts) = self.hops.take_interfaces() {
            self.facts = facts;
        }
    }

    fn row(&mut self, id: NextHopId) -> HopRow {
        self.hops.rows().into_iter().find(|row| row.id == id).unwrap()
    }

    /// Takes batches until the facts are as they should be.
    async fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Control) -> bool) {
        let give_up = Instant::now() + PATIENCE;
        loop {
            self.pass_on();
            if holds(self) {
                return;
            }
            let next = tokio::time::timeout_at(give_up.into(), self.batches.recv());
            match next.await {
                Ok(Some(batch)) => self.hops.apply(&batch),
                Ok(None) => panic!("{what}: the netlink task ended"),
                Err(_) => panic!(
                    "{what}: not within {PATIENCE:?}\n{:#?}\n{}",
                    self.hops.rows(),
                    ip("neigh") + &ip("route")
                ),
            }
        }
    }

    fn server(&mut self, rip: &str) -> NextHopId {
        let id = self.hops.hop_for_server(address(rip)).unwrap();
        self.pass_on();
        id
    }

    fn target(&self, destination: &str) -> Option<RouteTarget> {
        self.table.look_up(address(destination))
    }
}

fn block_on(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work);
}

fn mac_of_peer() -> [u8; 6] {
    let text = peer_ip("-br link show dev peer");
    let mac = text.split_whitespace().nth(2).unwrap();
    let bytes: Vec<u8> = mac.split(':').map(|hex| u8::from_str_radix(hex, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

/// Makes the kernel's neighbour timers quick, so that silence is noticed within seconds.
fn quicken_neighbour_timers() {
    for (name, value) in [
        ("base_reachable_time_ms", "1000"),
        ("delay_first_probe_time", "1"),
        ("retrans_time_ms", "200"),
        ("interval_probe_time_ms", "500"),
    ] {
        let path = format!("/proc/sys/net/ipv4/neigh/lan/{name}");
        let written = std::fs::write(&path, value);
        // Kernels before 6.0 have no interval.
        assert!(written.is_ok() || name.starts_with("interval"), "{path}: {written:?}");
    }
}

fn what_is_there_at_the_start_is_in_the_first_batch() {
    if !inside("what_is_there_at_the_start_is_in_the_first_batch") {
        return;
    }
    ip("neigh add 10.0.0.50 lladdr 02:00:00:00:00:50 dev lan nud permanent");
    ip("route add 203.0.113.0/24 via 10.0.0.1 mtu 1400");
    ip("link set lan mtu 1480");
    block_on(async {
        let mut control = Control::start().await;
        let facts = control.facts[0].clone();
        assert!(facts.up && facts.mtu == 1480 && facts.ifindex.is_some(), "{facts:?}");
        for own in ["10.0.0.2", "2001:db8::2"] {
            assert!(facts.addresses.contains(&address(own)), "{facts:?}");
        }
        assert_eq!(control.target("10.0.0.9"), Some(RouteTarget::OnLink(NIC)));
        assert_eq!(control.target("2001:db8::9"), Some(RouteTarget::OnLink(NIC)));
        assert_eq!(control.target("198.51.100.1"), None);
        let Some(RouteTarget::Via(router)) = control.target("203.0.113.9") else { panic!() };
        let hop = control.row(router).hop;
        assert_eq!(
            (hop.neighbour, hop.mtu, hop.macs.src()),
            (address("10.0.0.1"), 1400, facts.mac)
        );
        let permanent = control.table.neighbour(address("10.0.0.50")).unwrap();
        assert_eq!(control.row(permanent).hop.macs.dst(), [2, 0, 0, 0, 0, 0x50]);
    });
}

fn wanted_servers_are_resolved_by_the_kernels_own_question() {
    if !inside("wanted_servers_are_resolved_by_the_kernels_own_question") {
        return;
    }
    assert_eq!(peer_ip("neigh show 10.0.0.2"), "", "nobody asked yet");
    block_on(async {
        let mut control = Control::start().await;
        let servers = [control.server("10.0.0.9"), control.server("2001:db8::9")];
        let begun = Instant::now();
        control
            .until("resolution", |control| servers.iter().all(|id| control.row(*id).hop.resolved))
            .await;
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
        for id in servers {
            let hop = control.row(id).hop;
            assert_eq!((hop.nic, hop.macs.dst()), (NIC, mac_of_peer()));
        }
        assert!(peer_ip("neigh show 10.0.0.2").contains("lladdr"), "the peer saw our question");
    });
}

fn a_server_that_starts_late_is_found_without_traffic() {
    if !inside("a_server_that_starts_late_is_found_without_traffic") {
        return;
    }
    quicken_neighbour_timers();
    block_on(async {
        let mut control = Control::start().await;
        let id = control.server("10.0.0.77");
        control
            .until("failure", |control| {
                let state = control.row(id).state;
                matches!(state, HopState::Neighbour(Some(state)) if !state.is_valid())
            })
            .await;
        peer_ip("addr add 10.0.0.77/24 dev peer");
        control.until("resolution", |control| control.row(id).hop.resolved).await;
    });
}

fn a_silent_mac_change_is_noticed_without_traffic() {
    if !inside("a_silent_mac_change_is_noticed_without_traffic") {
        return;
    }
    quicken_neighbour_timers();
    block_on(async {
        let mut control = Control::start().await;
        let id = control.server("10.0.0.9");
        control.until("resolution", |control| control.row(id).hop.resolved).await;
        peer_ip("link set peer address 02:00:00:00:00:99");
        control
            .until("the new address", |control| {
                let hop = control.row(id).hop;
                hop.resolved && hop.macs.dst() == [2, 0, 0, 0, 0, 0x99]
            })
            .await;
        // The server dies: after its last answer the entry must fail rather than rest.
        peer_ip("link set peer arp off");
        peer_ip("addr del 10.0.0.9/24 dev peer");
        control.until("silence", |control| !control.row(id).hop.resolved).await;
        assert_eq!(control.row(id).hop.macs.dst(), [2, 0, 0, 0, 0, 0x99], "kept for people");
    });
}

fn a_client_is_resolved_when_a_worker_asks() {
    if !inside("a_client_is_resolved_when_a_worker_asks") {
        return;
    }
    block_on(async {
        let mut control = Control::start().await;
        let client = address("10.0.0.1");
        assert_eq!(control.table.neighbour(client), None);
        let (ifindex, asked) = control.hops.resolve(NIC, client).unwrap();
        control.pass_on();
        control.handle.resolve(ifindex, asked);
        let id = control.table.neighbour(client).expect("a slot at once");
        control.until("resolution", |control| control.row(id).hop.resolved).await;
        assert_eq!(control.row(id).hop.macs.dst(), mac_of_peer());
    });
}

fn routes_follow_the_kernels() {
    if !inside("routes_follow_the_kernels") {
        return;
    }
    ip("link add other type veth peer name another");
    ip("link set other up");
    block_on(async {
        let mut control = Control::start().await;
        let id = control.server("198.51.100.1");
        let steps: [(&str, Option<&str>); 10] = [
            ("route add default via 10.0.0.1", Some("10.0.0.1")),
            ("route add 198.51.100.0/24 via 10.0.0.5 metric 10", Some("10.0.0.5")),
            ("route add 198.51.100.0/24 via 10.0.0.6 metric 5", Some("10.0.0.6")),
            ("route replace 198.51.100.0/24 via 10.0.0.7 metric 5", Some("10.0.0.7")),
            ("route add 198.51.100.1 dev lan", Some("198.51.100.1")),
            ("route replace 198.51.100.1 nexthop via 10.0.0.3 nexthop via 10.0.0.4", {
                Some("10.0.0.3")
            }),
            ("route replace 198.51.100.1 dev other", None),
            ("route replace unreachable 198.51.100.1", None),
            ("route del unreachable 198.51.100.1", Some("10.0.0.7")),
            ("route flush 198.51.100.0/24", Some("10.0.0.1")),
        ];
        for (step, neighbour) in steps {
            ip(step);
            control
                .until(step, |control| {
                    let row = control.row(id);
                    let reachable = matches!(row.state, HopState::Neighbour(_));
                    let reachable = reachable || row.hop.resolved;
                    let is = reachable.then_some(row.hop.neighbour);
                    let target = control.target("198.51.100.1");
                    is == neighbour.map(address) && target.is_some() == neighbour.is_some()
                })
                .await;
        }
    });
}

fn ipv6_multipath_loses_ways_one_by_one() {
    if !inside("ipv6_multipath_loses_ways_one_by_one") {
        return;
    }
    block_on(async {
        let mut control = Control::start().await;
        let id = control.server("2001:db8:1::1");
        let ways = "nexthop via 2001:db8::a nexthop via 2001:db8::b nexthop via 2001:db8::c";
        let steps = [
            (format!("-6 route add 2001:db8:1::/64 {ways}"), "2001:db8::a"),
            ("-6 route del 2001:db8:1::/64 via 2001:db8::a".into(), "2001:db8::b"),
            ("-6 route append 2001:db8:1::/64 via 2001:db8::d".into(), "2001:db8::b"),
            ("-6 route del 2001:db8:1::/64 via 2001:db8::b".into(), "2001:db8::c"),
            ("-6 route replace 2001:db8:1::/64 via 2001:db8::e".into(), "2001:db8::e"),
        ];
        for (step, neighbour) in steps {
            ip(&step);
            control
                .until(&step, |control| control.row(id).hop.neighbour == address(neighbour))
                .await;
        }
        // Whatever was announced on the way, a fresh look finds the same.
        let mut fresh = Control::start().await;
        let fresh_id = fresh.server("2001:db8:1::1");
        assert_eq!(fresh.row(fresh_id).hop.neighbour, address("2001:db8::e"));
    });
}

fn routes_that_the_kernel_drops_in_silence_are_missed() {
    if !inside("routes_that_the_kernel_drops_in_silence_are_missed") {
        return;
    }
    ip("route add 203.0.113.0/24 via 10.0.0.1");
    ip("addr add 10.0.0.3/32 dev lan");
    ip("route add 198.51.100.0/24 via 10.0.0.1 src 10.0.0.3");
    block_on(async {
        let mut control = Control::start().await;
        let id = control.server("10.0.0.9");
        control.until("resolution", |control| control.row(id).hop.resolved).await;
        assert!(control.target("198.51.100.9").is_some());
        ip("addr del 10.0.0.3/32 dev lan");
        control
            .until("a route goes with its source", |control| {
                control.target("198.51.100.9").is_none()
            })
            .await;
        ip("link set lan down");
        control
            .until("all is down", |control| {
                let down = !control.facts[0].up && !control.row(id).hop.resolved;
                down && control.target("203.0.113.9").is_none()
            })
            .await;
        ip("link set lan up");
        control
            .until("the server is back", |control| {
                control.row(id).hop.resolved && control.target("10.0.0.9").is_some()
            })
            .await;
        assert_eq!(control.target("203.0.113.9"), None, "static routes do not come back");
        assert_eq!(ip("route show 203.0.113.0/24"), "");
    });
}

fn an_interface_may_be_made_anew() {
    if !inside("an_interface_may_be_made_anew") {
        return;
    }
    block_on(async {
        let mut control = Control::start().await;
        let id = control.server("10.0.0.9");
        control.until("resolution", |control| control.row(id).hop.resolved).await;
        let before = control.facts[0].ifindex;
        ip("link del lan");
        control
            .until("its end", |control| {
                control.facts[0].ifindex.is_none() && !control.row(id).hop.resolved
            })
            .await;
        let servers = std::env::var(INSIDE).unwrap();
        ip(&format!("link add lan type veth peer name peer netns {servers}"));
        ip("addr add 10.0.0.2/24 dev lan");
        ip("link set lan up");
        peer_ip("addr add 10.0.0.9/24 dev peer");
        peer_ip("link set peer up");
        control.until("its return", |control| control.row(id).hop.resolved).await;
        assert_ne!(control.facts[0].ifindex, before);
        assert_eq!(control.row(id).hop.macs.dst(), mac_of_peer());
        assert_eq!(control.row(id).hop.macs.src(), control.facts[0].mac);
    });
}

fn lost_messages_are_made_good() {
    if !inside("lost_messages_are_made_good") {
        return;
    }
    let batch = std::env::temp_dir().join(format!("gyre-netlink-{}", std::process::id()));
    let routes: Vec<String> =
        (0..20_000u32).map(|n| format!("100.{}.{}.0/24", n >> 8, n & 255)).collect();
    let lines = |verb: &str, routes: &[String]| {
        let line = |route| format!("route {verb} {route} via 10.0.0.1\n");
        routes.iter().map(line).collect::<String>()
    };
    block_on(async {
        let mut control = Control::start().await;
        let last = |control: &Control| control.target("100.77.200.9").is_some();
        // This thread runs the netlink task as well, so nobody reads meanwhile.
        std::fs::write(&batch, lines("add", &routes) + &lines("del", &routes[..10_000])).unwrap();
        ip(&format!("-batch {}", batch.display()));
        assert!(drops() > 0, "the socket's buffer held all; the test proves nothing");
        control.until("the last route", |control| last(control)).await;
        let known: BTreeSet<&String> = routes
            .iter()
            .filter(|net| control.target(&net.replace(".0/24", ".9")).is_some())
            .collect();
        let expected: BTreeSet<&String> = routes[10_000..].iter().collect();
        assert!(known == expected, "{} routes known, {} are", known.len(), expected.len());
    });
    let _ = std::fs::remove_file(batch);
}

/// Messages that netlink sockets of this process lost.
fn drops() -> u64 {
    let table = std::fs::read_to_string("/proc/net/netlink").unwrap();
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter_map(|row| row.get(8)?.parse::<u64>().ok()).sum()
}

fn neighbours_are_let_go_when_gyre_ends_or_has_been_killed() {
    if !inside("neighbours_are_let_go_when_gyre_ends_or_has_been_killed") {
        return;
    }
    let managed = || ip("neigh show 10.0.0.9").contains("managed");
    block_on(async {
        let mut control = Control::start().await;
        let id = control.server("10.0.0.9");
        control.until("resolution", |control| control.row(id).hop.resolved).await;
        if !managed() {
            eprintln!("this kernel does not manage neighbours; nothing to let go");
            return;
        }
        control.handle.stop().await;
        assert!(!managed(), "{}", ip("neigh"));
        assert!(ip("neigh show 10.0.0.9").contains("lladdr"), "the entry itself stays");
    });
    // A gyre that is killed: its task ends with its runtime, and nobody tells the kernel.
    block_on(async {
        let mut control = Control::start().await;
        let id = control.server("10.0.0.9");
        control.until("resolution", |control| control.row(id).hop.resolved).await;
        let give_up = Instant::now() + PATIENCE;
        while !managed() {
            assert!(Instant::now() < give_up);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(managed());
    block_on(async {
        let control = Control::start().await;
        let give_up = Instant::now() + PATIENCE;
        while managed() {
            assert!(Instant::now() < give_up, "{}", ip("neigh"));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        drop(control);
    });
}

fn a_permanent_entry_stays_permanent() {
    if !inside("a_permanent_entry_stays_permanent") {
        return;
    }
    ip("neigh add 10.0.0.50 lladdr 02:00:00:00:00:50 dev lan nud permanent");
    block_on(async {
        let mut control = Control::start().await;
        let id = control.server("10.0.0.50");
        let ifindex = control.facts[0].ifindex.unwrap();
        control.handle.resolve(ifindex, address("10.0.0.50"));
        let other = control.server("10.0.0.9");
        control.until("resolution of another", |control| control.row(other).hop.resolved).await;
        assert!(control.row(id).hop.resolved);
        assert!(ip("neigh show 10.0.0.50").contains("PERMANENT"));
    });
}

fn interfaces_are_set_up_from_a_plain_thread() {
    if !inside("interfaces_are_set_up_from_a_plain_thread") {
        return;
    }
    ip("tuntap add dev tap7 mode tap");
    let interfaces = BlockingInterfaces::open().unwrap();
    let ifindex = interfaces.find("tap7").unwrap().ifindex;
    disable_duplicate_detection("tap7").unwrap();
    interfaces.set_mac(ifindex, [2, 0, 0, 0, 0, 7]).unwrap();
    interfaces.set_mtu(ifindex, 1400).unwrap();
    interfaces.set_up(ifindex).unwrap();
    for _ in 0..2 {
        // Twice: an address that is there is fine.
        interfaces.add_address(ifindex, address("192.0.2.2"), 24).unwrap();
        interfaces.add_address(ifindex, address("2001:db8:7::2"), 64).unwrap();
    }
    let link = interfaces.find("tap7").unwrap();
    assert_eq!((link.mac, link.mtu, link.up), ([2, 0, 0, 0, 0, 7], 1400, true));
    let shown = ip("addr show dev tap7");
    assert!(shown.contains("192.0.2.2/24") && shown.contains("2001:db8:7::2/64"), "{shown}");
    assert!(!shown.contains("tentative"), "{shown}");
    assert!(ip("route").contains("192.0.2.0/24 dev tap7"));
    for _ in 0..2 {
        interfaces.delete_address(ifindex, address("192.0.2.2"), 24).unwrap();
        interfaces.delete_address(ifindex, address("2001:db8:7::2"), 64).unwrap();
    }
    assert!(!ip("addr show dev tap7").contains("192.0.2.2"));
    interfaces.set_down(ifindex).unwrap();
    assert!(!interfaces.find("tap7").unwrap().up);
    let message = interfaces.find("tap8").unwrap_err().to_string();
    assert!(message.contains("find interface tap8"), "{message}");
    assert!(message.contains("must exist in this network namespace"), "{message}");
    disable_duplicate_detection("no-such-interface").unwrap();
}

fn main() {
    harness::run(cases!(&[namespaces];
        what_is_there_at_the_start_is_in_the_first_batch,
        wanted_servers_are_resolved_by_the_kernels_own_question,
        a_server_that_starts_late_is_found_without_traffic,
        a_silent_mac_change_is_noticed_without_traffic,
        a_client_is_resolved_when_a_worker_asks,
        routes_follow_the_kernels,
        ipv6_multipath_loses_ways_one_by_one,
        routes_that_the_kernel_drops_in_silence_are_missed,
        an_interface_may_be_made_anew,
        lost_messages_are_made_good,
        neighbours_are_let_go_when_gyre_ends_or_has_been_killed,
        a_permanent_entry_stays_permanent,
        interfaces_are_set_up_from_a_plain_thread,
    ))
}
