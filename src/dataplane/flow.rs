//! What a flow entry holds. Plain bytes at a stable place: ids and numbers, never pointers, so
//! that a successor process can map them.
//!
//! One cache line holds all that an established IPv4 packet needs. What only handshakes and
//! endings need is in `Side`, at the same index of another array.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::limits::SERVICES_MAX;
use crate::message::FlowState;
use crate::model::{ForwardMode, GueChecksum, NextHopId, Protocol, ServerId, ServiceId, Tunnel};
use crate::pod_struct;
use crate::wire::ip::IpProtocol;
use crate::wire::pair::{AddressPair, PortPair};
use crate::wire::plain::{TupleV4, TupleV6};

/// The tuple of a packet, or of a flow as one of its directions shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
}

impl FlowKey {
    /// What an unclassified slot holds.
    pub const UNSET: FlowKey = FlowKey {
        protocol: Protocol::Tcp,
        src: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        dst: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        src_port: 0,
        dst_port: 0,
    };
}

/// Which way a packet of a flow goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Client to server.
    Inbound = 0,
    /// Server to client.
    Outbound = 1,
}

impl Direction {
    /// The other one.
    #[inline(always)]
    pub fn turned(self) -> Self {
        match self {
            Direction::Inbound => Direction::Outbound,
            Direction::Outbound => Direction::Inbound,
        }
    }
}

/// Bits of `FlowCore::flags`.
pub mod flag {
    /// Sequence numbers or timestamps are shifted: see the deltas.
    pub const ADJUST: u8 = 1;
    /// SYNPROXY: the server has not answered yet.
    pub const AWAITS_SERVER: u8 = 1 << 1;
    /// A PROXY header was inserted and is not acknowledged yet.
    pub const INSERTING: u8 = 1 << 2;
    /// The client's address still has to ride on inbound segments (TOA).
    pub const TOA: u8 = 1 << 3;
    /// Both sides have closed and know it: the source port may be reused.
    pub const CLOSED: u8 = 1 << 4;
    /// The last FIN seen came from the server.
    pub const LAST_FIN_OUTBOUND: u8 = 1 << 5;
    /// Only the client's direction passes here (IPVS: NOOUTPUT).
    pub const INPUT_ONLY: u8 = 1 << 6;
    /// The client's tuple was given to a newer flow; only the source port is still held.
    pub const DETACHED: u8 = 1 << 7;
    /// Any of these needs more than the plain rewrite.
    pub const SLOW: u8 = ADJUST | AWAITS_SERVER | INSERTING | TOA;
}

pod_struct! {
    /// The part of an entry that both families share.
    #[derive(Debug)]
    pub struct FlowCore {
        server: u32,
        service: u16,
        /// `Snapshot::timeouts_epoch` when `timeout_ms` was set.
        pub epoch: u16,
        /// Slot of the next hop towards the server.
        hop_in: u16,
        /// Slot of the next hop towards the client; `NextHopId::NONE` until looked up.
        hop_out: u16,
        /// When a packet last passed, `Nanos::as_millis_u32`.
        pub last_seen_ms: u32,
        /// Idle time after which the flow ends.
        pub timeout_ms: u32,
        /// `PortPair` of the client's packets: its port, the virtual port.
        in_ports: u32,
        /// `PortPair` of replies: the server's port, the port on the local address (FULLNAT) or
        /// the client's (NAT). The tunnel's destination port in the second's place (TUN by GUE).
        out_ports: u32,
        protocol: u8,
        state: u8,
        mode: u8,
        /// Bits of `flag`.
        pub flags: u8,
        /// Packets in both directions; wraps.
        pub packets: u32,
        /// Added to the client's sequence numbers on the way to the server.
        pub in_delta: u32,
        /// Added to the server's sequence numbers on the way to the client.
        pub out_delta: u32,
        /// Added to the client's timestamp values on the way to the server.
        pub in_ts_delta: u32,
    }
}

pod_struct! {
    layout = 3;
    /// An IPv4 flow: one cache line.
    #[repr(align(64))]
    #[derive(Debug)]
    pub struct FlowV4 {
        /// Common part.
        pub core: FlowCore,
        /// `AddressPair` of the client's packets (client, VIP), and of replies (server, local).
        /// Local is where replies go: the client's own in NAT.
        addresses: [u64; 2],
    }
}

