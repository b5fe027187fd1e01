//! Facts about `NextHops`, told as a story of kernel events.

use super::*;
use crate::wire::pair::MacPair;

const WAN: NicId = NicId(0);
const LAN: NicId = NicId(1);
const WAN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const LAN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn mac(last: u8) -> [u8; 6] {
    [0x52, 0, 0, 0, 0, last]
}

fn nics() -> Vec<NicLink> {
    let nic = |nic, name: &str, mac| NicLink { nic, interface: Some(name.into()), mac, mtu: 1500 };
    vec![nic(WAN, "wan", WAN_MAC), nic(LAN, "lan", LAN_MAC)]
}

fn link(ifindex: u32, name: &str, mac: [u8; 6]) -> KernelEvent {
    KernelEvent::LinkChanged(Link { ifindex, name: name.into(), mac, mtu: 1500, up: true })
}

fn way(ifindex: u32, gateway: Option<&str>) -> RouteHop {
    RouteHop { ifindex, gateway: gateway.map(ip), dead: false }
}

fn route(prefix: &str, metric: u32, hops: &[RouteHop]) -> KernelRoute {
    KernelRoute { prefix: prefix.parse().unwrap(), metric, mtu: None, hops: hops.to_vec() }
}

fn neighbour(ifindex: u32, address: &str, last: u8, state: NeighbourState) -> KernelEvent {
    let mac = (last > 0).then_some(mac(last));
    let (managed, ours) = (false, false);
    KernelEvent::NeighbourChanged(Neighbour {
        ifindex,
        address: ip(address),
        mac,
        state,
        managed,
        ours,
    })
}

fn gone(ifindex: u32, address: &str) -> KernelEvent {
    KernelEvent::NeighbourRemoved { ifindex, address: ip(address) }
}

/// Two ports: 192.0.2.0/24 on `wan` (ifindex 11) with a default route via .1, 10.0.0.0/24 on
/// `lan` (ifindex 12).
fn started() -> NextHops {
    let mut hops = NextHops::new(nics());
    hops.apply(&[
        link(11, "wan", WAN_MAC),
        link(12, "lan", LAN_MAC),
        KernelEvent::AddressAdded { ifindex: 11, address: ip("192.0.2.2") },
        KernelEvent::AddressAdded { ifindex: 12, address: ip("10.0.0.2") },
        KernelEvent::RouteAdded(route("192.0.2.0/24", 0, &[way(11, None)])),
        KernelEvent::RouteAdded(route("10.0.0.0/24", 0, &[way(12, None)])),
        KernelEvent::RouteAdded(route("0.0.0.0/0", 100, &[way(11, Some("192.0.2.1"))])),
    ]);
    hops
}

fn settle(hops: &mut NextHops) {
    hops.take_updates();
    hops.take_routes();
    hops.take_wanted();
    hops.take_interfaces();
}

fn look_up(hops: &mut NextHops, address: &str) -> Option<RouteTarget> {
    hops.take_routes();
    hops.table.look_up(ip(address))
}

fn row(hops: &mut NextHops, id: NextHopId) -> HopRow {
    hops.rows().into_iter().find(|row| row.id == id).unwrap()
}

#[test]
fn a_server_on_the_link_resolves_to_its_own_mac() {
    let mut hops = started();
    let id = hops.hop_for_server(ip("10.0.0.9")).unwrap();
    assert_eq!(row(&mut hops, id).state, HopState::Neighbour(None));
    hops.apply(&[neighbour(12, "10.0.0.9", 9, NeighbourState::Reachable)]);
    let updates = hops.take_updates();
    let expected = NextHop {
        nic: LAN,
        resolved: true,
        macs: MacPair::new(mac(9), LAN_MAC),
        mtu: 1500,
        neighbour: ip("10.0.0.9"),
    };
    assert!(updates.contains(&(id, expected)), "{updates:?}");
}

#[test]
fn servers_behind_a_router_resolve_to_the_routers_mac() {
    let mut hops = started();
    let far = hops.hop_for_server(ip("172.16.0.9")).unwrap();
    hops.apply(&[neighbour(11, "192.0.2.1", 1, NeighbourState::Stale)]);
    let row = row(&mut hops, far);
    assert_eq!((row.hop.nic, row.hop.macs.dst()), (WAN, mac(1)));
    assert_eq!(row.hop.neighbour, ip("192.0.2.1"));
    assert!(row.hop.resolved, "a stale entry is still used");
}

