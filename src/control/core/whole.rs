//! Changes of the whole configuration: applied, reloaded, rolled back, confirmed or taken back,
//! saved. Each is one transaction on the registry.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;
use tracing::{error, info, warn};

use super::Core;
use super::change::{Change, Done, Hops, Present, Run, WholeDone, hop_in};
use super::difference::{Difference, Side};
use super::history::{Extent, Kept, Unconfirmed};
use super::refusal::{from_config, from_specs};
use super::work::Work;
use super::{file, to_outcome};
use crate::config::{Checked, Problem, check, check_json, check_then, merge};
use crate::control::api::rpc::Outcome;
use crate::control::api::{
    ApiError, ApplyParams, ApplyResult, ConfigText, ConfirmResult, ErrorCode, GetParams,
    ReloadParams, RevisionsResult, RollbackParams, SaveParams, SaveResult,
};
use crate::limits::{CHANGES_SHOWN_MAX, CONFIRM_SECONDS_MAX};
use crate::model::{Registry, ServerSpec, ServiceSpec};

type Reply = oneshot::Sender<Outcome>;

/// Whether to change anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Try,
    Make,
}

/// What to do where changes that were not saved would be undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsaved {
    Tell,
    Refuse,
}

/// What a configuration is in view of one that waits to be confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// It has to wait for the answer.
    Usual,
    /// It is an answer: what waits is given up.
    GivesUp,
}

/// A whole configuration to apply.
pub struct Whole {
    /// Without services in `config`, which are in `desired`.
    pub checked: Checked,
    /// Where it comes from, for people.
    pub by: String,
    /// Whether it is what the file says.
    pub is_file: bool,
    pub purpose: Purpose,
    pub unsaved: Unsaved,
    pub order: Order,
    pub confirm: Option<Duration>,
}

impl Whole {
    /// What gyre starts with.
    pub fn first(checked: Checked) -> Self {
        Whole { is_file: true, ..Whole::new(checked, "start".into(), Purpose::Make) }
    }

    fn new(mut checked: Checked, by: String, purpose: Purpose) -> Self {
        checked.config.service = Vec::new();
        let (unsaved, order) = (Unsaved::Tell, Order::Usual);
        Whole { checked, by, is_file: false, purpose, unsaved, order, confirm: None }
    }
}

fn purpose(dry_run: bool) -> Purpose {
    if dry_run { Purpose::Try } else { Purpose::Make }
}

fn confirm(seconds: Option<u64>) -> Result<Option<Duration>, ApiError> {
    match seconds {
        Some(seconds) if !(1..=CONFIRM_SECONDS_MAX).contains(&seconds) => {
            let message = format!("confirm_s {seconds} is not within 1 to {CONFIRM_SECONDS_MAX}");
            Err(ApiError::new(ErrorCode::InvalidParams, message).hint("leave it out to keep it"))
        }
        seconds => Ok(seconds.map(Duration::from_secs)),
    }
}

fn shorten(lines: &mut Vec<String>) {
    if lines.len() > CHANGES_SHOWN_MAX {
        let more = lines.len() - CHANGES_SHOWN_MAX;
        lines.truncate(CHANGES_SHOWN_MAX);
        lines.push(format!("and {more} more"));
    }
}

/// How what runs differs from what is wanted, and what of it nobody saved.
struct Compared {
    before: Kept,
    changes: Vec<String>,
    lost: Vec<String>,
}

impl Compared {
    fn new(before: Kept, saved: &Kept, checked: &Checked) -> Self {
        let (running, file) = (Side::from(&before), Side::from(saved));
        let difference = Difference::between(&running, &checked.into());
        let unsaved = Difference::between(&file, &running);
        let mut changes = difference.lines();
        let mut lost = unsaved.overwritten_by(&difference);
        shorten(&mut changes);
        shorten(&mut lost);
        Compared { before, changes, lost }
    }
}

fn would_lose(lost: Vec<String>) -> ApiError {
    let message = "changes that are not in the file would be lost; nothing has changed";
    ApiError::new(ErrorCode::Unsaved, message)
        .hint("`gyre save` puts them into the file, `gyre reload --discard` gives them up")
        .problems(lost)
}