pod_struct! {
    layout = 4;
    /// A flow with an IPv6 address in it: two cache lines.
    #[repr(align(64))]
    #[derive(Debug)]
    pub struct FlowV6 {
        /// Common part.
        pub core: FlowCore,
        /// As in `FlowV4`; an IPv4 address in its mapped form (RFC 4291 section 2.5.5.2).
        addresses: [[[u8; 16]; 2]; 2],
        /// Bits `CLIENT_IS_V4`, `SERVER_IS_V4`: a mapped address on the wire is not one of these.
        families: u8,
        spare: [u8; 15],
    }
}

pod_struct! {
    /// What only a flow's first and last packets, and SYNPROXY, need. Fields change their meaning
    /// with the flow's phase; a phase ends before the next one begins:
    /// waiting for a server (`flag::AWAITS_SERVER`: SYNPROXY), then a PROXY header on its way
    /// (`flag::INSERTING`), then nothing, then closing, then closed (`flag::CLOSED`). Where the
    /// server is never seen (DR, TUN) there is one phase, that of a SYN that comes again.
    #[derive(Debug, Default)]
    pub struct Side {
        /// Until the flow closes: the client's first sequence number, as the client knows it.
        /// Closing: the sequence number after the client's last byte, as the server saw it. Server
        /// unseen: number of a SYN that came again.
        pub client_seq: u32,
        /// Waiting: the cookie. Inserting: what the client acknowledged last. Closing: the last
        /// timestamp value the server saw.
        pub server_seq: u32,
        /// Waiting: the timestamp that the client echoed. Then, for life: added to the server's
        /// timestamp values on the way to the client.
        pub out_ts_delta: u32,
        /// Waiting, inserting: the client's timestamp value, 0 for none. Closing: the number after
        /// the last FIN, as its sender knows it; 0 when unknown. Closed: older neighbour in the
        /// list of closed flows of a source-port space.
        pub older: u32,
        /// Waiting: what the client agreed to. Inserting: the timestamp that the client echoed.
        /// Inserted: number of the client's first byte as the server knows it. Closed: newer
        /// neighbour.
        pub newer: u32,
        /// The PROXY header: its size, and `PROXY_V2`; 0 for none.
        pub header: u8,
        /// Waiting, inserting: the client's window field divided by 256.
        pub window: u8,
        /// Bits to shift the server's window field left by (signed), for life: SYNPROXY.
        pub window_shift: i8,
        /// Waiting, inserting: transmissions so far and notes about them, see `Progress`. Server
        /// unseen: how often that SYN came again.
        pub progress: u8,
    }
}

const _: () = assert!(size_of::<FlowV4>() == 64, "an IPv4 hit costs one entry line");
const _: () = assert!(size_of::<FlowV6>() == 128);
const _: () = assert!(size_of::<Side>() == 24);

/// The four addresses of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// CIP.
    pub client: IpAddr,
    /// VIP.
    pub vip: IpAddr,
    /// Where replies go: LIP, or the client in NAT; unspecified when the mode sees none.
    pub local: IpAddr,
    /// RIP.
    pub server: IpAddr,
}

/// The bits of `FlowCore::mode` that are the mode itself.
const MODE: u8 = 0b111;
/// The bits of `FlowCore::mode` that say what wraps a packet (TUN).
const TUNNEL_SHIFT: u32 = 3;
const TUNNEL: u8 = 0b111 << TUNNEL_SHIFT;
/// In FULLNAT, which has no tunnel: the source port's space is for all ports of the server.
const SHARES_PORTS: u8 = 1 << TUNNEL_SHIFT;
/// Bit of `FlowCore::mode` beside the mode itself.
const DECREMENTS_TTL: u8 = 1 << 7;
/// The bits of `FlowCore::state` that are the state itself.
const STATE: u8 = 0b1111;
/// Bit of `FlowCore::state`: told to end at once.
const DOOMED: u8 = 1 << 7;
/// Bit of `FlowCore::state`: a helper knows the flow.
const HELPED: u8 = 1 << 6;
/// Bit of `FlowCore::state`: for one datagram alone.
const ONE_PACKET: u8 = 1 << 5;
/// Bit of `FlowCore::mode`: a persistence template counts the flow.
const CONTROLLED: u8 = 1 << 6;

const _: () = assert!(SERVICES_MAX <= 1 << 16, "a flow keeps its service in 16 bits");

