//! What IPv4 and IPv6 share: protocol numbers and the facts of a fragment.

/// What an IP packet carries (IANA protocol numbers).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IpProtocol(pub u8);

impl IpProtocol {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: IpProtocol = IpProtocol(0);
    /// ICMP for IPv4.
    pub const ICMP: IpProtocol = IpProtocol(1);
    /// IPv4 in IP.
    pub const IPV4: IpProtocol = IpProtocol(4);
    /// TCP.
    pub const TCP: IpProtocol = IpProtocol(6);
    /// UDP.
    pub const UDP: IpProtocol = IpProtocol(17);
    /// The header that has DPVS's UOA option before IPv6's UDP (not IANA's).
    pub const UOA: IpProtocol = IpProtocol(248);
    /// IPv6 in IP.
    pub const IPV6: IpProtocol = IpProtocol(41);
    /// IPv6 routing header.
    pub const ROUTING: IpProtocol = IpProtocol(43);
    /// IPv6 fragment header.
    pub const FRAGMENT: IpProtocol = IpProtocol(44);
    /// GRE.
    pub const GRE: IpProtocol = IpProtocol(47);
    /// IPsec encapsulating security payload.
    pub const ESP: IpProtocol = IpProtocol(50);
    /// IPsec authentication header.
    pub const AH: IpProtocol = IpProtocol(51);
    /// ICMP for IPv6.
    pub const ICMPV6: IpProtocol = IpProtocol(58);
    /// IPv6: nothing follows.
    pub const NONE: IpProtocol = IpProtocol(59);
    /// IPv6 destination options.
    pub const DESTINATION: IpProtocol = IpProtocol(60);
    /// SCTP.
    pub const SCTP: IpProtocol = IpProtocol(132);
}

/// Where a fragment belongs in its datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fragment {
    /// Identification: 16 bits in IPv4, 32 in IPv6.
    pub id: u32,
    /// Offset of this piece's payload in the datagram's, in bytes.
    pub offset_bytes: u16,
    /// Whether further pieces follow.
    pub more: bool,
}

impl Fragment {
    /// Whether this piece starts the datagram, and so has the transport header.
    pub fn is_first(&self) -> bool {
        self.offset_bytes == 0
    }

    /// Whether the piece is the whole datagram: an IPv6 atomic fragment (RFC 6946), to be handled
    /// apart from any others with its id.
    pub fn is_atomic(&self) -> bool {
        self.offset_bytes == 0 && !self.more
    }
}
