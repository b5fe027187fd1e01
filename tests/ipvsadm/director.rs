//! A director in the lab in which the kernel was recorded: gyre's control server, and one worker
//! that runs the packet path by a clock set by hand.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc as std_mpsc;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gyre::config;
use gyre::control::socket::{BoundSocket, SocketLimits};
use gyre::control::{
    ControlError, ControlInputs, KernelSource, PortInfo, Reload, Stop, WorkerEnds, WorkerLink,
};
use gyre::counters::WorkerCounters;
use gyre::dataplane::{Burst, RxMeta, WorkerConfig, WorkerState, process_burst};
use gyre::frame::Frame;
use gyre::limits::BURST_FRAMES_MAX;
use gyre::message::{FromWorker, ToWorker};
use gyre::model::next_hops::{
    KernelEvent, KernelRoute, Link, Neighbour, NeighbourState, NicLink, RouteHop,
};
use gyre::model::*;
use gyre::time::Nanos;
use tokio::sync::{mpsc, oneshot};

use crate::support::{CLIENT, OWN_ADDRESSES, SERVER, mac};

const PATIENCE: Duration = Duration::from_secs(20);
const HEADROOM: usize = 128;
/// Far fewer slots than gyre has: most of the time to make them is saved.
const SLOTS: usize = 256;

/// Marks 1 to 9 and 77 are a network's each, of both families; there is a pool for FULLNAT.
fn configuration() -> String {
    let mut text = String::from(
        "[[port]]\nname = \"client\"\ndevice = \"net_null0\"\n\
         [[port]]\nname = \"server\"\ndevice = \"net_null1\"\n\
         [local_addresses]\npool1 = { port = \"server\", addresses = [\"10.2.0.8\"] }\n",
    );
    for mark in (1..=9).chain([77]) {
        text.push_str(&format!(
            "[[mark]]\nnumber = {mark}\nmatch = [{{ address = \"10.3.{mark}.0/24:0\" }}, \
             {{ address = \"[fd00:3:{mark}::/48]:0\" }}]\n"
        ));
    }
    text
}

enum Order {
    /// Frames of one port; those that were sent on are the answer.
    Frames(NicId, Vec<Vec<u8>>, std_mpsc::Sender<Vec<Vec<u8>>>),
    Advance(f64, std_mpsc::Sender<()>),
}

/// What `ipvsadm` answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub exit: i32,
    pub stdout: String,
    pub stderr: String,
}

/// See the module.
pub struct Director {
    pub directory: tempfile::TempDir,
    socket: PathBuf,
    orders: std_mpsc::Sender<Order>,
    control: Option<JoinHandle<Result<(), ControlError>>>,
    worker: Option<JoinHandle<()>>,
    stop: Stop,
}

fn nic(id: NicId) -> NicModel {
    NicModel {
        id,
        name: ["client", "server"][id.index()].into(),
        mac: mac(id.0 + 1, 1),
        mtu: 1500,
        kernel: KernelMode::Tap,
        vlan: None,
        addresses: OWN_ADDRESSES[id.index()].iter().map(|text| text.parse().unwrap()).collect(),
    }
}

/// The links, their addresses and prefixes, the default routes and all stations.
fn kernel_events() -> Vec<KernelEvent> {
    let route = |prefix: Prefix, ifindex, gateway| {
        let hops = vec![RouteHop { ifindex, gateway, dead: false }];
        KernelEvent::RouteAdded(KernelRoute { prefix, metric: 0, mtu: None, hops })
    };
    let neighbour = |ifindex, address, mac| {
        KernelEvent::NeighbourChanged(Neighbour {
            ifindex,
            address,
            mac: Some(mac),
            state: NeighbourState::Permanent,
            managed: false,
            ours: false,
        })
    };
    let mut events = Vec::new();
    for nic in [CLIENT, SERVER].map(nic) {
        let ifindex = u32::from(nic.id.0) + 1;
        let (name, mtu) = (nic.name.clone(), u32::from(nic.mtu));
        events.push(KernelEvent::LinkChanged(Link { ifindex, name, mac: nic.mac, mtu, up: true }));
        for address in nic.addresses {
            events.push(KernelEvent::AddressAdded { ifindex, address });
            let bits = if address.is_ipv4() { 24 } else { 64 };
            events.push(route(Prefix::new(address, bits).unwrap(), ifindex, None));
        }
    }
    for (prefix, router) in [("0.0.0.0/0", "192.168.100.254"), ("::/0", "fd00:64::fe")] {
        let router = router.parse().unwrap();
        events.push(route(prefix.parse().unwrap(), 1, Some(router)));
        events.push(neighbour(1, router, mac(1, 0xfe)));
    }
    for n in 11..=30u8 {
        events.push(neighbour(2, [10, 2, 0, n].into(), mac(2, n)));
        let v6 = [0xfd00, 2, 0, 0, 0, 0, 0, u16::from(n)];
        events.push(neighbour(2, v6.into(), mac(2, n)));
    }
    events
}

