//! A segment that the director says itself: written from scratch into a frame.
//!
//! It speaks for the client, for the server or for the service; who, is the caller's choice of
//! tuple. What it says on behalf of an endpoint then goes through the same rewrite as the
//! endpoint's own segments, so shifts, options and headers are applied in one place only.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use arrayvec::ArrayVec;

use super::burst::{RxMeta, Slot, Verdict};
use super::classify::{Kind, L3, Packet};
use super::flow::FlowKey;
use super::flow_table::Hit;
use super::forward;
use super::state::WorkerState;
use crate::counters::DropReason;
use crate::frame::Frame;
use crate::limits::{HEADROOM_BYTES, OUTBOX_FRAME_BYTES};
use crate::model::Snapshot;
use crate::wire::checksum::Sum;
use crate::wire::ethernet::{EtherType, Ethernet};
use crate::wire::ip::IpProtocol;
use crate::wire::ipv4::{DONT_FRAGMENT, IPV4_HEADER_BYTES, Ipv4};
use crate::wire::ipv6::{IPV6_HEADER_BYTES, Ipv6};
use crate::wire::tcp::{
    SeqNum, TCP_HEADER_BYTES, TCP_OPTIONS_BYTES_MAX, Tcp, TcpFlags, TcpOption, TcpOptions, kind,
};

/// TTL and hop limit of packets that the director sends.
pub(super) const TTL: u8 = 64;
/// Room to write and rewrite one segment in, headroom in front.
pub(super) const SCRATCH_BYTES: usize = HEADROOM_BYTES + OUTBOX_FRAME_BYTES;

/// TCP options being collected; what does not fit is left out.
#[derive(Clone, Debug, Default)]
pub(super) struct Options(ArrayVec<u8, TCP_OPTIONS_BYTES_MAX>);

impl Options {
    /// Timestamps, aligned as every stack sends them.
    pub fn timestamps(mut self, timestamps: Option<Timestamps>) -> Self {
        if let Some(Timestamps { value, echo }) = timestamps {
            self.put(&[kind::NOP, kind::NOP, kind::TIMESTAMPS, 10]);
            self.put(&value.to_be_bytes());
            self.put(&echo.to_be_bytes());
        }
        self
    }

    /// The options of a SYN, in the order and alignment of Linux's.
    pub fn syn(
        mut self,
        mss: u16,
        sack: bool,
        timestamps: Option<Timestamps>,
        window_scale: Option<u8>,
    ) -> Self {
        self.put(&[kind::MSS, 4]);
        self.put(&mss.to_be_bytes());
        if sack {
            self.put(&[kind::NOP, kind::NOP, kind::SACK_PERMITTED, 2]);
        }
        let mut options = self.timestamps(timestamps);
        if let Some(shift) = window_scale {
            options.put(&[kind::NOP, kind::WINDOW_SCALE, 3, shift]);
        }
        options
    }

    fn put(&mut self, bytes: &[u8]) {
        let _ = self.0.try_extend_from_slice(bytes);
    }
}

/// The timestamps option of a segment (RFC 7323).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timestamps {
    /// The sender's clock.
    pub value: u32,
    /// The other side's clock as last seen.
    pub echo: u32,
}

impl Timestamps {
    /// Those of a segment, if it carries any.
    pub fn of(bytes: &[u8], packet: &Packet) -> Option<Self> {
        let segment = bytes.get(packet.l4..packet.end)?;
        let (_, options, _) = Tcp::parse_with_options(segment).ok()?;
        TcpOptions::new(options).find_map(|(_, option)| match option {
            TcpOption::Timestamps { value, echo } => Some(Timestamps { value, echo }),
            _ => None,
        })
    }
}

/// What a segment says besides its tuple. It has no payload.
#[derive(Clone, Debug, Default)]
pub(super) struct Words {
    /// Sequence number.
    pub seq: SeqNum,
    /// Acknowledgment number.
    pub ack: SeqNum,
    /// Control bits.
    pub flags: TcpFlags,
    /// Window field, before scaling.
    pub window: u16,
    /// Options.
    pub options: Options,
}

