//! What the tests of the DPDK layer share: a process each, EAL and a pool in it.
#![allow(dead_code, reason = "each test file uses its part")]

use std::env;
use std::process::Command;

use crate::harness::INSIDE;
use gyre::dpdk::{Eal, EalConfig, Hugepages, MbufPool, Nic, NicConfig, NicError, QueuePair};

/// mbufs in `pool`.
pub const MBUFS: u32 = 4095;

/// Runs `body` in a new process, since EAL starts once in one: the test binary once more, running
/// nothing but `test`.
pub fn in_own_process(test: &str, body: impl FnOnce()) {
    if is_case(test) { body() } else { run_case(test, test, None) }
}

/// Whether this process was started for `case`.
pub fn is_case(case: &str) -> bool {
    env::var(INSIDE).as_deref() == Ok(case)
}

/// Runs `test` as `case` in a process of its own, in a network namespace if one is named.
pub fn run_case(test: &str, case: &str, namespace: Option<&str>) {
    let me = env::current_exe().unwrap();
    let mut command = Command::new(if namespace.is_some() { "ip".as_ref() } else { me.as_path() });
    if let Some(namespace) = namespace {
        command.args(["netns", "exec", namespace]).arg(&me);
    }
    let output = command.args([test, "--exact", "--nocapture"]).env(INSIDE, case).output().unwrap();
    assert!(
        output.status.success(),
        "{case} in its own process: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
}

/// EAL without hugepages, so that no test needs them set up.
pub fn eal() -> Eal {
    let config = EalConfig {
        hugepages: Hugepages::Never,
        memory_mib: 128,
        file_prefix: format!("gyre-test-{}", std::process::id()),
        ..EalConfig::default()
    };
    Eal::start(&config).unwrap()
}

/// A pool for MTU 1500.
pub fn pool(eal: &Eal) -> MbufPool {
    MbufPool::create(eal, "test", MBUFS, 128, MbufPool::data_room_for(1500)).unwrap()
}

/// Opens a port that must open.
pub fn open(device: &str, queue_pairs: u16, pool: &MbufPool) -> (Nic, Vec<QueuePair>) {
    Nic::open(&NicConfig { queue_pairs, ..NicConfig::new(device) }, pool).unwrap()
}

/// Opens a port that must not open.
pub fn refusal(config: &NicConfig, pool: &MbufPool) -> NicError {
    match Nic::open(config, pool) {
        Ok((nic, _)) => panic!("{} opened", nic.device()),
        Err(error) => error,
    }
}
