//! Programs of the operator's that are told of a quorum: run beside the core, one after the other
//! for each service, for a bounded time.

use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStderr, Command};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tracing::{info, warn};

use super::ending;
use crate::limits::{HOOK_MILLIS_MAX, HOOK_STDERR_BYTES_MAX, HOOKS_MAX};
use crate::model::{Ports, ServiceKey, ServiceSpec};

/// How long what a program wrote to its end is waited for: a child that it leaves behind may hold
/// the pipe open.
const OUTPUT_PATIENCE: Duration = Duration::from_millis(50);

/// What a program is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuorumIs {
    /// Enough servers are good.
    Reached,
    /// Too few are.
    Lost,
}

/// A run that is wanted.
#[derive(Clone, Debug)]
struct Run {
    command: Vec<String>,
    environment: Vec<(&'static str, String)>,
    millis_max: u64,
}

/// Runs that go on, by service, each with the one that is to follow it: of several only the last
/// is of interest.
#[derive(Debug)]
pub struct Hooks {
    running: HashMap<ServiceKey, Option<Run>>,
    done: mpsc::UnboundedSender<ServiceKey>,
    turns: Arc<Semaphore>,
}

impl Hooks {
    /// None so far; whose run ended comes by the channel, and is to be given to `ended`.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<ServiceKey>) {
        let (done, ended) = mpsc::unbounded_channel();
        let turns = Arc::new(Semaphore::new(HOOKS_MAX));
        (Hooks { running: HashMap::new(), done, turns }, ended)
    }

    /// Has a service's program told that its quorum is reached or lost.
    pub fn tell(&mut self, spec: &ServiceSpec, quorum: QuorumIs, sum: u64) {
        let health = &spec.health;
        let command = match quorum {
            QuorumIs::Reached => &health.quorum_up,
            QuorumIs::Lost => &health.quorum_down,
        };
        if command.is_empty() {
            // What was to follow is overtaken all the same.
            if let Some(next) = self.running.get_mut(&spec.key) {
                *next = None;
            }
            return;
        }
        let run = Run {
            command: command.clone(),
            environment: environment(spec, quorum, sum),
            millis_max: HOOK_MILLIS_MAX,
        };
        match self.running.get_mut(&spec.key) {
            Some(next) => *next = Some(run),
            None => self.begin(spec.key, run),
        }
    }

    /// Whether a run goes on.
    pub fn is_running(&self) -> bool {
        !self.running.is_empty()
    }

    /// A service's run is over.
    pub fn ended(&mut self, key: ServiceKey) {
        if let Some(run) = self.running.remove(&key).flatten() {
            self.begin(key, run);
        }
    }

    fn begin(&mut self, key: ServiceKey, run: Run) {
        self.running.insert(key, None);
        let (done, turns) = (self.done.clone(), Arc::clone(&self.turns));
        tokio::spawn(async move {
            let turn = turns.acquire().await;
            let shown = run.command.join(" ");
            match carry_out(&run).await {
                Ok(()) => info!("{key}: {shown}: done"),
                Err(why) => warn!("{key}: {shown}: {why}"),
            }
            drop(turn);
            // The core may have ended.
            let _ = done.send(key);
        });
    }
}

fn environment(spec: &ServiceSpec, quorum: QuorumIs, sum: u64) -> Vec<(&'static str, String)> {
    let vip = spec.vips().next().map(|vip| vip.to_string()).unwrap_or_default();
    let ports = match spec.key {
        ServiceKey::Address { ports: Ports::ALL, .. } | ServiceKey::Group(_) => "0".into(),
        ServiceKey::Address { ports, .. } => ports.to_string(),
    };
    vec![
        ("GYRE_SERVICE", spec.key.to_string()),
        ("GYRE_NAME", spec.name.clone().unwrap_or_default()),
        ("GYRE_VIP", vip),
        ("GYRE_VPORT", ports),
        ("GYRE_QUORUM", if quorum == QuorumIs::Reached { "up" } else { "down" }.into()),
        ("GYRE_WEIGHT", sum.to_string()),
    ]
}

/// Runs a program to its end, or to the end of its time: then it goes with all that it started.
async fn carry_out(run: &Run) -> Result<(), String> {
    let (program, arguments) = run.command.split_first().ok_or("there is no program")?;
    let mut child = Command::new(program)
        .args(arguments)
        .envs(run.environment.iter().cloned())
        // A program that could tell systemd of its state would speak for gyre.
        .env_remove("NOTIFY_SOCKET")
        .env_remove("WATCHDOG_USEC")
        .env_remove("WATCHDOG_PID")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| error.to_string())?;
    let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    let mut said = Said { pipe: child.stderr.take(), bytes: Vec::new() };
    let time = Duration::from_millis(run.millis_max);
    let failed = match timeout(time, said.follow(&mut child)).await {
        Ok(Ok(status)) if status.success() => return Ok(()),
        Ok(Ok(status)) => format!("it ended with {}", ending::words(status)),
        Ok(Err(error)) => error.to_string(),
        Err(_) => {
            // It was not waited for yet, so the number is still its own.
            let _ = group.map(|group| kill_process_group(group, Signal::KILL));
            let _ = child.wait().await;
            format!("killed (SIGKILL): it took longer than {} s", time.as_secs_f32())
        }
    };
    match ending::one_line(&said.bytes) {
        said if said.is_empty() => Err(failed),
        said => Err(format!("{failed}; it said: {said}")),
    }
}

