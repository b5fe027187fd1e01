//! What gyre puts into the kernel beside its ports (rules, addresses), in a network namespace of
//! each test's own. Needs root and `nft`.
#![cfg(feature = "dpdk")]

mod harness;

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use gyre::config::VipAddresses;
use gyre::model::*;
use gyre::runtime::kernel_interface::addresses::{AddressFile, AddressOn, KernelInterfaceSubnets};
use gyre::runtime::kernel_interface::keeper::{Keeper, KeeperConfig};
use gyre::runtime::kernel_interface::nftables::Instance;
use gyre::runtime::kernel_interface::rules::GuardedInterfaces;
use gyre::wire::build::PacketBuilder;
use gyre::wire::ethernet::MacAddr;
use gyre::wire::tcp::TcpFlags;
use harness::namespaces;
use nix::ifaddrs::getifaddrs;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send, socket,
};

/// Runs `test` in a thread with a network namespace of its own, which goes with the thread.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let body = || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        run("ip link set lo up");
        run("ip link add eth1 type veth peer name eth2");
        run("ip link set eth1 up");
        run("ip address add 192.0.2.2/24 dev eth1");
        test();
    };
    if let Err(panic) = thread::spawn(body).join() {
        std::panic::resume_unwind(panic);
    }
}

fn run(command: &str) -> String {
    let mut words = command.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn rules() -> String {
    run("nft list ruleset")
}

fn addresses() -> String {
    run("ip -o address show dev eth1")
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(
            Instant::now() < deadline,
            "{what} did not come about:\n{}{}",
            rules(),
            addresses()
        );
        thread::sleep(Duration::from_millis(20));
    }
}

struct Place {
    socket: PathBuf,
}

impl Place {
    fn new(name: &str) -> Place {
        let name = format!("gyre-runtime-{}-{name}.sock", std::process::id());
        Place { socket: std::env::temp_dir().join(name) }
    }

    fn shared(&self) -> KeeperConfig {
        KeeperConfig {
            instance: Instance::this(&self.socket),
            guarded: GuardedInterfaces { shut: Vec::new(), shared: vec!["eth1".to_owned()] },
            interfaces: vec![KernelInterfaceSubnets {
                interface: "eth1".to_owned(),
                subnets: vec!["192.0.2.0/24".parse().unwrap()],
            }],
            vips_by: VipAddresses::Gyre,
            own: Default::default(),
            file: AddressFile::beside(&self.socket),
        }
    }
}

fn snapshot(vips: &[&str]) -> Arc<Snapshot> {
    let vips: Vec<IpAddr> = vips.iter().map(|vip| vip.parse().unwrap()).collect();
    let key = |vip: &IpAddr| ServiceKey::new(Protocol::Tcp, *vip, 80);
    let keys: Vec<ServiceKey> = vips.iter().map(key).collect();
    let services = keys.iter().map(|key| (key, &[][..], ServiceId(0)));
    Arc::new(Snapshot {
        traffic: Arc::new(Traffic::new(services)),
        vips: Arc::new(vips.iter().copied().collect()),
        ..Snapshot::empty()
    })
}

/// Publishes as control does: waits for the answer before workers would get the snapshot.
fn publish(keeper: &Keeper, vips: &[&str]) {
    let _ = keeper.kernel_side()(&snapshot(vips)).blocking_recv();
}

