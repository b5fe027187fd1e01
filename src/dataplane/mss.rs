//! Maximum segment sizes: read, lowered in flight, and kept in three bits.

use super::classify::Packet;
use crate::counters::DropReason;
use crate::wire::checksum::ChecksumDelta;
use crate::wire::tcp::{Tcp, TcpOption, TcpOptions, TcpOptionsMut, kind};

/// Sizes that three bits can name, rounding down: the defaults of both families, and what common
/// links give with and without tunnels.
const TABLE: [u16; 8] = [256, 536, 1220, 1340, 1400, 1440, 1460, 8960];

/// The name of the largest size in the table that is not above `mss`.
#[inline]
pub(super) fn index_of(mss: u16) -> u8 {
    TABLE.iter().skip(1).map(|size| u8::from(*size <= mss)).sum()
}

/// The size that three bits name.
pub(super) fn by_index(index: u8) -> u16 {
    TABLE[usize::from(index) % TABLE.len()]
}

/// The MSS option of a segment.
pub(super) fn of(bytes: &[u8], packet: &Packet) -> Option<u16> {
    let segment = bytes.get(packet.l4..packet.end)?;
    let (_, options, _) = Tcp::parse_with_options(segment).ok()?;
    TcpOptions::new(options).find_map(|(_, option)| match option {
        TcpOption::Mss(mss) => Some(mss),
        _ => None,
    })
}

/// Lowers the MSS option of a SYN by `by` bytes. Without the option the default holds, which is
/// small enough.
pub(super) fn lower(bytes: &mut [u8], packet: &Packet, by: u16) -> Result<(), DropReason> {
    change(bytes, packet, |mss| mss.saturating_sub(by))
}

/// Lowers the MSS option of a SYN to `max`, if it is above.
pub(super) fn limit(bytes: &mut [u8], packet: &Packet, max: u16) -> Result<(), DropReason> {
    change(bytes, packet, |mss| mss.min(max))
}

fn change(bytes: &mut [u8], packet: &Packet, to: impl Fn(u16) -> u16) -> Result<(), DropReason> {
    let segment = bytes.get_mut(packet.l4..packet.end).ok_or(DropReason::Internal)?;
    let (mut tcp, options, _) =
        Tcp::parse_with_options_mut(segment).map_err(|_| DropReason::Internal)?;
    let mut delta = ChecksumDelta::new();
    for option in TcpOptionsMut::new(options) {
        if option.kind != kind::MSS {
            continue;
        }
        if let &mut [high, low] = option.data {
            let lowered = to(u16::from_be_bytes([high, low])).to_be_bytes();
            option.data.copy_from_slice(&lowered);
            delta = delta.replace_bytes_at(option.offset, &[high, low], &lowered);
        }
    }
    tcp.set_checksum(delta.apply(tcp.checksum()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_round_down_to_one_in_the_table() {
        for (mss, kept) in [(0, 256), (536, 536), (1452, 1440), (1460, 1460), (u16::MAX, 8960)] {
            assert_eq!(by_index(index_of(mss)), kept, "{mss}");
        }
    }
}