#[test]
fn servers_of_one_address_share_a_slot_until_the_last_is_gone() {
    let mut hops = started();
    let id = hops.hop_for_server(ip("10.0.0.9")).unwrap();
    assert_eq!(hops.hop_for_server(ip("10.0.0.9")), Ok(id));
    assert_ne!(hops.hop_for_server(ip("10.0.0.10")), Ok(id));
    settle(&mut hops);
    hops.keep_servers(&[ip("10.0.0.9"), ip("10.0.0.10")].into());
    assert_eq!(hops.retired(), []);
    hops.keep_servers(&[ip("10.0.0.10")].into());
    assert_eq!(hops.retired().iter().map(|retired| retired.id).collect::<Vec<_>>(), [id]);
}

#[test]
fn a_mac_change_touches_one_slot_and_no_route() {
    let mut hops = started();
    let id = hops.hop_for_server(ip("10.0.0.9")).unwrap();
    hops.hop_for_server(ip("10.0.0.10")).unwrap();
    hops.apply(&[
        neighbour(12, "10.0.0.9", 9, NeighbourState::Reachable),
        neighbour(12, "10.0.0.10", 10, NeighbourState::Reachable),
    ]);
    settle(&mut hops);
    hops.apply(&[neighbour(12, "10.0.0.9", 99, NeighbourState::Stale)]);
    let updates = hops.take_updates();
    assert_eq!(updates.len(), 1);
    assert_eq!((updates[0].0, updates[0].1.macs.dst()), (id, mac(99)));
    assert!(hops.take_routes().is_none());
}

#[test]
fn only_states_without_a_valid_mac_unresolve_a_hop() {
    use NeighbourState::*;
    for (state, resolved) in [
        (Stale, true),
        (Delay, true),
        (Probe, true),
        (Permanent, true),
        (NoArp, true),
        (Failed, false),
        (Incomplete, false),
        (None, false),
    ] {
        let mut hops = started();
        let id = hops.hop_for_server(ip("10.0.0.9")).unwrap();
        hops.apply(&[neighbour(12, "10.0.0.9", 9, Reachable)]);
        settle(&mut hops);
        hops.apply(&[neighbour(12, "10.0.0.9", 9, state)]);
        let updates = hops.take_updates();
        assert_eq!(updates.len(), usize::from(!resolved), "{state:?}");
        let row = row(&mut hops, id);
        assert_eq!((row.hop.resolved, row.hop.macs.dst()), (resolved, mac(9)), "{state:?}");
    }
}

#[test]
fn a_removed_neighbour_unresolves_its_hop_and_stays_wanted() {
    let mut hops = started();
    let id = hops.hop_for_server(ip("10.0.0.9")).unwrap();
    hops.apply(&[neighbour(12, "10.0.0.9", 9, NeighbourState::Stale)]);
    settle(&mut hops);
    hops.apply(&[gone(12, "10.0.0.9")]);
    assert_eq!(hops.take_updates().len(), 1);
    assert_eq!(hops.unresolved()[0].id, id);
    assert!(hops.wanted.contains(&(12, ip("10.0.0.9"))));
}

#[test]
fn another_router_touches_the_routes_slot_and_no_target() {
    let mut hops = started();
    hops.apply(&[
        neighbour(11, "192.0.2.1", 1, NeighbourState::Reachable),
        neighbour(11, "192.0.2.3", 3, NeighbourState::Reachable),
    ]);
    settle(&mut hops);
    let Some(RouteTarget::Via(id)) = look_up(&mut hops, "203.0.113.7") else { panic!() };
    assert_eq!(row(&mut hops, id).hop.macs.dst(), mac(1));
    let via = |router| route("0.0.0.0/0", 100, &[way(11, Some(router))]);
    hops.apply(&[KernelEvent::RouteReplaced(via("192.0.2.3"))]);
    let updates = hops.take_updates();
    assert_eq!((updates.len(), updates[0].0, updates[0].1.macs.dst()), (1, id, mac(3)));
    assert!(hops.take_routes().is_none(), "flows keep their slot");
}

