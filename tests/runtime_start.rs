//! The binary's start and a port's edges: refusals before anything runs, 802.1Q, one queue for
//! two workers. The wire is a TAP whose other end this test holds, in a network namespace of each
//! test's own. Needs root.
#![cfg(feature = "dpdk")]

mod harness;

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use gyre::dpdk::tap::Tap;
use harness::namespaces;
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Runs `test` in a thread with a network namespace of its own, which goes with the thread.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let body = || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        ip("link set lo up");
        test();
    };
    if let Err(panic) = thread::spawn(body).join() {
        std::panic::resume_unwind(panic);
    }
}

fn ip(arguments: &str) {
    let done = Command::new("ip").args(arguments.split(' ')).status().unwrap();
    assert!(done.success(), "ip {arguments}");
}

/// Where a test's configuration and socket lie; removed with it.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, workers: u8, rest: &str) -> Command {
        let socket = self.path("gyre.sock");
        let runtime = format!(
            "[runtime]\nworkers = {workers}\nidle = \"adaptive\"\nconnections = 1000\n\
             connections_ipv6 = 1000\ncontrol_socket = {socket:?}\n"
        );
        fs::write(self.path("gyre.toml"), runtime + rest).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_gyre"));
        command.arg("run").arg("-c").arg(self.path("gyre.toml")).stdin(Stdio::null());
        command
    }

    /// Runs gyre, which is to end by itself.
    fn run(&self, rest: &str) -> Output {
        self.command(1, rest).output().unwrap()
    }

    fn ctl(&self, method: &str) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gyre"));
        command.args(["ctl", method, "--socket"]).arg(self.path("gyre.sock"));
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    }
}

/// A running gyre on `eth1`.
struct Running {
    child: Child,
    place: Place,
}

