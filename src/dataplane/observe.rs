//! Where a burst's time goes, for a benchmark to learn. In the product nobody looks, and the calls
//! are empty; what the compiler makes of the code around them is held by `scripts/check-counts`.

/// A part of the packet path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Headers read and hashed, of all frames.
    Classify,
    /// Where their flows may be, of all frames.
    Lookup,
    /// Whether a flow is the frame's, and where the frame goes: one frame.
    Decide,
    /// All else that a frame needs, the general path included: one frame.
    Rewrite,
}

/// Somebody who wants to know.
pub trait Observer {
    /// This part is done: the first two once a burst, the others for each frame, `Decide` only
    /// where the fast path is taken.
    fn ended(&mut self, part: Part);
}

/// Nobody.
#[derive(Clone, Copy, Debug)]
pub struct Nobody;

impl Observer for Nobody {
    #[inline(always)]
    fn ended(&mut self, _: Part) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::WorkerCounters;
    use crate::dataplane::{Burst, RxMeta, WorkerConfig, WorkerState, process_observed};
    use crate::frame::Frame;
    use crate::model::{Snapshot, WorkerId};
    use crate::time::Nanos;
    use std::sync::Arc;

    struct Parts(Vec<Part>);

    impl Observer for Parts {
        fn ended(&mut self, part: Part) {
            self.0.push(part);
        }
    }

    #[test]
    fn parts_of_a_burst_end_in_order() {
        let counters = Arc::new(WorkerCounters::with_bounds(1, 1, 1));
        let config = WorkerConfig {
            worker: WorkerId(0),
            workers: 1,
            flows_v4_max: 16,
            flows_v6_max: 16,
            source_port_spaces: 1,
            seed: 7,
            counters,
        };
        let mut state = WorkerState::new(&config, Nanos(0)).unwrap();
        let (mut one, mut two) = ([0; 200], [0; 200]);
        let mut burst = Burst::new();
        for buffer in [&mut one, &mut two] {
            burst.push(Frame::new(buffer, 128, 188), RxMeta::default()).unwrap();
        }
        let mut parts = Parts(Vec::new());
        process_observed(&mut state, &Snapshot::empty(), &mut burst, Nanos(1), &mut parts);
        assert_eq!(parts.0, [Part::Classify, Part::Lookup, Part::Rewrite, Part::Rewrite]);
    }
}