/// A worker of the product but for the device.
struct Worker {
    state: WorkerState,
    ends: WorkerEnds,
    counters: Arc<WorkerCounters>,
    orders: std_mpsc::Receiver<Order>,
    now: Nanos,
}

impl Worker {
    fn run(mut self) {
        self.state.adopt(self.ends.snapshots.current());
        loop {
            self.counters.turns.add(1);
            if self.ends.snapshots.adopt() {
                self.state.adopt(self.ends.snapshots.current());
            }
            self.counters.revision.set(self.ends.snapshots.revision());
            match self.ends.commands.pop() {
                Some(ToWorker::SetNextHop(id, hop)) => {
                    self.state.set_next_hop(id, hop);
                    continue;
                }
                Some(ToWorker::Sweep(sweep)) => self.state.start_sweep(sweep),
                Some(ToWorker::Shutdown) => {
                    let _ = self.ends.events.push(FromWorker::Ended(WorkerId(0)));
                    return;
                }
                None => {}
            }
            let (events, snapshot) = (&mut self.ends.events, self.ends.snapshots.current());
            self.state.sweep(snapshot, self.now, |event| events.push(event).is_ok());
            for event in self.state.events.drain(..) {
                let _ = self.ends.events.push(event);
            }
            match self.orders.recv_timeout(Duration::from_micros(200)) {
                Ok(Order::Frames(nic, frames, done)) => {
                    done.send(self.frames(nic, &frames)).unwrap()
                }
                Ok(Order::Advance(seconds, done)) => {
                    self.advance(seconds);
                    done.send(()).unwrap();
                }
                Err(_) => {}
            }
        }
    }

    /// Those of `frames` that were sent on, as they then were.
    fn frames(&mut self, nic: NicId, frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut sent = Vec::new();
        for some in frames.chunks(BURST_FRAMES_MAX) {
            let buffer = |frame: &Vec<u8>| {
                let mut buffer = vec![0xee; HEADROOM + 2048];
                buffer[HEADROOM..HEADROOM + frame.len()].copy_from_slice(frame);
                buffer
            };
            let mut buffers: Vec<Vec<u8>> = some.iter().map(buffer).collect();
            let mut burst = Burst::new();
            for (buffer, frame) in buffers.iter_mut().zip(some) {
                let rx = RxMeta { nic, ..RxMeta::default() };
                let frame = Frame::new(buffer, HEADROOM, HEADROOM + frame.len());
                burst.push(frame, rx).unwrap();
            }
            let snapshot = self.ends.snapshots.current();
            process_burst(&mut self.state, snapshot, &mut burst, self.now);
            let is_sent = |verdict| matches!(verdict, gyre::dataplane::Verdict::Transmit(_));
            let through = burst.slots.iter().filter(|slot| is_sent(slot.verdict.unwrap()));
            sent.extend(through.map(|slot| slot.frame.bytes().to_vec()));
            self.state.outbox.drain(|_, _| {});
        }
        sent
    }

    fn advance(&mut self, seconds: f64) {
        let snapshot = Arc::clone(self.ends.snapshots.current());
        for _ in 0..10 {
            self.now = self.now + (seconds * 1e8) as u64;
            while self.state.expire(&snapshot, self.now) > 0 {}
        }
    }
}

fn worker(ends: WorkerEnds, orders: std_mpsc::Receiver<Order>, counters: Arc<WorkerCounters>) {
    let now = Nanos::from_secs(1_000);
    let config = WorkerConfig {
        worker: WorkerId(0),
        workers: 1,
        flows_v4_max: 4096,
        flows_v6_max: 1024,
        source_port_spaces: 16,
        seed: 7,
        counters: Arc::clone(&counters),
    };
    let state = WorkerState::new(&config, now).unwrap();
    Worker { state, ends, counters, orders, now }.run();
}

fn ports() -> Vec<PortInfo> {
    let port = |nic| PortInfo { nic, link_up: true, ..PortInfo::default() };
    [CLIENT, SERVER].map(port).to_vec()
}

