//! `mss_max`: what SYNs may offer, in both directions where both pass.

use std::net::IpAddr;

use gyre::model::*;
use gyre::wire::checksum::Sum;
use gyre::wire::ipv4::Ipv4;
use gyre::wire::tcp::{Tcp, TcpFlags, TcpOption, TcpOptions};

use crate::support::*;

const CLIENT_IP: &str = "10.0.0.7";
const VIP: &str = "10.1.0.1";
const RIP: &str = "10.2.0.11";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn director(mode: ForwardMode, synproxy: bool) -> Director {
    let key = ServiceKey::new(Protocol::Tcp, ip(VIP), 80);
    let mut spec = ServiceSpec::new(key, SchedulerSpec::RoundRobin);
    spec.pool = Some("pool".into());
    spec.mss_max = Some(1300);
    spec.synproxy = synproxy;
    spec.servers = vec![server((ip(RIP), 80).into(), 1, mode)];
    let mut director = Director::new(KernelMode::Tap);
    director.change(|registry, hops| registry.apply(&desired(vec![spec]), hops)).unwrap();
    director
}

/// The MSS of an IPv4 segment whose checksum holds.
fn mss(packet: &[u8]) -> Option<u16> {
    let (ip, l4) = Ipv4::parse(packet).unwrap();
    let pseudo = Sum::pseudo_v4(ip.src(), ip.dst(), ip.protocol(), l4.len() as u16);
    assert!(pseudo.add_bytes(l4).holds());
    let (_, options, _) = Tcp::parse_with_options(l4).unwrap();
    TcpOptions::new(options).find_map(|(_, option)| match option {
        TcpOption::Mss(mss) => Some(mss),
        _ => None,
    })
}

#[test]
fn syns_offer_no_more_than_the_service_allows() {
    for (mode, outer) in [
        (ForwardMode::DirectRoute, 0),
        (ForwardMode::Tunnel, 20),
        (ForwardMode::Nat, 0),
        (ForwardMode::FullNat, 0),
    ] {
        for (offered, passed) in [(1460, 1300), (1200, 1200)] {
            let mut director = director(mode, false);
            // An odd place for the option, so that its bytes straddle words of the checksum.
            let syn = from_client(ip(CLIENT_IP), ip(VIP)).tcp(5, 80).flags(TcpFlags::SYN);
            let syn = syn.option(TcpOption::Nop).option(TcpOption::Mss(offered));
            let out = director.receive(CLIENT, &syn.build());
            assert_eq!(mss(&out.frame[14 + outer..]), Some(passed), "{mode:?}");
            let Some((local, src_port)) = director.flows()[0].local.or(match mode {
                ForwardMode::Nat => Some((ip(CLIENT_IP), 5)),
                _ => None,
            }) else {
                continue;
            };
            let answer = from_server(ip(RIP), local).tcp(80, src_port);
            let answer =
                answer.flags(TcpFlags::SYN | TcpFlags::ACK).option(TcpOption::Mss(offered));
            let back = director.receive(SERVER, &answer.build());
            assert_eq!(mss(&back.frame[14..]), Some(passed), "{mode:?}");
        }
    }
}

#[test]
fn cookies_offer_no_more_than_the_service_allows() {
    let mut director = director(ForwardMode::Nat, true);
    let syn = from_client(ip(CLIENT_IP), ip(VIP)).tcp(5, 80).flags(TcpFlags::SYN);
    let out = director.receive(CLIENT, &syn.option(TcpOption::Mss(1460)).build());
    assert_eq!((out.sent_on(), mss(&out.frame[14..])), (Some(CLIENT), Some(1300)));
}
