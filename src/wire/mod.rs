//! Views of protocol headers over borrowed bytes: read and edited in place, never copied.
//!
//! A view checks its length once; afterwards no accessor can fail. Numbers are host order here
//! and everywhere above. Setters leave checksums alone: a rewrite patches them with
//! [`checksum::ChecksumDelta`]. What a packet means (services, flows, drops) is not decided here.

pub mod arp;
pub mod build;
pub mod checksum;
pub mod ethernet;
pub mod gre;
pub mod gue;
pub mod icmp;
pub mod icmpv6;
pub mod ip;
pub mod ipv4;
pub mod ipv6;
pub mod pair;
pub mod plain;
pub mod tcp;
pub mod transport;
pub mod udp;
pub mod vlan;

#[cfg(test)]
mod properties;

/// Why bytes are not the header they were taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Fewer bytes than the header needs.
    #[error("header is cut short")]
    Truncated,
    /// The IP version field is not that of the header asked for.
    #[error("wrong IP version")]
    BadVersion,
    /// IHL or TCP data offset below the fixed header.
    #[error("header length below the minimum")]
    BadHeaderLength,
    /// The length field is below its header's size or beyond the bytes that arrived.
    #[error("length field does not fit the bytes")]
    BadTotalLength,
    /// The header's own checksum does not hold.
    #[error("wrong header checksum")]
    BadChecksum,
    /// An IPv6 extension header where RFC 8200 section 4.1 forbids it.
    #[error("IPv6 extension header out of place")]
    BadExtension,
    /// More IPv6 extension headers than [`crate::limits::IPV6_EXTENSIONS_MAX`].
    #[error("too many IPv6 extension headers")]
    TooManyExtensions,
    /// ARP that is not for IPv4 over Ethernet.
    #[error("address kind not supported")]
    Unsupported,
}

/// The `N` bytes at `OFFSET` of a header; that they lie inside it is checked at compile time.
fn array_at<const OFFSET: usize, const N: usize, const LEN: usize>(header: &[u8; LEN]) -> [u8; N] {
    const { assert!(OFFSET + N <= LEN, "field lies outside its header") };
    let mut field = [0; N];
    field.copy_from_slice(&header[OFFSET..OFFSET + N]);
    field
}

/// Overwrites the `N` bytes at `OFFSET`; that they lie inside is checked at compile time.
fn put_at<const OFFSET: usize, const N: usize, const LEN: usize>(
    header: &mut [u8; LEN],
    field: [u8; N],
) {
    const { assert!(OFFSET + N <= LEN, "field lies outside its header") };
    header[OFFSET..OFFSET + N].copy_from_slice(&field);
}