/// Replaces all of `frame` behind its Ethernet addresses by a segment with `key`'s tuple; returns
/// its facts.
pub(super) fn write(frame: &mut Frame, key: &FlowKey, words: &Words) -> Result<Packet, DropReason> {
    let l4 = match key.src {
        IpAddr::V4(_) => L3 + IPV4_HEADER_BYTES,
        IpAddr::V6(_) => L3 + IPV6_HEADER_BYTES,
    };
    let tcp_bytes = TCP_HEADER_BYTES + words.options.0.len();
    let end = l4 + tcp_bytes;
    frame.set_len(end).map_err(|_| DropReason::NoHeadroom)?;
    let (mut ethernet, l3) =
        Ethernet::parse_mut(frame.bytes_mut()).map_err(|_| DropReason::Internal)?;
    let pseudo = match (key.src, key.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            ethernet.set_ether_type(EtherType::IPV4);
            ipv4_header(l3, src, dst, IpProtocol::TCP)?;
            Sum::pseudo_v4(src, dst, IpProtocol::TCP, tcp_bytes as u16)
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            ethernet.set_ether_type(EtherType::IPV6);
            ipv6_header(l3, src, dst, IpProtocol::TCP)?;
            Sum::pseudo_v6(src, dst, IpProtocol::TCP, tcp_bytes as u32)
        }
        _ => return Err(DropReason::Internal),
    };
    tcp_header(l3.get_mut(l4 - L3..).ok_or(DropReason::Internal)?, key, words, pseudo)?;
    Ok(Packet {
        kind: Kind::Transport,
        key: *key,
        l4,
        payload: end,
        end,
        ttl: TTL,
        flags: words.flags,
        seq: words.seq,
        ack: words.ack,
        piece: None,
    })
}

fn tcp_header(
    body: &mut [u8],
    key: &FlowKey,
    words: &Words,
    pseudo: Sum,
) -> Result<(), DropReason> {
    let (mut tcp, rest) = Tcp::blank(body).map_err(|_| DropReason::Internal)?;
    tcp.set_src_port(key.src_port);
    tcp.set_dst_port(key.dst_port);
    tcp.set_sequence(words.seq);
    tcp.set_acknowledgment(words.ack);
    tcp.set_flags(words.flags);
    tcp.set_window(words.window);
    tcp.set_header_bytes(TCP_HEADER_BYTES + words.options.0.len());
    rest.get_mut(..words.options.0.len())
        .ok_or(DropReason::Internal)?
        .copy_from_slice(&words.options.0);
    let checksum = pseudo.add_bytes(body).checksum();
    let (mut tcp, _) = Tcp::parse_mut(body).map_err(|_| DropReason::Internal)?;
    tcp.set_checksum(checksum);
    Ok(())
}

/// An IPv4 header over all of `l3`.
pub(super) fn ipv4_header(
    l3: &mut [u8],
    src: Ipv4Addr,
    dst: Ipv4Addr,
    protocol: IpProtocol,
) -> Result<(), DropReason> {
    let total = l3.len() as u16;
    let (mut ip, _) = Ipv4::blank(l3).map_err(|_| DropReason::Internal)?;
    if protocol == IpProtocol::TCP {
        // As Linux sends resets and cookies: "do not fragment" and id 0.
        ip.set_fragment_word(DONT_FRAGMENT);
    }
    ip.set_total_length(total);
    ip.set_ttl(TTL);
    ip.set_protocol(protocol);
    ip.set_src(src);
    ip.set_dst(dst);
    ip.set_checksum(ip.compute_checksum(&[]));
    Ok(())
}

/// An IPv6 header over all of `l3`.
pub(super) fn ipv6_header(
    l3: &mut [u8],
    src: Ipv6Addr,
    dst: Ipv6Addr,
    protocol: IpProtocol,
) -> Result<(), DropReason> {
    let payload = (l3.len() - IPV6_HEADER_BYTES.min(l3.len())) as u16;
    let (mut ip, _) = Ipv6::blank(l3).map_err(|_| DropReason::Internal)?;
    ip.set_payload_length(payload);
    ip.set_next_header(protocol);
    ip.set_hop_limit(TTL);
    ip.set_src(src);
    ip.set_dst(dst);
    Ok(())
}

/// Says something in a segment of its own, for the endpoint that `hit`'s direction comes from. It
/// is lost where the next hop is not known: whoever speaks so repeats it.
pub(super) fn speak(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    hit: Hit,
    words: &Words,
) -> Result<Packet, DropReason> {
    let key = state.flows.key(hit.id, hit.direction).ok_or(DropReason::Internal)?;
    let mut buffer = [0; SCRATCH_BYTES];
    let mut slot = scratch(&mut buffer);
    let said = write(&mut slot.frame, &key, words)?;
    slot.packet = said;
    send_besides(state, snapshot, &mut slot, hit)?;
    Ok(said)
}

/// An empty frame with headroom to write in.
pub(super) fn scratch(buffer: &mut [u8; SCRATCH_BYTES]) -> Slot<'_> {
    Slot::new(Frame::new(buffer, HEADROOM_BYTES, HEADROOM_BYTES), RxMeta::default())
}

/// Rewrites a segment of a flow that is no frame of the burst, and has it sent besides.
pub(super) fn send_besides(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    slot: &mut Slot,
    hit: Hit,
) -> Result<(), DropReason> {
    let Verdict::Transmit(nic) = forward::rewrite(state, snapshot, slot, hit)? else {
        return Err(DropReason::NextHopPending);
    };
    let bytes = slot.frame.bytes();
    state.outbox.push(nic, |frame| {
        frame.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(bytes.len())
    })
}
