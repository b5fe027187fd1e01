//! Statements as values, with a warning where they are none.

use super::keywords::{self, Block};
use super::tree::Statement;
use crate::config::{Forwarding, Tunnel, TunnelChecksum};
use crate::import::draft::Method;
use crate::import::notes::{Notes, Place};
use crate::import::texts;

/// Reads statements on behalf of one service, whose warnings they are.
pub(super) struct Values<'n> {
    pub(super) notes: &'n mut Notes,
    /// Position of the service that the statements are about.
    pub(super) service: usize,
}

impl Values<'_> {
    pub(super) fn warn(&mut self, place: &Place, what: impl Into<String>) {
        self.notes.about(self.service, place, what);
    }

    /// A keyword that the block does not have.
    pub(super) fn stray(&mut self, statement: &Statement, block: Block, title: &str) {
        let what = keywords::stray(statement.keyword(), block, title);
        self.warn(&statement.place, what);
    }

    /// That a keyword has no counterpart, and what follows from that.
    pub(super) fn unmapped(&mut self, statement: &Statement, what: &str) {
        self.warn(&statement.place, format!("`{}`: {what}", statement.title()));
    }

    /// The value, which has to be there.
    pub(super) fn text<'s>(&mut self, statement: &'s Statement) -> Option<&'s str> {
        let value = statement.value().filter(|value| !value.is_empty());
        if value.is_none() {
            let what = format!("`{}` lacks its value; left out", statement.keyword());
            self.warn(&statement.place, what);
        }
        value
    }

    /// A whole number up to `max`.
    pub(super) fn number(&mut self, statement: &Statement, max: u32) -> Option<u32> {
        let value = self.text(statement)?;
        let number = value.parse().ok().filter(|number| *number <= max);
        if number.is_none() {
            let what = format!("`{}` wants a number, 0 to {max}; left out", statement.title());
            self.warn(&statement.place, what);
        }
        number
    }

    /// Seconds as milliseconds.
    pub(super) fn millis(&mut self, statement: &Statement) -> Option<u32> {
        let value = self.text(statement)?;
        let millis = texts::millis(value);
        if millis.is_none() {
            let what = format!("`{}` wants a number of seconds; left out", statement.title());
            self.warn(&statement.place, what);
        }
        millis
    }

    /// A keyword that stands alone for yes, or says yes or no.
    pub(super) fn switch(&mut self, statement: &Statement) -> bool {
        let Some(value) = statement.value() else { return true };
        let yes = texts::yes(value);
        if yes.is_none() {
            let what = format!("`{}` wants yes or no; taken as yes", statement.title());
            self.warn(&statement.place, what);
        }
        yes.unwrap_or(true)
    }

    /// A script with its arguments; users that it should run as are told to be lost.
    pub(super) fn script(&mut self, statement: &Statement) -> Option<Vec<String>> {
        let text = self.text(statement)?.to_owned();
        let words = texts::command(&text);
        if !words.first().is_some_and(|path| path.starts_with('/')) {
            let what = "gyre runs programs by their absolute path; left out";
            self.unmapped(statement, what);
            return None;
        }
        if let [_, user, ..] = statement.values() {
            let what = format!("gyre runs it as its own user, not as {user}");
            self.unmapped(statement, &what);
        }
        Some(words)
    }

    /// `NAT`, `DR`, or `TUN` with its options.
    pub(super) fn method(&mut self, statement: &Statement) -> Option<Method> {
        let kind = self.text(statement)?.to_ascii_uppercase();
        let mut method = match kind.as_str() {
            "NAT" => Method::of(Forwarding::Nat),
            "DR" => Method::of(Forwarding::Dr),
            "TUN" => Method::of(Forwarding::Tun),
            _ => {
                let what = "wants NAT, DR or TUN; left out";
                self.unmapped(statement, what);
                return None;
            }
        };
        let mut rest = statement.values().get(1..).unwrap_or_default().iter();
        while let Some(word) = rest.next() {
            match word.as_str() {
                "type" => match rest.next().map(String::as_str) {
                    Some("ipip") => method.tunnel = Tunnel::Ipip,
                    Some("gre") => method.tunnel = Tunnel::Gre,
                    Some("gue") => method.tunnel = Tunnel::Gue,
                    _ => self.unmapped(statement, "the type of a tunnel is ipip, gre or gue"),
                },
                "port" => method.tunnel_port = rest.next().and_then(|port| port.parse().ok()),
                "nocsum" => method.checksum = TunnelChecksum::None,
                "csum" => method.checksum = TunnelChecksum::Csum,
                "remcsum" => method.checksum = TunnelChecksum::Remcsum,
                other => {
                    let what = format!("`{other}` is unknown; left out");
                    self.unmapped(statement, &what);
                }
            }
        }
        Some(method)
    }
}

/// What a server or a check takes from what is around it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Times {
    pub(super) connect_timeout_ms: Option<u32>,
    pub(super) retries: Option<u32>,
    pub(super) delay_before_retry_ms: Option<u32>,
    pub(super) delay_loop_ms: Option<u32>,
    pub(super) is_alpha: bool,
    pub(super) inhibits: bool,
}

impl Times {
    /// Takes a statement that is one of them.
    pub(super) fn take(&mut self, statement: &Statement, values: &mut Values<'_>) -> bool {
        match statement.keyword() {
            "connect_timeout" => {
                self.connect_timeout_ms = values.millis(statement).or(self.connect_timeout_ms);
            }
            "retry" | "nb_get_retry" => {
                self.retries = values.number(statement, 1_000_000).or(self.retries);
            }
            "delay_before_retry" => {
                self.delay_before_retry_ms =
                    values.millis(statement).or(self.delay_before_retry_ms);
            }
            "delay_loop" => {
                self.delay_loop_ms = values.millis(statement).or(self.delay_loop_ms);
            }
            "alpha" => self.is_alpha = values.switch(statement),
            "inhibit_on_failure" => self.inhibits = values.switch(statement),
            // gyre spreads first rounds over the interval anyway.
            "warmup" => {}
            _ => return false,
        }
        true
    }
}
