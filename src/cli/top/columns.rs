//! The tables: their columns, and rows made of what gyre said.

use std::cmp::Ordering;

use super::format::short;
use super::state::Look;
use crate::control::api::{CauseCount, ServerRow, ServiceRow, Stats, WorkerDetail};

/// A table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Tab {
    Services,
    Servers,
    Workers,
    Drops,
}

/// A column's heading and least width; the first is as wide as the screen allows.
pub type Column = (&'static str, u16);

const SERVICES: &[Column] = &[
    ("SERVICE", 20),
    ("CONN/S", 6),
    ("IN-PKT/S", 8),
    ("OUT-PKT/S", 9),
    ("IN-BIT/S", 8),
    ("OUT-BIT/S", 9),
    ("ACTIVE", 6),
    ("INACT", 5),
];
const SERVERS: &[Column] = &[
    ("SERVER OF SERVICE", 24),
    ("STATE", 8),
    ("CONN/S", 6),
    ("IN-PKT/S", 8),
    ("OUT-PKT/S", 9),
    ("IN-BIT/S", 8),
    ("ACTIVE", 6),
    ("INACT", 5),
];
const WORKERS: &[Column] = &[
    ("WORKER", 6),
    ("STATE", 8),
    ("BUSY", 5),
    ("RX-PKT/S", 8),
    ("TX-PKT/S", 8),
    ("CYCLES/PKT", 10),
    ("FLOWS", 6),
    ("NEW/S", 6),
    ("DROPS/S", 7),
];
const DROPS: &[Column] = &[("REASON", 24), ("FRAMES/S", 8), ("FRAMES", 7), ("MEANING", 30)];

impl Tab {
    /// All, in the order of their keys.
    pub const ALL: [Tab; 4] = [Tab::Services, Tab::Servers, Tab::Workers, Tab::Drops];

    /// Its position there.
    pub fn index(self) -> usize {
        self as usize
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        ["services", "servers", "workers", "drops"][self.index()]
    }

    /// Its columns.
    pub fn columns(self) -> &'static [Column] {
        [SERVICES, SERVERS, WORKERS, DROPS][self.index()]
    }

    /// Column that it is sorted by unless another is chosen.
    pub fn sorted_by(self) -> usize {
        [2, 3, 0, 1][self.index()]
    }
}

/// A value of a row.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// Sorted by letters.
    Word(String),
    /// Sorted by size; not known yet where there is one sample.
    Number(Option<f64>),
    /// A part of 100.
    Percent(Option<f64>),
    /// A state that is not as it should be.
    Bad(String),
}

impl Cell {
    /// As it is shown.
    pub fn text(&self) -> String {
        match self {
            Cell::Word(text) | Cell::Bad(text) => text.clone(),
            Cell::Number(Some(number)) => short(*number),
            Cell::Percent(Some(number)) => format!("{number:.0}%"),
            Cell::Number(None) | Cell::Percent(None) => "-".into(),
        }
    }

    /// Whether it stands at the right of its column.
    pub fn is_number(&self) -> bool {
        matches!(self, Cell::Number(_) | Cell::Percent(_))
    }
}

/// A line of a table.
#[derive(Clone, Debug, PartialEq)]
pub struct Row(pub Vec<Cell>);

impl Row {
    /// What a filter looks at: its words.
    pub fn text(&self) -> String {
        let words = self.0.iter().filter(|cell| !cell.is_number());
        words.map(Cell::text).collect::<Vec<_>>().join(" ")
    }
}

/// Largest numbers first, words from A to Z; the first column decides between equals.
pub fn compare(a: &Row, b: &Row, column: usize) -> Ordering {
    let by = |column: usize| match (&a.0[column], &b.0[column]) {
        (Cell::Number(a) | Cell::Percent(a), Cell::Number(b) | Cell::Percent(b)) => {
            b.unwrap_or(-1.0).total_cmp(&a.unwrap_or(-1.0))
        }
        (a, b) => a.text().cmp(&b.text()),
    };
    by(column).then_with(|| by(0))
}

fn number(value: u64) -> Cell {
    Cell::Number(Some(value as f64))
}

fn bits(bytes: u64) -> Cell {
    Cell::Number(Some(bytes as f64 * 8.0))
}

