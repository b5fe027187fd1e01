//! A TCP segment as a test reads it off a frame, with every length and checksum checked.

use std::net::IpAddr;

use gyre::wire::checksum::Sum;
use gyre::wire::ethernet::{EtherType, Ethernet};
use gyre::wire::ip::IpProtocol;
use gyre::wire::ipv4::Ipv4;
use gyre::wire::ipv6::Ipv6;
use gyre::wire::tcp::{Tcp, TcpFlags, TcpOption, TcpOptions};

/// Largest IP packet on every link of the tests.
pub const MTU: usize = 1500;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    pub src: Option<(IpAddr, u16)>,
    pub dst: Option<(IpAddr, u16)>,
    pub seq: u32,
    pub ack: u32,
    pub flags: TcpFlags,
    pub window: u16,
    pub mss: Option<u16>,
    pub scale: Option<u8>,
    pub sack_permitted: bool,
    pub sacks: Vec<(u32, u32)>,
    pub timestamps: Option<(u32, u32)>,
    /// Kind and data of options that are none of the above.
    pub others: Vec<(u8, Vec<u8>)>,
    pub payload: Vec<u8>,
}

impl Segment {
    /// Reads a frame that the director sent; panics on what no receiver would take.
    pub fn read(frame: &[u8]) -> Segment {
        let (ethernet, l3) = Ethernet::parse(frame).unwrap();
        let (src, dst, body, pseudo): (IpAddr, IpAddr, _, _) = match ethernet.ether_type() {
            EtherType::IPV4 => {
                let (ip, options, body) = Ipv4::parse_with_options(l3).unwrap();
                ip.verify_checksum(options).unwrap();
                assert!(usize::from(ip.total_length()) <= MTU, "outgrew the MTU");
                let length = body.len() as u16;
                let pseudo = Sum::pseudo_v4(ip.src(), ip.dst(), IpProtocol::TCP, length);
                (ip.src().into(), ip.dst().into(), body, pseudo)
            }
            EtherType::IPV6 => {
                let (ip, body) = Ipv6::parse(l3).unwrap();
                assert!(usize::from(ip.payload_length()) + 40 <= MTU, "outgrew the MTU");
                let length = body.len() as u32;
                let pseudo = Sum::pseudo_v6(ip.src(), ip.dst(), IpProtocol::TCP, length);
                (ip.src().into(), ip.dst().into(), body, pseudo)
            }
            other => panic!("{other:?}"),
        };
        assert!(pseudo.add_bytes(body).holds(), "TCP checksum");
        let (tcp, options, payload) = Tcp::parse_with_options(body).unwrap();
        let mut segment = Segment {
            src: Some((src, tcp.src_port())),
            dst: Some((dst, tcp.dst_port())),
            seq: tcp.sequence().0,
            ack: tcp.acknowledgment().0,
            flags: tcp.flags(),
            window: tcp.window(),
            payload: payload.to_vec(),
            ..Segment::default()
        };
        segment.read_options(options);
        segment
    }

    fn read_options(&mut self, options: &[u8]) {
        for (_, option) in TcpOptions::new(options) {
            match option {
                TcpOption::Nop => {}
                TcpOption::Mss(mss) => self.mss = Some(mss),
                TcpOption::WindowScale(shift) => self.scale = Some(shift),
                TcpOption::SackPermitted => self.sack_permitted = true,
                TcpOption::Sack(blocks) => {
                    self.sacks = blocks.iter().map(|(left, right)| (left.0, right.0)).collect();
                }
                TcpOption::Timestamps { value, echo } => self.timestamps = Some((value, echo)),
                TcpOption::Other { kind, data } => self.others.push((kind, data.to_vec())),
            }
        }
    }

    pub fn has(&self, flags: TcpFlags) -> bool {
        self.flags.contains(flags)
    }

    /// Sequence space that it takes.
    pub fn space(&self) -> u32 {
        self.payload.len() as u32
            + u32::from(self.has(TcpFlags::SYN))
            + u32::from(self.has(TcpFlags::FIN))
    }
}
