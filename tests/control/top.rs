//! `gyre top` on a terminal of the test's own.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::Pid;

use crate::support::{Gyre, PATIENCE};

const ENTER: &str = "\x1b[?1049h";
const LEAVE: &str = "\x1b[?1049l";
const HIDE: &str = "\x1b[?25l";
const SHOW: &str = "\x1b[?25h";

/// The program on an 80x24 terminal.
struct Screen {
    child: Child,
    keyboard: File,
    /// Our own end of what the program has as its terminal.
    terminal: File,
    seen: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Screen {
    fn start(socket: &Path, more: &[(&str, &str)]) -> Self {
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let OpenptyResult { master, slave } = openpty(Some(&size), None).unwrap();
        let slave = File::from(slave);
        let end = || Stdio::from(slave.try_clone().unwrap());
        let child = Command::new(env!("CARGO_BIN_EXE_gyre"))
            .args(["top", "-n", "0.2", "--socket", socket.to_str().unwrap()])
            .env("TERM", "xterm-256color")
            .env_remove("NO_COLOR")
            .envs(more.iter().copied())
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap();
        let keyboard = File::from(master);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (mut screen, gathered) = (keyboard.try_clone().unwrap(), Arc::clone(&seen));
        let reader = std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // The end comes as an error of the terminal's, once nobody holds the other end.
            while let Ok(count) = screen.read(&mut bytes)
                && count > 0
            {
                gathered.lock().unwrap().extend(&bytes[..count]);
            }
        });
        Screen { child, keyboard, terminal: slave, seen, reader: Some(reader) }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap()).into_owned()
    }

    fn forget(&self) {
        self.seen.lock().unwrap().clear();
    }

    fn wait_for(&self, what: &str) {
        let start = Instant::now();
        while !self.text().contains(what) {
            assert!(start.elapsed() < PATIENCE, "waited in vain for `{what}`: {:?}", self.text());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    fn is_raw(&self) -> bool {
        let now = tcgetattr(&self.terminal).unwrap();
        !now.local_flags.contains(LocalFlags::ECHO | LocalFlags::ICANON)
    }

    /// Waits for the end; the terminal must be as it was.
    fn end(mut self) -> (ExitStatus, String) {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(start.elapsed() < PATIENCE, "it does not end: {:?}", self.text());
            std::thread::sleep(Duration::from_millis(20));
        };
        assert!(!self.is_raw(), "the terminal is left without echo");
        // What it wrote last may still be on its way to the reader.
        let start = Instant::now();
        while ![LEAVE, "\n"].iter().any(|end| self.text().contains(end)) {
            assert!(start.elapsed() < PATIENCE, "nothing at its end: {:?}", self.text());
            std::thread::sleep(Duration::from_millis(20));
        }
        while self.text().rfind(HIDE) > self.text().rfind(SHOW) {
            assert!(start.elapsed() < PATIENCE, "the cursor stays hidden: {:?}", self.text());
            std::thread::sleep(Duration::from_millis(20));
        }
        let text = self.text();
        (status, text)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // The reader ends with the last of our ends, after this; it holds nothing of the test's.
        drop(self.reader.take());
    }
}

#[test]
fn top_shows_a_running_gyre_and_waits_for_one_that_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("gyre.sock");
    let gyre = Gyre::start();
    symlink(&gyre.path, &socket).unwrap();
    let mut screen = Screen::start(&socket, &[]);
    screen.wait_for(ENTER);
    screen.wait_for("192.0.2.80:80");
    assert!(screen.is_raw());
    screen.press("2");
    // A line that was empty before: what stays of a screen is not sent again.
    screen.wait_for("192.0.2.12:8080");
    screen.press("3");
    screen.wait_for("CYCLES/PKT");
    drop(gyre);
    screen.wait_for("waiting");
    screen.forget();
    let again = Gyre::start();
    std::fs::remove_file(&socket).unwrap();
    symlink(&again.path, &socket).unwrap();
    screen.wait_for("pkt/s");
    screen.press("q");
    let (status, text) = screen.end();
    assert_eq!(status.code(), Some(0), "{text:?}");
}

#[test]
fn a_signal_ends_top_and_gives_the_terminal_back() {
    let gyre = Gyre::start();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT] {
        let screen = Screen::start(&gyre.path, &[]);
        screen.wait_for("192.0.2.80:80");
        kill(Pid::from_raw(screen.child.id() as i32), signal).unwrap();
        let (status, text) = screen.end();
        assert_eq!(status.code(), Some(0), "{signal}: {text:?}");
        assert!(text.contains(LEAVE), "{signal}: {text:?}");
    }
    let mut screen = Screen::start(&gyre.path, &[]);
    screen.wait_for("192.0.2.80:80");
    screen.press("\x03");
    assert_eq!(screen.end().0.code(), Some(0));
}

/// A terminal that becomes larger is filled.
#[test]
fn top_follows_the_terminals_size_and_has_no_colours_where_none_are_wanted() {
    let gyre = Gyre::start();
    let mut screen = Screen::start(&gyre.path, &[("NO_COLOR", "1")]);
    screen.wait_for("quit");
    let stty = Command::new("stty")
        .args(["rows", "30", "cols", "110"])
        .stdin(screen.terminal.try_clone().unwrap())
        .status()
        .unwrap();
    assert!(stty.success());
    kill(Pid::from_raw(screen.child.id() as i32), Signal::SIGWINCH).unwrap();
    // Line 30 is drawn to.
    screen.wait_for("\x1b[30;1H");
    screen.press("q");
    let (_, text) = screen.end();
    for colour in 31..38 {
        assert!(!text.contains(&format!("[{colour}m")), "{text:?}");
    }
    assert!(!text.contains("[38;"), "{text:?}");
}

#[test]
fn without_gyre_top_says_so_on_the_terminal_as_it_is() {
    let screen = Screen::start(Path::new("/nonexistent/gyre.sock"), &[]);
    let (status, text) = screen.end();
    assert_eq!(status.code(), Some(1), "{text:?}");
    assert!(text.contains("gyre is not running at") && !text.contains(ENTER), "{text:?}");
}

#[test]
fn without_a_terminal_top_names_what_to_use_instead() {
    let gyre = Gyre::start();
    let output = Command::new(env!("CARGO_BIN_EXE_gyre"))
        .args(["top", "--socket", gyre.path.to_str().unwrap()])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{told}");
    assert!(told.contains("needs a terminal") && told.contains("gyre watch"), "{told}");
}
