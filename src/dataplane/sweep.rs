//! Walks over the flow table on behalf of control, a bounded part a turn.

use std::net::IpAddr;

use super::flow::{Direction, flag};
use super::flow_table::FlowId;
use super::state::WorkerState;
use super::track;
use crate::limits::SWEEP_PER_TURN_MAX;
use crate::message::{FlowFilter, FlowRow, FromWorker, Sweep, SweepAction};
use crate::model::{ForwardMode, NextHopId};
use crate::time::Nanos;

/// A sweep on its way.
#[derive(Clone, Copy, Debug)]
pub struct RunningSweep {
    sweep: Sweep,
    at: u32,
    matched: u32,
}

impl WorkerState {
    /// Begins a sweep. One runs at a time; a second one ends the first, which then reports done.
    pub fn start_sweep(&mut self, sweep: Sweep) {
        if let Some(running) = self.sweep {
            self.tell(FromWorker::SweepDone(running.sweep.job, running.matched));
        }
        self.sweep = Some(RunningSweep { sweep, at: 0, matched: 0 });
    }

    /// Whether a sweep is under way: a worker with one does not sleep.
    pub fn is_sweeping(&self) -> bool {
        self.sweep.is_some()
    }

    /// Goes on with the sweep for a bounded number of entries. `report` says whether there was
    /// room for the message; if not, the sweep stops there until the next turn.
    pub fn sweep(&mut self, now: Nanos, mut report: impl FnMut(FromWorker) -> bool) {
        let Some(mut running) = self.sweep.take() else { return };
        for _ in 0..SWEEP_PER_TURN_MAX {
            let next = self.flows.next_live(running.at);
            let full = running.matched >= running.sweep.matches_max;
            let Some(id) = next.filter(|_| !full) else {
                if !report(FromWorker::SweepDone(running.sweep.job, running.matched)) {
                    self.sweep = Some(running);
                }
                return;
            };
            if !self.sweep_one(&mut running, id, now, &mut report) {
                break;
            }
            running.at = id.0 + 1;
        }
        self.sweep = Some(running);
    }

    /// `false` when the report did not fit.
    fn sweep_one(
        &mut self,
        running: &mut RunningSweep,
        id: FlowId,
        now: Nanos,
        report: &mut impl FnMut(FromWorker) -> bool,
    ) -> bool {
        let Some(row) = self.row(id, now) else { return true };
        if !matches(&running.sweep.filter, &row) {
            return true;
        }
        match running.sweep.action {
            SweepAction::List => {
                if !report(FromWorker::Row(running.sweep.job, row)) {
                    return false;
                }
            }
            SweepAction::Delete => track::end(self, id),
            SweepAction::ForgetRoutes => {
                if let Some(core) = self.flows.core_mut(id) {
                    core.set_hop_out(NextHopId::NONE);
                }
            }
        }
        running.matched += 1;
        true
    }

    /// A flow as people see it; none for an entry that only holds a source port.
    pub fn row(&self, id: FlowId, now: Nanos) -> Option<FlowRow> {
        let core = self.flows.core(id).filter(|core| !core.has(flag::DETACHED))?;
        let addresses = self.flows.addresses(id)?;
        let local = self.flows.key(id, Direction::Outbound);
        Some(FlowRow {
            protocol: core.protocol(),
            client: (addresses.client, core.client_port),
            virtual_address: (addresses.vip, core.virtual_port),
            local: local
                .filter(|_| core.mode() == ForwardMode::FullNat)
                .map(|key| (key.dst, key.dst_port)),
            server: (addresses.server, core.server_port),
            service_id: core.service(),
            server_id: core.server(),
            mode: core.mode(),
            state: core.state(),
            expires_ms: core.remaining_ms(now.as_millis_u32()),
            packets: core.packets,
        })
    }
}

fn matches(filter: &FlowFilter, row: &FlowRow) -> bool {
    let same = |wanted: Option<IpAddr>, found: IpAddr| wanted.is_none_or(|wanted| wanted == found);
    same(filter.client, row.client.0)
        && same(filter.vip, row.virtual_address.0)
        && same(filter.server, row.server.0)
        && filter.vport.is_none_or(|port| port == row.virtual_address.1)
        && filter.service_id.is_none_or(|id| id == row.service_id)
        && filter.server_id.is_none_or(|id| id == row.server_id)
        && filter.state.is_none_or(|state| state == row.state)
}
