//! The bytes of frames that wait: a fixed number of chunks, taken at start. A frame takes as many
//! as it needs; frames are strung together in chains.

use super::super::burst::RxMeta;
use super::super::classify::Piece;
use crate::limits::{FRAGMENT_CHUNK_BYTES, FRAGMENT_CHUNKS};
use crate::model::NicId;

/// No chunk.
const NONE: u16 = u16::MAX;
const _: () = assert!(FRAGMENT_CHUNKS < NONE as usize);

/// A stored frame: its first chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stored(u16);

/// Frames, those of one datagram in the order of their places in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    first: u16,
    last: u16,
    count: u16,
}

impl Chain {
    pub const EMPTY: Chain = Chain { first: NONE, last: NONE, count: 0 };

    /// Frames in it.
    pub fn len(&self) -> u16 {
        self.count
    }
}

/// What is known of a chunk; of a frame's first one, what is known of the frame.
#[derive(Clone, Copy, Debug)]
struct Chunk {
    /// Next chunk of the frame, or of the free ones.
    next: u16,
    /// Next frame of the chain.
    next_frame: u16,
    len: u16,
    /// Place in the datagram, in bytes.
    place: u16,
    /// Where its part of the datagram starts in the frame.
    body: u16,
    nic: NicId,
    hops: u8,
}

const UNUSED: Chunk =
    Chunk { next: NONE, next_frame: NONE, len: 0, place: 0, body: 0, nic: NicId(0), hops: 0 };

/// All chunks.
pub(super) struct Store {
    bytes: Vec<u8>,
    chunks: Vec<Chunk>,
    free: u16,
    free_count: usize,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("free_count", &self.free_count).finish()
    }
}

impl Store {
    /// Takes all memory; pages are touched on use.
    pub fn new() -> Self {
        let next = |at: usize| if at + 1 < FRAGMENT_CHUNKS { at as u16 + 1 } else { NONE };
        let chunk = |at: usize| Chunk { next: next(at), ..UNUSED };
        Store {
            bytes: vec![0; FRAGMENT_CHUNKS * FRAGMENT_CHUNK_BYTES],
            chunks: (0..FRAGMENT_CHUNKS).map(chunk).collect(),
            free: 0,
            free_count: FRAGMENT_CHUNKS,
        }
    }

    /// Whether there is room for a frame of that size.
    pub fn has_room(&self, bytes: usize) -> bool {
        bytes.div_ceil(FRAGMENT_CHUNK_BYTES) <= self.free_count
    }

    /// Copies a frame to its place in `chain`; whether there was room.
    pub fn insert(&mut self, chain: &mut Chain, frame: &[u8], piece: &Piece, rx: &RxMeta) -> bool {
        if !self.has_room(frame.len()) || frame.is_empty() {
            return false;
        }
        let first = self.free;
        let mut last = NONE;
        for part in frame.chunks(FRAGMENT_CHUNK_BYTES) {
            last = self.free;
            let start = usize::from(last) * FRAGMENT_CHUNK_BYTES;
            if let Some(room) = self.bytes.get_mut(start..start + part.len()) {
                room.copy_from_slice(part);
            }
            self.free = self.chunk(last).next;
            self.free_count -= 1;
        }
        self.set(last, |chunk| chunk.next = NONE);
        self.set(first, |chunk| {
            (chunk.len, chunk.nic, chunk.hops) = (frame.len() as u16, rx.nic, rx.hops);
            (chunk.place, chunk.body) = (piece.place.offset_bytes, piece.body);
            chunk.next_frame = NONE;
        });
        self.link(chain, first);
        true
    }

    /// Pieces mostly come in order or in reverse: both are found without a walk.
    fn link(&mut self, chain: &mut Chain, frame: u16) {
        let place = self.chunk(frame).place;
        if chain.count == 0 || self.chunk(chain.last).place <= place {
            return self.append(chain, Chain { first: frame, last: frame, count: 1 });
        }
        let (mut before, mut at) = (NONE, chain.first);
        while at != NONE && self.chunk(at).place <= place {
            (before, at) = (at, self.chunk(at).next_frame);
        }
        self.set(frame, |chunk| chunk.next_frame = at);
        match before {
            NONE => chain.first = frame,
            before => self.set(before, |chunk| chunk.next_frame = frame),
        }
        chain.count += 1;
    }

    /// Puts the frames of `other` behind those of `chain`.
    pub fn append(&mut self, chain: &mut Chain, other: Chain) {
        if other.count == 0 {
            return;
        }
        if chain.count == 0 {
            *chain = other;
            return;
        }
        self.set(chain.last, |chunk| chunk.next_frame = other.first);
        chain.last = other.last;
        chain.count += other.count;
    }

    /// Takes the first frame off `chain`; its bytes stay until `free`.
    pub fn pop(&mut self, chain: &mut Chain) -> Option<Stored> {
        if chain.count == 0 {
            return None;
        }
        let first = chain.first;
        *chain = match chain.count {
            1 => Chain::EMPTY,
            count => {
                let next = self.chunk(first).next_frame;
                Chain { first: next, last: chain.last, count: count - 1 }
            }
        };
        Some(Stored(first))
    }