fn services_are_guarded_and_their_vips_held_while_they_are_served() {
    in_namespace(|| {
        let place = Place::new("served");
        let keeper = Keeper::start(place.shared()).unwrap();
        publish(&keeper, &["192.0.2.80", "2001:db8::80"]);
        let (now, on) = (rules(), addresses());
        assert!(now.contains("192.0.2.80 . tcp . 80"), "{now}");
        assert!(now.contains("2001:db8::80 . tcp . 80"), "{now}");
        assert!(on.contains("192.0.2.80/32") && on.contains("2001:db8::80/128"), "{on}");
        assert!(!on.contains("tentative"), "an address must answer at once: {on}");

        publish(&keeper, &["192.0.2.81"]);
        let now = rules();
        assert!(now.contains("192.0.2.81 . tcp . 80"), "{now}");
        assert!(now.contains("192.0.2.80 . tcp . 80"), "workers may still serve it: {now}");
        eventually("the old service's end", || {
            !rules().contains("192.0.2.80 . tcp") && !addresses().contains("192.0.2.80/32")
        });
        assert!(rules().contains("192.0.2.81 . tcp . 80"));

        drop(keeper);
        assert_eq!(rules(), "", "rules stay behind");
        let on = addresses();
        assert!(on.contains("192.0.2.2/24") && !on.contains("192.0.2.81"), "{on}");
    });
}

fn an_address_that_was_there_stays() {
    in_namespace(|| {
        run("ip address add 192.0.2.80/24 dev eth1");
        let place = Place::new("stays");
        let keeper = Keeper::start(place.shared()).unwrap();
        publish(&keeper, &["192.0.2.80"]);
        assert!(!addresses().contains("192.0.2.80/32"));
        drop(keeper);
        assert!(addresses().contains("192.0.2.80/24"));
    });
}

fn vips_of_vrrp_are_guarded_and_put_nowhere() {
    in_namespace(|| {
        let place = Place::new("vrrp");
        let config = KeeperConfig { vips_by: VipAddresses::Others, ..place.shared() };
        let keeper = Keeper::start(config).unwrap();
        publish(&keeper, &["192.0.2.80"]);
        assert!(rules().contains("192.0.2.80"), "{}", rules());
        assert!(!addresses().contains("192.0.2.80"), "{}", addresses());
        // VRRP's address comes and goes without gyre.
        run("ip address add 192.0.2.80/32 dev eth1");
        publish(&keeper, &[]);
        eventually("the end of its rules", || !rules().contains("192.0.2.80"));
        drop(keeper);
        assert!(addresses().contains("192.0.2.80/32"));
    });
}

fn what_a_killed_predecessor_left_is_removed() {
    in_namespace(|| {
        let place = Place::new("killed");
        let mine = Instance::this(&place.socket).table();
        // Same socket, another process: it cannot be alive, since the socket was free.
        let fields: Vec<&str> = mine.split('_').collect();
        let dead = format!("gyre_{}_{}_999999999_1", fields[1], fields[2]);
        // Another socket, a pid that is in use (ours) but was someone else's.
        let recycled = format!("gyre_00000000_{}_{}_1", fields[2], fields[3]);
        // Another pid namespace: nobody can tell.
        let foreign = "gyre_00000000_1_999999999_1";
        for table in [&dead, &recycled, foreign, "mine_not_gyre"] {
            run(&format!("nft add table netdev {table}"));
        }
        run("ip address add 192.0.2.80/32 dev eth1");
        let left = AddressOn::host("eth1", "192.0.2.80".parse().unwrap());
        let gone = AddressOn::host("eth9", "192.0.2.81".parse().unwrap());
        AddressFile::beside(&place.socket).write(&[left, gone].into()).unwrap();

        let keeper = Keeper::start(place.shared()).unwrap();
        let now = rules();
        assert!(!now.contains(&dead) && !now.contains(&recycled), "{now}");
        assert!(now.contains(foreign) && now.contains("mine_not_gyre"), "{now}");
        assert!(now.contains(&mine), "{now}");
        assert!(!addresses().contains("192.0.2.80"));
        drop(keeper);
        assert!(!AddressFile::beside(&place.socket).path().exists());
    });
}

fn a_port_with_a_tap_has_its_lower_interface_shut() {
    in_namespace(|| {
        let place = Place::new("shut");
        let guarded = GuardedInterfaces { shut: vec!["eth1".to_owned()], shared: Vec::new() };
        let keeper = Keeper::start(KeeperConfig { guarded, ..place.shared() }).unwrap();
        let now = rules();
        assert!(now.contains("device \"eth1\"") && now.contains("policy drop"), "{now}");
        drop(keeper);
        assert_eq!(rules(), "");
    });
}

