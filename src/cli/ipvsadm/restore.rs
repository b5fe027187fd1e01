//! `-R`: command lines from standard input, one after another.
//!
//! A service and the servers that follow it are made in one step, which is what a saved table
//! mostly is. Where that is refused each line is carried out by itself, so that each refusal is
//! told as ipvsadm tells it and the others take effect.

use std::io::{BufRead, Write};

use super::act::{Director, unwritten};
use super::fail::Fail;
use super::line::{Line, Protocol, ServiceName};
use super::options::Command;

/// A service and the servers that are to be added with it.
struct Whole {
    service: Line,
    servers: Vec<Line>,
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
    let mut whole: Option<Whole> = None;
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
        if let (Ok(line), Some(whole)) = (&line, &mut whole)
            && whole.takes(line)
        {
            whole.servers.push(line.clone());
            continue;
        }
        if let Some(whole) = whole.take() {
            finish(director, &whole, out)?;
        }
        match line {
            Ok(line) if Whole::begins_with(&line) => {
                whole = Some(Whole { service: line, servers: Vec::new() });
            }
            Ok(line) if line.command == Command::Restore => {}
            Ok(line) => told(director.run(&line, out), out)?,
            Err(fail) => told(Err(fail), out)?,
        }
    }
    match whole {
        Some(whole) => finish(director, &whole, out),
        None => Ok(()),
    }
}

fn finish(director: &mut Director, whole: &Whole, out: &mut impl Write) -> Result<(), Fail> {
    if !director.add_whole(&whole.service, &whole.servers)? {
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
