//! Colours, on a terminal alone, and not where `NO_COLOR` asks for none (no-color.org).

use std::env;
use std::io::{self, IsTerminal};

/// Clears the screen and goes to its upper left corner.
pub const CLEAR: &str = "\x1b[H\x1b[2J";

const PLAIN: &str = "\x1b[0m";

/// How a cell looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ink {
    /// A heading.
    Bold,
    /// Something is wrong.
    Red,
    /// Something is going on.
    Yellow,
}

impl Ink {
    /// `text` in this ink.
    pub fn over(self, text: &str) -> String {
        let start = match self {
            Ink::Bold => "\x1b[1m",
            Ink::Red => "\x1b[31m",
            Ink::Yellow => "\x1b[33m",
        };
        format!("{start}{text}{PLAIN}")
    }

    /// What a state deserves.
    pub fn of_state(state: &str) -> Option<Ink> {
        match state.split(' ').next()? {
            "stalled" | "down" | "bad" | "out" | "unreachable" | "unresolved" => Some(Ink::Red),
            "draining" => Some(Ink::Yellow),
            _ => None,
        }
    }
}

/// Whether standard output is one.
pub fn is_terminal() -> bool {
    io::stdout().is_terminal() && env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Whether to use colours.
pub fn is_on() -> bool {
    is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
