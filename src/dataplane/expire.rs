//! Timers: flows that no packet came for.

use arrayvec::ArrayVec;

use super::flow::flag;
use super::flow_table::FlowId;
use super::state::WorkerState;
use super::{client_address, ftp, synproxy, track};
use crate::limits::{FLOW_TIMERS_PER_TURN, FLOW_TIMERS_TOGETHER};
use crate::model::Snapshot;
use crate::time::{NANOS_PER_MILLI, Nanos};

impl WorkerState {
    /// Handles timers that are due, a bounded number a call, and says how many. A packet only
    /// stores when it came, so a timer that fires early is set anew. What has to be sent besides
    /// (handshakes that go on without their client) is in `outbox`.
    pub fn expire(&mut self, snapshot: &Snapshot, now: Nanos) -> usize {
        self.now = now;
        self.defend(snapshot, now);
        let mut handled = self.expire_fragments(now) + self.expire_templates(now);
        let mut left = self.flow_timers_allowed();
        while left > 0 {
            let fired = self.fire_together(snapshot, now, left.min(FLOW_TIMERS_TOGETHER));
            if fired == 0 {
                break;
            }
            left -= fired;
            handled += fired;
        }
        handled
    }

    /// Some, and two for each flow made since the last call: ends keep up with what a turn over
    /// all NICs makes, which is at most a flow a frame.
    fn flow_timers_allowed(&mut self) -> usize {
        let made = self.counters.flows_created.get();
        let lately = made.saturating_sub(self.made_before);
        self.made_before = made;
        FLOW_TIMERS_PER_TURN + 2 * lately as usize
    }

    /// Takes up to `count` timers that are due, fetches what they will need, and lets them fire:
    /// what one flow's end waits for overlaps with the others'.
    fn fire_together(&mut self, snapshot: &Snapshot, now: Nanos, count: usize) -> usize {
        let mut due: ArrayVec<FlowId, FLOW_TIMERS_TOGETHER> = ArrayVec::new();
        while due.len() < count
            && let Some(at) = self.flows.wheel.pop_due(now)
        {
            self.flows.prefetch_flow(FlowId(at));
            due.push(FlowId(at));
        }
        let now_ms = now.as_millis_u32();
        for id in &due {
            if self.flows.core(*id).is_some_and(|core| core.is_over(now_ms)) {
                self.flows.prefetch_buckets_of(*id);
            }
        }
        for id in &due {
            // The end of one may have been the end of another.
            if self.flows.is_live(*id) {
                self.timer_fired(snapshot, *id, now);
            }
        }
        due.len()
    }

    fn timer_fired(&mut self, snapshot: &Snapshot, id: FlowId, now: Nanos) {
        let Some(core) = self.flows.core(id) else { return };
        let now_ms = now.as_millis_u32();
        if !core.is_over(now_ms) {
            let next_ms = if core.has(flag::AWAITS_SERVER) {
                synproxy::retry(self, snapshot, id)
            } else if core.has(flag::INSERTING) {
                client_address::resend(self, snapshot, id)
            } else {
                None
            };
            // What was done may have changed the time that is left.
            let left_ms = self.flows.core(id).map_or(0, |core| core.remaining_ms(now_ms));
            let next_ms = next_ms.map_or(left_ms, |next_ms| next_ms.min(left_ms));
            self.flows.wheel.arm(id.0, now + u64::from(next_ms) * NANOS_PER_MILLI);
            return;
        }
        if core.is_helped() && self.ftp.has_data(id) {
            self.flows.wheel.arm(id.0, now + ftp::WAIT_FOR_DATA_MS * NANOS_PER_MILLI);
            return;
        }
        // Where nothing of the server is seen, a client that came no further than its SYN tells
        // of it.
        if track::is_unanswered(self, id) {
            track::refused(self, id);
        }
        self.counters.flows_expired.add(1);
        track::end(self, id);
    }
}
