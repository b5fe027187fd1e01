//! Walks over the workers' flow tables on behalf of the socket and of next hops. One at a time,
//! since a worker that is given another one gives up the first.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::cursor::Cursor;
use super::outgoing::Outgoing;
use super::view::mode_word;
use crate::control::api::rpc::Outcome;
use crate::control::api::{
    ApiError, ConnectionFilter, ConnectionRow, DeleteResult, ErrorCode, ListConnectionsResult,
};
use crate::limits::SWEEPS_WAITING_MAX;
use crate::message::{FlowFilter, FlowRow, FlowState, RowKind, Sweep, SweepAction, ToWorker};
use crate::model::next_hops::RetiredHop;

/// How long workers may take. They walk a bounded part of the table a turn.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who wants to know.
pub enum Purpose {
    /// `connections.list`, at most so many, and from where on if not from the start.
    List { limit: u32, from: Option<Cursor>, reply: oneshot::Sender<Outcome> },
    /// `connections.delete`, at most so many.
    Delete { limit: u32, reply: oneshot::Sender<Outcome> },
    /// Routes changed or next hops are to be reused: these may be when all workers are through.
    ForgetRoutes { retired: Vec<RetiredHop> },
}

struct Wanted {
    filter: FlowFilter,
    purpose: Purpose,
}

struct Running {
    job: u64,
    wanted: Wanted,
    /// Workers that are not through, by number.
    waiting_for: Vec<u8>,
    /// Workers that have not been asked yet.
    later: Vec<u8>,
    rows: Vec<ConnectionRow>,
    /// Where a list goes on: the workers that may have more.
    next: Cursor,
    matched: u64,
    deadline: Instant,
}

/// The queue of walks.
#[derive(Default)]
pub struct Sweeps {
    running: Option<Running>,
    waiting: VecDeque<Wanted>,
    jobs: u64,
}

/// The workers' form of a filter.
pub fn filter(asked: &ConnectionFilter) -> Result<FlowFilter, ApiError> {
    let state = match &asked.state {
        None => None,
        Some(name) => Some(state(name)?),
    };
    let ConnectionFilter { client, vip, vport, server, .. } = *asked;
    Ok(FlowFilter { client, vip, vport, server, state, ..FlowFilter::default() })
}

fn state(name: &str) -> Result<FlowState, ApiError> {
    let found = FlowState::ALL.into_iter().find(|s| s.name().eq_ignore_ascii_case(name));
    found.ok_or_else(|| {
        let shown: String = name.chars().take(40).collect();
        let names = FlowState::ALL.map(FlowState::name).join(", ");
        ApiError::new(ErrorCode::InvalidParams, format!("there is no state `{shown}`"))
            .hint(format!("states: {names}"))
    })
}

impl Wanted {
    fn sweep(&self, job: u64) -> Sweep {
        let (action, matches_max) = match &self.purpose {
            // One more than is shown tells whether there are more.
            Purpose::List { limit, from: None, .. } => (SweepAction::List, limit.saturating_add(1)),
            // Later pages may be short, so that no worker reports what is not shown.
            Purpose::List { limit, from: Some(from), .. } => {
                (SweepAction::List, (limit / from.workers().max(1)).max(1))
            }
            Purpose::Delete { limit, .. } => (SweepAction::Delete, *limit),
            Purpose::ForgetRoutes { .. } => (SweepAction::ForgetRoutes, u32::MAX),
        };
        Sweep { job, action, filter: self.filter, matches_max, start: 0 }
    }

    /// The walk as one worker is to do it; none where it is through already.
    fn sweep_for(&self, worker: u8, sweep: Sweep) -> Option<Sweep> {
        match &self.purpose {
            Purpose::List { from: Some(from), .. } => {
                Some(Sweep { start: from.place_of(worker)?, ..sweep })
            }
            _ => Some(sweep),
        }
    }

    fn is_bounded_deletion(&self) -> bool {
        matches!(self.purpose, Purpose::Delete { limit, .. } if limit < u32::MAX)
    }

    fn refuse(self, error: ApiError) {
        match self.purpose {
            // A client that went away needs no answer.
            Purpose::List { reply, .. } | Purpose::Delete { reply, .. } => {
                drop(reply.send(Err(error)));
            }
            Purpose::ForgetRoutes { .. } => {}
        }
    }
}

impl Running {
    /// Notes where the next page begins on a worker that is through with this one.
    fn turn_page(&mut self, worker: u8, matched: u32) {
        let Purpose::List { from, .. } = &self.wanted.purpose else { return };
        let shown = self.rows.iter().filter(|row| row.worker == worker).count();
        let start = from.as_ref().and_then(|from| from.place_of(worker)).unwrap_or(0);
        if matched >= self.wanted.sweep(self.job).matches_max || matched as usize > shown {
            // None of its rows may have had room.
            self.next.set(worker, self.next.place_of(worker).unwrap_or(start));
        } else {
            self.next.remove(worker);
        }
    }

    /// Has the next worker delete what the bound still allows; whether there was one to ask.
    fn ask_next(&mut self, workers: &mut [Outgoing]) -> bool {
        let mut sweep = self.wanted.sweep(self.job);
        let left = u64::from(sweep.matches_max).saturating_sub(self.matched);
        sweep.matches_max = u32::try_from(left).unwrap_or(u32::MAX);
        if self.later.is_empty() || sweep.matches_max == 0 {
            return false;
        }
        let next = self.later.remove(0);
        let worker = workers.iter_mut().find(|worker| worker.link().worker.0 == next);
        if let Some(worker) = worker {
            worker.command(ToWorker::Sweep(sweep));
            self.waiting_for.push(next);
            self.deadline = Instant::now() + PATIENCE;
        }
        !self.waiting_for.is_empty()
    }
}