impl Director {
    pub fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("gyre.sock");
        let bounds = RegistryConfig::new(Arc::new(Steering::for_workers(1)));
        let (services_max, servers_max, lips_max) = (SLOTS, SLOTS, SLOTS);
        let bounds = RegistryConfig { services_max, servers_max, lips_max, ..bounds };
        let mut registry = Registry::new(bounds);
        registry.set_nics([CLIENT, SERVER].map(nic).to_vec());
        let counters = Arc::new(WorkerCounters::with_bounds(SLOTS, SLOTS, SLOTS));
        let (link, ends) = WorkerLink::new(WorkerId(0), registry.snapshot(), &counters);
        let (orders, from_test) = std_mpsc::channel();
        let worker = std::thread::spawn(move || worker(ends, from_test, counters));
        let (event_in, events) = mpsc::channel(16);
        let (asks, asked) = mpsc::unbounded_channel();
        // Kept, so that nobody finds the kernel gone.
        std::mem::forget(asked);
        let stop = Stop::new();
        let links = [CLIENT, SERVER].map(nic).map(|nic| NicLink {
            nic: nic.id,
            interface: Some(nic.name),
            mac: nic.mac,
            mtu: nic.mtu,
        });
        let inputs = ControlInputs {
            checked: config::check(&configuration()).unwrap(),
            config_path: "/etc/gyre/test.toml".into(),
            socket: BoundSocket::bind(&socket).unwrap(),
            socket_limits: SocketLimits::default(),
            registry,
            nic_links: links.to_vec(),
            kernel: KernelSource::Channel { events, asks },
            links: vec![link],
            port_info: Arc::new(ports),
            kernel_side: Arc::new(|_: &Arc<Snapshot>| {
                let (done, answer) = oneshot::channel();
                done.send(()).unwrap();
                answer
            }),
            stop: stop.clone(),
            reload: Reload::new(),
            supervisor: gyre::control::Supervisor::default(),
        };
        let control = Some(std::thread::spawn(move || gyre::control::run(inputs)));
        let worker = Some(worker);
        let director = Director { directory, socket, orders, control, worker, stop };
        director.name_the_binary();
        director.wait_for("the socket", |director| director.run(&["-L"]).exit == 0);
        event_in.blocking_send(kernel_events()).unwrap();
        std::mem::forget(event_in);
        director.wait_for("the ports' addresses", |director| {
            director.gyre(&["ports", "-j"]).stdout.contains("10.2.0.1")
        });
        director
    }

    /// Another name for the product's binary.
    fn name_the_binary(&self) {
        let name = self.directory.path().join("ipvsadm");
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_gyre"), name).unwrap();
    }

    fn wait_for(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !is_so(self) {
            assert!(start.elapsed() < PATIENCE, "waited in vain for: {what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// `ipvsadm` with these arguments.
    pub fn run(&self, args: &[&str]) -> Answer {
        self.run_with(args, "")
    }

    /// The same with something to read.
    pub fn run_with(&self, args: &[&str], stdin: &str) -> Answer {
        answer(self.command("ipvsadm").args(args), &self.directory, stdin)
    }

    /// `gyre` with these arguments.
    pub fn gyre(&self, args: &[&str]) -> Answer {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gyre"));
        command.env("GYRE_SOCKET", &self.socket);
        answer(command.args(args), &self.directory, "")
    }

    pub fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.directory.path().join(name));
        command.env("GYRE_SOCKET", &self.socket);
        command
    }

    /// The rules, numeric.
    pub fn rules(&self) -> String {
        let saved = self.run(&["-Sn"]);
        assert_eq!((saved.exit, saved.stderr.as_str()), (0, ""));
        saved.stdout
    }

    /// Everything away, then these rules.
    pub fn reset(&self, rules: &str) {
        let cleared = self.run(&["-C"]);
        assert_eq!((cleared.exit, cleared.stderr.as_str()), (0, ""));
        let restored = self.run_with(&["-R"], rules);
        assert_eq!((restored.exit, restored.stderr.as_str()), (0, ""), "{rules}");
    }

    /// Sends frames to the director; those that went on.
    pub fn receive(&self, nic: NicId, frames: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        let (done, answer) = std_mpsc::channel();
        self.orders.send(Order::Frames(nic, frames, done)).unwrap();
        answer.recv_timeout(PATIENCE * 6).unwrap()
    }

    /// Lets time pass in the packet path.
    pub fn advance(&self, seconds: f64) {
        let (done, answer) = std_mpsc::channel();
        self.orders.send(Order::Advance(seconds, done)).unwrap();
        answer.recv_timeout(PATIENCE).unwrap();
    }
}

fn answer(command: &mut Command, directory: &tempfile::TempDir, stdin: &str) -> Answer {
    let input = directory.path().join(format!("stdin.{:?}", std::thread::current().id()));
    std::fs::write(&input, stdin).unwrap();
    let input = Stdio::from(std::fs::File::open(&input).unwrap());
    let Output { status, stdout, stderr } = command.stdin(input).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Answer { exit: status.code().unwrap(), stdout: text(stdout), stderr: text(stderr) }
}

impl Drop for Director {
    fn drop(&mut self) {
        self.stop.request();
        let _ = self.control.take().map(JoinHandle::join);
        let _ = self.worker.take().map(JoinHandle::join);
    }
}

/// One director for tests that wait for each other anyway: each starts from nothing.
pub fn shared() -> std::sync::MutexGuard<'static, Director> {
    static SHARED: std::sync::LazyLock<Mutex<Director>> =
        std::sync::LazyLock::new(|| Mutex::new(Director::start()));
    let director = SHARED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    director.reset("");
    director
}
