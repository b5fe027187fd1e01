//! Screens, drawn into memory; and a terminal, which a panic gives back.

use std::fs::File;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use nix::pty::openpty;
use nix::sys::termios::tcgetattr;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::style::Color;
use serde_json::{Value, json};

use super::columns::Tab;
use super::draw;
use super::state::{Colours, Key, Next, Sample, State};

fn rates(connections: u64) -> Value {
    json!({"connections": connections, "in_packets": connections * 10,
        "in_bytes": connections * 12_500, "out_packets": connections * 9,
        "out_bytes": connections * 125_000})
}

fn server(service: &str, address: &str, connections: u64) -> Value {
    json!({"service": service, "address": address, "forwarding": "nat", "tunnel": null,
        "tunnel_port": null, "tunnel_checksum": null, "weight": 1, "weight_asked": 1,
        "health": if address.ends_with("12:80") { "down" } else { "up" },
        "health_reason": null, "health_since_s": null, "upper_threshold": 0,
        "lower_threshold": 0, "state": "active", "reachable": !address.ends_with("13:80"),
        "active": connections * 3, "inactive": connections, "templates": 0,
        "connections": 1, "in_packets": 1, "in_bytes": 1, "out_packets": 1, "out_bytes": 1,
        "rates": rates(connections), "refused": 0})
}

fn service(address: &str, name: Option<&str>, connections: u64) -> Value {
    let key = format!("tcp {address}");
    let servers: Vec<Value> = (11..14)
        .map(|last| server(&key, &format!("10.2.0.{last}:80"), connections / (last - 9)))
        .collect();
    json!({"protocol": "tcp", "address": address, "name": name, "mark": null, "family": "ipv4",
        "scheduler": "rr", "scheduler_flags": [], "persistence_timeout_s": null,
        "persistence_prefix": null, "one_packet": false, "local_addresses": null,
        "synproxy": false, "connections_max": null, "flows": 0, "connections": 0,
        "in_packets": 0, "in_bytes": 0, "out_packets": 0, "out_bytes": 0,
        "rates": rates(connections), "refused": 0, "cookies_sent": 0, "cookies_proven": 0,
        "servers": servers})
}

/// `second` seconds after the start: worker 0 works half of the time, 250 cycles a packet.
fn worker(id: u8, second: u64) -> Value {
    let busy = if id == 0 { 500_000_000 } else { 0 };
    json!({"id": id, "stalled": id == 1, "turns": second * 1_000, "idle_turns": second * 500,
        "busy_ns": second * busy, "busy_cycles": second * 25_000_000, "revision": 1, "flows": 1_540,
        "flows_created": second * 100, "flows_expired": 0, "flows_shed": 0, "locality_full": 0,
        "pending": 0, "fast_frames": 0, "rx_frames": second * 100_000,
        "tx_frames": second * 90_000, "hand_offs": 0, "drops": second * 7,
        "drops_by_reason": [], "hand_offs_by_cause": []})
}

fn sample(second: u64) -> Sample {
    let services: Vec<Value> = std::iter::once(service("192.0.2.80:80", Some("web"), 1_540))
        .chain((81..120).map(|last| service(&format!("192.0.2.{last}:443"), None, 200 - last)))
        .collect();
    let cause = |name: &str, count: u64, meaning: &str| {
        let mut cause = json!({"name": name, "meaning": meaning});
        cause["count"] = count.into();
        cause
    };
    let stats = json!({
        "drops": [
            cause("no_server", second * 40, "the service has no server"),
            cause("denied", 12, "the client is on a deny list"),
            cause("never", 0, "nothing"),
        ],
        "hand_offs": [], "replies": [], "helpers": [],
        "workers": [worker(0, second), worker(1, second)],
        "ports": [], "services": services, "local_addresses": [], "neighbours_unresolved": [],
    });
    let stats = Box::new(serde_json::from_value(stats).unwrap());
    Sample::Stats { at_ms: second * 1_000, stats }
}

fn running() -> State {
    let mut state = State::new(Colours::On);
    state.take(sample(10));
    state.take(sample(12));
    state
}

fn drawn(state: &mut State, width: u16, height: u16) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw::screen(state, frame)).unwrap();
    terminal.backend().buffer().clone()
}

fn text(buffer: &Buffer) -> Vec<String> {
    let area = buffer.area;
    let line = |y: u16| {
        let line: String = (0..area.width).map(|x| buffer[(x, y)].symbol()).collect();
        line.trim_end().to_owned()
    };
    (0..area.height).map(line).collect()
}

