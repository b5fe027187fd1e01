//! A control server with workers that adopt, answer sweeps and count as told.

use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gyre::config;
use gyre::control::socket::{BoundSocket, SocketLimits};
use gyre::control::{
    ControlError, ControlInputs, KernelAsk, KernelSide, KernelSource, MempoolInfo, PortInfo,
    Reload, Stop, WorkerEnds, WorkerLink,
};
use gyre::counters::WorkerCounters;
use gyre::message::{FlowRow, FromWorker, Sweep, SweepAction, ToWorker};
use gyre::model::next_hops::{KernelEvent, NicLink};
use gyre::model::{
    KernelMode, NextHop, NextHopId, NicId, NicModel, Registry, RegistryConfig, Snapshot, Steering,
    WorkerId,
};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub const CONFIG: &str = r#"
runtime.workers = 2

[[port]]
name = "wan"
device = "net_null0"

[local_addresses]
pool1 = { port = "wan", addresses = ["192.0.2.8"], ports = [1024, 2047] }

[[service]]
address = "192.0.2.80:80"
name = "web"
scheduler = "rr"
forwarding = "fullnat"
local_addresses = "pool1"
server = [{ address = "192.0.2.11:8080" }, { address = "192.0.2.12:8080", weight = 3 }]
"#;

/// What a worker does and has seen; shared with the test.
pub struct Worker {
    pub counters: Arc<WorkerCounters>,
    pub flows: Mutex<Vec<FlowRow>>,
    pub hops: Mutex<Vec<(NextHopId, NextHop)>>,
    pub forgot_routes: Mutex<u32>,
    pub to_say: Mutex<Vec<FromWorker>>,
    pub snapshot: Mutex<Option<Arc<Snapshot>>>,
    /// Stands still while set.
    pub stalled: AtomicBool,
}

/// Fewer slots than gyre has: most of the time to make them is saved.
pub const SLOTS: usize = 256;

impl Worker {
    fn new(slots: usize) -> Self {
        Worker {
            counters: Arc::new(WorkerCounters::with_bounds(slots, slots, SLOTS)),
            flows: Mutex::default(),
            hops: Mutex::default(),
            forgot_routes: Mutex::default(),
            to_say: Mutex::default(),
            snapshot: Mutex::default(),
            stalled: AtomicBool::new(false),
        }
    }
}

fn matches(row: &FlowRow, sweep: &Sweep) -> bool {
    let filter = &sweep.filter;
    filter.client.is_none_or(|client| client == row.client.0)
        && filter.vip.is_none_or(|vip| vip == row.virtual_address.0)
        && filter.vport.is_none_or(|vport| vport == row.virtual_address.1)
        && filter.server.is_none_or(|server| server == row.server.0)
        && filter.state.is_none_or(|state| state == row.state)
}

fn answer(worker: &Worker, sweep: Sweep, ends: &mut WorkerEnds) {
    let mut flows = worker.flows.lock().unwrap();
    let places = (1..).zip(flows.iter().copied()).skip(sweep.start as usize);
    let found: Vec<(u32, FlowRow)> =
        places.filter(|(_, row)| matches(row, &sweep)).take(sweep.matches_max as usize).collect();
    let mut say = |event| {
        while ends.events.push(event).is_err() {
            std::thread::yield_now();
        }
    };
    match sweep.action {
        SweepAction::List => {
            found.iter().for_each(|(behind, row)| say(FromWorker::Row(sweep.job, *behind, *row)));
        }
        SweepAction::Delete => {
            let mut left = found.len();
            flows.retain(|row| {
                let goes = left > 0 && matches(row, &sweep);
                left -= usize::from(goes);
                !goes
            });
        }
        SweepAction::ForgetRoutes => *worker.forgot_routes.lock().unwrap() += 1,
    }
    say(FromWorker::SweepDone(sweep.job, found.len() as u32));
}

fn work(id: WorkerId, worker: &Worker, mut ends: WorkerEnds) {
    loop {
        std::thread::sleep(Duration::from_micros(200));
        if worker.stalled.load(Ordering::Relaxed) {
            continue;
        }
        worker.counters.turns.add(1);
        ends.snapshots.adopt();
        worker.counters.revision.set(ends.snapshots.revision());
        *worker.snapshot.lock().unwrap() = Some(Arc::clone(ends.snapshots.current()));
        for event in worker.to_say.lock().unwrap().drain(..) {
            ends.events.push(event).unwrap();
        }
        match ends.commands.pop() {
            Some(ToWorker::SetNextHop(id, hop)) => worker.hops.lock().unwrap().push((id, hop)),
            Some(ToWorker::Sweep(sweep)) => answer(worker, sweep, &mut ends),
            Some(ToWorker::Shutdown) => {
                let _ = ends.events.push(FromWorker::Ended(id));
                return;
            }
            None => {}
        }
    }
}

