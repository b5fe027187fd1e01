//! Any bytes in: a counted verdict out, never a panic, and the same one in a burst of one and of
//! thirty-two. Frames are valid ones of every kind, mutated, beside plain noise.

#[path = "support/mod.rs"]
mod support;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use gyre::counters::DropReason;
use gyre::dataplane::Verdict;
use gyre::model::*;
use gyre::wire::ip::{Fragment, IpProtocol};
use gyre::wire::tcp::{TcpFlags, TcpOption};
use proptest::prelude::*;
use support::*;

const CLIENT_ADDRESSES: [&str; 2] = ["10.0.0.7", "fd00:c::7"];
const VIPS: [[&str; 7]; 2] = [
    ["10.1.0.1", "10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.5", "10.1.0.6", "10.1.0.7"],
    ["fd00:1::1", "fd00:1::2", "fd00:1::3", "fd00:1::4", "fd00:1::5", "fd00:1::6", "fd00:1::7"],
];
/// The service whose server is of the other family, by FULLNAT with a header.
const ACROSS: usize = 6;
/// Modes of the services: DR, FULLNAT with a header, FULLNAT behind cookies, NAT, NAT behind
/// cookies, TUN, and `ACROSS`.
const MODES: [ForwardMode; 7] = [
    ForwardMode::DirectRoute,
    ForwardMode::FullNat,
    ForwardMode::FullNat,
    ForwardMode::Nat,
    ForwardMode::Nat,
    ForwardMode::Tunnel,
    ForwardMode::FullNat,
];
const RIPS: [&str; 2] = ["10.2.0.11", "fd00:2::b"];
const LIPS: [&str; 2] = ["10.2.0.1", "fd00:2::1"];

fn director() -> Director {
    director_in(None)
}

/// A frame with the tag of its port's VLAN.
fn tagged(mut frame: Vec<u8>, vlan: Option<u16>) -> Vec<u8> {
    if let Some(vlan) = vlan.filter(|_| frame.len() >= 12) {
        let [high, low] = vlan.to_be_bytes();
        frame.splice(12..12, [0x81, 0, high, low]);
    }
    frame
}

fn director_in(vlan: Option<u16>) -> Director {
    let mut services = Vec::new();
    for (family, vips) in VIPS.iter().enumerate() {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            for (at, vip) in vips.iter().enumerate() {
                let key = ServiceKey::new(protocol, vip.parse().unwrap(), 80);
                let mut spec = ServiceSpec::new(key, SchedulerSpec::WeightedRoundRobin);
                let server_family = if at == ACROSS { 1 - family } else { family };
                let endpoint = SocketAddr::new(RIPS[server_family].parse().unwrap(), 80);
                let full_nat = MODES[at] == ForwardMode::FullNat;
                spec.pool = full_nat.then(|| "pool".into());
                spec.synproxy = matches!(at, 2 | 4) && protocol == Protocol::Tcp;
                if full_nat && protocol == Protocol::Tcp {
                    spec.client_address = match at {
                        1 | ACROSS => ClientAddress::ProxyV2,
                        _ => ClientAddress::Toa { kind: 254, on_syn: true },
                    };
                }
                spec.servers = vec![server(endpoint, 1, MODES[at])];
                services.push(spec);
            }
        }
    }
    let mut director = Director::new(KernelMode::Shared);
    let wanted = desired(services);
    director.change(|registry, hops| registry.apply(&wanted, hops)).unwrap();
    let mut snapshot = Snapshot::clone(&director.snapshot);
    Arc::make_mut(&mut snapshot.nics).iter_mut().for_each(|nic| nic.vlan = vlan);
    director.publish(Arc::new(snapshot));
    director
}

