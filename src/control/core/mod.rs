//! The core: one task that owns the registry, the next hops and the workers' links, and through
//! which every change goes. What takes long (building snapshots, long lists, parsing) runs beside
//! it, so that it always answers.

mod baseline;
mod change;
mod cursor;
mod difference;
mod events;
mod file;
mod floods;
mod health;
mod history;
mod hops;
mod links;
mod loads;
mod naming;
mod news;
mod outgoing;
mod rates;
mod refusal;
mod replies;
mod report;
mod requests;
mod sweep;
mod view;
mod watch;
mod whole;
mod work;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::value::to_raw_value;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;
use tracing::{error, info, warn};

use super::answer::Job;
use super::api::rpc::Outcome;
use super::api::{ApiError, ErrorCode};
use super::health::hooks::Hooks;
use super::health::runner::{Report, Runner};
use super::http::{self, Api, BoundHttp};
use super::kernel_source::{KernelAsks, KernelEvents, KernelSource};
use super::metrics::Latencies;
use super::notices::Notices;
use super::port_info::PortInfoSource;
use super::socket::{self, BoundSocket, SocketLimits};
use super::{ControlError, ControlInputs, Heartbeat, KernelSide, Reload, Stop, Supervisor};
use crate::config::{Checked, Config};
use crate::model::next_hops::{KernelEvent, NextHops};
use crate::model::{NicModel, PoolSpec, Registry, Snapshot};
use crate::time::Nanos;

use crate::limits::{CHECK_REPORTS_MAX, JOBS_WAITING_MAX};
use baseline::Counts;
use floods::{FLOODS_EVERY, Floods};
use health::{Health, HealthInbox};
use history::{History, Kept, Unconfirmed};
use links::{LINKS_EVERY, Links};
use loads::{Loads, SHARE_EVERY};
use news::HopsResolved;
use outgoing::Outgoing;
use rates::{RATE_EVERY, Rates};
use replies::Replies;
use sweep::Sweeps;
use watch::Watch;
use work::{Building, Work};

/// How often workers' events are fetched and their rings refilled.
const TICK: Duration = Duration::from_millis(5);
/// The same while flows are being listed.
const TICK_BUSY: Duration = Duration::from_millis(1);
/// How often workers' turns are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often it is told how far drains have come.
const DRAINS_EVERY: Duration = Duration::from_secs(2);
/// How often slots are reclaimed while some wait for it.
const RECLAIM_EVERY: Duration = Duration::from_millis(100);
/// The same for next hops, which takes a walk over all flows.
const RECLAIM_HOPS_EVERY: Duration = Duration::from_secs(10);
/// How long workers may take to end.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// See the module.
struct Core {
    workers: Vec<Outgoing>,
    /// Workers that said they ended.
    ended: Vec<bool>,
    counts: Counts,
    loads: Loads,
    rates: Arc<Rates>,
    /// The next ones, on their way.
    rating: Option<oneshot::Receiver<Rates>>,
    watch: Watch,
    sweeps: Sweeps,
    /// At home unless something is being built with it.
    registry: Option<Box<Registry>>,
    building: Option<Building>,
    work: VecDeque<Work>,
    replies: Replies,
    /// The newest, published.
    snapshot: Arc<Snapshot>,
    pools: Arc<Vec<PoolSpec>>,
    /// The configuration as last applied, but for services and switches, which are in the registry.
    config: Arc<Config>,
    /// What the file said when it was last looked at, once gyre has started.
    saved: Option<Kept>,
    history: History,
    unconfirmed: Option<Unconfirmed>,
    /// What was not confirmed is being taken back.
    reverting: bool,
    config_path: Arc<str>,
    next_hops: NextHops,
    /// Ports as the devices are; interfaces may lower the MTU.
    nics: Vec<NicModel>,
    kernel: KernelAsks,
    port_info: PortInfoSource,
    kernel_side: KernelSide,
    /// Parsed configurations on their way back.
    parsed: mpsc::UnboundedSender<Work>,
    notices: Notices,
    floods: Floods,
    links: Links,
    hops_resolved: HopsResolved,
    health: Health,
    stop: Stop,
    supervisor: Supervisor,
    heartbeat: Option<Heartbeat>,
    /// What the service manager was told last; nothing before gyre is ready.
    status_told: Option<String>,
    started: Instant,
    next: Times,
}