/// A running control server.
pub struct Gyre {
    pub path: PathBuf,
    pub workers: Vec<Arc<Worker>>,
    pub events: mpsc::Sender<Vec<KernelEvent>>,
    pub asks: mpsc::UnboundedReceiver<KernelAsk>,
    /// Revisions the kernel side was told of.
    pub kernel_side: Arc<Mutex<Vec<u64>>>,
    control: Option<JoinHandle<Result<(), ControlError>>>,
    threads: Vec<JoinHandle<()>>,
    stop: Stop,
    pub reload: Reload,
    /// Whether the port's link is down.
    pub unplugged: Arc<AtomicBool>,
    directory: tempfile::TempDir,
}

fn port_info(link_up: bool) -> Vec<PortInfo> {
    vec![PortInfo {
        kernel_refused: 2,
        kernel_ring_full: 1,
        kernel_nombuf: 3,
        nic: NicId(0),
        device: "net_null0".into(),
        driver: "net_null".into(),
        interface: Some("wan".into()),
        link_up,
        link_mbps: Some(10_000),
        rx_queues: 2,
        tx_queues: 2,
        rx_missed: 7,
        rx_nombuf: 6,
        rx_errors: 5,
        tx_errors: 4,
        mempools: vec![MempoolInfo { name: "mbuf0".into(), size: 1024, in_use: 300 }],
    }]
}

/// A kernel side that has every revision at once, and notes it.
fn kernel_side(told: &Arc<Mutex<Vec<u64>>>) -> KernelSide {
    let told = Arc::clone(told);
    Arc::new(move |snapshot: &Arc<Snapshot>| {
        told.lock().unwrap().push(snapshot.revision);
        let (done, answer) = oneshot::channel();
        done.send(()).unwrap();
        answer
    })
}

fn nic() -> NicModel {
    NicModel {
        id: NicId(0),
        name: "wan".into(),
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
        kernel: KernelMode::Tap,
        vlan: None,
        addresses: Vec::new(),
    }
}

impl Gyre {
    pub fn start() -> Self {
        Gyre::with(CONFIG, SocketLimits::default())
    }

    pub fn with(text: &str, socket_limits: SocketLimits) -> Self {
        Gyre::of_file(Path::new("/etc/gyre/test.toml"), text, socket_limits)
    }

    /// With a configuration file at `path`, which says `text`.
    pub fn of_file(config_path: &Path, text: &str, socket_limits: SocketLimits) -> Self {
        Gyre::begin(SLOTS, (config_path, text), socket_limits, Vec::new())
    }

    /// Where the kernel knows these facts before control asks.
    pub fn knowing(facts: Vec<KernelEvent>) -> Self {
        let path = Path::new("/etc/gyre/test.toml");
        Gyre::begin(SLOTS, (path, CONFIG), SocketLimits::default(), facts)
    }

    /// With room for so many services, and for so many servers.
    pub fn sized(slots: usize, file: (&Path, &str), socket_limits: SocketLimits) -> Self {
        Gyre::begin(slots, file, socket_limits, Vec::new())
    }