/// A frame to start from: which port it comes in on, and its bytes.
fn seed_frame() -> impl Strategy<Value = (NicId, Vec<u8>)> {
    let parts =
        (0..2usize, 0..7usize, 0..7u8, any::<u8>(), 0..4u16, any::<(u32, u32)>(), 0..2000usize);
    parts.prop_map(|(family, vip, shape, flags, port, (seq, ack), payload)| {
        let client: IpAddr = CLIENT_ADDRESSES[family].parse().unwrap();
        let vip: IpAddr = VIPS[family][vip].parse().unwrap();
        let tcp_flags = TcpFlags(flags);
        let payload = vec![0x5a; payload % 1400];
        let frame = match shape {
            0 => from_client(client, vip).udp(5000 + port, 80).payload(&payload).build(),
            1 => {
                let rip = RIPS[family].parse().unwrap();
                let answer = from_server(rip, LIPS[family].parse().unwrap());
                let answer = answer.tcp(80, 1024 + port).seq(seq).ack(ack).flags(tcp_flags);
                return (SERVER, answer.payload(&payload).build().to_vec());
            }
            // A NAT server's reply, whole or in pieces, and an error about what it got.
            5 => {
                let rip: IpAddr = RIPS[family].parse().unwrap();
                let answer = from_server(rip, client);
                let frame = match port {
                    0 => answer.tcp(80, 5000 + port).flags(tcp_flags).seq(seq).ack(ack).build(),
                    1 => answer.udp(80, 5000 + port).payload(&payload).build(),
                    2 => {
                        let piece = Fragment { id: seq, offset_bytes: 0, more: true };
                        answer.fragment(piece).udp(80, 5000 + port).payload(&payload).build()
                    }
                    _ => {
                        let quoted = from_server(client, rip).tcp(5000 + port, 80).build();
                        answer.too_big(1300, &quoted[14..]).build()
                    }
                };
                return (SERVER, frame.to_vec());
            }
            6 => return any_error((family, client, vip), flags, port, (seq, ack), &payload),
            2 => {
                let piece = Fragment { id: seq, offset_bytes: port * 8, more: true };
                from_client(client, vip).fragment(piece).udp(5000, 80).payload(&payload).build()
            }
            3 => {
                let quoted = from_client(vip, client).tcp(80, 5000).build();
                from_client(client, vip).port_unreachable(&quoted[14..]).build()
            }
            _ => from_client(client, vip)
                .tcp(5000 + port, 80)
                .seq(seq)
                .ack(ack)
                .flags(tcp_flags)
                .option(TcpOption::Mss(1460))
                .option(TcpOption::Timestamps { value: seq, echo: ack })
                .payload(&payload)
                .build(),
        };
        (CLIENT, frame.to_vec())
    })
}

/// An error of any kind about a service's answer, or about what a server got in a local address's
/// name: a whole packet, or a piece of one.
fn any_error(
    (family, client, vip): (usize, IpAddr, IpAddr),
    kind: u8,
    port: u16,
    (word, code): (u32, u32),
    payload: &[u8],
) -> (NicId, Vec<u8>) {
    let (rip, lip): (IpAddr, IpAddr) =
        (RIPS[family].parse().unwrap(), LIPS[family].parse().unwrap());
    let (nic, error, about, ports) = match port % 2 {
        0 => (CLIENT, from_client(client, vip), from_client(vip, client), (80, 5000 + port / 2)),
        _ => (SERVER, from_server(rip, lip), from_server(lip, rip), (1024 + port / 2, 80)),
    };
    let piece = Fragment { id: word, offset_bytes: 0, more: true };
    let about = if code & 0x10 == 0 { about } else { about.fragment(piece) };
    let quoted = about.udp(ports.0, ports.1).payload(payload).build();
    let error = error.icmp(kind % 16, code as u8 % 16, word).payload(&quoted[14..]);
    (nic, error.build().to_vec())
}

/// Pieces that meet: of few datagrams, at few places, of sizes that often fit each other. And
/// errors about what a tunnel made of a whole one.
fn colliding_frame() -> impl Strategy<Value = (NicId, Vec<u8>)> {
    let parts = (0..2usize, 0..7usize, 0..3u32, 0..5usize, any::<bool>(), 0..40usize, 0..8u8);
    parts.prop_map(|(family, vip, id, unit, more, size, shape)| {
        let client: IpAddr = CLIENT_ADDRESSES[family].parse().unwrap();
        let vip: IpAddr = VIPS[family][vip].parse().unwrap();
        let builder = from_client(client, vip);
        let bytes = if size < 36 { 16 } else { size };
        let place = Fragment { id, offset_bytes: unit as u16 * 16, more };
        let udp = builder.clone().udp(5000, 80).payload(&[7; 100]).build();
        let l4 = 14 + [20, 40][family];
        if shape > 0 {
            let own = &udp[l4 + unit * 16..l4 + unit * 16 + bytes];
            return (CLIENT, builder.fragment(place).raw(IpProtocol::UDP, own).to_vec());
        }
        let (rip, own) = (RIPS[0].parse().unwrap(), "10.2.0.1".parse().unwrap());
        let outer = from_server(own, rip).raw(IpProtocol::IPV4, &udp[14..]);
        let told = from_server(rip, own).icmp(3, unit as u8, size as u32);
        (SERVER, told.payload(&outer[14..]).build().to_vec())
    })
}

