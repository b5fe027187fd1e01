//! Walks over the flow table on behalf of control, a bounded part a turn.

use std::net::IpAddr;

use super::flow::{Direction, flag};
use super::flow_table::FlowId;
use super::state::WorkerState;
use super::templates::TemplateId;
use super::track;
use crate::limits::SWEEP_PER_TURN_MAX;
use crate::message::{FlowFilter, FlowRow, FromWorker, RowKind, Sweep, SweepAction};
use crate::model::{ForwardMode, NextHopId, Snapshot};
use crate::time::Nanos;

/// What a sweep is looking at.
#[derive(Clone, Copy, Debug)]
enum Place {
    Flow(FlowId),
    Template(TemplateId),
}

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
        self.sweep = Some(RunningSweep { sweep, at: sweep.start, matched: 0 });
    }

    /// Whether a sweep is under way: a worker with one does not sleep.
    pub fn is_sweeping(&self) -> bool {
        self.sweep.is_some()
    }

    /// Goes on with the sweep for a bounded number of entries. `report` says whether there was
    /// room for the message; if not, the sweep stops there until the next turn. Templates come
    /// behind the flows.
    pub fn sweep(
        &mut self,
        snapshot: &Snapshot,
        now: Nanos,
        mut report: impl FnMut(FromWorker) -> bool,
    ) {
        let Some(mut running) = self.sweep.take() else { return };
        for _ in 0..SWEEP_PER_TURN_MAX {
            let full = running.matched >= running.sweep.matches_max;
            let Some(place) = self.next_place(running.at).filter(|_| !full) else {
                if !report(FromWorker::SweepDone(running.sweep.job, running.matched)) {
                    self.sweep = Some(running);
                }
                return;
            };
            let row = match place {
                Place::Flow(id) => self.row(id, now),
                Place::Template(id) => self.template_row(id, snapshot, now),
            };
            if let Some(row) = row
                && !self.sweep_one(&mut running, place, &row, &mut report)
            {
                break;
            }
            running.at = self.behind(place);
        }
        self.sweep = Some(running);
    }

    /// The next flow or, behind the flows, template.
    fn next_place(&self, at: u32) -> Option<Place> {
        let places = self.flows.places();
        let flow = self.flows.next_live(at).filter(|_| at < places).map(Place::Flow);
        flow.or_else(|| self.next_template(at.saturating_sub(places)).map(Place::Template))
    }

    fn behind(&self, place: Place) -> u32 {
        match place {
            Place::Flow(id) => id.0 + 1,
            Place::Template(id) => self.flows.places() + id.0 + 1,
        }
    }

    /// `false` when the report did not fit.
    fn sweep_one(
        &mut self,
        running: &mut RunningSweep,
        place: Place,
        row: &FlowRow,
        report: &mut impl FnMut(FromWorker) -> bool,
    ) -> bool {
        if !matches(&running.sweep.filter, row) {
            return true;
        }
        match (running.sweep.action, place) {
            (SweepAction::List, _) => {
                if !report(FromWorker::Row(running.sweep.job, self.behind(place), *row)) {
                    return false;
                }
            }
            (SweepAction::Delete, Place::Flow(id)) => track::end(self, id),
            (SweepAction::Delete, Place::Template(id)) => self.forget_template(id),
            (SweepAction::ForgetRoutes, Place::Flow(id)) => {
                if let Some(core) = self.flows.core_mut(id) {
                    core.set_hop_out(NextHopId::NONE);
                }
            }
            (SweepAction::ForgetRoutes, Place::Template(_)) => return true,
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
            kind: RowKind::Flow,
            protocol: core.protocol(),
            client: (addresses.client, core.client_port()),
            virtual_address: (addresses.vip, core.virtual_port()),
            local: local
                .filter(|_| core.mode() == ForwardMode::FullNat)
                .map(|key| (key.dst, key.dst_port)),
            server: (addresses.server, core.server_port()),
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