/// When the periodic parts are due.
struct Times {
    tick: Instant,
    look: Instant,
    share: Instant,
    rate: Instant,
    floods: Instant,
    links: Instant,
    drains: Instant,
    reclaim: Instant,
    reclaim_hops: Instant,
}

/// A result as text.
fn to_outcome<T: Serialize>(result: &T) -> Outcome {
    to_raw_value(result).map_err(|error| ApiError::new(ErrorCode::Internal, error.to_string()))
}

/// Runs control to its end: until `stop`, a worker's end or a failure at start-up. Workers are told
/// to end in any case.
pub async fn run(mut inputs: ControlInputs) -> Result<(), ControlError> {
    let (parsed, from_parser) = mpsc::unbounded_channel();
    let kernel = std::mem::replace(&mut inputs.kernel, KernelSource::Silent);
    let (stop, reload) = (inputs.stop.clone(), inputs.reload.clone());
    let (runner, reports) = Runner::start(u64::from(std::process::id()))?;
    let (hooks, hooks_ended) = Hooks::new();
    let health = Health::new(runner, hooks, Instant::now());
    let health_inbox = HealthInbox { reports, hooks: hooks_ended };
    let (mut core, Start { checked, socket, limits }) = Core::new(inputs, parsed, health);
    let http = match &checked.config.http {
        Some(http) => BoundHttp::bind(http).await.map(Some),
        None => Ok(None),
    };
    let ready = match http.and_then(|http| listen(&socket).map(|listener| (http, listener))) {
        Ok(doors) => core.open(kernel, checked).await.map(|events| (doors, events)),
        Err(error) => Err(error),
    };
    let outcome = match ready {
        Ok(((http, listener), events)) => {
            let (jobs, inbox) = mpsc::channel(JOBS_WAITING_MAX);
            let (notices, latencies) = (core.notices.clone(), Latencies::new());
            let api = Api { core: jobs, notices, latencies };
            let web = http.map(|bound| {
                info!(address = ?bound.address(), "http is ready");
                tokio::spawn(http::serve(bound, api.clone(), stop.clone()))
            });
            let server = tokio::spawn(socket::serve(listener, limits, api, stop));
            info!(socket = %socket.path().display(), "control socket is ready");
            let health = health_inbox;
            let mut inbox = Inbox { jobs: inbox, parsed: from_parser, events, reload, health };
            core.serve(&mut inbox).await;
            core.tell_hooks_of_stop(&mut inbox.health.hooks).await;
            drop(inbox);
            core.shut_down().await;
            // Clients get their last replies before the process goes.
            let _ = server.await;
            if let Some(web) = web {
                let _ = web.await;
            }
            Ok(())
        }
        Err(error) => {
            core.shut_down().await;
            Err(error)
        }
    };
    core.kernel.stop().await;
    outcome
}

/// What a start needs besides the core.
struct Start {
    checked: Checked,
    socket: BoundSocket,
    limits: SocketLimits,
}

