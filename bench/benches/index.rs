//! Gyre's flow index beside hashbrown on the packet path's access pattern: bursts of 32 tuples,
//! each to be found in an index and compared with a 64-byte entry that is then written.
//!
//! All ways look for the same tuples in the same order, with the same hash, in alternating rounds
//! of one process; medians are printed. Then both live through changes of all their tuples, and the
//! longest insertion is printed. scripts/bench-parts gives both hugepages and prints the
//! table for docs/PERFORMANCE.md. What the packet path does besides is `gyre-bench`'s to measure.

use std::cell::Cell;
use std::hint::black_box;
use std::time::Instant;

use gyre::memory::{Backing, FixedArray, FlowIndex, prefetch_write};
use gyre::pod_struct;
use hashbrown::HashTable;

const BURST: usize = 32;
const ROUNDS: usize = 7;
/// Look-ups a round.
const LOOKUPS: usize = 1 << 21;
/// How often every flow's tuple changes in `churn`.
const CHURN_ROUNDS: usize = 8;
const SIZES: [usize; 4] = [1 << 10, 1 << 14, 1 << 20, 10 << 20];
/// In a value: filed under the reply's tuple, as `flow_table` does.
const OUTBOUND_BIT: u32 = 1 << 31;

pod_struct! {
    /// As long as a flow's entry, with both of its tuples.
    #[repr(align(64))]
    struct Entry {
        tuples: [u64; 4],
        packets: u64,
        rest: [u64; 3],
    }
}

/// Addresses and ports, as two words.
type Tuple = [u64; 2];

/// A way of looking a burst up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Gyre's: bucket lines of the burst, then entry lines, then comparisons.
    Index,
    /// hashbrown in passes: the first value whose seven bits agree, then entry lines, then
    /// comparisons. It has no means to ask for a group's line beforehand.
    TablePasses,
    /// hashbrown as everybody uses it: one tuple after the other.
    TablePlain,
}

const WAYS: [Way; 3] = [Way::Index, Way::TablePasses, Way::TablePlain];

impl Way {
    fn name(self) -> &'static str {
        match self {
            Way::Index => "FlowIndex",
            Way::TablePasses => "hashbrown, passes",
            Way::TablePlain => "hashbrown, one by one",
        }
    }
}