/// A packet socket on an interface of this thread's namespace.
struct Wire(OwnedFd);

impl Wire {
    fn open(interface: &str) -> Wire {
        let flags = SockFlag::SOCK_CLOEXEC;
        let fd = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll).unwrap();
        let link = getifaddrs().unwrap().find_map(|address| {
            let link = *address.address?.as_link_addr()?;
            (address.interface_name == interface).then_some(link)
        });
        bind(fd.as_raw_fd(), &link.unwrap()).unwrap();
        Wire(fd)
    }

    /// Whether a TCP segment between these endpoints comes within half a second.
    fn hears(&self, src: (&str, u16), dst: (&str, u16)) -> bool {
        let port = |(_, port): (&str, u16)| port.to_be_bytes();
        let octets = |(ip, _): (&str, u16)| ip.parse::<std::net::Ipv4Addr>().unwrap().octets();
        let wanted = [&octets(src)[..], &octets(dst), &port(src), &port(dst)].concat();
        let deadline = Instant::now() + Duration::from_millis(500);
        let mut buffer = [0; 2048];
        while Instant::now() < deadline {
            let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            if poll(&mut fds, PollTimeout::from(20u8)) != Ok(1) {
                continue;
            }
            let len = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()).unwrap();
            if buffer[..len].get(26..38) == Some(&wanted[..]) {
                return true;
            }
        }
        false
    }
}

fn mac(interface: &str) -> MacAddr {
    let line = run(&format!("ip -o link show dev {interface}"));
    let text = line.split("link/ether ").nth(1).unwrap().split(' ').next().unwrap();
    let bytes: Vec<u8> = text.split(':').map(|hex| u8::from_str_radix(hex, 16).unwrap()).collect();
    MacAddr(bytes.try_into().unwrap())
}

/// A NAT server's replies are the workers': the kernel, which would route them on untranslated,
/// does not get them. What the server answers to the director's own health check, it does.
fn replies_of_nat_servers_are_kept_from_the_kernel_but_not_answers_to_the_director() {
    in_namespace(|| {
        run("ip link set eth2 up");
        run("ip link add eth3 type veth peer name eth4");
        run("ip link set eth3 up");
        run("ip link set eth4 up");
        run("ip address add 198.51.100.1/24 dev eth3");
        run("ip neigh add 198.51.100.9 lladdr 02:00:00:00:00:09 dev eth3 nud permanent");
        run("ip neigh add 192.0.2.11 lladdr 02:00:00:00:00:11 dev eth1 nud permanent");
        for (file, value) in [("ip_forward", "1"), ("conf/all/rp_filter", "0")] {
            std::fs::write(format!("/proc/sys/net/ipv4/{file}"), value).unwrap();
        }
        let (server, clients) = (Wire::open("eth2"), Wire::open("eth4"));
        let director = mac("eth1");
        let sends = |dst: &str, dst_port| {
            let src = MacAddr([2, 0, 0, 0, 0, 0x11]);
            let ethernet = PacketBuilder::new().ethernet(src, director);
            let ip = ethernet.ipv4([192, 0, 2, 11].into(), dst.parse().unwrap());
            let frame = ip.tcp(8080, dst_port).flags(TcpFlags::ACK).build();
            send(server.0.as_raw_fd(), &frame, MsgFlags::empty()).unwrap();
        };
        let from = ("192.0.2.11", 8080);
        // Without a rule the kernel is a router.
        sends("198.51.100.9", 4000);
        assert!(clients.hears(from, ("198.51.100.9", 4000)));

        let place = Place::new("nat");
        let keeper = Keeper::start(place.shared()).unwrap();
        let nat_server = (Protocol::Tcp, "192.0.2.11".parse().unwrap(), 8080);
        let nat_servers = [(nat_server, KeyKind::ClientAddressPort)];
        let nat = Snapshot {
            nat_servers: Arc::new(nat_servers.into_iter().collect()),
            ..Snapshot::clone(&snapshot(&[]))
        };
        let _ = keeper.kernel_side()(&Arc::new(nat)).blocking_recv();
        sends("198.51.100.9", 4001);
        assert!(!clients.hears(from, ("198.51.100.9", 4001)), "{}", rules());
        // A stray segment to the director itself is answered with a reset.
        sends("192.0.2.2", 4002);
        assert!(server.hears(("192.0.2.2", 4002), from), "{}", rules());
        drop(keeper);
    });
}

