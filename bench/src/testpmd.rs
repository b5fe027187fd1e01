//! A check that our loop is no slower than DPDK's own: testpmd's macswap, and macswap in the
//! worker's loop, each on a null port.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use gyre::counters::WorkerCounters;
use gyre::dataplane::{Burst, WorkerConfig, WorkerState};
use gyre::dpdk::{Nic, NicConfig, RxQueue, TscClock, TxQueue};
use gyre::model::{KernelMode, Snapshot, WorkerId};
use gyre::runtime::crossing::Peers;
use gyre::runtime::idle::IdlePolicy;
use gyre::runtime::transmit::Way;
use gyre::runtime::worker::{Stage, Worker, WorkerParts, WorkerPort};
use gyre::time::Nanos;

use crate::bench::Bench;
use crate::report::{Other, Spread};
use crate::stages::macswap;

/// The name by which it is chosen.
pub const NAME: &str = "macswap-null-port";
/// How long each of ours and testpmd's runs, once.
const SECONDS: usize = 2;
/// Runs of each, in turn.
const ROUNDS: usize = 3;
/// How long testpmd may take to say something.
const PATIENCE: Duration = Duration::from_secs(20);

/// Macswap between a real port's queues.
struct Swap;

impl Stage for Swap {
    type Rx = RxQueue;
    type Tx = TxQueue;

    #[inline]
    fn process(&mut self, _: &mut WorkerState, _: &Snapshot, burst: &mut Burst, _: Nanos) {
        macswap(burst);
    }
}

/// Measures both, or says why not.
pub fn measure(bench: &Bench) -> anyhow::Result<Other> {
    let mut other = Other::new(NAME);
    let (mut worker, counters, _nic) = own_loop(bench)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(own_mpps(&mut worker, &counters)?);
        match testpmd_mpps(bench.cores[1], bench.cores[0]) {
            Ok(mpps) => theirs.push(mpps),
            Err(error) => {
                other.say("testpmd", format!("not run: {error:#}"));
                break;
            }
        }
    }
    let ours = Spread::of(ours).median;
    other.say("loop_mpps", ours);
    if !theirs.is_empty() {
        let theirs = Spread::of(theirs).median;
        other.say("testpmd_mpps", theirs);
        other.say("loop_to_testpmd", ours / theirs);
    }
    Ok(other)
}

fn own_loop(bench: &Bench) -> anyhow::Result<(Worker<Swap>, Arc<WorkerCounters>, Nic)> {
    let (nic, queues) = Nic::open(&NicConfig::new("net_null0,size=60"), &bench.pool)?;
    let queue = queues.into_iter().next().context("a null port without a queue")?;
    let counters = Arc::new(WorkerCounters::with_bounds(1, 1, 1));
    let snapshot = Arc::new(Snapshot::empty());
    let (_, control) = gyre::control::WorkerLink::new(WorkerId(0), &snapshot, &counters);
    let parts = WorkerParts {
        stage: Swap,
        config: WorkerConfig {
            worker: WorkerId(0),
            workers: 1,
            flows_v4_max: 64,
            flows_v6_max: 64,
            source_port_spaces: 1,
            seed: 42,
            counters: Arc::clone(&counters),
        },
        ports: vec![WorkerPort {
            rx: Some(queue.rx),
            way: Way::Queue(queue.tx),
            kernel: KernelMode::None,
        }],
        control,
        peers: Peers::mesh(1).remove(0),
        kernel: None,
        pool: bench.pool.clone(),
        clock: TscClock::new(&bench.eal),
        idle: IdlePolicy::Poll,
        stop: Arc::default(),
    };
    Ok((Worker::new(parts)?, counters, nic))
}

fn own_mpps(worker: &mut Worker<Swap>, counters: &WorkerCounters) -> anyhow::Result<f64> {
    let before = counters.nics[0].tx_frames.get();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(SECONDS as u64) {
        (0..1000).for_each(|_| worker.turn_or_wait());
    }
    let sent = counters.nics[0].tx_frames.get() - before;
    ensure!(sent > 0, "nothing came out of the null port");
    Ok(sent as f64 / start.elapsed().as_micros() as f64)
}

/// Ends the program however we leave.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn testpmd_mpps(main_core: usize, core: usize) -> anyhow::Result<f64> {
    let cores = format!("{main_core},{core}");
    let mut command = Command::new("dpdk-testpmd");
    command.args(["-l", &cores, "--main-lcore", &main_core.to_string(), "--no-pci"]);
    command.args(["--in-memory", "--file-prefix", "gyre-bench-testpmd", "-m", "128"]);
    command.args(["--vdev", "net_null0,size=60", "--", "--forward-mode=macswap", "--auto-start"]);
    command.args(["--nb-cores=1", "--burst=32", "--total-num-mbufs=16384", "--stats-period=1"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut running = Running(command.spawn().context("dpdk-testpmd (package dpdk-dev)")?);
    let output = running.0.stdout.take().context("no output")?;
    let (start, mut rates) = (Instant::now(), Vec::new());
    for line in BufReader::new(output).lines() {
        ensure!(start.elapsed() < PATIENCE, "testpmd shows no rates");
        let line = line?;
        let Some(rest) = line.trim().strip_prefix("Tx-pps:") else { continue };
        let number = rest.split_whitespace().next().and_then(|number| number.parse::<f64>().ok());
        rates.extend(number);
        // The first is of no time at all.
        if rates.len() > 1 + SECONDS {
            return Ok(Spread::of(rates.split_off(1)).median / 1e6);
        }
    }
    anyhow::bail!("testpmd ended before it showed rates")
}
