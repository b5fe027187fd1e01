//! Clients and servers: what they make of what they hear.

use std::net::IpAddr;

use gyre::counters::DropReason;
use gyre::model::*;
use gyre::wire::build::{IpBuilder, PacketBuilder};
use gyre::wire::tcp::TcpFlags;

use crate::endpoint::{Endpoint, State};
use crate::link::{Heard, complain, hear, piece};
use crate::plan::{Mix, SERVER_STACK, rip};
use crate::segment::Segment;
use crate::support::*;
use crate::talk::{Face, Fate};
use crate::world::World;

impl World {
    /// Now and then somebody complains about a frame that the director sent.
    pub(super) fn complain(&mut self, nic: NicId, talk: usize, bytes: &[u8]) {
        let is_error = matches!(hear(bytes), Heard::Error(..) | Heard::Unreachable(_));
        // In DR what servers and clients send each other does not pass the director.
        let direct = self.talks[talk]
            .face
            .is_none_or(|face| nic == SERVER && face.dst == self.talks[talk].service_at());
        if !is_error && !direct && self.random.one_in(12) {
            let error = complain(bytes, nic, &mut self.random);
            self.send(nic, talk, error);
        }
    }

    /// An error tells its receiver of a packet as it sent that itself.
    fn error_fits(&self, nic: NicId, at: usize, [_, to]: [IpAddr; 2], about: [(IpAddr, u16); 2]) {
        let talk = &self.talks[at];
        if nic == CLIENT {
            assert_eq!((to, about), (talk.client.0, [talk.client, talk.service_at()]));
        } else if let Some(face) = talk.face.filter(|_| talk.fate == Fate::Open)
            && !talk.service.one_packet
        {
            assert_eq!((to, about), (face.dst.0, [face.dst, face.src]));
        }
    }

    /// What a frame makes whole, and what somebody complains about.
    fn whole(&mut self, nic: NicId, at: usize, bytes: &[u8]) -> Option<Vec<u8>> {
        let is_fragment = piece(bytes).is_fragment();
        let whole = self.ends[nic.index()].take(bytes.to_vec())?;
        if !is_fragment {
            self.complain(nic, at, &whole);
        }
        Some(whole)
    }

    pub(super) fn client_hears(&mut self, at: usize, bytes: &[u8]) {
        let Some(bytes) = &self.whole(CLIENT, at, bytes) else { return };
        let heard = hear(bytes);
        if let Heard::Error(ends, about) = heard {
            return self.error_fits(CLIENT, at, ends, about);
        }
        let now_us = self.now_us;
        let talk = &mut self.talks[at];
        if talk.fate != Fate::Open {
            return;
        }
        let is_one_way = talk.is_one_way();
        match (heard, &mut talk.tcp) {
            (Heard::Tcp(segment), Some(tcp)) => {
                assert_eq!(segment.src, Some(tcp.peer));
                tcp.receive(&segment, now_us);
                if tcp.state == State::Reset {
                    self.was_reset(at);
                }
            }
            (Heard::Udp(src, _, payload), None) => {
                assert_eq!(src, talk.service_at());
                assert!(!is_one_way, "the answer to one packet was translated");
                talk.hear(&payload);
                if talk.is_over(None) {
                    talk.fate = Fate::Done;
                }
            }
            (Heard::Unreachable(_), _) => {
                assert!(self.plan.mix == Mix::Changes, "there were servers");
                talk.fate = Fate::Refused;
            }
            (other, _) => panic!("the client got {other:?}"),
        }
        self.speak(at);
    }

    /// A client may be reset for want of a source port, or because its server was taken away.
    fn was_reset(&mut self, at: usize) {
        let ports = self.team.drops(DropReason::NoSourcePort) > 0;
        let changes = self.plan.mix == Mix::Changes;
        assert!(ports || changes, "talk {at} was reset for no reason");
        self.talks[at].fate = if ports { Fate::Refused } else { Fate::Cut };
    }

    /// A frame reaches a server: the one of that MAC address, or the director's own kernel.
    pub(super) fn server_hears(&mut self, at: usize, (own, bytes): (Option<IpAddr>, &[u8])) {
        let Some(bytes) = &self.whole(SERVER, at, bytes) else { return };
        let of_frame = |src: IpAddr| own.unwrap_or(rip(usize::from(src.is_ipv6()), bytes[5]));
        match hear(bytes) {
            Heard::Tcp(segment) => {
                let (src, dst) = (segment.src.unwrap(), segment.dst.unwrap());
                self.tcp_server(at, Face { server: of_frame(src.0), src, dst }, &segment);
            }
            Heard::Udp(src, dst, payload) => {
                let server = of_frame(src.0);
                let talk = &mut self.talks[at];
                if talk.is_one_way() && talk.fate == Fate::Open {
                    talk.hear(&payload);
                    talk.fate = if talk.is_over(None) { Fate::Done } else { Fate::Open };
                }
                let echo = from_server(server, src.0);
                // The server answers from the address that it was asked at.
                let echo = if dst.0 == server { echo } else { from_vip(server, dst.0, src.0) };
                let echo = echo.udp(dst.1, src.1).payload(&payload).build().to_vec();
                self.server_sends(at, Face { server, src, dst }, echo);
            }
            Heard::Error(ends, about) => self.error_fits(SERVER, at, ends, about),
            other => panic!("the server got {other:?}"),
        }
        self.speak(at);
    }

    fn tcp_server(&mut self, at: usize, face: Face, segment: &Segment) {
        let now_us = self.now_us;
        if let Some(server) = self.servers.get_mut(&(at, face)) {
            if self.talks[at].fate == Fate::Open {
                server.receive(segment, now_us);
            }
            return;
        }
        if !segment.has(TcpFlags::SYN) {
            return;
        }
        let busy = |((other, its), server): (&(usize, Face), &Endpoint)| {
            *its == face && self.talks[*other].fate == Fate::Open && !server.is_done()
        };
        assert!(!self.servers.iter().any(busy), "the server has a connection with {face:?}");
        if let Some((next, stamp)) = self.time_wait.get(&face) {
            // RFC 9293 section 3.10.7.4 and RFC 6191, as Linux has them.
            let is_above = (segment.seq.wrapping_sub(*next) as i32) > 0;
            let value = segment.timestamps.filter(|_| *stamp != 0).map(|(value, _)| value);
            let is_later = value.is_none_or(|value| value.wrapping_sub(*stamp) as i32 >= 0);
            assert!(is_above && is_later, "refused in TIME_WAIT: {segment:?}, {next} {stamp}");
        }
        let macs = (server_mac(face.server), director_mac(SERVER));
        let seed = self.random.below(1 << 32) as u32;
        let server = Endpoint::accept(segment, macs, (SERVER_STACK, seed), now_us);
        self.servers.insert((at, face), server);
    }
}

/// A packet from a server under the VIP, as in DR.
fn from_vip(server: IpAddr, vip: IpAddr, client: IpAddr) -> IpBuilder {
    let packet = PacketBuilder::new().ethernet(server_mac(server), director_mac(SERVER));
    packet.ip(vip, client).unwrap()
}