fn screen(state: &mut State) -> Vec<String> {
    text(&drawn(state, 80, 24))
}

#[test]
fn services_are_shown_busiest_first_on_80_by_24() {
    let lines = screen(&mut running());
    assert_eq!(lines.len(), 24);
    for (at, expected) in [
        (0, "gyre  5.4k conn/s  in 54k pkt/s 544M b/s  out 49k pkt/s 5.4G b/s  18k active"),
        (1, " 1 services  2 servers  3 workers  4 drops"),
        (2, "SERVICE                CONN/S IN-PKT/S OUT-PKT/S IN-BIT/S OUT-BIT/S ACTIVE INACT"),
        (3, "web (tcp 192.0.2.80:80   1.5k      15k       14k     154M      1.5G   5.0k  1.7k"),
        (4, "tcp 192.0.2.81:443        119     1.2k      1.1k      12M      119M    381   127"),
        (23, "1-20 of 40  by IN-PKT/S  ? keys  q quit"),
    ] {
        assert_eq!(lines[at], expected, "line {at} of {lines:#?}");
    }
}

#[test]
fn workers_show_load_and_cycles_of_the_time_between_two_samples() {
    let mut state = running();
    state.press(Key::Character('3'));
    let lines = screen(&mut state);
    let expected = [
        "WORKER           STATE     BUSY RX-PKT/S TX-PKT/S CYCLES/PKT  FLOWS  NEW/S DROPS/S",
        "0                running    50%     100k      90k        250   1.5k    100       7",
        "1                stalled     0%     100k      90k        250   1.5k    100       7",
    ];
    let squeezed = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    for (line, expected) in lines[2..5].iter().zip(expected) {
        assert_eq!(squeezed(line), squeezed(expected), "{lines:#?}");
    }
    // With one sample there is no rate yet.
    let mut state = State::new(Colours::On);
    state.take(sample(10));
    state.press(Key::Character('3'));
    let lines = screen(&mut state);
    assert_eq!(squeezed(&lines[3]), "0 running - - - - 1.5k - -", "{lines:#?}");
}

#[test]
fn drops_show_what_goes_on_first_and_what_it_means() {
    let mut state = running();
    state.press(Key::Character('4'));
    let lines = screen(&mut state);
    let squeezed = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(squeezed(&lines[3]), "no_server 40 480 the service has no server", "{lines:#?}");
    assert_eq!(squeezed(&lines[4]), "denied 0 12 the client is on a deny list");
    assert_eq!(lines[5], "", "what never occurred is left out");
}

#[test]
fn keys_page_sort_filter_and_quit() {
    let mut state = running();
    screen(&mut state);
    state.press(Key::PageDown);
    assert!(screen(&mut state)[23].starts_with("21-40 of 40"), "{:#?}", screen(&mut state));
    state.press(Key::PageDown);
    state.press(Key::Up);
    assert!(screen(&mut state)[23].starts_with("20-39 of 40"));
    state.press(Key::Home);
    // Back to the first column, which is by letters.
    state.press(Key::Character('S'));
    state.press(Key::Character('S'));
    let lines = screen(&mut state);
    assert!(lines[3].starts_with("tcp 192.0.2.100:443"), "{lines:#?}");
    assert!(lines[23].contains("by SERVICE"), "{lines:#?}");
    state.press(Key::Character('r'));
    assert!(screen(&mut state)[3].starts_with("web"));
    state.press(Key::NextTab);
    state.press(Key::Character('/'));
    "0.13:80 of tcp 192.0.2.8".chars().for_each(|c| {
        // Keys are text now, `q` would be too.
        assert_eq!(state.press(Key::Character(c)), Next::Stay);
    });
    state.press(Key::Enter);
    let lines = screen(&mut state);
    assert!(lines[23].starts_with("1-10 of 10  with \"0.13:80 of tcp 192.0.2.8\""), "{lines:#?}");
    assert!(lines[3].contains("no ARP"), "{lines:#?}");
    assert!(state.rows().iter().all(|row| row.text().contains("no ARP")));
    state.press(Key::Escape);
    assert!(screen(&mut state)[23].starts_with("1-20 of 120"));
    state.press(Key::PreviousTab);
    assert_eq!(state.tab, Tab::Services);
    state.press(Key::Character('?'));
    assert!(screen(&mut state).iter().any(|line| line.contains("sort by the next column")));
    assert_eq!(state.press(Key::Character('q')), Next::Stay, "any key takes the help away");
    assert_eq!(state.press(Key::Character('q')), Next::Quit);
    assert_eq!(state.press(Key::Interrupt), Next::Quit);
}

