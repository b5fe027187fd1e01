//! Options of SYNs: what they offer, and what a service's servers are known to take.

use super::super::classify::Packet;
use super::super::mss;
use super::super::segment::Timestamps;
use super::cookie::Agreed;
use crate::model::{NicModel, VirtualService};
use crate::wire::tcp::{Tcp, TcpOption, TcpOptions, kind};

/// The window scale that cookies offer. It must be the same whenever the ACK comes back, so it is
/// not the server's; the difference is made up in every later segment.
pub(super) const OFFERED_SCALE: u8 = 7;
/// TCP and IP headers without options.
const HEADERS_BYTES: [u16; 2] = [40, 60];
/// Ethernet's MTU: what servers are taken to have until they say otherwise.
const MTU_ASSUMED: u16 = 1500;

/// A smaller MSS is no stack's (Linux's own floor is 48).
const MSS_LEAST: u16 = 64;

const MISSES_SCALE: u8 = 1;
const MISSES_SACK: u8 = 1 << 1;
const MISSES_TIMESTAMPS: u8 = 1 << 2;

/// The options of a SYN or SYN-ACK.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SynOptions {
    pub mss: Option<u16>,
    pub window_scale: Option<u8>,
    pub sack: bool,
    pub timestamps: Option<Timestamps>,
}

impl SynOptions {
    pub fn of(bytes: &[u8], packet: &Packet) -> Self {
        let segment = bytes.get(packet.l4..packet.end).unwrap_or_default();
        match Tcp::parse_with_options(segment) {
            Ok((_, options, _)) => SynOptions::read(options),
            Err(_) => SynOptions::default(),
        }
    }

    /// What stands between a TCP header and its payload.
    #[inline(always)]
    pub fn read(options: &[u8]) -> Self {
        // What scanners send, and Linux.
        match *options {
            [] => SynOptions::default(),
            [kind::MSS, 4, high, low] => {
                let mss = Some(u16::from_be_bytes([high, low]));
                SynOptions { mss, ..SynOptions::default() }
            }
            _ => SynOptions::linux(options).unwrap_or_else(|| SynOptions::any(options)),
        }
    }

    /// MSS, SACK permitted, timestamps, padding, window scale: nothing else, and in this order.
    #[inline]
    fn linux(options: &[u8]) -> Option<Self> {
        let options: &[u8; 20] = options.try_into().ok()?;
        let word = |at: usize| {
            let bytes = [options[at], options[at + 1], options[at + 2], options[at + 3]];
            u32::from_be_bytes(bytes)
        };
        let (mss, scale) = (word(0), word(16));
        let heads = (mss >> 16, word(4), scale >> 8);
        let wanted = (
            u32::from_be_bytes([0, 0, kind::MSS, 4]),
            u32::from_be_bytes([kind::SACK_PERMITTED, 2, kind::TIMESTAMPS, 10]),
            u32::from_be_bytes([0, kind::NOP, kind::WINDOW_SCALE, 3]),
        );
        (heads == wanted).then(|| SynOptions {
            mss: Some(mss as u16),
            window_scale: Some((scale as u8).min(14)),
            sack: true,
            timestamps: Some(Timestamps { value: word(8), echo: word(12) }),
        })
    }

    fn any(options: &[u8]) -> Self {
        let mut found = SynOptions::default();
        for (_, option) in TcpOptions::new(options) {
            match option {
                TcpOption::Mss(mss) => found.mss = Some(mss),
                TcpOption::WindowScale(shift) => found.window_scale = Some(shift.min(14)),
                TcpOption::SackPermitted => found.sack = true,
                TcpOption::Timestamps { value, echo } => {
                    found.timestamps = Some(Timestamps { value, echo });
                }
                _ => {}
            }
        }
        found
    }

    /// Whether a server's SYN-ACK takes up what was agreed with the client. SACK may be missing:
    /// blocks that nobody reads do no harm.
    pub fn covers(&self, agreed: &Agreed) -> bool {
        (self.window_scale.is_some() || agreed.window_scale.is_none())
            && (self.timestamps.is_some() || !agreed.timestamps)
    }
}