    /// Copies a frame's bytes to the start of `into`, as many as fit; how it came in, and its
    /// size.
    pub fn read(&self, frame: Stored, into: &mut [u8]) -> (RxMeta, usize) {
        let head = self.chunk(frame.0);
        let len = usize::from(head.len).min(into.len());
        let mut at = frame.0;
        for part in into.get_mut(..len).unwrap_or_default().chunks_mut(FRAGMENT_CHUNK_BYTES) {
            let start = usize::from(at) * FRAGMENT_CHUNK_BYTES;
            if let Some(bytes) = self.bytes.get(start..start + part.len()) {
                part.copy_from_slice(bytes);
            }
            at = self.chunk(at).next;
        }
        let rx = RxMeta { nic: head.nic, hops: head.hops, resumed: true, ..RxMeta::default() };
        (rx, len)
    }

    /// Where a frame's part of the datagram starts.
    pub fn body(&self, frame: Stored) -> usize {
        usize::from(self.chunk(frame.0).body)
    }

    /// Gives a frame's chunks back.
    pub fn free(&mut self, frame: Stored) {
        let mut at = frame.0;
        while at != NONE {
            let next = self.chunk(at).next;
            let free = self.free;
            self.set(at, |chunk| chunk.next = free);
            self.free = at;
            self.free_count += 1;
            at = next;
        }
    }

    fn chunk(&self, at: u16) -> Chunk {
        self.chunks.get(usize::from(at)).copied().unwrap_or(UNUSED)
    }

    fn set(&mut self, at: u16, change: impl FnOnce(&mut Chunk)) {
        if let Some(chunk) = self.chunks.get_mut(usize::from(at)) {
            change(chunk);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ip::Fragment;

    const JUMBO: usize = 9000;

    fn frame(seed: usize, len: usize) -> Vec<u8> {
        (0..len).map(|at| (at * 7 + seed) as u8).collect()
    }

    fn piece(offset_bytes: u16) -> Piece {
        Piece { place: Fragment { id: 0, offset_bytes, more: true }, body: 34, new_id: None }
    }

    #[test]
    fn frames_of_any_size_come_out_in_order_and_give_all_chunks_back() {
        let mut store = Store::new();
        let (mut one, mut other) = (Chain::EMPTY, Chain::EMPTY);
        let sizes = [60, FRAGMENT_CHUNK_BYTES, FRAGMENT_CHUNK_BYTES + 1, JUMBO];
        let rx = RxMeta { nic: NicId(3), hops: 1, ..RxMeta::default() };
        for (seed, len) in sizes.into_iter().enumerate() {
            assert!(store.insert(&mut one, &frame(seed, len), &piece(seed as u16), &rx));
            assert!(store.insert(&mut other, &frame(seed + 9, len), &piece(99), &rx));
        }
        store.append(&mut one, other);
        assert_eq!(one.len(), 8);
        let mut bytes = vec![0; 1 << 14];
        for seed in [0, 1, 2, 3, 9, 10, 11, 12] {
            let stored = store.pop(&mut one).unwrap();
            let (rx, len) = store.read(stored, &mut bytes);
            assert_eq!((rx.nic, rx.hops, rx.resumed), (NicId(3), 1, true));
            assert_eq!(bytes[..len], frame(seed, sizes[seed % 9]));
            store.free(stored);
        }
        assert_eq!(store.pop(&mut one), None);
        assert_eq!(store.free_count, FRAGMENT_CHUNKS);
    }

    #[test]
    fn frames_lie_in_the_order_of_their_places() {
        let mut store = Store::new();
        let mut chain = Chain::EMPTY;
        for place in [400, 1200, 800, 0, 2000, 1600, 8] {
            let frame = [place as u8; 60];
            assert!(store.insert(&mut chain, &frame, &piece(place), &RxMeta::default()));
        }
        let mut bytes = [0; 60];
        for place in [0, 8, 400, 800, 1200, 1600, 2000] {
            let stored = store.pop(&mut chain).unwrap();
            store.read(stored, &mut bytes);
            assert_eq!(bytes, [place as u8; 60]);
        }
        assert_eq!(chain, Chain::EMPTY);
    }

    #[test]
    fn full_store_takes_nothing_more() {
        let mut store = Store::new();
        let mut chain = Chain::EMPTY;
        let rx = RxMeta::default();
        let taken =
            (0..2 * FRAGMENT_CHUNKS).filter(|_| store.insert(&mut chain, &[1; 99], &piece(0), &rx));
        assert_eq!(taken.count(), FRAGMENT_CHUNKS);
        let stored = store.pop(&mut chain).unwrap();
        store.free(stored);
        assert!(
            !store.insert(&mut chain, &frame(0, JUMBO), &piece(0), &rx),
            "five chunks, and one is free"
        );
        assert!(store.insert(&mut chain, &[1; 99], &piece(0), &rx));
    }
}