impl Core {
    /// Before anything was applied.
    fn new(
        inputs: ControlInputs,
        parsed: mpsc::UnboundedSender<Work>,
        health: Health,
    ) -> (Self, Start) {
        let now = Instant::now();
        let counters = inputs.links.iter().map(|link| Arc::clone(&link.counters)).collect();
        let counts = Counts::new(counters);
        let core = Core {
            ended: vec![false; inputs.links.len()],
            workers: inputs.links.into_iter().map(Outgoing::new).collect(),
            watch: Watch::new(&counts.workers, now),
            counts,
            loads: Loads::default(),
            rates: Arc::new(Rates::new(now)),
            rating: None,
            sweeps: Sweeps::default(),
            snapshot: Arc::clone(inputs.registry.snapshot()),
            nics: inputs.registry.snapshot().nics.to_vec(),
            registry: Some(Box::new(inputs.registry)),
            building: None,
            work: VecDeque::new(),
            replies: Replies::default(),
            pools: Arc::default(),
            config: Arc::new(Config { service: Vec::new(), ..inputs.checked.config.clone() }),
            saved: None,
            history: History::default(),
            unconfirmed: None,
            reverting: false,
            config_path: inputs.config_path.display().to_string().into(),
            next_hops: NextHops::new(inputs.nic_links),
            kernel: KernelAsks::Silent,
            port_info: inputs.port_info,
            kernel_side: inputs.kernel_side,
            parsed,
            notices: Notices::new(),
            floods: Floods::default(),
            links: Links::default(),
            hops_resolved: HopsResolved::default(),
            health,
            stop: inputs.stop,
            heartbeat: inputs.supervisor.heartbeat(),
            supervisor: inputs.supervisor,
            status_told: None,
            started: now,
            next: Times {
                tick: now,
                look: now,
                share: now,
                rate: now,
                floods: now + FLOODS_EVERY,
                links: now + LINKS_EVERY,
                drains: now + DRAINS_EVERY,
                reclaim: now,
                reclaim_hops: now + RECLAIM_HOPS_EVERY,
            },
        };
        let start =
            Start { checked: inputs.checked, socket: inputs.socket, limits: inputs.socket_limits };
        (core, start)
    }
}

fn listen(socket: &BoundSocket) -> Result<UnixListener, ControlError> {
    let listener = socket.listener().and_then(UnixListener::from_std);
    listener.map_err(|error| ControlError::Socket { path: socket.path().into(), error })
}

/// What comes to the core.
struct Inbox {
    jobs: mpsc::Receiver<Job>,
    parsed: mpsc::UnboundedReceiver<Work>,
    events: Option<KernelEvents>,
    reload: Reload,
    health: HealthInbox,
}

/// The next batch; never, where there is no kernel to ask.
async fn next_batch(events: &mut Option<KernelEvents>) -> Vec<KernelEvent> {
    if let Some(source) = events {
        match source.recv().await {
            Some(batch) => return batch,
            None => error!(
                "the kernel's routes and neighbours are no longer heard of and stay as they \
                 are; restart gyre"
            ),
        }
        *events = None;
    }
    std::future::pending().await
}

