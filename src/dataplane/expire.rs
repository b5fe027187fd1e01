//! Timers: flows that no packet came for.

use super::flow::flag;
use super::flow_table::FlowId;
use super::state::WorkerState;
use super::{client_address, ftp, synproxy, track};
use crate::limits::TIMERS_PER_TURN_MAX;
use crate::message::FlowState;
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
        while handled < 3 * TIMERS_PER_TURN_MAX
            && let Some(at) = self.flows.wheel.pop_due(now)
        {
            handled += 1;
            self.timer_fired(snapshot, FlowId(at), now);
        }
        handled
    }

    fn timer_fired(&mut self, snapshot: &Snapshot, id: FlowId, now: Nanos) {
        let Some(core) = self.flows.core(id) else { return };
        let now_ms = now.as_millis_u32();
        if core.remaining_ms(now_ms) > 0 && !core.is_doomed() {
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
        if core.state() == FlowState::SynRecv && core.has(flag::INPUT_ONLY) {
            track::refused(self, id);
        }
        self.counters.flows_expired.add(1);
        track::end(self, id);
    }
}
