//! real_server: a server with its checkers.

use std::net::IpAddr;

use super::checks::{self, Around};
use super::keywords::{self, Block};
use super::tree::Statement;
use super::values::{Times, Values};
use crate::import::draft::{Server, Service};
use crate::import::texts;

/// What a server takes from its virtual server.
type Outer<'a> = (Times, Option<&'a str>);

/// Reads the servers of a virtual server into its service.
pub(super) fn read(
    block: &Statement,
    service: &mut Service,
    outer: Outer<'_>,
    values: &mut Values<'_>,
) {
    let mut inhibiting = Vec::new();
    for statement in block.inner().iter().filter(|one| one.keyword() == "real_server") {
        let mut reading = Reading { service, outer, inhibiting: Vec::new() };
        reading.server(statement, values);
        inhibiting.extend(reading.inhibiting);
    }
    let any = inhibiting.iter().any(|yes| *yes);
    service.health.removes = !any;
    let what = if any { "inhibit_on_failure" } else { "no inhibit_on_failure" };
    service.said.insert("on_failure", what.into());
    if any && !inhibiting.iter().all(|yes| *yes) {
        let what = "inhibit_on_failure is set for some of the servers: gyre has one rule for all \
                    of a service, taken as set";
        let place = service.place.clone();
        values.warn(&place, what);
    }
}

struct Reading<'r> {
    service: &'r mut Service,
    outer: Outer<'r>,
    inhibiting: Vec<bool>,
}

impl Reading<'_> {
    fn server(&mut self, block: &Statement, values: &mut Values<'_>) {
        let Some((address, port)) = endpoint(block, values) else { return };
        let (mut times, mut virtualhost) = self.outer;
        let mut server = Server {
            place: block.place.clone(),
            title: block.title(),
            address,
            port,
            weight: 1,
            upper: 0,
            lower: 0,
            method: self.service.method,
            checks: Vec::new(),
        };
        let is_checker = |one: &&Statement| checks::is_checker(one.keyword());
        for statement in block.inner().iter().filter(|one| !is_checker(one)) {
            match statement.keyword() {
                "virtualhost" => virtualhost = statement.value(),
                "real_server" if statement.block.is_some() => {
                    let what = "real_server within real_server: is a `}` missing before it? read \
                                all the same";
                    values.warn(&statement.place, what);
                    self.server(statement, values);
                }
                _ if times.take(statement, values) => {}
                _ => self.option(statement, &mut server, values),
            }
        }
        let mut alpha = times.is_alpha;
        for checker in block.inner().iter().filter(is_checker) {
            let around = Around { times, virtualhost };
            let (checks, its) = checks::read(checker, &server, around, values);
            alpha |= its.is_alpha;
            server.checks.extend(checks);
        }
        if alpha && !self.service.health.starts_down {
            self.service.health.starts_down = true;
            let what = "alpha: gyre has one rule for all servers of a service, which start as \
                        failed now";
            values.warn(&block.place, what);
        }
        self.inhibiting.push(times.inhibits);
        self.service.servers.push(server);
    }

    fn option(&mut self, statement: &Statement, server: &mut Server, values: &mut Values<'_>) {
        match statement.keyword() {
            "weight" => {
                server.weight = values.number(statement, 65_535).unwrap_or(server.weight);
            }
            "uthreshold" => server.upper = values.number(statement, u32::MAX).unwrap_or(0),
            "lthreshold" => server.lower = values.number(statement, u32::MAX).unwrap_or(0),
            "lvs_method" | "lb_kind" => {
                server.method = values.method(statement).unwrap_or(server.method);
            }
            "notify_up" | "notify_down" => {
                let what = "gyre tells of servers by events (events.subscribe), metrics and log \
                            lines, and runs programs for quorum_up and quorum_down alone; left out";
                values.unmapped(statement, what);
            }
            "smtp_alert" => {
                let what = "gyre sends no mail: events, metrics and log lines tell it; left out";
                values.unmapped(statement, what);
            }
            "snmp_name" => {}
            keyword => {
                debug_assert!(!keywords::is_known(keyword, Block::RealServer), "{keyword}");
                values.stray(statement, Block::RealServer, "real_server");
            }
        }
    }
}

/// Address and port after a keyword; port 0 where there is none.
pub(super) fn endpoint(statement: &Statement, values: &mut Values<'_>) -> Option<(IpAddr, u16)> {
    let text = values.text(statement)?;
    let Some(address) = texts::address(text) else {
        values.unmapped(statement, "this is no address; left out");
        return None;
    };
    let port = match statement.values().get(1) {
        None => 0,
        Some(port) => match port.parse() {
            Ok(port) => port,
            Err(_) => {
                values.unmapped(statement, "this is no port; left out");
                return None;
            }
        },
    };
    Some((address, port))
}