impl Present<'_> {
    /// Prepares to make the configuration what `whole` says.
    pub fn whole(&mut self, whole: Whole) -> Result<Run, ApiError> {
        let Whole { checked, by, is_file, purpose, unsaved, confirm, .. } = whole;
        let needs_restart = checked.config.restart_needed(self.config);
        if !needs_restart.is_empty() && purpose == Purpose::Make {
            let message = format!("only a restart can change {}", needs_restart.join(", "));
            return Err(ApiError::new(ErrorCode::NeedsRestart, message)
                .hint("leave them as `config.get` shows them, or restart gyre"));
        }
        let (statics, saved) = (Arc::clone(self.config), self.saved.clone());
        let compare = move |registry: &Registry, checked: &Checked| {
            let before = Kept::of(&statics, registry);
            let saved = saved.unwrap_or_else(|| before.clone());
            Compared::new(before, &saved, checked)
        };
        if purpose == Purpose::Try {
            return Ok(Box::new(move |registry| {
                registry.check(&checked.desired).map_err(from_specs)?;
                let Compared { changes, lost, .. } = compare(registry, &checked);
                let whole = Some(WholeDone { lost, needs_restart, ..WholeDone::default() });
                let revision = registry.snapshot().revision;
                Ok(Done { revision, changes, whole, ..Done::default() })
            }));
        }
        let mut hops = Hops::new();
        let servers = checked.desired.services.iter().flat_map(ServiceSpec::all_servers);
        self.hops(servers, &mut hops)?;
        Ok(Box::new(move |registry| {
            let Compared { before, changes, lost } = compare(registry, &checked);
            if unsaved == Unsaved::Refuse && !lost.is_empty() {
                return Err(would_lose(lost));
            }
            let Checked { config, desired } = checked;
            let mut applied = registry.apply(&desired, &mut hop_in(&hops)).map_err(from_specs)?;
            if !applied.changed && !changes.is_empty() {
                // Neighbours and routes are in no snapshot, but the change is to have a number.
                applied = registry.renumber();
            }
            let config = Arc::new(config);
            let kept = Some(Kept::of(&config, registry));
            let revision = applied.snapshot.revision;
            let (applied, config) = (Some(applied), Some(config));
            let made = (Extent::Whole, by);
            let before = Some(before);
            let whole = Some(WholeDone { lost, needs_restart, confirm, before, is_file });
            Ok(Done { applied, revision, config, changes, made, kept, whole })
        }))
    }

    /// Takes next hops for servers.
    pub fn hops<'s>(
        &mut self,
        servers: impl Iterator<Item = &'s ServerSpec>,
        hops: &mut Hops,
    ) -> Result<(), ApiError> {
        for server in servers {
            if hops.contains_key(&server.address) {
                continue;
            }
            let id = self.next_hops.hop_for_server(server.address).map_err(|error| {
                ApiError::new(ErrorCode::NoRoom, error.to_string())
                    .hint("remove servers that are not needed")
            })?;
            hops.insert(server.address, id);
        }
        Ok(())
    }
}

impl Core {
    /// Shows what runs, or what ran.
    pub(super) fn get_config(&mut self, params: GetParams, reply: Reply) {
        let kept = params.revision.map(|number| self.history.get(number).cloned());
        if matches!(kept, Some(None)) {
            let message = "there is no such revision";
            let hint = "`gyre revisions` lists those that are kept";
            let _ = reply.send(Err(ApiError::new(ErrorCode::NotFound, message).hint(hint)));
            return;
        }
        let earlier = params.revision.zip(kept.flatten());
        self.enqueue(Work::ConfigGet { format: params.format, earlier, reply });
    }

    /// Parses beside the core, then has it come back as work.
    pub(super) fn parse_config(&mut self, params: ApplyParams, reply: Reply) {
        let ApplyParams { config, dry_run, confirm_s, file } = params;
        let same_file = file.as_deref().is_some_and(|file| *file == *self.config_path);
        let parsed = self.parsed.clone();
        spawn_blocking(move || {
            let done = |checked: Result<Checked, Vec<Problem>>| {
                let by = match file {
                    Some(file) => format!("apply of {}", file.escape_debug()),
                    None => "config.apply".into(),
                };
                let whole = confirm(confirm_s).and_then(|confirm| {
                    let whole = Whole::new(checked.map_err(from_config)?, by, purpose(dry_run));
                    Ok(Whole { confirm, is_file: same_file, ..whole })
                });
                come_back(&parsed, whole, reply);
            };
            match config {
                ConfigText::Toml(text) => check_then(&text, done),
                ConfigText::Json(object) => done(check_json(&serde_json::Value::Object(object))),
            }
        });
    }

    /// Applies the configuration file as it is now.
    pub(super) fn reload(&mut self, params: ReloadParams, reply: Reply) {
        let reply = if params.dry_run { reply } else { self.tell_of_reload(reply) };
        let path = Arc::clone(&self.config_path);
        self.read_beside(reply, move || {
            let confirm = confirm(params.confirm_s)?;
            let checked = file::load(Path::new(&*path))?;
            let unsaved = if params.discard { Unsaved::Tell } else { Unsaved::Refuse };
            let whole = Whole::new(checked, format!("reload of {path}"), purpose(params.dry_run));
            Ok(Whole { unsaved, confirm, is_file: true, ..whole })
        });
    }

