//! Changes one after another: each takes the registry to a thread of its own, where snapshots are
//! built, and brings it back.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashSet;
use tokio::sync::oneshot;
use tokio::task::{JoinError, JoinHandle, spawn_blocking};
use tokio::time::timeout;
use tracing::{error, info, warn};

use super::change::{Change, Done, Present};
use super::history::Kept;
use super::whole::{Saving, Whole};
use super::{Core, to_outcome};
use crate::config::{Checked, Config};
use crate::control::api::rpc::Outcome;
use crate::control::api::{
    ApiError, Changed, ConfigFormat, ConfigResult, ConfigText, ErrorCode, SaveParams, SaveResult,
};
use crate::control::{ControlError, KernelSide};
use crate::limits::CHANGES_WAITING_MAX;
use crate::model::next_hops::RouteUpdate;
use crate::model::{Applied, NicModel, Registry, Snapshot};

/// How long the kernel side may take to prepare for a snapshot.
const KERNEL_PATIENCE: Duration = Duration::from_secs(2);

/// Something to do with the registry.
pub enum Work {
    /// A client's change.
    Change { change: Change, reply: oneshot::Sender<Outcome> },
    /// A client wants the configuration.
    ConfigGet {
        format: ConfigFormat,
        /// A revision that is kept, instead of what runs.
        earlier: Option<(u64, Kept)>,
        reply: oneshot::Sender<Outcome>,
    },
    /// A client wants to know what ran.
    Revisions { reply: oneshot::Sender<Outcome> },
    /// What runs is to be written to the file.
    Save { params: SaveParams, reply: oneshot::Sender<Outcome> },
    /// A configuration was not confirmed.
    Revert(Box<Whole>),
    /// Routes towards clients changed.
    Routes(RouteUpdate),
    /// Ports' interfaces changed.
    Nics(Vec<NicModel>),
    /// Health checks have servers changed.
    Health,
    /// Drains may be over, slots may be free.
    Reclaim,
}

/// Work under way.
pub type Building = JoinHandle<Result<Finished, JoinError>>;

/// Work done, with the registry come home.
pub struct Finished {
    registry: Box<Registry>,
    /// Servers that may still be sent to, when they may have changed.
    rips: Option<HashSet<IpAddr>>,
    end: End,
}

pub enum End {
    /// Nobody waits for the answer of what was not confirmed.
    Change(Box<Result<Done, ApiError>>, Option<oneshot::Sender<Outcome>>),
    Answer(Outcome, oneshot::Sender<Outcome>),
    Saved(Result<(SaveResult, Option<Kept>), ApiError>, oneshot::Sender<Outcome>),
    Routes(Applied, bool),
    Applied(Option<Applied>),
}

/// The work under way, done; never, when there is none.
pub async fn wait(building: &mut Option<Building>) -> Result<Finished, JoinError> {
    match building {
        Some(handle) => handle.await?,
        None => std::future::pending().await,
    }
}

impl End {
    /// What is to be published.
    fn snapshot(&self) -> Option<&Arc<Snapshot>> {
        let applied = match self {
            End::Change(result, _) => result.as_ref().as_ref().ok()?.applied.as_ref()?,
            End::Routes(applied, _) | End::Applied(Some(applied)) => applied,
            End::Answer(..) | End::Saved(..) | End::Applied(None) => return None,
        };
        applied.changed.then_some(&applied.snapshot)
    }
}

/// Runs `work` with the registry beside the core, then has the kernel prepared for what came out.
pub fn build(
    mut registry: Box<Registry>,
    kernel_side: &KernelSide,
    work: impl FnOnce(&mut Registry) -> (End, bool) + Send + 'static,
) -> Building {
    let kernel_side = Arc::clone(kernel_side);
    tokio::spawn(async move {
        let built = spawn_blocking(move || {
            let (end, servers_changed) = work(&mut registry);
            let rips = servers_changed.then(|| registry.rips().collect());
            Finished { registry, rips, end }
        });
        let finished = built.await?;
        if let Some(snapshot) = finished.end.snapshot() {
            // An answer that fails was logged, and does not stop the publication.
            if timeout(KERNEL_PATIENCE, kernel_side(snapshot)).await.is_err() {
                warn!("the kernel side does not answer; publishing without it");
            }
        }
        Ok(finished)
    })
}