fn fold_multiply(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

/// As `flow_table` hashes an IPv4 tuple.
fn hash(tuple: Tuple) -> u64 {
    let mixed = fold_multiply(tuple[0] ^ 43, tuple[1] ^ 0x9e37_79b9_7f4a_7c15);
    fold_multiply(mixed ^ 43, 0x8ebc_6af0_9c88_c6e3)
}

/// The client's tuple of a flow, or its server's.
fn tuple(flow: usize, is_reply: bool) -> Tuple {
    let flow = flow as u64;
    match is_reply {
        false => [(0xc612_0000 + (flow & 0xffff)) << 32 | 0xc613_0001, (1024 + (flow >> 16)) << 32],
        true => [(0xc613_0100 + flow % 32) << 32 | 0xc613_0201, 80 << 32 | flow],
    }
}

struct Tables {
    entries: FixedArray<Entry>,
    index: FlowIndex,
    table: HashTable<u32>,
    insert_ns: [f64; 2],
}

impl Tables {
    fn new(flows: usize) -> Self {
        let values = 2 * flows as u32;
        let mut entries = FixedArray::<Entry>::new(flows as u32).expect("memory for entries");
        for (flow, entry) in entries.as_mut_slice().iter_mut().enumerate() {
            let ([a, b], [c, d]) = (tuple(flow, false), tuple(flow, true));
            entry.tuples = [a, b, c, d];
        }
        let mut index = FlowIndex::new(values + values / 8).expect("memory for the index");
        let mut table = HashTable::with_capacity(values as usize + values as usize / 8);
        let all = || {
            let flows = 0..flows;
            flows.flat_map(|flow| [(flow, false), (flow, true)])
        };
        let value = |flow: usize, is_reply| flow as u32 | if is_reply { OUTBOUND_BIT } else { 0 };
        let start = Instant::now();
        for (flow, is_reply) in all() {
            index.insert(hash(tuple(flow, is_reply)), value(flow, is_reply)).expect("room");
        }
        let first = start.elapsed();
        let start = Instant::now();
        for (flow, is_reply) in all() {
            // Never to be hashed anew: there is room for all.
            let hash = hash(tuple(flow, is_reply));
            table.insert_unique(hash, value(flow, is_reply), |_| unreachable!("it does not grow"));
        }
        let insert_ns =
            [first, start.elapsed()].map(|elapsed| elapsed.as_nanos() as f64 / f64::from(values));
        Tables { entries, index, table, insert_ns }
    }

    /// Looks a burst up, and counts a packet in each entry. Returns how many were found.
    fn burst(&mut self, way: Way, tuples: &[Tuple; BURST]) -> usize {
        match way {
            Way::Index => self.by_index(tuples),
            Way::TablePasses => self.by_table_in_passes(tuples),
            Way::TablePlain => self.by_table(tuples),
        }
    }

    fn by_index(&mut self, tuples: &[Tuple; BURST]) -> usize {
        let hashes = tuples.map(hash);
        hashes.iter().for_each(|hash| self.index.prefetch(*hash));
        let hints = hashes.map(|hash| self.index.hint(hash));
        self.ask_for_entries(&hints);
        let mut found = 0;
        for ((hash, tuple), hint) in hashes.iter().zip(tuples).zip(hints) {
            let entries = self.entries.as_mut_slice();
            found += match hint {
                Some(value) if matches(entries, value, tuple) => count(entries, value),
                _ => match self.index.find(*hash, |value| matches(entries, value, tuple)) {
                    Some(value) => count(entries, value),
                    None => 0,
                },
            };
        }
        found
    }

    fn by_table_in_passes(&mut self, tuples: &[Tuple; BURST]) -> usize {
        let hashes = tuples.map(hash);
        let hints = hashes.map(|hash| self.table.find(hash, |_| true).copied());
        self.ask_for_entries(&hints);
        let mut found = 0;
        for ((hash, tuple), hint) in hashes.iter().zip(tuples).zip(hints) {
            let entries = self.entries.as_mut_slice();
            found += match hint {
                Some(value) if matches(entries, value, tuple) => count(entries, value),
                _ => match self.table.find(*hash, |value| matches(entries, *value, tuple)) {
                    Some(value) => count(entries, *value),
                    None => 0,
                },
            };
        }
        found
    }

    fn by_table(&mut self, tuples: &[Tuple; BURST]) -> usize {
        let mut found = 0;
        for tuple in tuples {
            let entries = self.entries.as_mut_slice();
            let value = self.table.find(hash(*tuple), |value| matches(entries, *value, tuple));
            found += value.map_or(0, |value| count(entries, *value));
        }
        found
    }

    fn ask_for_entries(&self, hints: &[Option<u32>; BURST]) {
        let entries = self.entries.as_slice();
        for value in hints.iter().flatten() {
            prefetch_write(&entries[(value & !OUTBOUND_BIT) as usize]);
        }
    }
}

#[inline(always)]
fn matches(entries: &[Entry], value: u32, tuple: &Tuple) -> bool {
    let [a, b, c, d] = entries[(value & !OUTBOUND_BIT) as usize].tuples;
    *tuple == if value & OUTBOUND_BIT == 0 { [a, b] } else { [c, d] }
}

#[inline(always)]
fn count(entries: &mut [Entry], value: u32) -> usize {
    entries[(value & !OUTBOUND_BIT) as usize].packets += 1;
    1
}

/// Every tuple of every flow once, in a fixed random order (Fisher and Yates, xorshift).
fn shuffled(flows: usize) -> Vec<Tuple> {
    let mut tuples: Vec<Tuple> =
        (0..flows).flat_map(|flow| [tuple(flow, false), tuple(flow, true)]).collect();
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    for at in (1..tuples.len()).rev() {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        tuples.swap(at, (random % (at as u64 + 1)) as usize);
    }
    tuples
}

/// Nanoseconds a look-up of each way, median of the rounds.
fn measure(tables: &mut Tables, flows: usize) -> [f64; 3] {
    let tuples = shuffled(flows);
    let (bursts, _) = tuples.as_chunks::<BURST>();
    let mut figures: [Vec<f64>; 3] = Default::default();
    let mut next = 0;
    for _ in 0..ROUNDS {
        for (way, figures) in WAYS.into_iter().zip(&mut figures) {
            let (start, mut found) = (Instant::now(), 0);
            for _ in 0..LOOKUPS / BURST {
                found += tables.burst(way, black_box(&bursts[next]));
                next = (next + 1) % bursts.len();
            }
            figures.push(start.elapsed().as_nanos() as f64 / LOOKUPS as f64);
            assert_eq!(found, LOOKUPS, "{}: not every tuple was found", way.name());
        }
    }
    let packets: u64 = tables.entries.as_slice().iter().map(|entry| entry.packets).sum();
    assert_eq!(packets, (ROUNDS * LOOKUPS * WAYS.len()) as u64, "entries counted other packets");
    figures.map(|mut figures| {
        figures.sort_by(f64::total_cmp);
        figures[ROUNDS / 2]
    })
}

/// The longest that one insertion of each took while the table is kept as full as it is and its
/// tuples change, in microseconds: a table that has to be put in order all at once shows here. Of
/// what an interruption by others takes nobody is free, so short ones say nothing.
///
/// And how many values hashbrown hashed anew meanwhile, which no other work on the machine changes.
fn churn(tables: &mut Tables, flows: usize) -> ([f64; 2], u64) {
    let hashed_anew = Cell::new(0u64);
    let renewed = |at: usize| tuple(at % flows, false).map(|word| word ^ (at / flows) as u64);
    let mut longest = [0.0f64; 2];
    for at in 0..CHURN_ROUNDS * flows {
        let (old, new) = (hash(renewed(at)), hash(renewed(at + flows)));
        let value = (at % flows) as u32;
        assert!(tables.index.remove(old, value), "the index lost a value");
        let start = Instant::now();
        tables.index.insert(new, value).expect("room");
        longest[0] = longest[0].max(start.elapsed().as_nanos() as f64 / 1e3);
        let entry = tables.table.find_entry(old, |filed| *filed == value);
        entry.expect("hashbrown lost a value").remove();
        let start = Instant::now();
        tables.table.insert_unique(new, value, |filed| {
            hashed_anew.set(hashed_anew.get() + 1);
            // In the round that is under way, some are new and others old.
            let (place, is_reply) = ((filed & !OUTBOUND_BIT) as usize, filed & OUTBOUND_BIT != 0);
            let round = at / flows + usize::from(place <= at % flows);
            hash(if is_reply { tuple(place, true) } else { renewed(round * flows + place) })
        });
        longest[1] = longest[1].max(start.elapsed().as_nanos() as f64 / 1e3);
    }
    (longest, hashed_anew.get())
}

/// Hugepages that this process has, in KiB; those are hashbrown's where malloc was told so.
fn hugepages_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("HugetlbPages:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn main() {
    // `cargo bench` passes `--bench`; sizes may be named to have only these.
    let named: Vec<usize> = std::env::args().filter_map(|word| word.parse().ok()).collect();
    let sizes = if named.is_empty() { SIZES.to_vec() } else { named };
    let ways = WAYS.map(|way| format!("{}, ns", way.name())).join(" | ");
    println!(
        "| flows | {ways} | FlowIndex insert, ns | hashbrown insert, ns | \
         FlowIndex longest insert, µs | hashbrown longest insert, µs | hashed anew | \
         on hugepages |"
    );
    println!("|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|");
    for flows in sizes {
        assert!(flows >= BURST, "fewer flows than a burst");
        let mut tables = Tables::new(flows);
        let ours = tables.index.backing() == Backing::HugeTlb;
        let of_index = (tables.index.capacity() as u64 * 16 + flows as u64 * 64) >> 10;
        // What is beyond index and entries is the heap's.
        let theirs = hugepages_kib() > of_index + ((flows as u64 * 9) >> 10);
        let [index, passes, plain] = measure(&mut tables, flows);
        let [index_insert, table_insert] = tables.insert_ns;
        let ([index_longest, table_longest], hashed_anew) = churn(&mut tables, flows);
        let word = match (ours, theirs) {
            (true, true) => "both",
            (true, false) => "FlowIndex alone",
            (false, true) => "hashbrown alone",
            (false, false) => "neither",
        };
        println!(
            "| {flows} | {index:.1} | {passes:.1} | {plain:.1} | {index_insert:.1} | \
             {table_insert:.1} | {index_longest:.0} | {table_longest:.0} | {hashed_anew} | {word} |"
        );
    }
}
