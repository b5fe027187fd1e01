//! The packet path's parts by themselves, in bursts of 32: what each costs, which `gyre-bench`
//! shows only in sum. Nothing here says how fast a packet is.

mod rings;
mod schedulers;
mod table;
mod wire;

/// Things done an iteration.
const BURST: usize = 32;

fn main() {
    divan::main();
}

/// A fixed order that visits each of `count` once a round, far apart in memory.
struct Order {
    at: usize,
    count: usize,
}

impl Order {
    /// A step near the golden section of a power of two.
    fn new(count: usize) -> Self {
        assert!(count.is_power_of_two(), "an odd step visits all of a power of two");
        Order { at: 0, count }
    }

    fn next(&mut self) -> usize {
        let step = (self.count * 5 / 8) | 1;
        self.at = (self.at + step) % self.count;
        self.at
    }
}