impl Core {
    /// Takes the configuration that gyre starts with.
    pub(super) async fn start(&mut self, checked: Checked) -> Result<(), ControlError> {
        self.set_static(&checked.config);
        let change = Change::Whole(Box::new(Whole::first(checked)));
        let (reply, answer) = oneshot::channel();
        self.enqueue(Work::Change { change, reply });
        while self.building.is_some() {
            let finished = wait(&mut self.building).await;
            self.finished(finished);
        }
        self.wait_for_adoption().await;
        self.replies.release_all();
        match answer.await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(ControlError::Refused(error)),
            Err(_) => Err(ControlError::Ended),
        }
    }

    /// Adds work; it begins at once when nothing else is under way.
    pub(super) fn enqueue(&mut self, work: Work) {
        if self.work.len() >= CHANGES_WAITING_MAX
            && let Work::Change { reply, .. }
            | Work::ConfigGet { reply, .. }
            | Work::Revisions { reply }
            | Work::Save { reply, .. } = work
        {
            let message = "too many changes wait already";
            let error = ApiError::new(ErrorCode::NoRoom, message).hint("try again in a moment");
            let _ = reply.send(Err(error));
            return;
        }
        match work {
            // Before anything that was asked for on top of what is to go.
            Work::Revert(_) => self.work.push_front(work),
            _ => self.work.push_back(work),
        }
        self.begin();
    }

    pub(super) fn want_reclaim(&mut self) {
        if self.building.is_none() && self.work.is_empty() {
            self.enqueue(Work::Reclaim);
        }
    }

    fn begin(&mut self) {
        while self.building.is_none()
            && let Some(registry) = self.registry.take()
        {
            let Some(work) = self.work.pop_front() else {
                self.registry = Some(registry);
                return;
            };
            match work {
                Work::Change { change, reply } => {
                    self.begin_change(registry, change, Some(reply));
                }
                Work::ConfigGet { format, earlier, reply } => {
                    self.begin_get(registry, (format, earlier), reply);
                }
                Work::Revisions { reply } => {
                    let _ = reply.send(to_outcome(&self.revisions(&registry)));
                    self.registry = Some(registry);
                }
                Work::Save { params, reply } => self.begin_save(registry, params, reply),
                Work::Revert(whole) => {
                    self.begin_change(registry, Change::Whole(whole), None);
                }
                Work::Routes(update) => {
                    self.building = Some(build(registry, &self.kernel_side, move |registry| {
                        let applied = registry.set_routes(update.table);
                        (End::Routes(applied, update.targets_changed), false)
                    }));
                }
                Work::Nics(nics) => {
                    self.building = Some(build(registry, &self.kernel_side, move |registry| {
                        (End::Applied(Some(registry.set_nics(nics))), false)
                    }));
                }
                Work::Health => self.begin_health(registry),
                Work::Reclaim => self.begin_reclaim(registry),
            }
        }
    }

    fn begin_change(
        &mut self,
        registry: Box<Registry>,
        change: Change,
        reply: Option<oneshot::Sender<Outcome>>,
    ) {
        let now = self.now();
        let waits = self.must_wait(&change);
        let Core { next_hops, config, saved, .. } = self;
        let mut present = Present { registry: &registry, next_hops, config, saved, now };
        match waits.map_or_else(|| present.prepare(change), Err) {
            Ok(run) => {
                self.building = Some(build(registry, &self.kernel_side, move |registry| {
                    let result = run(registry);
                    (End::Change(Box::new(result), reply), true)
                }));
            }
            Err(error) => {
                self.registry = Some(registry);
                match reply {
                    Some(reply) => drop(reply.send(Err(error))),
                    None => self.cannot_revert(&error),
                }
            }
        }
    }

    fn begin_get(
        &mut self,
        registry: Box<Registry>,
        (format, earlier): (ConfigFormat, Option<(u64, Kept)>),
        reply: oneshot::Sender<Outcome>,
    ) {
        let statics = Arc::clone(&self.config);
        self.building = Some(build(registry, &self.kernel_side, move |registry| {
            let now = || (registry.snapshot().revision, Kept::of(&statics, registry));
            let (revision, kept) = earlier.unwrap_or_else(now);
            let config = written(&kept.config(), format);
            let answer = config.and_then(|config| to_outcome(&ConfigResult { revision, config }));
            (End::Answer(answer, reply), false)
        }));
    }

    fn begin_save(
        &mut self,
        registry: Box<Registry>,
        params: SaveParams,
        reply: oneshot::Sender<Outcome>,
    ) {
        if self.unconfirmed.is_some() && !params.dry_run {
            self.registry = Some(registry);
            let message = "what runs waits to be confirmed";
            let hint = "`gyre confirm` first, or `gyre rollback`";
            let _ = reply.send(Err(ApiError::new(ErrorCode::Unconfirmed, message).hint(hint)));
            return;
        }
        let (statics, saved) = (Arc::clone(&self.config), self.saved.clone());
        let path = Arc::clone(&self.config_path);
        self.building = Some(build(registry, &self.kernel_side, move |registry| {
            let running = Kept::of(&statics, registry);
            let revision = registry.snapshot().revision;
            let saving = Saving { path, params, running, saved, revision };
            (End::Saved(saving.run(), reply), false)
        }));
    }

    fn begin_reclaim(&mut self, registry: Box<Registry>) {
        // Before the counters are read: what a worker counts after it adopted is on the new side.
        let adopted = self.workers.iter().map(|worker| worker.link().snapshots.adopted()).min();
        let (counts, now) = (self.counts.clone(), self.now());
        self.building = Some(build(registry, &self.kernel_side, move |registry| {
            let before = registry.waiting();
            let applied = registry.reclaim(&counts, adopted.unwrap_or(0), now);
            let changed = registry.waiting() != before;
            (End::Applied(applied), changed)
        }));
    }

    /// Takes the registry home and makes known what came of the work.
    pub(super) fn finished(&mut self, finished: Result<Finished, JoinError>) {
        self.building = None;
        let finished = match finished {
            Ok(finished) => finished,
            Err(error) => {
                // Release builds abort at the panic itself.
                error!(%error, "a change failed half-way; stopping");
                return self.stop.request();
            }
        };
        if *self.pools != finished.registry.pools() {
            self.pools = Arc::new(finished.registry.pools().to_vec());
        }
        self.registry = Some(finished.registry);
        if let Some(rips) = finished.rips {
            self.next_hops.keep_servers(&rips);
        }
        match finished.end {
            End::Change(result, reply) => {
                let outcome = result.and_then(|done| self.changed(done));
                match (reply, outcome) {
                    (Some(reply), outcome) => {
                        self.replies.hold(self.snapshot.revision, outcome, reply);
                    }
                    (None, Ok(_)) => {}
                    (None, Err(error)) => self.cannot_revert(&error),
                }
                self.next.tick = Instant::now();
            }
            End::Saved(result, reply) => drop(reply.send(self.saved(result))),
            End::Answer(outcome, reply) => drop(reply.send(outcome)),
            End::Routes(applied, targets_changed) => {
                self.applied(&applied);
                if targets_changed {
                    self.forget_routes();
                }
            }
            End::Applied(applied) => drop(applied.map(|applied| self.applied(&applied))),
        }
        self.flush_hops();
        self.begin();
    }

    fn changed(&mut self, mut done: Done) -> Outcome {
        let is_made = done.kept.is_some();
        for change in done.changes.iter().filter(|_| is_made) {
            info!(revision = done.revision, "{change}");
        }
        if let Some(config) = &done.config {
            self.set_static(config);
            self.config = Arc::clone(config);
        }
        if let Some(applied) = &done.applied {
            self.applied(applied);
        }
        let whole = done.whole.take().map(|whole| self.whole_done(&done, whole));
        if let Some(kept) = done.kept.filter(|_| !done.changes.is_empty() || self.is_new()) {
            self.tell_of_change(done.revision, &done.made.1, &done.changes);
            self.history.note(done.revision, done.made, &done.changes, kept);
        }
        match whole {
            Some(whole) => to_outcome(&whole),
            None => to_outcome(&Changed { revision: done.revision, changes: done.changes }),
        }
    }

    /// Whether nothing was ever applied.
    fn is_new(&self) -> bool {
        self.history.current().is_none()
    }

    fn saved(&mut self, result: Result<(SaveResult, Option<Kept>), ApiError>) -> Outcome {
        let (result, kept) = result?;
        if let Some(kept) = kept {
            info!(revision = result.revision, "saved to {}", result.path);
            self.saved = Some(kept);
        }
        to_outcome(&result)
    }

    fn applied(&mut self, applied: &Applied) {
        if applied.changed {
            self.counts.renew(applied);
            let before = Arc::clone(&self.snapshot);
            self.counts.follow(&before, applied);
            self.tell_of_servers(&applied.snapshot);
            self.publish(&applied.snapshot);
            self.follow_health(applied);
        }
    }
}

/// A configuration as it was asked for.
fn written(config: &Config, format: ConfigFormat) -> Result<ConfigText, ApiError> {
    let internal = |error: String| ApiError::new(ErrorCode::Internal, error);
    match format {
        ConfigFormat::Toml => {
            config.to_toml().map(ConfigText::Toml).map_err(|e| internal(e.to_string()))
        }
        ConfigFormat::Json => match serde_json::to_value(config) {
            Ok(serde_json::Value::Object(object)) => Ok(ConfigText::Json(object)),
            Ok(_) => Err(internal("the configuration is no object".into())),
            Err(error) => Err(internal(error.to_string())),
        },
    }
}