/// The rows of a table, in gyre's order.
pub fn rows(tab: Tab, look: &Look) -> Vec<Row> {
    let stats = &look.stats;
    match tab {
        Tab::Services => stats.services.iter().map(service).collect(),
        Tab::Servers => {
            stats.services.iter().flat_map(|service| &service.servers).map(server).collect()
        }
        Tab::Workers => stats.workers.iter().map(|worker| self::worker(worker, look)).collect(),
        Tab::Drops => drops(look),
    }
}

fn service(row: &ServiceRow) -> Row {
    let sum = |read: fn(&ServerRow) -> u64| row.servers.iter().map(read).sum();
    let key = format!("{} {}", row.protocol, row.address);
    let name = row.name.as_ref().map_or(key.clone(), |name| format!("{name} ({key})"));
    Row(vec![
        Cell::Word(name),
        number(row.rates.connections),
        number(row.rates.in_packets),
        number(row.rates.out_packets),
        bits(row.rates.in_bytes),
        bits(row.rates.out_bytes),
        number(sum(|server| server.active)),
        number(sum(|server| server.inactive)),
    ])
}

fn server(row: &ServerRow) -> Row {
    let state = match row.state.as_str() {
        "active" if row.health == "down" => Cell::Bad("down".into()),
        "active" if !row.reachable => Cell::Bad("no ARP".into()),
        "active" => Cell::Word("active".into()),
        other => Cell::Bad(other.to_owned()),
    };
    Row(vec![
        Cell::Word(format!("{} of {}", row.address, row.service)),
        state,
        number(row.rates.connections),
        number(row.rates.in_packets),
        number(row.rates.out_packets),
        bits(row.rates.in_bytes),
        number(row.active),
        number(row.inactive),
    ])
}

fn worker(row: &WorkerDetail, look: &Look) -> Row {
    let now = &row.worker;
    let old = look.before.as_ref().and_then(|(stats, _)| {
        let same = |one: &&WorkerDetail| one.worker.id == now.id;
        stats.workers.iter().find(same).map(|one| &one.worker)
    });
    let seconds = look.seconds();
    let grown = |read: fn(&crate::control::api::WorkerRow) -> u64| {
        Some(read(now).saturating_sub(read(old?)) as f64)
    };
    let rate = |read| Cell::Number(grown(read).zip(seconds).map(|(more, seconds)| more / seconds));
    let part = |part: Option<f64>, whole: Option<f64>| {
        part.zip(whole).filter(|(_, whole)| *whole > 0.0).map(|(part, whole)| part / whole)
    };
    let elapsed_ns = seconds.map(|seconds| seconds * 1e9);
    let busy = part(grown(|one| one.busy_ns), elapsed_ns).map(|part| (part * 100.0).min(100.0));
    let cycles = part(grown(|one| one.busy_cycles), grown(|one| one.rx_frames));
    let state =
        if now.stalled { Cell::Bad("stalled".into()) } else { Cell::Word("running".into()) };
    Row(vec![
        Cell::Word(now.id.to_string()),
        state,
        Cell::Percent(busy),
        rate(|one| one.rx_frames),
        rate(|one| one.tx_frames),
        Cell::Number(cycles),
        number(now.flows),
        rate(|one| one.flows_created),
        rate(|one| one.drops),
    ])
}

/// Every reason that has occurred, what the devices lost included.
fn drops(look: &Look) -> Vec<Row> {
    let old = look.before.as_ref().map(|(stats, _)| all_drops(stats));
    let seconds = look.seconds();
    let row = |now: CauseCount| {
        let before = old.as_ref().and_then(|old| old.iter().find(|one| one.name == now.name));
        let more = before.map(|before| now.count.saturating_sub(before.count) as f64);
        Row(vec![
            Cell::Word(now.name),
            Cell::Number(more.zip(seconds).map(|(more, seconds)| more / seconds)),
            number(now.count),
            Cell::Word(now.meaning),
        ])
    };
    all_drops(&look.stats).into_iter().filter(|one| one.count > 0).map(row).collect()
}

fn all_drops(stats: &Stats) -> Vec<CauseCount> {
    let of_port = stats.ports.iter().flat_map(crate::cli::drops::device_drops);
    let cause = |(name, count, meaning)| CauseCount { name, count, meaning };
    stats.drops.iter().cloned().chain(of_port.map(cause)).collect()
}