#[test]
fn route_changes_that_move_flows_are_flagged() {
    type Change = fn() -> KernelEvent;
    let table: [(&str, Change, bool); 5] = [
        (
            "new longer prefix",
            || KernelEvent::RouteAdded(route("203.0.113.0/24", 0, &[way(12, Some("10.0.0.1"))])),
            true,
        ),
        (
            "default route gone",
            || KernelEvent::RouteRemoved(route("0.0.0.0/0", 100, &[way(11, Some("192.0.2.1"))])),
            true,
        ),
        (
            "worse metric beside it",
            || KernelEvent::RouteAdded(route("0.0.0.0/0", 200, &[way(12, Some("10.0.0.1"))])),
            false,
        ),
        ("new neighbour", || neighbour(12, "10.0.0.7", 7, NeighbourState::Stale), false),
        (
            "the same again",
            || KernelEvent::RouteAdded(route("10.0.0.0/24", 0, &[way(12, None)])),
            false,
        ),
    ];
    for (what, change, moved) in table {
        let mut hops = started();
        settle(&mut hops);
        hops.apply(&[change()]);
        let flagged = hops.take_routes().is_some_and(|update| update.targets_changed);
        assert_eq!(flagged, moved, "{what}");
    }
}

#[test]
fn the_lowest_metric_with_a_live_way_wins() {
    let mut hops = started();
    let id = hops.hop_for_server(ip("198.51.100.1")).unwrap();
    let neighbour_of = |hops: &mut NextHops| row(hops, id).hop.neighbour;
    hops.apply(&[
        KernelEvent::RouteAdded(route("198.51.100.0/24", 20, &[way(12, Some("10.0.0.1"))])),
        KernelEvent::RouteAdded(route("198.51.100.0/24", 10, &[way(11, Some("192.0.2.5"))])),
    ]);
    assert_eq!(neighbour_of(&mut hops), ip("192.0.2.5"));
    let dead = RouteHop { dead: true, ..way(11, Some("192.0.2.5")) };
    hops.apply(&[KernelEvent::RouteReplaced(route("198.51.100.0/24", 10, &[dead]))]);
    assert_eq!(neighbour_of(&mut hops), ip("10.0.0.1"));
    hops.apply(&[
        KernelEvent::RouteRemoved(route("198.51.100.0/24", 20, &[way(12, Some("10.0.0.1"))])),
        KernelEvent::RouteRemoved(route("198.51.100.0/24", 10, &[way(11, Some("192.0.2.5"))])),
    ]);
    assert_eq!(neighbour_of(&mut hops), ip("192.0.2.1"), "back to the default route");
}

#[test]
fn multipath_takes_the_first_live_way_and_loses_ways_one_by_one() {
    let mut hops = started();
    let id = hops.hop_for_server(ip("198.51.100.1")).unwrap();
    let (first, second) = (way(11, Some("192.0.2.5")), way(12, Some("10.0.0.1")));
    hops.apply(&[KernelEvent::RouteAdded(route("198.51.100.0/24", 0, &[first, second]))]);
    assert_eq!(row(&mut hops, id).hop.neighbour, ip("192.0.2.5"));
    hops.apply(&[KernelEvent::RouteRemoved(route("198.51.100.0/24", 0, &[first]))]);
    assert_eq!(row(&mut hops, id).hop.neighbour, ip("10.0.0.1"));
    hops.apply(&[KernelEvent::RouteAdded(route("198.51.100.0/24", 0, &[first]))]);
    assert_eq!(row(&mut hops, id).hop.neighbour, ip("10.0.0.1"), "added behind");
    let down = Link { ifindex: 12, name: "lan".into(), mac: LAN_MAC, mtu: 1500, up: false };
    hops.apply(&[KernelEvent::LinkChanged(down)]);
    assert_eq!(row(&mut hops, id).hop.neighbour, ip("192.0.2.5"));
}