/// What `FlowCore::is_quiet` wants of protocol, state, mode and flags, and the bits that it looks
/// at: for TCP and UDP, inbound and outbound.
const QUIET: [[(u32, u32); 2]; 2] = {
    let tcp = u32::from_ne_bytes([IpProtocol::TCP.0, FlowState::Established as u8, 0, 0]);
    let udp = u32::from_ne_bytes([IpProtocol::UDP.0, FlowState::Udp as u8, 0, 0]);
    let inbound = u32::from_ne_bytes([0xff, 0xff, 0, !flag::INPUT_ONLY]);
    let outbound = u32::from_ne_bytes([0xff, 0xff, 0, 0xff]);
    let assures = u32::from_ne_bytes([0, 0, CONTROLLED, 0]);
    [[(tcp, inbound), (tcp, outbound)], [(udp, inbound), (udp, outbound | assures)]]
};

/// Bit of `FlowV6::families`: client and VIP are IPv4.
const CLIENT_IS_V4: u8 = 1;
/// Bit of `FlowV6::families`: server and local address are IPv4.
const SERVER_IS_V4: u8 = 1 << 1;

/// A tunnel as three bits and a port.
fn tunnel_code(tunnel: Tunnel) -> (u8, u16) {
    match tunnel {
        Tunnel::Ipip => (0, 0),
        Tunnel::Gre { checksum: false } => (1, 0),
        Tunnel::Gre { checksum: true } => (2, 0),
        Tunnel::Gue { port, checksum: GueChecksum::None } => (3, port),
        Tunnel::Gue { port, checksum: GueChecksum::Sum } => (4, port),
        Tunnel::Gue { port, checksum: GueChecksum::Remote } => (5, port),
    }
}

fn tunnel_of(code: u8, port: u16) -> Tunnel {
    match code {
        1 => Tunnel::Gre { checksum: false },
        2 => Tunnel::Gre { checksum: true },
        3 => Tunnel::Gue { port, checksum: GueChecksum::None },
        4 => Tunnel::Gue { port, checksum: GueChecksum::Sum },
        5 => Tunnel::Gue { port, checksum: GueChecksum::Remote },
        _ => Tunnel::Ipip,
    }
}

/// What admission decides about a new flow.
#[derive(Clone, Copy, Debug)]
pub struct NewFlow {
    /// Client to VIP, as the client's packet has it.
    pub key: FlowKey,
    /// Service.
    pub service: ServiceId,
    /// Server.
    pub server: ServerId,
    /// RIP and port.
    pub server_address: (IpAddr, u16),
    /// Where replies go, in modes that see them: LIP and port (FULLNAT), the client (NAT).
    pub local: Option<(IpAddr, u16)>,
    /// Mode.
    pub mode: ForwardMode,
    /// What wraps packets (TUN).
    pub tunnel: Tunnel,
    /// Whether TTL or hop limit is decremented.
    pub decrements_ttl: bool,
    /// Next hop towards the server.
    pub hop: NextHopId,
    /// Whether its source port is taken from a space for all ports of the server (FULLNAT).
    pub shares_ports: bool,
    /// Initial flags.
    pub flags: u8,
    /// Whether it is for one datagram alone: no reply finds it.
    pub one_packet: bool,
}

impl NewFlow {
    /// Whether all its addresses are IPv4.
    pub fn is_ipv4(&self) -> bool {
        self.key.src.is_ipv4() && self.server_address.0.is_ipv4()
    }
}

impl FlowCore {
    /// A fresh entry without packets.
    pub fn new(new: &NewFlow) -> Self {
        let (tunnel, tunnel_port) = match new.mode {
            ForwardMode::Tunnel => tunnel_code(new.tunnel),
            _ => (0, 0),
        };
        let shares = new.mode == ForwardMode::FullNat && new.shares_ports;
        let ttl = if new.decrements_ttl { DECREMENTS_TTL } else { 0 };
        FlowCore {
            server: new.server.0,
            service: new.service.0 as u16,
            epoch: 0,
            hop_in: new.hop.0,
            hop_out: NextHopId::NONE.0,
            last_seen_ms: 0,
            timeout_ms: 0,
            in_ports: PortPair::new(new.key.src_port, new.key.dst_port).bits(),
            out_ports: {
                let local_port = new.local.map_or(tunnel_port, |(_, port)| port);
                PortPair::new(new.server_address.1, local_port).bits()
            },
            protocol: match new.key.protocol {
                Protocol::Tcp => 6,
                Protocol::Udp => 17,
            },
            state: FlowState::None as u8 | if new.one_packet { ONE_PACKET } else { 0 },
            mode: new.mode as u8
                | tunnel << TUNNEL_SHIFT
                | if shares { SHARES_PORTS } else { 0 }
                | ttl,
            flags: new.flags,
            packets: 0,
            in_delta: 0,
            out_delta: 0,
            in_ts_delta: 0,
        }
    }

