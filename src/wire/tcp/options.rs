//! TCP options, read and rewritten where they stand. A malformed one ends the list, as it does
//! for the kernel; adding and removing options is for whoever owns the frame.

use super::SeqNum;

/// Option kinds (IANA).
pub mod kind {
    /// End of the list.
    pub const END: u8 = 0;
    /// Padding.
    pub const NOP: u8 = 1;
    /// Maximum segment size.
    pub const MSS: u8 = 2;
    /// Window scale (RFC 7323).
    pub const WINDOW_SCALE: u8 = 3;
    /// Selective acknowledgment permitted (RFC 2018).
    pub const SACK_PERMITTED: u8 = 4;
    /// Selective acknowledgment.
    pub const SACK: u8 = 5;
    /// Timestamps (RFC 7323).
    pub const TIMESTAMPS: u8 = 8;
    /// TCP-AO (RFC 5925), whose signature no rewrite survives.
    pub const AUTHENTICATION: u8 = 29;
    /// Multipath TCP (RFC 8684).
    pub const MULTIPATH: u8 = 30;
    /// TCP Fast Open cookie (RFC 7413).
    pub const FAST_OPEN: u8 = 34;
    /// MD5 signature (RFC 2385), whose signature no rewrite survives.
    pub const MD5: u8 = 19;
}

/// One option. A known kind of the wrong size is `Other`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpOption<'a> {
    /// One byte of padding.
    Nop,
    /// Largest segment the sender takes, in bytes.
    Mss(u16),
    /// Shift count for the sender's windows; above 14 means 14 (RFC 7323 section 2.3).
    WindowScale(u8),
    /// The sender can do with selective acknowledgments.
    SackPermitted,
    /// Blocks that arrived out of order.
    Sack(SackBlocks<'a>),
    /// Timestamps.
    Timestamps {
        /// The sender's clock.
        value: u32,
        /// The other side's clock as last seen; counts when ACK is set.
        echo: u32,
    },
    /// Any other.
    Other {
        /// Its kind.
        kind: u8,
        /// What follows kind and length.
        data: &'a [u8],
    },
}

/// The blocks of a selective acknowledgment: one to four as sent, as many as fit as read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SackBlocks<'a>(&'a [[u8; 8]]);

impl<'a> SackBlocks<'a> {
    /// Left edge (first byte of the block) and right edge (first byte after it) of each.
    pub fn iter(&self) -> impl Iterator<Item = (SeqNum, SeqNum)> + use<'a> {
        self.0.iter().map(|&[a, b, c, d, e, f, g, h]| {
            (SeqNum(u32::from_be_bytes([a, b, c, d])), SeqNum(u32::from_be_bytes([e, f, g, h])))
        })
    }
}

/// Goes over options; yields each with its offset from the start of the options.
#[derive(Clone, Debug)]
pub struct TcpOptions<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> TcpOptions<'a> {
    /// Over what [`Tcp::parse_with_options`](super::Tcp::parse_with_options) gave.
    pub fn new(bytes: &'a [u8]) -> Self {
        TcpOptions { bytes, offset: 0 }
    }

    /// Where the next option would start. After the last one: the bytes in use, before the end
    /// mark or what is malformed.
    pub fn offset(&self) -> usize {
        self.offset
    }
}

impl<'a> Iterator for TcpOptions<'a> {
    type Item = (usize, TcpOption<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.bytes.get(self.offset..)?;
        let bytes = option_bytes(rest)?;
        let option = read(rest.get(..bytes)?)?;
        let offset = self.offset;
        self.offset += bytes;
        Some((offset, option))
    }
}

/// One option to be edited.
#[derive(Debug, PartialEq, Eq)]
pub struct TcpOptionMut<'a> {
    /// From the start of the options, in bytes. An odd one matters to checksums, see
    /// [`ChecksumDelta::replace_bytes_at`](crate::wire::checksum::ChecksumDelta::replace_bytes_at);
    /// `data` starts two bytes on.
    pub offset: usize,
    /// Its kind; never `NOP` or `END`.
    pub kind: u8,
    /// What follows kind and length.
    pub data: &'a mut [u8],
}

/// Goes over options to edit them; padding is passed over.
#[derive(Debug)]
pub struct TcpOptionsMut<'a> {
    rest: &'a mut [u8],
    offset: usize,
}

impl<'a> TcpOptionsMut<'a> {
    /// Over what [`Tcp::parse_with_options_mut`](super::Tcp::parse_with_options_mut) gave.
    pub fn new(bytes: &'a mut [u8]) -> Self {
        TcpOptionsMut { rest: bytes, offset: 0 }
    }
}

impl<'a> Iterator for TcpOptionsMut<'a> {
    type Item = TcpOptionMut<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let bytes = option_bytes(self.rest)?;
            let (option, rest) = std::mem::take(&mut self.rest).split_at_mut_checked(bytes)?;
            let offset = self.offset;
            self.rest = rest;
            self.offset += bytes;
            if let [kind, _, data @ ..] = option {
                return Some(TcpOptionMut { offset, kind: *kind, data });
            }
        }
    }
}