#[test]
fn routes_that_leave_elsewhere_or_nowhere_hide_shorter_ones() {
    let mut hops = started();
    let foreign = hops.hop_for_server(ip("172.16.0.1")).unwrap();
    let nowhere = hops.hop_for_server(ip("172.17.0.1")).unwrap();
    hops.apply(&[
        KernelEvent::RouteAdded(route("172.16.0.0/16", 0, &[way(77, None)])),
        KernelEvent::RouteAdded(route("172.17.0.0/16", 0, &[])),
    ]);
    assert_eq!(row(&mut hops, foreign).state, HopState::Foreign(77));
    assert_eq!(row(&mut hops, nowhere).state, HopState::Prohibited);
    assert_eq!(row(&mut hops, nowhere).hop.mtu, 0, "nothing is to wait for it");
    assert_eq!(look_up(&mut hops, "172.16.0.1"), None);
    assert_eq!(look_up(&mut hops, "172.17.0.1"), None);
    assert!(look_up(&mut hops, "172.18.0.1").is_some());
    hops.apply(&[KernelEvent::RouteRemoved(route("172.17.0.0/16", 0, &[]))]);
    assert!(look_up(&mut hops, "172.17.0.1").is_some());
}

#[test]
fn mtu_is_the_smaller_of_link_and_route() {
    let mut hops = started();
    let id = hops.hop_for_server(ip("198.51.100.1")).unwrap();
    let limited = |mtu| KernelRoute {
        mtu: Some(mtu),
        ..route("198.51.100.0/24", 0, &[way(11, Some("192.0.2.5"))])
    };
    for (route_mtu, link_mtu, mtu) in [(1400, 1500, 1400), (9000, 1500, 1500), (9000, 70_000, 9000)]
    {
        let link = Link { ifindex: 11, name: "wan".into(), mac: WAN_MAC, mtu: link_mtu, up: true };
        hops.apply(&[
            KernelEvent::LinkChanged(link),
            KernelEvent::RouteReplaced(limited(route_mtu)),
        ]);
        assert_eq!(row(&mut hops, id).hop.mtu, mtu);
    }
}

#[test]
fn neighbours_that_the_kernel_met_are_in_the_table_before_a_worker_asks() {
    let mut hops = started();
    hops.apply(&[neighbour(11, "192.0.2.50", 50, NeighbourState::Stale)]);
    let update = hops.take_routes().unwrap();
    let id = update.table.neighbour(ip("192.0.2.50")).unwrap();
    assert_eq!(row(&mut hops, id).hop.macs.dst(), mac(50));
    let wanted = hops.take_wanted().unwrap();
    assert!(!wanted.contains(&(11, ip("192.0.2.50"))), "no probes for who never came");
}

#[test]
fn a_worker_may_ask_for_on_link_clients_and_for_known_routers() {
    let mut hops = started();
    hops.take_updates();
    let table = [
        ("on-link client", WAN, "192.0.2.60", Some(11)),
        ("the default router", WAN, "192.0.2.1", Some(11)),
        ("a client of the other port", WAN, "10.0.0.60", None),
        ("beyond a router", WAN, "203.0.113.60", None),
        ("the director itself", WAN, "192.0.2.2", None),
        ("multicast", WAN, "224.0.0.5", None),
    ];
    for (what, nic, address, ifindex) in table {
        let expected = ifindex.map(|ifindex| (ifindex, ip(address)));
        assert_eq!(hops.resolve(nic, ip(address)), expected, "{what}");
    }
    let update = hops.take_routes().unwrap();
    let id = update.table.neighbour(ip("192.0.2.60")).unwrap();
    assert!(!row(&mut hops, id).hop.resolved);
    assert!(hops.take_wanted().unwrap().contains(&(11, ip("192.0.2.60"))));
}

#[test]
fn a_client_that_does_not_answer_loses_its_slot_until_asked_again() {
    let mut hops = started();
    let client = ip("192.0.2.60");
    hops.resolve(WAN, client).unwrap();
    let id = hops.take_routes().unwrap().table.neighbour(client).unwrap();
    settle(&mut hops);
    hops.apply(&[neighbour(11, "192.0.2.60", 0, NeighbourState::Failed)]);
    let update = hops.take_routes().unwrap();
    assert!(!update.targets_changed);
    assert_eq!(update.table.neighbour(client), None);
    assert!(!hops.take_wanted().unwrap().contains(&(11, client)));
    let retired = hops.retired();
    assert_eq!(retired.iter().map(|retired| retired.id).collect::<Vec<_>>(), [id]);

    // Asked again before the slot is reclaimed: the same slot, and the old claim is void.
    hops.resolve(WAN, client).unwrap();
    hops.apply(&[neighbour(11, "192.0.2.60", 60, NeighbourState::Reachable)]);
    assert_eq!(hops.take_routes().unwrap().table.neighbour(client), Some(id));
    assert!(!hops.reclaim(retired[0]));
}

