//! What is shown: the last two samples, and what keys have chosen. Pure: samples and keys go in,
//! `columns` makes rows of it.

use super::columns::{self, Row, Tab};
use crate::control::api::Stats;

/// A look at gyre.
#[derive(Debug)]
pub enum Sample {
    /// What it said, and when, by a clock that only counts up.
    Stats {
        /// Milliseconds.
        at_ms: u64,
        /// All counts.
        stats: Box<Stats>,
    },
    /// It said nothing, and why.
    Gone(String),
}

/// A key that means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the keys'")]
pub enum Key {
    Character(char),
    NextTab,
    PreviousTab,
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    End,
    Enter,
    Escape,
    Backspace,
    Interrupt,
}

/// What follows from a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It goes on.
    Stay,
    /// It ends.
    Quit,
}

/// Two samples of one life of gyre.
#[derive(Debug)]
pub struct Look {
    /// The latest.
    pub stats: Box<Stats>,
    pub(super) at_ms: u64,
    /// The one before, with its time.
    pub before: Option<(Box<Stats>, u64)>,
}

impl Look {
    /// Seconds between the two.
    pub fn seconds(&self) -> Option<f64> {
        let (_, before) = self.before.as_ref()?;
        let elapsed = self.at_ms.saturating_sub(*before);
        (elapsed > 0).then(|| elapsed as f64 / 1000.0)
    }
}

/// See the module.
#[derive(Debug)]
pub struct State {
    /// The table.
    pub tab: Tab,
    /// Column that rows are sorted by, of each table.
    sorts: [Sort; Tab::ALL.len()],
    /// First row that is shown.
    pub offset: usize,
    /// Rows that the screen has room for; told by whoever draws.
    pub page: usize,
    /// Only rows with this in them.
    pub filter: String,
    /// Whether keys go to the filter.
    pub is_typing: bool,
    /// Whether the keys are explained.
    pub is_help: bool,
    /// What gyre said.
    pub look: Option<Look>,
    /// Why it says nothing now.
    pub gone: Option<String>,
    /// Whether there are colours.
    pub colours: Colours,
}

/// Whether there are colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colours {
    /// A terminal that wants them.
    On,
    /// `NO_COLOR`.
    Off,
}

/// How a table is sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sort {
    /// Column.
    pub column: usize,
    /// Smallest first.
    pub is_reversed: bool,
}

/// Longest filter.
const FILTER_MAX: usize = 40;

impl State {
    /// Nothing known yet.
    pub fn new(colours: Colours) -> Self {
        State {
            tab: Tab::Services,
            sorts: Tab::ALL.map(|tab| Sort { column: tab.sorted_by(), is_reversed: false }),
            offset: 0,
            page: 1,
            filter: String::new(),
            is_typing: false,
            is_help: false,
            look: None,
            gone: None,
            colours,
        }
    }

    /// Takes a sample in.
    pub fn take(&mut self, sample: Sample) {
        match sample {
            Sample::Gone(why) => self.gone = Some(why),
            Sample::Stats { at_ms, stats } => {
                self.gone = None;
                let last = self.look.take();
                // A gyre that has started anew counts from 0.
                let turns = |stats: &Stats| stats.workers.first().map_or(0, |one| one.worker.turns);
                let before = last
                    .filter(|last| turns(&last.stats) <= turns(&stats))
                    .map(|last| (last.stats, last.at_ms));
                self.look = Some(Look { stats, at_ms, before });
            }
        }
    }

    /// How the table is sorted.
    pub fn sort(&self) -> Sort {
        self.sorts[self.tab.index()]
    }

    /// The rows, filtered and sorted.
    pub fn rows(&self) -> Vec<Row> {
        let Some(look) = &self.look else { return Vec::new() };
        let wanted = self.filter.to_lowercase();
        let mut rows = columns::rows(self.tab, look);
        rows.retain(|row| row.text().to_lowercase().contains(&wanted));
        let Sort { column, is_reversed } = self.sort();
        rows.sort_by(|a, b| {
            let order = columns::compare(a, b, column);
            if is_reversed { order.reverse() } else { order }
        });
        rows
    }

    /// Takes a key.
    pub fn press(&mut self, key: Key) -> Next {
        if key == Key::Interrupt {
            return Next::Quit;
        }
        if self.is_typing {
            self.type_key(key);
            return Next::Stay;
        }
        if std::mem::take(&mut self.is_help) {
            return Next::Stay;
        }
        let last = self.rows().len().saturating_sub(self.page);
        match key {
            Key::Character('q') => return Next::Quit,
            Key::Character('?' | 'h') => self.is_help = true,
            Key::Character('/') => self.is_typing = true,
            Key::Escape => self.filter.clear(),
            Key::Character(digit @ '1'..='4') => self.go_to(digit as usize - '1' as usize),
            Key::NextTab => self.go_to(self.tab.index() + 1),
            Key::PreviousTab => self.go_to(self.tab.index() + Tab::ALL.len() - 1),
            Key::Character('s' | '>') => self.sort_by(1),
            Key::Character('S' | '<') => self.sort_by(self.tab.columns().len() - 1),
            Key::Character('r') => {
                let sort = &mut self.sorts[self.tab.index()];
                sort.is_reversed = !sort.is_reversed;
            }
            Key::Up | Key::Character('k') => self.offset = self.offset.saturating_sub(1),
            Key::Down | Key::Character('j') => self.offset = last.min(self.offset + 1),
            Key::PageUp => self.offset = self.offset.saturating_sub(self.page),
            Key::PageDown | Key::Character(' ') => {
                self.offset = last.min(self.offset + self.page);
            }
            Key::Home | Key::Character('g') => self.offset = 0,
            Key::End | Key::Character('G') => self.offset = last,
            _ => {}
        }
        Next::Stay
    }

    fn type_key(&mut self, key: Key) {
        match key {
            Key::Enter => self.is_typing = false,
            Key::Escape => {
                self.is_typing = false;
                self.filter.clear();
            }
            Key::Backspace => drop(self.filter.pop()),
            Key::Character(c) if !c.is_control() && self.filter.len() < FILTER_MAX => {
                self.filter.push(c);
            }
            _ => {}
        }
        self.offset = 0;
    }

    fn go_to(&mut self, tab: usize) {
        self.tab = Tab::ALL[tab % Tab::ALL.len()];
        self.offset = 0;
    }

    fn sort_by(&mut self, step: usize) {
        let columns = self.tab.columns().len();
        let sort = &mut self.sorts[self.tab.index()];
        *sort = Sort { column: (sort.column + step) % columns, is_reversed: false };
        self.offset = 0;
    }
}