/// nft refuses sets whose elements overlap, and with them all rules.
fn overlapping_services_are_guarded() {
    in_namespace(|| {
        let vip: IpAddr = "192.0.2.80".parse().unwrap();
        let ports = |first, last| {
            let (protocol, ports) = (Protocol::Tcp, Ports::range(first, last).unwrap());
            ServiceSpec::new(
                ServiceKey::Address { protocol, vip, ports },
                SchedulerSpec::RoundRobin,
            )
        };
        let group = |name: &str, prefix: &str| {
            let key = ServiceKey::group(name).unwrap();
            let (protocol, ports) = (Protocol::Tcp, Ports::range(80, 90).unwrap());
            let one = TrafficMatch { protocol, prefix: prefix.parse().unwrap(), ports };
            ServiceSpec { matches: vec![one], ..ServiceSpec::new(key, SchedulerSpec::RoundRobin) }
        };
        let nat =
            |host: u8, port| ServerSpec::new(([192, 0, 2, host], port).into(), 1, ForwardMode::Nat);
        let mut ftp = ports(21, 21);
        (ftp.helper, ftp.forwarding) = (Some(Helper::Ftp), ForwardMode::Nat);
        ftp.servers = vec![nat(11, 21)];
        let services = vec![
            ports(1000, 2000),
            ports(1500, 3000),
            ports(1500, 1500),
            ftp,
            group("wide", "192.0.0.0/16"),
            group("narrow", "192.0.0.0/24"),
        ];
        let mut registry = Registry::new(RegistryConfig::new(Arc::new(Steering::for_workers(1))));
        let desired = Desired {
            pools: Vec::new(),
            services,
            semantics: Semantics::default(),
            removal: Removal::Now,
        };
        registry.apply(&desired, &mut |_| NextHopId::NONE).unwrap();
        let place = Place::new("overlapping");
        let keeper = Keeper::start(place.shared()).unwrap();
        let kernel_side = keeper.kernel_side();
        let _ = kernel_side(registry.snapshot()).blocking_recv();
        let now = rules();
        for part in [
            "192.0.2.80 . tcp . 20-21",
            "192.0.2.80 . tcp . 1000-65535",
            "ip daddr 192.0.0.0/16 tcp dport 80-90 drop",
            "ip daddr 192.0.0.0/24 tcp dport 80-90 drop",
            "192.0.2.11 . tcp . 0-65535",
        ] {
            assert!(now.contains(part), "{part} {now}");
        }
        // A server that joins is told although the services are as they were.
        let key = ServiceKey::new(Protocol::Tcp, vip, 1500);
        registry.add_server(&key, &nat(12, 8080), &mut |_| NextHopId::NONE).unwrap();
        let _ = kernel_side(registry.snapshot()).blocking_recv();
        assert!(rules().contains("192.0.2.12 . tcp . 8080"), "{}", rules());
        // The keeper goes on as long as somebody may ask it.
        drop(kernel_side);
        drop(keeper);
    });
}

fn main() {
    harness::run(cases!(&[namespaces];
        services_are_guarded_and_their_vips_held_while_they_are_served,
        an_address_that_was_there_stays,
        vips_of_vrrp_are_guarded_and_put_nowhere,
        what_a_killed_predecessor_left_is_removed,
        a_port_with_a_tap_has_its_lower_interface_shut,
        replies_of_nat_servers_are_kept_from_the_kernel_but_not_answers_to_the_director,
        overlapping_services_are_guarded,
    ))
}