/// A frame as it may arrive: often valid, else cut, changed in places, or noise.
fn any_frame() -> impl Strategy<Value = (NicId, Vec<u8>)> {
    let changes = prop::collection::vec((0..120usize, any::<u8>()), 0..4);
    let mutated = (seed_frame(), changes, prop::option::weighted(0.2, 0..200usize)).prop_map(
        |((nic, mut frame), changes, cut)| {
            for (at, value) in changes {
                if let Some(byte) = frame.get_mut(at) {
                    *byte = value;
                }
            }
            frame.truncate(cut.unwrap_or(usize::MAX));
            (nic, frame)
        },
    );
    let noise = prop::collection::vec(any::<u8>(), 0..200).prop_map(|mut bytes| {
        // Noise that gets past the MAC filter now and then.
        if bytes.len() > 20 && bytes[19] % 2 == 0 {
            bytes[..6].copy_from_slice(&director_mac(CLIENT).0);
        }
        (CLIENT, bytes)
    });
    prop_oneof![4 => seed_frame(), 4 => mutated, 1 => noise]
}

fn counted(director: &Director) -> u64 {
    director.state.counters.drops.iter().map(|drops| drops.get()).sum()
}

proptest! {
    #![proptest_config(ProptestConfig {
        // 256 cases, or as many as PROPTEST_CASES says: scripts/test tries more.
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_bytes_get_a_counted_verdict(
        frames in prop::collection::vec(prop_oneof![any_frame(), colliding_frame()], 1..64),
    ) {
        let mut director = director();
        for (nic, frame) in &frames {
            let before = counted(&director);
            let outcome = director.receive(*nic, frame);
            if let Verdict::Drop(reason) = outcome.verdict {
                // An overlap also ends the fragments that waited.
                prop_assert!(counted(&director) > before);
                prop_assert_ne!(reason, DropReason::Internal);
            }
            prop_assert!(!director.resumed.contains(&Verdict::Drop(DropReason::Internal)));
        }
        director.advance(1000.0);
        director.advance(1000.0);
        prop_assert_eq!(director.state.flows.len(), 0);
        let counters = &director.state.counters;
        prop_assert!(counters.servers.iter().all(|s| s.flows.get() == 0 && s.active.get() == 0));
        prop_assert!(counters.lips.iter().all(|lip| lip.used.get() == 0));
    }

    /// Frames that other workers handed over come from any port, so a burst may be mixed. A tag
    /// on both ports, as one in two has.
    #[test]
    fn burst_of_one_and_of_many_agree(
        frames in prop::collection::vec(any_frame(), 32),
        vlan in prop::option::of(1..4095u16),
    ) {
        let frames: Vec<(NicId, Vec<u8>)> =
            frames.into_iter().map(|(nic, frame)| (nic, tagged(frame, vlan))).collect();
        let (mut single, mut burst) = (director_in(vlan), director_in(vlan));
        let one_by_one: Vec<_> =
            frames.iter().map(|(nic, frame)| single.receive(*nic, frame)).collect();
        let together = burst.receive_mixed(&frames);
        for (one, many) in one_by_one.iter().zip(&together) {
            prop_assert_eq!((&one.verdict, &one.frame), (&many.verdict, &many.frame));
        }
        let extra = |outcomes: &[Outcome]| -> Vec<(NicId, Vec<u8>)> {
            outcomes.iter().flat_map(|outcome| outcome.extra.clone()).collect()
        };
        prop_assert_eq!(extra(&one_by_one), extra(&together));
    }
}