/// Size of the option at the start of `rest`; none at the end of the list or when it is malformed.
fn option_bytes(rest: &[u8]) -> Option<usize> {
    match *rest {
        [] | [kind::END, ..] => None,
        [kind::NOP, ..] => Some(1),
        [_, length, ..] => {
            let bytes = usize::from(length);
            (2..=rest.len()).contains(&bytes).then_some(bytes)
        }
        [_] => None,
    }
}

fn read(option: &[u8]) -> Option<TcpOption<'_>> {
    let [kind, data @ ..] = option else { return None };
    let data = data.get(1..).unwrap_or_default();
    Some(match (*kind, data) {
        (kind::NOP, _) => TcpOption::Nop,
        (kind::MSS, &[a, b]) => TcpOption::Mss(u16::from_be_bytes([a, b])),
        (kind::WINDOW_SCALE, &[shift]) => TcpOption::WindowScale(shift),
        (kind::SACK_PERMITTED, []) => TcpOption::SackPermitted,
        (kind::SACK, blocks) if is_sack(blocks) => {
            TcpOption::Sack(SackBlocks(blocks.as_chunks().0))
        }
        (kind::TIMESTAMPS, &[a, b, c, d, e, f, g, h]) => TcpOption::Timestamps {
            value: u32::from_be_bytes([a, b, c, d]),
            echo: u32::from_be_bytes([e, f, g, h]),
        },
        (kind, data) => TcpOption::Other { kind, data },
    })
}

fn is_sack(blocks: &[u8]) -> bool {
    !blocks.is_empty() && blocks.len().is_multiple_of(8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// MSS, SACK permitted, timestamps, padding, window scale: a Linux SYN's.
    const SYN_OPTIONS: [u8; 20] = [
        0x02, 0x04, 0x05, 0xb4, 0x04, 0x02, 0x08, 0x0a, 0x00, 0x00, 0x03, 0xe8, 0x00, 0x00, 0x00,
        0x00, 0x01, 0x03, 0x03, 0x07,
    ];

    #[test]
    fn linux_syn_options_come_with_their_offsets() {
        let mut options = TcpOptions::new(&SYN_OPTIONS);
        assert_eq!(options.next(), Some((0, TcpOption::Mss(1460))));
        assert_eq!(options.next(), Some((4, TcpOption::SackPermitted)));
        let timestamps = TcpOption::Timestamps { value: 1000, echo: 0 };
        assert_eq!(options.next(), Some((6, timestamps)));
        assert_eq!(options.next(), Some((16, TcpOption::Nop)));
        assert_eq!(options.next(), Some((17, TcpOption::WindowScale(7))));
        assert_eq!(options.next(), None);
        assert_eq!(options.offset(), 20);
    }

    #[test]
    fn malformed_option_ends_the_list() {
        for bad in [&[8, 0][..], &[8, 1], &[8, 10, 0], &[8]] {
            let mut bytes = [1; 5];
            bytes[1..=bad.len()].copy_from_slice(bad);
            let mut options = TcpOptions::new(&bytes[..=bad.len()]);
            assert_eq!(options.next(), Some((0, TcpOption::Nop)));
            assert_eq!(options.next(), None, "{bad:?}");
            assert_eq!(options.offset(), 1);
        }
    }

    #[test]
    fn end_mark_ends_the_list() {
        let mut options = TcpOptions::new(&[1, 0, 4, 2]);
        assert_eq!(options.by_ref().count(), 1);
        assert_eq!(options.offset(), 1);
    }

    #[test]
    fn known_kind_of_wrong_size_is_other() {
        let (_, option) = TcpOptions::new(&[2, 3, 9]).next().unwrap();
        assert_eq!(option, TcpOption::Other { kind: kind::MSS, data: &[9] });
        let (_, option) = TcpOptions::new(&[5, 4, 9, 9]).next().unwrap();
        assert_eq!(option, TcpOption::Other { kind: kind::SACK, data: &[9, 9] });
    }

    #[test]
    fn sack_blocks_are_edges() {
        let bytes = [1, 1, 5, 18, 0, 0, 0, 1, 0, 0, 0, 2, 0xff, 0, 0, 0, 0xff, 0, 0, 9];
        let Some((2, TcpOption::Sack(blocks))) = TcpOptions::new(&bytes).nth(2) else {
            panic!("no SACK");
        };
        let edges: Vec<_> = blocks.iter().map(|(left, right)| (left.0, right.0)).collect();
        assert_eq!(edges, [(1, 2), (0xff00_0000, 0xff00_0009)]);
    }

    #[test]
    fn timestamps_are_edited_where_they_stand() {
        let mut bytes = SYN_OPTIONS;
        for option in TcpOptionsMut::new(&mut bytes) {
            if option.kind == kind::TIMESTAMPS {
                assert_eq!(option.offset, 6);
                option.data[..4].copy_from_slice(&7_u32.to_be_bytes());
            }
        }
        let edited = TcpOption::Timestamps { value: 7, echo: 0 };
        assert_eq!(TcpOptions::new(&bytes).nth(2), Some((6, edited)));
        assert_eq!(TcpOptionsMut::new(&mut bytes).count(), 4, "padding is passed over");
    }
}
