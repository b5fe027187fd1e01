//! The first line of every table in a region: what a successor checks before it believes the rest.

use super::pod::Pod;
use super::region::MemoryError;
use crate::pod_struct;

/// "gyretabl" as bytes in memory.
const MAGIC: u64 = u64::from_le_bytes(*b"gyretabl");
/// Format of what this module and its siblings write around the entries.
const FORMAT: u32 = 1;
/// Bytes the header takes; entries behind it stay aligned to a cache line.
pub(super) const HEADER_BYTES: usize = 64;

/// What kind of table follows.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// Entries only.
    Array = 1,
    /// A bitmap of live entries, then the entries.
    Slab = 2,
}

pod_struct! {
    /// The header as it lies in the map.
    #[repr(align(64))]
    #[derive(Debug)]
    pub(super) struct Header {
        magic: u64,
        format: u32,
        kind: u32,
        entry_bytes: u32,
        entry_layout: u32,
        pub(super) capacity: u32,
    }
}

const _: () = assert!(size_of::<Header>() == HEADER_BYTES);

impl Header {
    /// The header of a table of `capacity` entries of `T`.
    pub fn of<T: Pod>(kind: Kind, capacity: u32) -> Self {
        Header {
            magic: MAGIC,
            format: FORMAT,
            kind: kind as u32,
            entry_bytes: size_of::<T>() as u32,
            entry_layout: T::LAYOUT,
            capacity,
        }
    }

    /// Whether a passed map holds a table of `T`; its capacity is checked by who maps it.
    pub fn check<T: Pod>(&self, kind: Kind) -> Result<(), MemoryError> {
        let wanted = Header::of::<T>(kind, self.capacity);
        let fields = [
            ("magic", self.magic, wanted.magic),
            ("format", self.format.into(), wanted.format.into()),
            ("kind", self.kind.into(), wanted.kind.into()),
            ("entry size", self.entry_bytes.into(), wanted.entry_bytes.into()),
            ("entry layout", self.entry_layout.into(), wanted.entry_layout.into()),
        ];
        match fields.into_iter().find(|(_, found, wanted)| found != wanted) {
            Some((field, found, wanted)) => Err(MemoryError::Mismatch { field, found, wanted }),
            None => Ok(()),
        }
    }
}