#[test]
fn a_slot_is_reused_only_after_it_was_reclaimed() {
    let mut hops = started();
    let first = hops.hop_for_server(ip("10.0.0.9")).unwrap();
    hops.apply(&[neighbour(12, "10.0.0.9", 9, NeighbourState::Failed)]);
    settle(&mut hops);
    hops.keep_servers(&HashSet::new());
    let second = hops.hop_for_server(ip("10.0.0.10")).unwrap();
    assert_ne!(first, second);
    settle(&mut hops);
    let retired = hops.retired();
    assert_eq!(retired[0].id, first);
    assert!(hops.reclaim(retired[0]));
    assert!(!hops.reclaim(retired[0]));
    assert_eq!(hops.hop_for_server(ip("10.0.0.11")), Ok(first));
    let updates = hops.take_updates();
    let (id, hop) = updates[0];
    assert_eq!((id, hop.neighbour, hop.macs.dst()), (first, ip("10.0.0.11"), [0; 6]));
}

#[test]
fn retired_slots_wait_until_the_table_without_them_was_taken() {
    let mut hops = started();
    hops.apply(&[neighbour(11, "192.0.2.50", 50, NeighbourState::Stale)]);
    settle(&mut hops);
    hops.apply(&[gone(11, "192.0.2.50")]);
    assert_eq!(hops.retired(), []);
    hops.take_routes().unwrap();
    assert_eq!(hops.retired().len(), 1);
}

#[test]
fn an_interface_may_come_late_go_and_come_back_under_another_number() {
    let mut hops = NextHops::new(nics());
    let id = hops.hop_for_server(ip("10.0.0.9")).unwrap();
    assert_eq!(row(&mut hops, id).state, HopState::NoRoute);
    let come = |hops: &mut NextHops, ifindex: u32, last: u8| {
        hops.apply(&[
            link(ifindex, "lan", LAN_MAC),
            KernelEvent::AddressAdded { ifindex, address: ip("10.0.0.2") },
            KernelEvent::RouteAdded(route("10.0.0.0/24", 0, &[way(ifindex, None)])),
            neighbour(ifindex, "10.0.0.9", last, NeighbourState::Reachable),
        ]);
    };
    come(&mut hops, 12, 9);
    assert_eq!(row(&mut hops, id).hop.macs.dst(), mac(9));
    assert!(hops.take_wanted().unwrap().contains(&(12, ip("10.0.0.9"))));
    hops.apply(&[KernelEvent::LinkRemoved { ifindex: 12 }]);
    assert_eq!(row(&mut hops, id).state, HopState::NoRoute);
    hops.apply(&[KernelEvent::Forget(Knowledge::Routes)]);
    come(&mut hops, 31, 19);
    assert_eq!(row(&mut hops, id).hop.macs.dst(), mac(19));
    assert!(hops.take_wanted().unwrap().contains(&(31, ip("10.0.0.9"))));
    hops.apply(&[link(31, "renamed", LAN_MAC)]);
    assert_eq!(hops.take_interfaces().unwrap()[1].ifindex, None);
}

#[test]
fn routes_by_an_interface_that_went_down_wait_to_be_announced_again() {
    let mut hops = started();
    let with = |up| {
        KernelEvent::LinkChanged(Link {
            ifindex: 11,
            name: "wan".into(),
            mac: WAN_MAC,
            mtu: 1500,
            up,
        })
    };
    hops.apply(&[with(false)]);
    assert_eq!(look_up(&mut hops, "203.0.113.7"), None);
    hops.apply(&[with(true)]);
    assert_eq!(look_up(&mut hops, "203.0.113.7"), None);
    let announced = route("192.0.2.0/24", 0, &[way(11, None)]);
    hops.apply(&[KernelEvent::RouteAdded(announced)]);
    assert_eq!(look_up(&mut hops, "192.0.2.7"), Some(RouteTarget::OnLink(WAN)));
    assert_eq!(look_up(&mut hops, "203.0.113.7"), None);
}