impl Running {
    fn start(workers: u8, rest: &str) -> Running {
        let place = Place::new();
        let log = fs::File::create(place.path("log")).unwrap();
        let child = place.command(workers, rest).stderr(log).spawn().unwrap();
        let mut running = Running { child, place };
        let deadline = Instant::now() + Duration::from_secs(20);
        while !running.place.ctl("status").contains("revision") {
            let ended = running.child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "{}", running.said());
            thread::sleep(Duration::from_millis(50));
        }
        running
    }

    fn said(&self) -> String {
        fs::read_to_string(self.place.path("log")).unwrap()
    }

    /// Signals it; not after it was waited for.
    fn signal(&self, signal: Signal) {
        let _ = kill(Pid::from_raw(self.child.id() as i32), signal);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        self.signal(Signal::SIGTERM);
        let deadline = Instant::now() + Duration::from_secs(10);
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The far end of the wire that ends in `eth1`.
fn wire() -> Tap {
    let tap = Tap::create("eth1").unwrap();
    ip("link set eth1 up");
    tap
}

const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
const OUR_IP: [u8; 4] = [192, 0, 2, 1];

/// An ARP request for 192.0.2.2, tagged or not.
fn arp_request(vlan: Option<u16>) -> Vec<u8> {
    let mut frame = [[0xff; 6], OUR_MAC].concat();
    if let Some(vlan) = vlan {
        frame.extend([0x81, 0x00]);
        frame.extend(vlan.to_be_bytes());
    }
    frame.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(OUR_MAC);
    frame.extend(OUR_IP);
    frame.extend([0; 6]);
    frame.extend([192, 0, 2, 2]);
    frame
}

/// Sends a frame and collects what comes back to our MAC address within a while.
fn ask(wire: &Tap, frame: &[u8]) -> Vec<Vec<u8>> {
    wire.send(frame).unwrap();
    let (mut answers, mut bytes) = (Vec::new(), [0; 2048]);
    let deadline = Instant::now() + Duration::from_millis(700);
    while Instant::now() < deadline {
        match wire.receive(&mut bytes).unwrap() {
            Some(len) if bytes[..6] == OUR_MAC => answers.push(bytes[..len].to_vec()),
            Some(_) => {}
            None => thread::sleep(Duration::from_millis(5)),
        }
    }
    answers
}

const PORT: &str = "[[port]]\nname = \"wan\"\ndevice = \"net_af_packet0,iface=eth1\"\n\
                    addresses = [\"192.0.2.2/24\"]\n";

fn a_port_in_a_vlan_speaks_and_hears_that_vlan_only() {
    in_namespace(|| {
        let wire = wire();
        let running = Running::start(1, &format!("{PORT}vlan = 100\n"));
        let answers = ask(&wire, &arp_request(Some(100)));
        assert_eq!(answers.len(), 1, "ARP replies to one request: {}", running.said());
        assert_eq!(answers[0][12..18], [0x81, 0x00, 0, 100, 0x08, 0x06]);
        for other in [None, Some(101)] {
            assert_eq!(ask(&wire, &arp_request(other)), [[0u8; 0]; 0], "{other:?}");
        }
        assert!(running.place.ctl("stats").contains("wrong_vlan"));
    });
}

fn a_port_with_one_queue_serves_two_workers() {
    in_namespace(|| {
        let wire = wire();
        let running = Running::start(2, &format!("{PORT}queues = 1\n"));
        assert!(running.said().contains("1 of 2 workers serve it"), "{}", running.said());
        let answers = ask(&wire, &arp_request(None));
        assert_eq!(answers.len(), 1);
        assert_eq!(answers[0][12..14], [0x08, 0x06]);
    });
}

fn an_interrupt_takes_everything_away_and_a_second_one_hurries_nothing() {
    in_namespace(|| {
        let _wire = wire();
        let mut running = Running::start(1, PORT);
        running.signal(Signal::SIGINT);
        running.signal(Signal::SIGINT);
        let status = running.child.wait().unwrap();
        assert_eq!(status.code(), Some(0), "{}", running.said());
        let links = Command::new("ip").args(["-br", "link"]).output().unwrap();
        let links = String::from_utf8(links.stdout).unwrap();
        assert!(links.contains("eth1") && !links.contains("wan"), "{links}");
        let rules = Command::new("nft").args(["list", "ruleset"]).output().unwrap();
        assert_eq!(String::from_utf8(rules.stdout).unwrap(), "");
        assert!(!running.place.path("gyre.sock").exists());
    });
}

/// Exit code and what was said.
fn refusal(rest: &str) -> (Option<i32>, String) {
    let output = Place::new().run(rest);
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

fn a_start_that_cannot_be_is_refused_in_words() {
    in_namespace(|| {
        let _wire = wire();
        let _taken = Tap::create("taken").unwrap();
        for (rest, code, said) in [
            (PORT.replace("eth1", "eth9"), 1, "there is no interface eth9 here; there are: eth1"),
            (PORT.replace("\"wan\"", "\"taken\""), 1, "`ip link delete taken`"),
            (PORT.replace("net_af_packet0", "net_nonsense0"), 1, "net_nonsense0"),
            (PORT.replace("net_af_packet0,iface=eth1", "0000:ff:1f.7"), 1, "0000:ff:1f.7"),
            (PORT.replace("device", "devise"), 2, "gyre.toml:9:1: port[0].devise: unknown key"),
        ] {
            let (found, text) = refusal(&rest);
            assert_eq!(found, Some(code), "{rest}\n{text}");
            // DPDK may have said something before.
            assert!(text.lines().any(|line| line.contains(said)), "{said} is not in:\n{text}");
            let port = text.matches("port wan: ").count();
            assert!(port <= 1, "told twice:\n{text}");
        }
    });
}

fn a_user_without_privileges_is_told_which_are_missing() {
    let place = Place::new();
    let run = place.command(1, PORT);
    let mut command = Command::new("setpriv");
    command.args(["--inh-caps=-all", "--bounding-set=-all"]).arg(run.get_program());
    let output = command.args(run.get_args()).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.starts_with("gyre: gyre needs CAP_NET_ADMIN"), "{text}");
    assert!(!place.path("gyre.sock").exists(), "something was started");
}

fn main() {
    harness::run(cases!(&[namespaces];
        a_port_in_a_vlan_speaks_and_hears_that_vlan_only,
        a_port_with_one_queue_serves_two_workers,
        an_interrupt_takes_everything_away_and_a_second_one_hurries_nothing,
        a_start_that_cannot_be_is_refused_in_words,
        a_user_without_privileges_is_told_which_are_missing,
    ))
}