    /// Slot of the server.
    #[inline]
    pub fn server(&self) -> ServerId {
        ServerId(self.server)
    }

    /// Slot of the service.
    #[inline]
    pub fn service(&self) -> ServiceId {
        ServiceId(u32::from(self.service))
    }

    /// Next hop for one direction.
    #[inline]
    pub fn hop(&self, direction: Direction) -> NextHopId {
        NextHopId(match direction {
            Direction::Inbound => self.hop_in,
            Direction::Outbound => self.hop_out,
        })
    }

    /// Remembers (or with `NONE` forgets) the next hop towards the client.
    #[inline]
    pub fn set_hop_out(&mut self, hop: NextHopId) {
        self.hop_out = hop.0;
    }

    /// Ports of packets that go in `direction`.
    #[inline(always)]
    pub fn ports(&self, direction: Direction) -> PortPair {
        PortPair::from_bits(match direction {
            Direction::Inbound => self.in_ports,
            Direction::Outbound => self.out_ports,
        })
    }

    /// Client's port.
    #[inline]
    pub fn client_port(&self) -> u16 {
        self.ports(Direction::Inbound).src()
    }

    /// Virtual port.
    #[inline]
    pub fn virtual_port(&self) -> u16 {
        self.ports(Direction::Inbound).dst()
    }

    /// Server's port.
    #[inline]
    pub fn server_port(&self) -> u16 {
        self.ports(Direction::Outbound).src()
    }

    /// Destination port of replies: on the local address (FULLNAT), the client's (NAT). Else 0,
    /// or the tunnel's destination port (TUN by GUE).
    #[inline]
    pub fn local_port(&self) -> u16 {
        self.ports(Direction::Outbound).dst()
    }

    /// The client turned out to send from this port, where replies go in NAT too.
    pub fn set_client_port(&mut self, port: u16) {
        self.in_ports = PortPair::new(port, self.virtual_port()).bits();
        if self.mode() == ForwardMode::Nat {
            self.out_ports = PortPair::new(self.server_port(), port).bits();
        }
    }

    /// The server turned out to send from this port.
    pub fn set_server_port(&mut self, port: u16) {
        self.out_ports = PortPair::new(port, self.local_port()).bits();
    }

    /// Transport protocol.
    #[inline]
    pub fn protocol(&self) -> Protocol {
        if self.protocol == 17 { Protocol::Udp } else { Protocol::Tcp }
    }

    /// Whether it is a TCP connection.
    #[inline]
    pub fn is_tcp(&self) -> bool {
        self.protocol != 17
    }

    /// Connection state.
    #[inline]
    pub fn state(&self) -> FlowState {
        FlowState::ALL.get(usize::from(self.state & STATE)).copied().unwrap_or_default()
    }

    /// Whether a packet of that protocol and direction finds a flow that nobody has anything in
    /// mind with: an established connection or a flow of datagrams, not told to end, without
    /// helper, flags or, where a server's datagram may assure it, template.
    #[inline(always)]
    pub fn is_quiet(&self, direction: Direction, protocol: IpProtocol) -> bool {
        // TCP and UDP, 6 and 17, differ in the lowest bit.
        let (wanted, decides) = QUIET[usize::from(protocol.0 & 1)][direction as usize];
        // One word of the entry.
        let is = u32::from_ne_bytes([self.protocol, self.state, self.mode, self.flags]);
        (is ^ wanted) & decides == 0
    }

    /// Sets the connection state; timeouts and counts are the caller's.
    #[inline]
    pub fn set_state(&mut self, state: FlowState) {
        self.state = self.state & !STATE | state as u8;
    }

