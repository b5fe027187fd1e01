//! What the worker's loop does with a burst: the product's packet path, and what it is held
//! against. All run in the same loop on the same source.

use gyre::dataplane::{Burst, Verdict, WorkerState, process_burst, process_observed};
use gyre::memory::{FixedArray, MemoryError, prefetch_read, prefetch_write};
use gyre::model::{NicId, Snapshot};
use gyre::runtime::worker::Stage;
use gyre::time::Nanos;

use crate::breakdown::PartTicks;
use crate::source::{Sink, Source};

/// Words of eight bytes in a cache line.
const LINE: usize = 8;

/// Which stage runs now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Frames go out as they came: what source, loop and sink cost.
    Nothing,
    /// MAC addresses change places: the least that moving a frame costs.
    Macswap,
    /// Macswap, and a read of one random index line and a read and write of one random entry line
    /// a frame: the least that stateful forwarding costs.
    Roofline,
    /// gyre.
    Gyre,
    /// gyre, while somebody looks where its time goes.
    Observed,
}

/// A stage that can be switched between rounds.
pub struct Switch {
    which: std::rc::Rc<std::cell::Cell<Which>>,
    lines: Lines,
    parts: PartTicks,
}

/// As much memory as the flow table has, in the same kind of pages.
struct Lines {
    index: FixedArray<u64>,
    entries: FixedArray<u64>,
}

impl Switch {
    /// Entry lines that the roofline has touched so far.
    pub fn touched(&self) -> usize {
        self.lines.entries.as_slice().chunks(LINE).filter(|line| line[0] > 0).count()
    }

    /// Where the time went while somebody looked.
    pub fn parts(&self) -> PartTicks {
        self.parts
    }

    /// Takes the roofline's memory: as many lines as the flow table's index and entries have.
    pub fn new(
        which: std::rc::Rc<std::cell::Cell<Which>>,
        index_lines: usize,
        entries: usize,
    ) -> Result<Self, MemoryError> {
        let row = |lines: usize| FixedArray::new((lines.max(1) * LINE) as u32);
        let lines = Lines { index: row(index_lines)?, entries: row(entries)? };
        Ok(Switch { which, lines, parts: PartTicks::default() })
    }
}

impl Stage for Switch {
    type Rx = Source;
    type Tx = Sink;

    #[inline]
    fn process(
        &mut self,
        state: &mut WorkerState,
        snapshot: &Snapshot,
        burst: &mut Burst,
        now: Nanos,
    ) {
        match self.which.get() {
            Which::Gyre => process_burst(state, snapshot, burst, now),
            Which::Observed => {
                self.parts.begin();
                process_observed(state, snapshot, burst, now, &mut self.parts);
                self.parts.end();
            }
            Which::Nothing => all_leave(burst),
            Which::Macswap => macswap(burst),
            Which::Roofline => self.lines.roofline(burst),
        }
    }
}

fn all_leave(burst: &mut Burst) {
    for arrival in &mut burst.slots {
        arrival.verdict = Some(Verdict::Transmit(NicId(0)));
    }
}

/// MAC addresses change places.
pub fn macswap(burst: &mut Burst) {
    for arrival in &mut burst.slots {
        if let Some(macs) = arrival.frame.bytes_mut().first_chunk_mut::<12>() {
            let [a, b, c, d, e, f, g, h, i, j, k, l] = *macs;
            *macs = [g, h, i, j, k, l, a, b, c, d, e, f];
        }
        arrival.verdict = Some(Verdict::Transmit(NicId(0)));
    }
}

impl Lines {
    /// Three passes, so that misses overlap: places, index lines, entry lines.
    fn roofline(&mut self, burst: &mut Burst) {
        let mut places = [(0usize, 0usize); gyre::limits::BURST_FRAMES_MAX];
        let (index, entries) = (self.index.as_slice(), self.entries.as_slice());
        let (index_lines, entry_lines) = (index.len() / LINE, entries.len() / LINE);
        for (arrival, place) in burst.slots.iter().zip(&mut places) {
            // Addresses and ports of either family, whatever they are.
            let bytes = arrival.frame.bytes();
            let word = |at: usize| {
                let word = bytes.get(at..).and_then(|rest| rest.first_chunk()).copied();
                u64::from_ne_bytes(word.unwrap_or_default())
            };
            let mixed = fold(fold(word(26), word(30)) ^ word(46), word(50));
            *place = (scale(mixed as u32, index_lines), scale((mixed >> 32) as u32, entry_lines));
            prefetch_read(&index[place.0 * LINE]);
        }
        for place in &mut places[..burst.slots.len()] {
            // The line has to be there before the entry is known.
            place.1 ^= index[place.0 * LINE] as usize;
            if let Some(entry) = entries.get(place.1 * LINE) {
                prefetch_write(entry);
            }
        }
        let entries = self.entries.as_mut_slice();
        for (_, entry) in &places[..burst.slots.len()] {
            if let Some(count) = entries.get_mut(entry * LINE) {
                *count = count.wrapping_add(1);
            }
        }
        macswap(burst);
    }
}

#[inline(always)]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a ^ 0x9e37_79b9_7f4a_7c15) * u128::from(b ^ 0xa076_1d64_78bd_642f);
    (product as u64) ^ (product >> 64) as u64
}

#[inline(always)]
fn scale(hash: u32, range: usize) -> usize {
    ((u64::from(hash) * range as u64) >> 32) as usize
}