    /// SIGHUP: nobody can be asked, so what is lost is told, with the way back.
    pub(super) fn reload_by_signal(&mut self) {
        info!("SIGHUP: reloading {}", self.config_path);
        let (reply, answer) = oneshot::channel();
        let before = self.history.current();
        self.reload(ReloadParams { discard: true, ..ReloadParams::default() }, reply);
        tokio::spawn(async move {
            let Ok(outcome) = answer.await else { return };
            match outcome.map(|raw| serde_json::from_str::<ApplyResult>(raw.get())) {
                Ok(Ok(done)) if !done.lost.is_empty() => {
                    let before = before.unwrap_or_default();
                    warn!(
                        "reload undid changes that were not saved; `gyre rollback {before}` \
                           brings them back"
                    );
                }
                Ok(Ok(done)) => info!(revision = done.revision, "reloaded"),
                Ok(Err(error)) => error!(%error, "reload: an answer of another type"),
                Err(error) => error!("reload: {error}"),
            }
        });
    }

    /// Goes back to an earlier revision.
    pub(super) fn roll_back(&mut self, params: RollbackParams, reply: Reply) {
        let number = params.revision.or_else(|| match &self.unconfirmed {
            Some(unconfirmed) => Some(unconfirmed.before.0),
            None => self.history.previous(),
        });
        let waiting = self.unconfirmed.as_ref().map(|waiting| &waiting.before);
        let waiting = waiting.filter(|before| Some(before.0) == number).map(|before| &before.1);
        let Some((number, kept)) =
            number.zip(number.and_then(|number| self.history.get(number)).or(waiting).cloned())
        else {
            let message = match params.revision {
                Some(number) => format!("there is no revision {number}"),
                None => "there is no revision before this one".into(),
            };
            let hint = "`gyre revisions` lists those that are kept";
            let _ = reply.send(Err(ApiError::new(ErrorCode::NotFound, message).hint(hint)));
            return;
        };
        self.read_beside(reply, move || {
            let confirm = confirm(params.confirm_s)?;
            let by = format!("rollback to {number}");
            let whole = Whole::new(kept.checked(), by, purpose(params.dry_run));
            Ok(Whole { confirm, order: Order::GivesUp, ..whole })
        });
    }

    /// Makes a configuration beside the core, then has it come back as work.
    fn read_beside(
        &mut self,
        reply: Reply,
        read: impl FnOnce() -> Result<Whole, ApiError> + Send + 'static,
    ) {
        let parsed = self.parsed.clone();
        spawn_blocking(move || come_back(&parsed, read(), reply));
    }

    /// Why a whole configuration has to wait, if it has to.
    pub(super) fn must_wait(&self, change: &Change) -> Option<ApiError> {
        let Change::Whole(whole) = change else { return None };
        let waiting = self.unconfirmed.as_ref()?;
        if whole.order == Order::GivesUp || whole.purpose == Purpose::Try {
            return None;
        }
        let (number, seconds) = (waiting.revision, waiting.seconds_left());
        let message = format!("revision {number} waits to be confirmed for {seconds} s more");
        Some(
            ApiError::new(ErrorCode::Unconfirmed, message)
                .hint("`gyre confirm` keeps it, `gyre rollback` gives it up"),
        )
    }

    /// Keeps what waits.
    pub(super) fn confirm(&mut self) -> Outcome {
        match self.unconfirmed.take() {
            Some(waiting) if !self.reverting => {
                info!(revision = waiting.revision, "confirmed");
                to_outcome(&ConfirmResult { revision: waiting.revision })
            }
            waiting => {
                self.unconfirmed = waiting;
                let message = "no configuration waits to be confirmed";
                Err(ApiError::new(ErrorCode::Unconfirmed, message)
                    .hint("`gyre revisions` shows what runs; it may have been taken back already"))
            }
        }
    }

    /// Takes back what was not confirmed in time.
    pub(super) fn look_for_confirmation(&mut self, now: Instant) {
        let Some(waiting) = self.unconfirmed.as_ref().filter(|_| !self.reverting) else { return };
        if now < waiting.until {
            return;
        }
        self.reverting = true;
        let (number, kept) = (waiting.revision, waiting.before.1.clone());
        warn!(revision = number, "not confirmed in time; going back to {}", waiting.before.0);
        let parsed = self.parsed.clone();
        spawn_blocking(move || {
            let by = format!("revision {number} was not confirmed");
            let whole = Whole::new(kept.checked(), by, Purpose::Make);
            let order = Order::GivesUp;
            let _ = parsed.send(Work::Revert(Box::new(Whole { order, ..whole })));
        });
    }