#[test]
fn a_dump_that_says_the_same_changes_nothing() {
    let mut hops = started();
    hops.hop_for_server(ip("10.0.0.9")).unwrap();
    hops.apply(&[neighbour(12, "10.0.0.9", 9, NeighbourState::Reachable)]);
    settle(&mut hops);
    hops.apply(&[
        KernelEvent::Forget(Knowledge::Links),
        KernelEvent::Forget(Knowledge::Addresses),
        KernelEvent::Forget(Knowledge::Routes),
        KernelEvent::Forget(Knowledge::Neighbours),
        link(11, "wan", WAN_MAC),
        link(12, "lan", LAN_MAC),
        KernelEvent::AddressAdded { ifindex: 11, address: ip("192.0.2.2") },
        KernelEvent::AddressAdded { ifindex: 12, address: ip("10.0.0.2") },
        KernelEvent::RouteAdded(route("0.0.0.0/0", 100, &[way(11, Some("192.0.2.1"))])),
        KernelEvent::RouteAdded(route("10.0.0.0/24", 0, &[way(12, None)])),
        KernelEvent::RouteAdded(route("192.0.2.0/24", 0, &[way(11, None)])),
        neighbour(12, "10.0.0.9", 9, NeighbourState::Reachable),
    ]);
    assert_eq!(hops.take_updates(), []);
    assert!(hops.take_routes().is_none());
    assert!(hops.take_wanted().is_none());
}

#[test]
fn what_a_dump_no_longer_has_is_gone() {
    let mut hops = started();
    let id = hops.hop_for_server(ip("10.0.0.9")).unwrap();
    hops.apply(&[neighbour(12, "10.0.0.9", 9, NeighbourState::Reachable)]);
    settle(&mut hops);
    hops.apply(&[KernelEvent::Forget(Knowledge::Neighbours)]);
    assert!(!row(&mut hops, id).hop.resolved);
    hops.apply(&[KernelEvent::Forget(Knowledge::Routes)]);
    assert_eq!(row(&mut hops, id).state, HopState::NoRoute);
    assert_eq!(look_up(&mut hops, "203.0.113.7"), None);
}

#[test]
fn the_configuration_alone_is_enough_where_no_kernel_is() {
    let nic = NicLink { nic: WAN, interface: None, mac: WAN_MAC, mtu: 9000 };
    let mut hops = NextHops::new(vec![nic]);
    let on_link = |text: &str, gateway: Option<&str>| StaticRoute {
        prefix: text.parse().unwrap(),
        nic: WAN,
        gateway: gateway.map(ip),
    };
    let known =
        |address: &str, last| StaticNeighbour { nic: WAN, address: ip(address), mac: mac(last) };
    hops.set_static(
        &[known("10.0.0.9", 9), known("10.0.0.1", 1)],
        &[on_link("10.0.0.0/24", None), on_link("0.0.0.0/0", Some("10.0.0.1"))],
    );
    let id = hops.hop_for_server(ip("10.0.0.9")).unwrap();
    let hop = row(&mut hops, id).hop;
    assert_eq!((hop.resolved, hop.macs.dst(), hop.mtu), (true, mac(9), 9000));
    let Some(RouteTarget::Via(router)) = look_up(&mut hops, "203.0.113.7") else { panic!() };
    assert_eq!(row(&mut hops, router).hop.macs.dst(), mac(1));
    assert_eq!(hops.table.neighbour(ip("10.0.0.9")), Some(id));
    assert_eq!(hops.take_wanted(), Some(vec![]));
    assert_eq!(hops.resolve(WAN, ip("10.0.0.77")), None, "nobody to ask");
}

#[test]
fn a_static_neighbour_outranks_the_kernels_and_is_not_asked_for() {
    let mut hops = started();
    let id = hops.hop_for_server(ip("10.0.0.9")).unwrap();
    hops.apply(&[neighbour(12, "10.0.0.9", 9, NeighbourState::Reachable)]);
    let fixed = StaticNeighbour { nic: LAN, address: ip("10.0.0.9"), mac: mac(77) };
    hops.set_static(&[fixed], &[]);
    assert_eq!(row(&mut hops, id).hop.macs.dst(), mac(77));
    assert!(!hops.take_wanted().unwrap().contains(&(12, ip("10.0.0.9"))));
    hops.set_static(&[], &[]);
    assert_eq!(row(&mut hops, id).hop.macs.dst(), mac(9));
}

