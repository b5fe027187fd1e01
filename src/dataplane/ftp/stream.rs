//! One direction of a control connection whose text was changed: which shift a number takes.
//!
//! The last change is remembered with its text, so that a retransmission is the same bytes and
//! numbers before it keep the shift that was theirs (the kernel's `previous_delta`).

use super::super::burst::Slot;
use super::super::sequence::{self, Shifts};
use super::text::Text;
use crate::counters::DropReason;
use crate::wire::tcp::{SeqNum, TcpFlags};
use std::ops::Range;

/// A piece of text that was replaced.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    /// Number of its first byte, as its sender knows it.
    pub at: SeqNum,
    /// Its size as sent.
    pub bytes: u32,
    /// The shift of numbers up to `at`.
    pub before: u32,
    /// What stands there now.
    pub text: Text,
}

/// What a segment is to the last change of its direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Behind it: it may announce something.
    Behind,
    /// Before it: seen already.
    Before,
    /// Holds it, at these bytes of the payload: sent again.
    Holds(Range<usize>),
    /// Holds a part of it.
    Cuts,
}

impl Change {
    fn end(&self) -> SeqNum {
        self.at.wrapping_add(self.bytes)
    }

    /// Where a segment of `bytes` of payload from `seq` on stands.
    pub fn place(&self, seq: SeqNum, bytes: u32) -> Place {
        let end = seq.wrapping_add(bytes);
        if !seq.before(self.end()) {
            Place::Behind
        } else if !end.after(self.at) {
            Place::Before
        } else if !seq.after(self.at) && !end.before(self.end()) {
            let start = self.at.since(seq) as usize;
            Place::Holds(start..start + self.bytes as usize)
        } else {
            Place::Cuts
        }
    }

    /// Whether a number as the other side knows it lies before the end of this change.
    pub fn covers(&self, number: SeqNum) -> bool {
        !number.after(self.at.wrapping_add(self.before))
    }

    /// Corrects the sequence shift of a segment that is not behind this change.
    pub fn correct_sequence(&self, slot: &Slot, shifts: &mut Shifts) {
        if slot.packet.seq.before(self.end()) {
            shifts.sequence = self.before;
        }
    }

    /// Corrects what the other side acknowledges: a number within the text stands for its start,
    /// which has the whole of it sent again. Blocks further on would take another shift: they go.
    pub fn correct_acknowledgment(
        &self,
        slot: &mut Slot,
        shifts: &mut Shifts,
    ) -> Result<(), DropReason> {
        let ack = slot.packet.ack;
        let start = self.at.wrapping_add(self.before);
        let is_behind = !ack.before(start.wrapping_add(self.text.len() as u32));
        if is_behind || !slot.packet.flags.contains(TcpFlags::ACK) {
            return Ok(());
        }
        shifts.acknowledgment =
            if ack.after(start) { self.at.since(ack) } else { self.before.wrapping_neg() };
        sequence::erase_sack(slot.frame.bytes_mut(), &slot.packet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_stands_before_behind_around_or_across_a_change() {
        let at = SeqNum(u32::MAX - 1);
        let change = Change { at, bytes: 10, before: 0, text: Text::new() };
        for (from, bytes, place) in [
            (10u32, 5, Place::Behind),
            (0u32.wrapping_sub(8), 8, Place::Before),
            (0, 10, Place::Holds(0..10)),
            (0u32.wrapping_sub(4), 20, Place::Holds(4..14)),
            (0, 9, Place::Cuts),
            (3, 20, Place::Cuts),
        ] {
            assert_eq!(change.place(at.wrapping_add(from), bytes), place, "{from} {bytes}");
        }
    }
}
