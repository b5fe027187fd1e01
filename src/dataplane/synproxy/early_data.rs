//! What clients send before their server has answered: a few segments, in a fixed number of
//! buffers. What finds no room is dropped, and the client sends it again.

use super::super::burst::Slot;
use super::super::classify::Packet;
use crate::counters::DropReason;
use crate::limits::{EARLY_DATA_SEGMENTS_MAX, EARLY_DATA_SLOTS, OUTBOX_FRAME_BYTES};

/// A flow's stored segments: the place of the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chain(pub u16);

impl Chain {
    /// Nothing stored. The places fit in the ten bits that a flow has for them.
    pub const EMPTY: Chain = Chain(EARLY_DATA_SLOTS as u16);
    /// Bits that a chain takes.
    pub const BITS: u32 = 10;
}

const _: () = assert!(EARLY_DATA_SLOTS < 1 << Chain::BITS);

#[derive(Clone)]
struct Stored {
    packet: Packet,
    bytes: [u8; OUTBOX_FRAME_BYTES],
    next: Chain,
}

/// The buffers of one worker.
pub(super) struct EarlyData {
    slots: Vec<Stored>,
    unused: Chain,
}

impl std::fmt::Debug for EarlyData {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EarlyData").field("unused", &self.unused).finish()
    }
}

impl EarlyData {
    pub fn new() -> Self {
        let place = |at: usize| Stored {
            packet: Packet::UNSET,
            bytes: [0; OUTBOX_FRAME_BYTES],
            next: Chain(at as u16 + 1),
        };
        EarlyData { slots: (0..EARLY_DATA_SLOTS).map(place).collect(), unused: Chain(0) }
    }

    /// Stores a segment behind those of `chain`; one that is there already counts as stored.
    pub fn keep(&mut self, chain: &mut Chain, slot: &Slot) -> Result<(), DropReason> {
        let (mut last, mut count) = (None, 0);
        let mut at = *chain;
        while let Some(stored) = self.slots.get(usize::from(at.0)) {
            if stored.packet.seq == slot.packet.seq {
                return Ok(());
            }
            (last, at, count) = (Some(at), stored.next, count + 1);
        }
        let bytes = slot.frame.bytes().get(..slot.packet.end).ok_or(DropReason::Internal)?;
        let place = self.unused;
        let stored = self.slots.get_mut(usize::from(place.0));
        let (Some(stored), true) = (stored, count < EARLY_DATA_SEGMENTS_MAX) else {
            return Err(DropReason::SynproxyEarlyData);
        };
        let room = stored.bytes.get_mut(..bytes.len()).ok_or(DropReason::SynproxyEarlyData)?;
        room.copy_from_slice(bytes);
        stored.packet = slot.packet;
        self.unused = std::mem::replace(&mut stored.next, Chain::EMPTY);
        match last.and_then(|last| self.slots.get_mut(usize::from(last.0))) {
            Some(last) => last.next = place,
            None => *chain = place,
        }
        Ok(())
    }

    /// Takes the first segment out of `chain` and into `slot`; `false` when there is none.
    pub fn take(&mut self, chain: &mut Chain, slot: &mut Slot) -> bool {
        let place = *chain;
        let Some(stored) = self.slots.get_mut(usize::from(place.0)) else { return false };
        *chain = std::mem::replace(&mut stored.next, self.unused);
        slot.packet = stored.packet;
        if slot.frame.set_len(stored.packet.end).is_ok()
            && let Some(bytes) = stored.bytes.get(..stored.packet.end)
        {
            slot.frame.bytes_mut().copy_from_slice(bytes);
        }
        self.unused = place;
        true
    }

    /// Gives back all of a chain.
    pub fn release(&mut self, mut chain: Chain) {
        while let Some(stored) = self.slots.get_mut(usize::from(chain.0)) {
            let next = std::mem::replace(&mut stored.next, self.unused);
            self.unused = chain;
            chain = next;
        }
    }

    /// Buffers that hold nothing.
    #[cfg(test)]
    pub fn unused(&self) -> usize {
        let mut at = self.unused;
        let mut count = 0;
        while let Some(stored) = self.slots.get(usize::from(at.0)) {
            (at, count) = (stored.next, count + 1);
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::segment::{SCRATCH_BYTES, scratch};
    use super::*;
    use crate::wire::tcp::SeqNum;

    fn keep(early: &mut EarlyData, chain: &mut Chain, seq: u32) -> Result<(), DropReason> {
        let mut buffer = [0; SCRATCH_BYTES];
        let mut slot = scratch(&mut buffer);
        slot.frame.set_len(60).unwrap();
        slot.frame.bytes_mut().fill(seq as u8);
        slot.packet = Packet { seq: SeqNum(seq), end: 60, ..Packet::UNSET };
        early.keep(chain, &slot)
    }

    #[test]
    fn segments_come_back_in_order_and_their_buffers_with_them() {
        let mut early = EarlyData::new();
        let mut chain = Chain::EMPTY;
        for seq in [1, 2, 1] {
            assert_eq!(keep(&mut early, &mut chain, seq), Ok(()));
        }
        assert_eq!(early.unused(), EARLY_DATA_SLOTS - 2);
        assert_eq!(keep(&mut early, &mut chain, 3), Err(DropReason::SynproxyEarlyData));
        let mut buffer = [0; SCRATCH_BYTES];
        for seq in [1, 2] {
            let mut slot = scratch(&mut buffer);
            assert!(early.take(&mut chain, &mut slot));
            assert_eq!((slot.packet.seq, slot.frame.bytes()), (SeqNum(seq), &[seq as u8; 60][..]));
        }
        assert!(!early.take(&mut chain, &mut scratch(&mut buffer)));
        assert_eq!(early.unused(), EARLY_DATA_SLOTS);
    }

    #[test]
    fn full_buffers_refuse_and_released_ones_serve_again() {
        let mut early = EarlyData::new();
        let mut chains: Vec<Chain> = vec![Chain::EMPTY; EARLY_DATA_SLOTS];
        for chain in &mut chains {
            assert_eq!(keep(&mut early, chain, 9), Ok(()));
        }
        let mut late = Chain::EMPTY;
        assert_eq!(keep(&mut early, &mut late, 9), Err(DropReason::SynproxyEarlyData));
        assert_eq!(late, Chain::EMPTY);
        early.release(chains[0]);
        assert_eq!(keep(&mut early, &mut late, 9), Ok(()));
    }
}