#[test]
fn permanent_entries_are_never_asked_for() {
    // The kernel takes NUD_PERMANENT off an entry that it is told to use (NTF_USE).
    let mut hops = started();
    hops.hop_for_server(ip("10.0.0.9")).unwrap();
    hops.apply(&[neighbour(12, "10.0.0.9", 9, NeighbourState::Permanent)]);
    assert!(!hops.take_wanted().unwrap().contains(&(12, ip("10.0.0.9"))));
    hops.apply(&[neighbour(12, "10.0.0.9", 9, NeighbourState::Reachable)]);
    assert!(hops.take_wanted().unwrap().contains(&(12, ip("10.0.0.9"))));
}

#[test]
fn the_directors_own_address_is_no_neighbour() {
    let mut hops = started();
    let id = hops.hop_for_server(ip("10.0.0.2")).unwrap();
    assert_eq!(row(&mut hops, id).state, HopState::OwnAddress);
    assert!(!hops.take_wanted().unwrap_or_default().contains(&(12, ip("10.0.0.2"))));
}

#[test]
fn ipv6_routers_are_link_local_and_links_local_routes_stay_out_of_the_table() {
    let mut hops = started();
    hops.apply(&[
        KernelEvent::RouteAdded(route("fe80::/64", 256, &[way(11, None)])),
        KernelEvent::RouteAdded(route("fe80::/64", 256, &[way(12, None)])),
        KernelEvent::RouteAdded(route("2001:db8::/64", 256, &[way(12, None)])),
        KernelEvent::RouteAdded(route("::/0", 1024, &[way(11, Some("fe80::1"))])),
        neighbour(11, "fe80::1", 1, NeighbourState::Reachable),
        neighbour(12, "2001:db8::9", 9, NeighbourState::Reachable),
    ]);
    let id = hops.hop_for_server(ip("2001:db8::9")).unwrap();
    assert_eq!(row(&mut hops, id).hop.macs.dst(), mac(9));
    let Some(RouteTarget::Via(router)) = look_up(&mut hops, "2001:db8:1::1") else { panic!() };
    assert_eq!(row(&mut hops, router).hop.neighbour, ip("fe80::1"));
    assert_eq!(look_up(&mut hops, "fe80::7"), Some(RouteTarget::Via(router)));
    assert_eq!(hops.table.neighbour(ip("fe80::1")), None);
    assert_eq!(hops.resolve(WAN, ip("fe80::1")), Some((11, ip("fe80::1"))));
}

#[test]
fn routes_beyond_their_share_of_slots_use_their_routers() {
    let mut hops = started();
    let count = crate::limits::ROUTE_HOPS_MAX as u32 + 100;
    let routes: Vec<KernelEvent> = (0..count)
        .map(|n| {
            let address = std::net::Ipv4Addr::from(0x6400_0000 + (n << 8));
            KernelEvent::RouteAdded(route(
                &format!("{address}/24"),
                20,
                &[way(11, Some("192.0.2.1"))],
            ))
        })
        .collect();
    hops.apply(&routes);
    hops.apply(&[neighbour(11, "192.0.2.1", 1, NeighbourState::Reachable)]);
    hops.take_routes().unwrap();
    let mut rows = hops.rows();
    rows.retain(|row| !matches!(row.target, HopTarget::Address(_)));
    assert_eq!(rows.len(), crate::limits::ROUTE_HOPS_MAX + 1, "and one for the router");
    assert!(rows.iter().all(|row| row.hop.macs.dst() == mac(1)));
    let last = std::net::Ipv4Addr::from(0x6400_0000 + ((count - 1) << 8) + 7);
    assert!(look_up(&mut hops, &last.to_string()).is_some());
    assert_eq!(hops.refused(), 0);
}

#[test]
fn a_flood_of_questions_for_made_up_neighbours_is_bounded() {
    let mut hops = started();
    hops.apply(&[KernelEvent::RouteAdded(route("10.64.0.0/10", 0, &[way(12, None)]))]);
    let asked = (0..10_000u32)
        .filter(|n| {
            let address = std::net::Ipv4Addr::from(0x0a40_0000 + n + 1);
            hops.resolve(LAN, address.into()).is_some()
        })
        .count();
    assert_eq!(asked, CLIENT_ASKS_OPEN_MAX);
    assert_eq!(hops.refused(), 10_000 - asked as u64);
    assert!(hops.hop_for_server(ip("10.0.0.9")).is_ok());
}
