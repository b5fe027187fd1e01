//! `-R`: command lines from standard input, one after another.
//!
//! Services and the servers that follow them are made in one step, which is what a saved table
//! mostly is. Where that is refused each service is made by itself, and where that is refused each
//! line, so that each refusal is told as ipvsadm tells it and all the others take effect.

use std::io::{BufRead, Write};

use super::act::{Director, unwritten};
use super::fail::Fail;
use super::line::{Line, Protocol, ServiceName};
use super::options::Command;

/// Services in one request: some MiB, even with many servers each.
const WHOLES_MAX: usize = 10_000;

/// A service and the servers that are to be added with it.
#[derive(Debug)]
pub struct Whole {
    /// `-A`.
    pub service: Line,
    /// Each `-a`.
    pub servers: Vec<Line>,
}

impl Whole {
    /// Whether a line may begin one. A mark's packets, and what is refused in any case, take a
    /// way of their own.
    fn begins_with(line: &Line) -> bool {
        let is_plain =
            |service| matches!(service, ServiceName::Address(Protocol::Tcp | Protocol::Udp, _));
        line.command == Command::AddService
            && line.service.is_some_and(is_plain)
            && line.has_scheduler()
    }

    fn takes(&self, line: &Line) -> bool {
        line.command == Command::AddServer
            && line.service == self.service.service
            && line.lower_threshold <= line.upper_threshold
    }
}

/// Carries `input` out; what the director refuses is told, and the next line follows.
pub fn run(director: &mut Director, input: impl BufRead, out: &mut impl Write) -> Result<(), Fail> {
    let mut wholes: Vec<Whole> = Vec::new();
    for text in input.lines() {
        let text = text.map_err(|error| Fail::usage(format!("standard input: {error}")))?;
        let mut words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        if words.first().is_some_and(|word| word == "ipvsadm") {
            words.remove(0);
        }
        if words.is_empty() {
            continue;
        }
        let line = Line::parse(&words);
        if let (Ok(line), Some(whole)) = (&line, wholes.last_mut())
            && whole.takes(line)
        {
            whole.servers.push(line.clone());
            continue;
        }
        if let Ok(line) = &line
            && Whole::begins_with(line)
            && wholes.len() < WHOLES_MAX
        {
            wholes.push(Whole { service: line.clone(), servers: Vec::new() });
            continue;
        }
        finish(director, &mut wholes, out)?;
        match line {
            Ok(line) if Whole::begins_with(&line) => {
                wholes.push(Whole { service: line, servers: Vec::new() });
            }
            Ok(line) if line.command == Command::Restore => {}
            Ok(line) => told(director.run(&line, out), out)?,
            Err(fail) => told(Err(fail), out)?,
        }
    }
    finish(director, &mut wholes, out)
}

/// Makes all of them at once, or each at once, or what can be line by line.
fn finish(
    director: &mut Director,
    wholes: &mut Vec<Whole>,
    out: &mut impl Write,
) -> Result<(), Fail> {
    let wholes = std::mem::take(wholes);
    if wholes.is_empty() || director.add_wholes(&wholes)? {
        return Ok(());
    }
    for whole in wholes {
        let is_only_one = std::slice::from_ref(&whole);
        if director.add_wholes(is_only_one)? {
            continue;
        }
        for line in [&whole.service].into_iter().chain(&whole.servers) {
            told(director.run(line, out), out)?;
        }
    }
    Ok(())
}

/// Tells of what does not end the restoration.
fn told(done: Result<(), Fail>, out: &mut impl Write) -> Result<(), Fail> {
    match done {
        Err(fail) if !fail.ends_restore => {
            out.flush().map_err(unwritten)?;
            eprintln!("{}", fail.message);
            Ok(())
        }
        done => done,
    }
}