    fn begin(
        slots: usize,
        (config_path, text): (&Path, &str),
        socket_limits: SocketLimits,
        facts: Vec<KernelEvent>,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("gyre.sock");
        let steering = Arc::new(Steering::for_workers(2));
        let (services_max, servers_max, lips_max) = (slots, slots, SLOTS);
        let bounds = RegistryConfig::new(steering);
        let config = RegistryConfig { services_max, servers_max, lips_max, ..bounds };
        let mut registry = Registry::new(config);
        registry.set_nics(vec![nic()]);
        let workers: Vec<Arc<Worker>> = (0..2).map(|_| Arc::new(Worker::new(slots))).collect();
        let mut links = Vec::new();
        let mut threads = Vec::new();
        for (id, worker) in (0..).map(WorkerId).zip(&workers) {
            let (link, ends) = WorkerLink::new(id, registry.snapshot(), &worker.counters);
            links.push(link);
            let worker = Arc::clone(worker);
            threads.push(std::thread::spawn(move || work(id, &worker, ends)));
        }
        let (event_in, events) = mpsc::channel(16);
        event_in.try_send(facts).unwrap();
        let (asks, ask_out) = mpsc::unbounded_channel();
        let told = Arc::new(Mutex::new(Vec::new()));
        let kernel_side = kernel_side(&told);
        let (stop, reload) = (Stop::new(), Reload::new());
        let unplugged = Arc::new(AtomicBool::new(false));
        let link = Arc::clone(&unplugged);
        let (nic, mac, mtu) = (NicId(0), [2, 0, 0, 0, 0, 1], 1500);
        let inputs = ControlInputs {
            checked: config::check(text).unwrap(),
            config_path: config_path.to_owned(),
            socket: BoundSocket::bind(&path).unwrap(),
            socket_limits,
            registry,
            nic_links: vec![NicLink { nic, interface: Some("wan".into()), mac, mtu }],
            kernel: KernelSource::Channel { events, asks },
            links,
            port_info: Arc::new(move || port_info(!link.load(Ordering::Relaxed))),
            kernel_side,
            stop: stop.clone(),
            reload: reload.clone(),
            supervisor: gyre::control::Supervisor::default(),
        };
        let control = Some(std::thread::spawn(move || gyre::control::run(inputs)));
        let (events, asks) = (event_in, ask_out);
        let kernel_side = told;
        Gyre {
            path,
            workers,
            events,
            asks,
            kernel_side,
            control,
            threads,
            stop,
            reload,
            unplugged,
            directory,
        }
    }

    pub fn connect(&self) -> Client {
        Client::connect(&self.path)
    }

    /// Calls a method over a connection of its own; the result.
    pub fn call(&self, method: &str, params: Value) -> Value {
        let reply = self.connect().call(method, params);
        assert!(reply.get("error").is_none(), "{method}: {reply}");
        reply["result"].clone()
    }

    /// Calls a method that must fail; its stable code and the whole error.
    pub fn refuse(&self, method: &str, params: Value) -> (String, Value) {
        let reply = self.connect().call(method, params);
        let error = reply.get("error").unwrap_or_else(|| panic!("{method}: {reply}")).clone();
        (error["data"]["code"].as_str().unwrap().to_owned(), error)
    }

    /// Waits until `is_so`.
    pub fn wait_for<T>(&self, what: &str, is_so: impl Fn(&Self) -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(found) = is_so(self) {
                return found;
            }
            assert!(start.elapsed() < PATIENCE, "waited in vain for: {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until every worker works with `revision` or a later one; the first's snapshot.
    pub fn adopted(&self, revision: u64) -> Arc<Snapshot> {
        self.wait_for("adoption", |gyre| {
            let snapshots: Option<Vec<_>> =
                gyre.workers.iter().map(|worker| worker.snapshot.lock().unwrap().clone()).collect();
            let snapshots = snapshots?;
            snapshots.iter().all(|s| s.revision >= revision).then(|| Arc::clone(&snapshots[0]))
        })
    }

    pub fn is_stopping(&self) -> bool {
        self.stop.is_requested()
    }

    pub fn stop(&self) {
        self.stop.request();
    }

    /// Waits for the end; what control returned.
    pub fn join(mut self) -> Result<(), ControlError> {
        let outcome = self.control.take().unwrap().join().unwrap();
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
        assert!(!self.path.exists(), "the socket is left behind");
        assert_eq!(std::fs::read_dir(self.directory.path()).unwrap().count(), 0);
        outcome
    }
}

impl Drop for Gyre {
    fn drop(&mut self) {
        self.stop.request();
        for worker in &self.workers {
            worker.stalled.store(false, Ordering::Relaxed);
        }
        if let Some(control) = self.control.take() {
            let _ = control.join();
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A client that sends bytes and reads lines.
pub struct Client {
    reader: BufReader<UnixStream>,
}

impl Client {
    pub fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client { reader: BufReader::new(stream) }
    }

    /// Sends as much as the other side takes.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.reader.get_mut().write_all(bytes.as_ref());
    }

    /// The next line, or `None` at the end.
    pub fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        self.reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        Some(line)
    }

    pub fn reply(&mut self) -> Value {
        serde_json::from_str(&self.line().expect("a reply")).unwrap()
    }

    pub fn call(&mut self, method: &str, params: Value) -> Value {
        let request = json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": params});
        self.send(format!("{request}\n"));
        let reply = self.reply();
        assert_eq!((&reply["jsonrpc"], &reply["id"]), (&json!("2.0"), &json!(7)));
        reply
    }

    pub fn finish(&mut self) {
        self.reader.get_mut().shutdown(Shutdown::Write).unwrap();
    }
}