/// What a service's servers take, as far as a worker has seen. It starts as what every current
/// stack has, and shrinks by what a server leaves out: the client of that first connection is
/// reset, the next one is not offered the option any more. A change of the servers starts afresh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Profile {
    /// Smallest MSS seen; 0 before the first.
    mss: u16,
    /// Bits `MISSES_*`.
    misses: u8,
    /// The change of the service that this is about.
    change: u64,
    /// Bytes of TCP and IP header on either side, the larger; 0 before the first client.
    header_bytes: u16,
}

impl Profile {
    /// Starts afresh where the servers have changed.
    pub fn catch_up(&mut self, service: &VirtualService) {
        let change = service.changes.next();
        if self.change != change || self.header_bytes == 0 {
            // Servers of the other family (FULLNAT) may have the longer header.
            let is_short = service.is_ipv4() && service.servers.iter().all(|s| s.address.is_ipv4());
            let header_bytes = HEADERS_BYTES[usize::from(!is_short)];
            *self = Profile { change, header_bytes, ..Profile::default() };
        }
    }

    /// What client and servers have in common. After `catch_up`.
    #[inline(always)]
    pub fn agree(&self, service: &VirtualService, offer: &SynOptions) -> Agreed {
        let has = |bit: u8| self.misses & bit == 0;
        let default = || if service.is_ipv4() { 536 } else { 1220 };
        Agreed {
            mss_index: mss::index_of(offer.mss.unwrap_or_else(default)),
            window_scale: offer.window_scale.filter(|_| has(MISSES_SCALE)),
            sack: offer.sack && has(MISSES_SACK),
            timestamps: offer.timestamps.is_some() && has(MISSES_TIMESTAMPS),
        }
    }

    /// The MSS to tell clients, once something was agreed.
    pub fn mss(&self, service: &VirtualService, nic: &NicModel) -> u16 {
        let headers = self.header_bytes;
        let assumed = MTU_ASSUMED - headers;
        let mss = if self.mss == 0 { assumed } else { self.mss };
        mss.min(nic.mtu.saturating_sub(headers)).min(service.mss_max.unwrap_or(u16::MAX))
    }

    /// Takes note of a server's answer to a SYN that carried what was agreed.
    pub fn learn(&mut self, service: &VirtualService, agreed: &Agreed, answer: &SynOptions) {
        self.catch_up(service);
        let default = if service.is_ipv4() { 536 } else { 1220 };
        let mss = answer.mss.unwrap_or(default).max(MSS_LEAST);
        self.mss = if self.mss == 0 { mss } else { self.mss.min(mss) };
        let misses = [
            (agreed.window_scale.is_some() && answer.window_scale.is_none(), MISSES_SCALE),
            (agreed.sack && !answer.sack, MISSES_SACK),
            (agreed.timestamps && answer.timestamps.is_none(), MISSES_TIMESTAMPS),
        ];
        for (missing, bit) in misses {
            if missing {
                self.misses |= bit;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINUX: [u8; 20] = [
        0x02, 0x04, 0x05, 0xb4, 0x04, 0x02, 0x08, 0x0a, 0x00, 0x00, 0x03, 0xe8, 0x00, 0x00, 0x00,
        0x05, 0x01, 0x03, 0x03, 0x0f,
    ];

    #[test]
    fn usual_options_are_read_as_any_others() {
        let found = SynOptions::read(&LINUX);
        let timestamps = Some(Timestamps { value: 1000, echo: 5 });
        let wanted = SynOptions { mss: Some(1460), window_scale: Some(14), sack: true, timestamps };
        assert_eq!(found, wanted);
        // Cut anywhere, and with any byte another one.
        for bytes in 0..=LINUX.len() {
            assert_eq!(SynOptions::read(&LINUX[..bytes]), SynOptions::any(&LINUX[..bytes]));
            for value in 0..=u8::MAX {
                let mut other = LINUX;
                other[bytes.min(19)] = value;
                assert_eq!(SynOptions::read(&other), SynOptions::any(&other), "{other:02x?}");
                assert_eq!(SynOptions::read(&other[..4]), SynOptions::any(&other[..4]));
            }
        }
    }
}