impl Sweeps {
    /// Starts a walk, or has it wait for the one under way.
    pub fn want(&mut self, filter: FlowFilter, purpose: Purpose, workers: &mut [Outgoing]) {
        let wanted = Wanted { filter, purpose };
        let is_own = matches!(wanted.purpose, Purpose::ForgetRoutes { .. });
        if !is_own && self.waiting.len() >= SWEEPS_WAITING_MAX {
            let message = "too many listings and deletions of connections wait already";
            let error = ApiError::new(ErrorCode::NoRoom, message).hint("try again in a moment");
            return wanted.refuse(error);
        }
        self.waiting.push_back(wanted);
        self.start(workers);
    }

    pub fn is_idle(&self) -> bool {
        self.running.is_none()
    }

    fn start(&mut self, workers: &mut [Outgoing]) {
        while self.running.is_none()
            && let Some(wanted) = self.waiting.pop_front()
        {
            if let Purpose::List { reply, .. } | Purpose::Delete { reply, .. } = &wanted.purpose
                && reply.is_closed()
            {
                continue;
            }
            self.jobs += 1;
            let sweep = wanted.sweep(self.jobs);
            // A bound is for all workers together, so they go one after the other.
            let at_once = if wanted.is_bounded_deletion() { 1 } else { workers.len() };
            let (now, later) = workers.split_at_mut(at_once.min(workers.len()));
            let mut waiting_for = Vec::new();
            for worker in now {
                let number = worker.link().worker.0;
                if let Some(sweep) = wanted.sweep_for(number, sweep) {
                    worker.command(ToWorker::Sweep(sweep));
                    waiting_for.push(number);
                }
            }
            let later = later.iter().map(|worker| worker.link().worker.0).collect();
            let running = Running {
                job: self.jobs,
                wanted,
                waiting_for,
                later,
                rows: Vec::new(),
                next: Cursor::default(),
                matched: 0,
                deadline: Instant::now() + PATIENCE,
            };
            if running.waiting_for.is_empty() {
                // A cursor that names no worker of this process has nothing behind it.
                finish(running);
            } else {
                self.running = Some(running);
            }
        }
    }

    /// A worker reports a flow, and the place behind it.
    pub fn row(&mut self, worker: u8, (job, behind): (u64, u32), row: &FlowRow) {
        let Some(running) = self.running.as_mut().filter(|running| running.job == job) else {
            return;
        };
        if let Purpose::List { limit, .. } = running.wanted.purpose
            && running.rows.len() < limit as usize
        {
            running.rows.push(connection(worker, row));
            running.next.set(worker, behind);
        }
    }

    /// A worker is through. Gives next hops that may be reused once all are.
    pub fn done(
        &mut self,
        worker: u8,
        (job, matched): (u64, u32),
        workers: &mut [Outgoing],
    ) -> Vec<RetiredHop> {
        let Some(running) = self.running.as_mut().filter(|running| running.job == job) else {
            return Vec::new();
        };
        running.waiting_for.retain(|other| *other != worker);
        running.matched += u64::from(matched);
        running.turn_page(worker, matched);
        if !running.waiting_for.is_empty() || running.ask_next(workers) {
            return Vec::new();
        }
        let retired = self.running.take().map(finish).unwrap_or_default();
        self.start(workers);
        retired
    }

    /// Gives up a walk that takes too long.
    pub fn tick(&mut self, now: Instant, workers: &mut [Outgoing]) {
        if self.running.as_ref().is_none_or(|running| now < running.deadline) {
            return;
        }
        if let Some(running) = self.running.take() {
            let silent: Vec<_> = running.waiting_for.iter().map(u8::to_string).collect();
            let message = format!(
                "no answer within {} s from worker {}",
                PATIENCE.as_secs(),
                silent.join(", ")
            );
            let hint = "`gyre workers` shows whether one is stalled";
            let error = ApiError::new(ErrorCode::WorkerTimeout, message).hint(hint);
            match running.wanted.purpose {
                // Old routes must go in the end, however late.
                Purpose::ForgetRoutes { .. } => self.waiting.push_back(running.wanted),
                _ => running.wanted.refuse(error),
            }
        }
        self.start(workers);
    }
}

fn finish(running: Running) -> Vec<RetiredHop> {
    match running.wanted.purpose {
        Purpose::List { reply, .. } => {
            let next = running.next.to_text();
            let truncated = next.is_some();
            let result = ListConnectionsResult { connections: running.rows, truncated, next };
            // Large lists take a while to write: not on the control thread.
            tokio::task::spawn_blocking(move || reply.send(super::to_outcome(&result)));
            Vec::new()
        }
        Purpose::Delete { reply, .. } => {
            let result = DeleteResult { deleted: running.matched };
            let _ = reply.send(super::to_outcome(&result));
            Vec::new()
        }
        Purpose::ForgetRoutes { retired } => retired,
    }
}

fn connection(worker: u8, row: &FlowRow) -> ConnectionRow {
    let text = |(address, port)| SocketAddr::new(address, port).to_string();
    ConnectionRow {
        protocol: match row.kind {
            RowKind::GroupTemplate => "ip".into(),
            RowKind::Flow | RowKind::Template => row.protocol.to_string(),
        },
        client: text(row.client),
        r#virtual: text(row.virtual_address),
        local: row.local.map(text),
        server: text(row.server),
        forwarding: mode_word(row.mode).into(),
        state: row.state.name().into(),
        expires_ms: row.expires_ms,
        packets: row.packets,
        worker,
    }
}