/// The beginning of what a program writes to its standard error.
struct Said {
    pipe: Option<ChildStderr>,
    bytes: Vec<u8>,
}

impl Said {
    /// Listens until the program ends. All of it is read, so that it never waits for a reader.
    async fn follow(&mut self, child: &mut Child) -> std::io::Result<ExitStatus> {
        let status = tokio::select! {
            status = child.wait() => status,
            // It has closed the pipe and goes on.
            () = self.read() => child.wait().await,
        };
        let _ = timeout(OUTPUT_PATIENCE, self.read()).await;
        status
    }

    async fn read(&mut self) {
        let Some(pipe) = &mut self.pipe else { return };
        let mut buffer = [0; 512];
        while let Ok(bytes @ 1..) = pipe.read(&mut buffer).await {
            let room = HOOK_STDERR_BYTES_MAX.saturating_sub(self.bytes.len());
            self.bytes.extend_from_slice(&buffer[..bytes.min(room)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::model::check::HealthSpec;
    use crate::model::{Protocol, SchedulerSpec};

    fn service(script: &str, file: &std::path::Path) -> ServiceSpec {
        let key = ServiceKey::new(Protocol::Tcp, [192, 0, 2, 80].into(), 80);
        let hook = |word: &str| vec![script.into(), file.display().to_string(), word.into()];
        let (quorum_up, quorum_down) = (hook("add"), hook("remove"));
        let health = HealthSpec { quorum_up, quorum_down, ..HealthSpec::default() };
        ServiceSpec { health, ..ServiceSpec::new(key, SchedulerSpec::RoundRobin) }
    }

    /// Runs of one service come one after the other, and what was overtaken is left out.
    #[tokio::test]
    async fn hooks_run_in_order_with_what_they_need_to_know() {
        let directory = tempfile::tempdir().unwrap();
        let (script, file) = (directory.path().join("hook"), directory.path().join("told"));
        let text = "#!/bin/sh\nsleep 0.2\n\
                    echo $2 $GYRE_QUORUM $GYRE_VIP $GYRE_VPORT $GYRE_WEIGHT >> $1\n";
        std::fs::write(&script, text).unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        let spec = service(script.to_str().unwrap(), &file);
        let (mut hooks, mut ended) = Hooks::new();
        hooks.tell(&spec, QuorumIs::Reached, 2);
        for sum in 0..5 {
            hooks.tell(&spec, QuorumIs::Lost, 0);
            hooks.tell(&spec, QuorumIs::Reached, sum);
        }
        hooks.tell(&spec, QuorumIs::Lost, 0);
        for _ in 0..2 {
            let key = ended.recv().await.unwrap();
            hooks.ended(key);
        }
        assert!(hooks.running.is_empty());
        let told = std::fs::read_to_string(&file).unwrap();
        assert_eq!(told, "add up 192.0.2.80 80 2\nremove down 192.0.2.80 80 0\n");
    }

    #[tokio::test]
    async fn a_hook_that_fails_tells_why() {
        let run = |command: &[&str]| Run {
            command: command.iter().map(|part| part.to_string()).collect(),
            environment: Vec::new(),
            millis_max: 1000,
        };
        let missing = carry_out(&run(&["/nonexistent/hook"])).await.unwrap_err();
        assert!(missing.contains("No such file"), "{missing}");
        let fail =
            async |script: &str| carry_out(&run(&["/bin/sh", "-c", script])).await.unwrap_err();
        assert_eq!(fail("echo lost; exit 3").await, "it ended with exit status 3");
        let said = fail("echo 'no route' >&2; echo 'to host' >&2; kill -9 $$").await;
        assert_eq!(said, "it ended with signal 9 (SIGKILL); it said: no route / to host");
        // However much it writes, it ends, and its beginning is what is kept.
        let much = fail("echo first >&2; head -c 1000000 /dev/zero | tr '\\0' x >&2; exit 1").await;
        assert!(much.starts_with("it ended with exit status 1; it said: first / xxx"), "{much}");
        assert!(much.len() < HOOK_STDERR_BYTES_MAX + 60, "{}", much.len());
        let long = fail("echo begun >&2; sleep 60").await;
        assert_eq!(long, "killed (SIGKILL): it took longer than 1 s; it said: begun");
        // Who stays behind with the pipe does not hold it up.
        let begun = std::time::Instant::now();
        assert_eq!(carry_out(&run(&["/bin/sh", "-c", "sleep 20 & exit 0"])).await, Ok(()));
        assert!(begun.elapsed() < Duration::from_secs(10));
    }
}