    /// What was not confirmed cannot be taken back: it stays, and the log tells.
    pub(super) fn cannot_revert(&mut self, error: &ApiError) {
        error!("what was not confirmed cannot be taken back, so it stays: {error}");
        self.unconfirmed = None;
        self.reverting = false;
    }

    /// Takes note of a whole configuration that is in force.
    pub(super) fn whole_done(&mut self, done: &Done, whole: WholeDone) -> ApplyResult {
        let revision = done.revision;
        for line in &whole.lost {
            warn!(revision, "undone, and not saved: {line}");
        }
        let mut confirm_within_s = None;
        if let (Some(kept), Some(before)) = (&done.kept, whole.before) {
            if whole.is_file {
                self.saved = Some(kept.clone());
            }
            let is_change = !done.changes.is_empty();
            let waiting = whole.confirm.filter(|_| is_change).map(|time| Unconfirmed {
                revision,
                before: (self.history.current().unwrap_or(0), before),
                until: Instant::now() + time,
            });
            confirm_within_s = waiting.as_ref().map(Unconfirmed::seconds_left);
            self.unconfirmed = waiting;
            self.reverting = false;
        }
        ApplyResult {
            revision,
            changes: done.changes.clone(),
            lost: whole.lost,
            needs_restart: whole.needs_restart,
            confirm_within_s,
        }
    }

    /// The revisions, and what of the present one is not in the file.
    pub(super) fn revisions(&self, registry: &Registry) -> RevisionsResult {
        let running = Kept::of(&self.config, registry);
        let unsaved = self
            .saved
            .as_ref()
            .map(|saved| Difference::between(&Side::from(saved), &Side::from(&running)).lines());
        let mut unsaved = unsaved.unwrap_or_default();
        shorten(&mut unsaved);
        RevisionsResult {
            revisions: self.history.rows(),
            unsaved,
            confirm_within_s: self.unconfirmed.as_ref().map(Unconfirmed::seconds_left),
        }
    }
}

/// Sends what was made beside the core as work, or the refusal to whoever waits.
fn come_back(parsed: &mpsc::UnboundedSender<Work>, whole: Result<Whole, ApiError>, reply: Reply) {
    match whole {
        Ok(whole) => {
            let change = Change::Whole(Box::new(whole));
            // The core is gone only when gyre stops.
            let _ = parsed.send(Work::Change { change, reply });
        }
        Err(error) => drop(reply.send(Err(error))),
    }
}

/// What is to be saved, and beside what.
pub struct Saving {
    pub path: Arc<str>,
    pub params: SaveParams,
    pub running: Kept,
    /// What the file said when it was last looked at.
    pub saved: Option<Kept>,
    pub revision: u64,
}

impl Saving {
    /// Writes the file; what it says then.
    pub fn run(self) -> Result<(SaveResult, Option<Kept>), ApiError> {
        let path = Path::new(&*self.path);
        let found = file::read(path);
        let text = match found {
            Err(_) if self.params.overwrite => String::new(),
            found => found?,
        };
        let on_disk = check(&text).map(|checked| Whole::first(checked).checked);
        if !self.params.overwrite {
            self.must_be_known(on_disk.as_ref().ok())?;
        }
        let running = Side::from(&self.running);
        let changes = match &on_disk {
            Ok(checked) => Difference::between(&checked.into(), &running).lines(),
            Err(_) => vec!["the whole file".into()],
        };
        let result = |mut changes: Vec<String>| {
            shorten(&mut changes);
            SaveResult { revision: self.revision, path: self.path.to_string(), changes }
        };
        if self.params.dry_run {
            return Ok((result(changes), None));
        }
        if !changes.is_empty() {
            let text = merge(&text, &self.running.config())
                .map_err(|error| ApiError::new(ErrorCode::Internal, error.to_string()))?;
            file::write(path, &text)?;
        }
        Ok((result(changes), Some(self.running.clone())))
    }

    /// The file must be as it was when it was last looked at: what somebody wrote into it since
    /// is not ours to overwrite.
    fn must_be_known(&self, on_disk: Option<&Checked>) -> Result<(), ApiError> {
        let changes = match (on_disk, &self.saved) {
            (Some(checked), Some(saved)) => {
                let difference = Difference::between(&Side::from(saved), &checked.into());
                let mut lines = difference.lines();
                lines.extend(checked.config.restart_needed(&saved.statics));
                lines
            }
            (None, _) => vec!["it has faults: see `gyre check`".into()],
            (_, None) => Vec::new(),
        };
        if changes.is_empty() {
            return Ok(());
        }
        let message = format!("{} was changed since it was loaded", self.path);
        let mut changes = changes;
        shorten(&mut changes);
        Err(ApiError::new(ErrorCode::FileChanged, message)
            .hint("`gyre save --overwrite` gives up what is there, `gyre save --to FILE` keeps it")
            .problems(changes))
    }
}