impl Core {
    /// Time for deadlines of drains.
    fn now(&self) -> Nanos {
        Nanos(u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// Listens to the kernel, then publishes the first configuration. What the kernel knows comes
    /// before it: a worker that has services and no routes would tell clients that their servers
    /// are unreachable.
    async fn open(
        &mut self,
        kernel: KernelSource,
        checked: Checked,
    ) -> Result<Option<KernelEvents>, ControlError> {
        let (asks, mut events) = kernel.start().await?;
        self.kernel = asks;
        if let Some(known) = events.as_mut().and_then(|events| events.try_recv().ok()) {
            self.kernel_events(&known);
        }
        self.start(checked).await?;
        Ok(events)
    }

    async fn serve(&mut self, inbox: &mut Inbox) {
        let stop = self.stop.clone();
        let mut reports: Vec<Report> = Vec::new();
        loop {
            tokio::select! {
                biased;
                () = stop.requested() => break,
                finished = work::wait(&mut self.building) => self.finished(finished),
                () = tokio::time::sleep_until(self.next.tick.into()) => self.tick(),
                1.. = inbox.health.reports.recv_many(&mut reports, CHECK_REPORTS_MAX) => {
                    self.take_reports(&mut reports);
                }
                Some(key) = inbox.health.hooks.recv() => self.health.hook_ended(key),
                batch = next_batch(&mut inbox.events) => self.kernel_events(&batch),
                () = inbox.reload.requested() => self.reload_by_signal(),
                Some(work) = inbox.parsed.recv() => self.enqueue(work),
                Some(job) = inbox.jobs.recv() => match job {
                    Job::Call { request, reply } => self.request(request, reply),
                    Job::Facts { reply } => self.facts(reply),
                },
            }
        }
    }

    /// Waits until workers have what was published, so that whoever finds gyre ready finds its
    /// services too. A worker that does not turn keeps nobody waiting for long.
    async fn wait_for_adoption(&mut self) {
        let end = Instant::now() + replies::ADOPTION_PATIENCE;
        while self.adopted() < self.snapshot.revision && Instant::now() < end {
            self.pump();
            tokio::time::sleep(TICK_BUSY).await;
        }
    }

    /// The revision that every worker has adopted.
    fn adopted(&self) -> u64 {
        let of_each = self.workers.iter().map(|worker| worker.link().snapshots.adopted());
        of_each.min().unwrap_or(u64::MAX)
    }

    /// What is to be done now and then.
    fn tick(&mut self) {
        let now = Instant::now();
        self.take_events();
        self.pump();
        self.replies.release(self.adopted(), now);
        self.sweeps.tick(now, &mut self.workers);
        if now >= self.next.look {
            self.next.look = now + LOOK_EVERY;
            self.look(now);
            self.report(now);
            self.look_for_confirmation(now);
        }
        if now >= self.next.share {
            self.next.share = now + SHARE_EVERY;
            self.loads.share(&self.counts.workers, &self.snapshot);
        }
        self.rate(now);
        self.look_at_health(now);
        if now >= self.next.floods {
            self.next.floods = now + FLOODS_EVERY;
            self.look_for_floods();
        }
        if now >= self.next.links {
            self.next.links = now + LINKS_EVERY;
            self.look_at_links();
        }
        if now >= self.next.drains {
            self.next.drains = now + DRAINS_EVERY;
            self.tell_of_drains();
        }
        if now >= self.next.reclaim {
            self.next.reclaim = now + RECLAIM_EVERY;
            self.want_reclaim();
        }
        if now >= self.next.reclaim_hops {
            self.next.reclaim_hops = now + RECLAIM_HOPS_EVERY;
            self.reclaim_hops();
        }
        let idle = self.sweeps.is_idle() && self.replies.is_empty();
        self.next.tick = now + if idle { TICK } else { TICK_BUSY };
    }

    /// Has rates looked at again when it is time, and takes them when they are there.
    fn rate(&mut self, now: Instant) {
        if let Some(rates) = self.rating.as_mut().and_then(|rating| rating.try_recv().ok()) {
            self.rates = Arc::new(rates);
            self.rating = None;
        }
        if now < self.next.rate || self.rating.is_some() {
            return;
        }
        self.next.rate = now + RATE_EVERY;
        let (before, snapshot, counts) =
            (Arc::clone(&self.rates), Arc::clone(&self.snapshot), self.counts.clone());
        let (done, rating) = oneshot::channel();
        self.rating = Some(rating);
        spawn_blocking(move || done.send(before.next(&snapshot, &counts, now)));
    }

    /// Sends what waits.
    fn pump(&mut self) {
        for worker in &mut self.workers {
            if worker.pump() {
                let all = self.next_hops.all();
                worker.hops(&all);
            }
        }
    }

    /// Gives a snapshot to all workers, behind the next hops that it names. The kernel side knows
    /// it already.
    fn publish(&mut self, snapshot: &Arc<Snapshot>) {
        self.snapshot = Arc::clone(snapshot);
        self.flush_hops();
        self.workers.iter_mut().for_each(|worker| worker.publish(snapshot));
        self.pump();
    }

    /// Tells workers to end, waits for them, frees what they give back.
    async fn shut_down(&mut self) {
        info!("stopping");
        // After a failed start nobody has asked yet, and workers that end are no news.
        self.stop.request();
        self.supervisor.stopping();
        self.replies.release_all();
        let deadline = Instant::now() + END_PATIENCE;
        let mut told = vec![false; self.workers.len()];
        loop {
            for (worker, told) in self.workers.iter_mut().zip(&mut told) {
                *told = *told || worker.is_over() || worker.shut_down();
                worker.collect();
            }
            self.take_events();
            let over = |(worker, ended): (&Outgoing, &bool)| *ended || worker.is_over();
            if self.workers.iter().zip(&self.ended).all(over) {
                break;
            }
            if Instant::now() > deadline {
                warn!(seconds = END_PATIENCE.as_secs(), "workers did not end in time");
                break;
            }
            tokio::time::sleep(TICK).await;
        }
        self.workers.iter_mut().for_each(Outgoing::collect);
    }
}