#[test]
fn a_gyre_that_is_gone_is_waited_for_and_starts_counting_anew() {
    let mut state = running();
    state.press(Key::Character('3'));
    state.take(Sample::Gone("gyre is not running at /run/gyre/gyre.sock".into()));
    let lines = screen(&mut state);
    assert!(lines[0].starts_with("waiting for gyre... (gyre is not running"), "{lines:#?}");
    assert!(lines[3].contains("running"), "what was last known stays: {lines:#?}");
    // It counts from 0 again: no rate until the second sample.
    state.take(sample(1));
    let lines = screen(&mut state);
    assert!(lines[0].starts_with("gyre  ") && lines[3].contains('-'), "{lines:#?}");
    assert!(!lines[3].contains("100k"), "{lines:#?}");
}

#[test]
fn any_size_is_drawn() {
    let mut state = running();
    for tab in ['1', '2', '3', '4'] {
        state.press(Key::Character(tab));
        for (width, height) in [(1, 1), (39, 24), (40, 6), (80, 24), (200, 60), (41, 5)] {
            let lines = text(&drawn(&mut state, width, height));
            assert_eq!(lines.len(), usize::from(height));
        }
    }
    // What was paged to on a small screen is still there on a large one.
    state.press(Key::Character('1'));
    drawn(&mut state, 80, 8);
    state.press(Key::End);
    let lines = text(&drawn(&mut state, 200, 60));
    assert!(lines[59].starts_with("1-40 of 40"), "{lines:#?}");
}

#[test]
fn no_colour_where_none_is_wanted() {
    let coloured = |colours| {
        let mut state = State::new(colours);
        state.take(sample(10));
        state.press(Key::Character('3'));
        state.take(Sample::Gone("no".into()));
        let buffer = drawn(&mut state, 80, 24);
        buffer
            .content
            .iter()
            .filter(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset)
            .count()
    };
    assert!(coloured(Colours::On) > 0);
    assert_eq!(coloured(Colours::Off), 0);
}

/// Set for the process that shall panic, which is this test again on a terminal of its own.
const PANICS: &str = "GYRE_TEST_TOP_PANICS";

/// Not by unwinding, since release builds do not: the hook alone gives the terminal back.
#[test]
fn a_panic_of_any_thread_gives_the_terminal_back_and_says_why() {
    if std::env::var_os(PANICS).is_some() {
        let mut terminal = super::set_up().unwrap();
        terminal.hide_cursor().unwrap();
        let fault = std::thread::spawn(|| panic!("a fault for the test"));
        let _ = fault.join();
        unreachable!("the panic should have ended the program");
    }
    let (master, slave) =
        openpty(None, None).map(|pty| (pty.master, File::from(pty.slave))).unwrap();
    let before = tcgetattr(&slave).unwrap();
    let end = || Stdio::from(slave.try_clone().unwrap());
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "--nocapture", "--test-threads=1"]);
    command.arg("cli::top::tests::a_panic_of_any_thread_gives_the_terminal_back_and_says_why");
    command.env(PANICS, "1").env("TERM", "xterm").env_remove("RUST_BACKTRACE");
    let mut child = command.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
    // So that its own ends are the last: without, reading would not end.
    drop(command);
    let status = child.wait().unwrap();
    let after = tcgetattr(&slave).unwrap();
    drop(slave);
    let mut said = Vec::new();
    // The end of a terminal is an error (EIO), behind all that was written.
    let _ = File::from(master).read_to_end(&mut said);
    let said = String::from_utf8_lossy(&said);
    assert_eq!(status.signal(), Some(6), "{said:?}");
    assert_eq!(after, before, "modes of the terminal");
    let last = |what: &str| said.rfind(what).unwrap_or_else(|| panic!("no {what:?}: {said:?}"));
    assert!(last("\x1b[?1049l") > last("\x1b[?1049h"), "{said:?}");
    assert!(last("\x1b[?25h") > last("\x1b[?25l"), "{said:?}");
    // On the screen that stays.
    assert!(last("a fault for the test") > said.find("\x1b[?1049l").unwrap(), "{said:?}");
}