    /// Forwarding mode.
    #[inline]
    pub fn mode(&self) -> ForwardMode {
        // As they are numbered, so that this is no work.
        match self.mode & MODE {
            0 => ForwardMode::DirectRoute,
            1 => ForwardMode::FullNat,
            2 => ForwardMode::Nat,
            3 => ForwardMode::Tunnel,
            _ => ForwardMode::Local,
        }
    }

    /// Whether its source port's space is for all ports of the server.
    pub fn shares_ports(&self) -> bool {
        self.mode() == ForwardMode::FullNat && self.mode & SHARES_PORTS != 0
    }

    /// What wraps packets, in TUN; in other modes without meaning.
    #[inline]
    pub fn tunnel(&self) -> Tunnel {
        tunnel_of((self.mode & TUNNEL) >> TUNNEL_SHIFT, self.local_port())
    }

    /// Whether packets go on inside another one without anything between.
    #[inline(always)]
    pub fn is_in_ipip(&self) -> bool {
        self.mode & (MODE | TUNNEL) == ForwardMode::Tunnel as u8
    }

    /// Whether it was told to end at once: its timer ends it, whatever passes before.
    #[inline]
    pub fn is_doomed(&self) -> bool {
        self.state & DOOMED != 0
    }

    /// Tells it to end at once.
    pub fn doom(&mut self) {
        self.state |= DOOMED;
    }

    /// Whether persistence holds a template for it.
    #[inline]
    pub fn is_controlled(&self) -> bool {
        self.mode & CONTROLLED != 0
    }

    /// Notes whether a template counts it.
    pub fn set_controlled(&mut self, is_controlled: bool) {
        self.mode = self.mode & !CONTROLLED | if is_controlled { CONTROLLED } else { 0 };
    }

    /// Whether a helper knows the flow.
    #[inline]
    pub fn is_helped(&self) -> bool {
        self.state & HELPED != 0
    }

    /// Remembers that a helper knows the flow.
    pub fn help(&mut self) {
        self.state |= HELPED;
    }

    /// Whether it is for one datagram, scheduled by itself.
    #[inline]
    pub fn is_one_packet(&self) -> bool {
        self.state & ONE_PACKET != 0
    }

    /// Whether its server's packets are looked for.
    #[inline]
    pub fn takes_replies(&self) -> bool {
        self.mode().sees_replies() && !self.is_one_packet()
    }

    /// Whether TTL or hop limit is decremented.
    #[inline]
    pub fn decrements_ttl(&self) -> bool {
        self.mode & DECREMENTS_TTL != 0
    }

    /// Whether any of the `flag` bits in `mask` is set.
    #[inline]
    pub fn has(&self, mask: u8) -> bool {
        self.flags & mask != 0
    }

    /// Idle milliseconds left at `now_ms`, 0 when the timeout has passed.
    pub fn remaining_ms(&self, now_ms: u32) -> u32 {
        // A packet may carry a time a little ahead of the sweep's: that is no age.
        let idle = now_ms.wrapping_sub(self.last_seen_ms);
        let idle = if idle > u32::MAX / 2 { 0 } else { idle };
        self.timeout_ms.saturating_sub(idle)
    }

    /// Whether its time is up, or it was told to end.
    pub fn is_over(&self, now_ms: u32) -> bool {
        self.remaining_ms(now_ms) == 0 || self.is_doomed()
    }
}

impl FlowV4 {
    /// An entry for `new`, all of whose addresses are IPv4.
    pub fn new(new: &NewFlow) -> Self {
        let bits = |address: IpAddr| match address {
            IpAddr::V4(v4) => u32::from(v4),
            IpAddr::V6(_) => 0,
        };
        let local = new.local.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |(address, _)| address);
        FlowV4 {
            core: FlowCore::new(new),
            addresses: [
                AddressPair::new(bits(new.key.src), bits(new.key.dst)).bits(),
                AddressPair::new(bits(new.server_address.0), bits(local)).bits(),
            ],
        }
    }

    /// What a packet that goes in `direction` has.
    #[inline(always)]
    pub fn tuple(&self, direction: Direction) -> TupleV4 {
        let addresses = AddressPair::from_bits(self.addresses[direction as usize]);
        (addresses, self.core.ports(direction))
    }

    /// What it has behind the director, where addresses are translated.
    #[inline(always)]
    pub fn far_tuple(&self, direction: Direction) -> TupleV4 {
        let (addresses, ports) = self.tuple(direction.turned());
        (addresses.turned(), ports.turned())
    }

    /// Server's address, host order.
    #[inline(always)]
    pub fn server_address(&self) -> u32 {
        self.tuple(Direction::Outbound).0.src()
    }

    /// Client, virtual, local and server address.
    pub fn ip_addresses(&self) -> [IpAddr; 4] {
        let ((inbound, _), (outbound, _)) =
            (self.tuple(Direction::Inbound), self.tuple(Direction::Outbound));
        [inbound.src(), inbound.dst(), outbound.dst(), outbound.src()]
            .map(|bits| IpAddr::V4(bits.into()))
    }

    /// Whether `key` is this flow's tuple in `direction`.
    #[inline]
    pub fn matches(&self, key: &FlowKey, direction: Direction) -> bool {
        let (IpAddr::V4(src), IpAddr::V4(dst)) = (key.src, key.dst) else { return false };
        let addresses = AddressPair::new(src.into(), dst.into());
        self.tuple(direction) == (addresses, PortPair::new(key.src_port, key.dst_port))
            && self.core.protocol() == key.protocol
    }
}

impl FlowV6 {
    /// An entry for `new`, whatever its families.
    pub fn new(new: &NewFlow) -> Self {
        let bytes = |address: IpAddr| match address {
            IpAddr::V6(v6) => v6.octets(),
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        };
        let client = if new.key.src.is_ipv4() { CLIENT_IS_V4 } else { 0 };
        let server = if new.server_address.0.is_ipv4() { SERVER_IS_V4 } else { 0 };
        FlowV6 {
            core: FlowCore::new(new),
            addresses: [
                [bytes(new.key.src), bytes(new.key.dst)],
                [
                    bytes(new.server_address.0),
                    new.local.map_or([0; 16], |(address, _)| bytes(address)),
                ],
            ],
            families: client | server,
            spare: [0; 15],
        }
    }

    /// Whether none of its addresses is an IPv4 one.
    #[inline(always)]
    pub fn is_all_v6(&self) -> bool {
        self.families == 0
    }

    /// What a packet that goes in `direction` has.
    #[inline(always)]
    pub fn tuple(&self, direction: Direction) -> TupleV6 {
        (self.addresses[direction as usize], self.core.ports(direction))
    }

    /// What it has behind the director, where addresses are translated.
    #[inline(always)]
    pub fn far_tuple(&self, direction: Direction) -> TupleV6 {
        let ([src, dst], ports) = self.tuple(direction.turned());
        ([dst, src], ports.turned())
    }

    /// Server's address.
    #[inline(always)]
    pub fn server_address(&self) -> [u8; 16] {
        self.addresses[Direction::Outbound as usize][0]
    }

    /// Whether `key` is this flow's tuple in `direction`.
    #[inline]
    pub fn matches(&self, key: &FlowKey, direction: Direction) -> bool {
        let ([src, dst], ports) = self.tuple(direction);
        let v4 = match direction {
            Direction::Inbound => self.families & CLIENT_IS_V4 != 0,
            Direction::Outbound => self.families & SERVER_IS_V4 != 0,
        };
        ports == PortPair::new(key.src_port, key.dst_port)
            && is_same(key.src, &src, v4)
            && is_same(key.dst, &dst, v4)
            && self.core.protocol() == key.protocol
    }

    /// Client, virtual, local and server address, each of its own family.
    pub fn ip_addresses(&self) -> [IpAddr; 4] {
        let address = |bytes: [u8; 16], bit: u8| {
            let v6 = Ipv6Addr::from(bytes);
            let mapped = v6.to_ipv4_mapped().filter(|_| self.families & bit != 0);
            mapped.map_or(IpAddr::V6(v6), IpAddr::V4)
        };
        let [[client, vip], [server, local]] = self.addresses;
        [
            address(client, CLIENT_IS_V4),
            address(vip, CLIENT_IS_V4),
            address(local, SERVER_IS_V4),
            address(server, SERVER_IS_V4),
        ]
    }
}

/// Whether `address` is the one stored as `bytes` of that family.
#[inline]
fn is_same(address: IpAddr, bytes: &[u8; 16], is_v4: bool) -> bool {
    match address {
        IpAddr::V6(v6) => !is_v4 && v6.octets() == *bytes,
        IpAddr::V4(v4) => is_v4 && v4.to_ipv6_mapped().octets() == *bytes,
    }
}
