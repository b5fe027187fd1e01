//! virtual_server_group: addresses, ranges and firewall marks that share a virtual server.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::tree::Statement;
use crate::import::draft::{Draft, Family};
use crate::import::notes::{Notes, Place};
use crate::import::texts::{self, RANGE_MAX, RangeError};

/// One line of a group, or what a virtual_server says itself.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) place: Place,
    pub(super) kind: Kind,
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// Addresses, each a service of its own; port 0 is all ports.
    Addresses(Vec<IpAddr>, u16),
    Mark(u32, Option<Family>),
}

/// All groups by name.
#[derive(Debug, Default)]
pub(super) struct Groups {
    by_name: BTreeMap<String, (Place, Vec<Member>)>,
    used: RefCell<BTreeSet<String>>,
}

impl Groups {
    /// Reads those of the file.
    pub(super) fn collect(&mut self, tree: &[Statement], notes: &mut Notes) {
        for statement in tree.iter().filter(|one| one.keyword() == "virtual_server_group") {
            let Some(name) = statement.value() else {
                notes.warn(&statement.place, "virtual_server_group lacks its name; left out");
                continue;
            };
            let read = |line: &Statement| match member(line) {
                Ok(kind) => Some(Member { place: line.place.clone(), kind }),
                Err(what) => {
                    notes.warn(&line.place, what);
                    None
                }
            };
            let members: Vec<Member> = statement.inner().iter().filter_map(read).collect();
            let group = (statement.place.clone(), members);
            if self.by_name.insert(name.to_owned(), group).is_some() {
                let what =
                    format!("virtual_server_group {name} is there twice: the last one counts");
                notes.warn(&statement.place, what);
            }
        }
    }

    /// The members of a group that is used.
    pub(super) fn find(&self, name: &str) -> Option<&[Member]> {
        let (_, members) = self.by_name.get(name)?;
        self.used.borrow_mut().insert(name.to_owned());
        Some(members)
    }

    /// Tells of those that nothing used.
    pub(super) fn unused(&self, draft: &mut Draft) {
        let used = self.used.borrow();
        for (name, (place, _)) in self.by_name.iter().filter(|(name, _)| !used.contains(*name)) {
            let what = format!("no virtual_server uses the virtual_server_group {name}");
            draft.notes.warn(place, what);
        }
    }
}

/// A line of a group.
fn member(line: &Statement) -> Result<Kind, String> {
    if line.keyword() == "fwmark" {
        return mark(line.values());
    }
    let ports = line.values();
    addresses(line.keyword(), ports)
}

/// `fwmark N [inet|inet6]`.
pub(super) fn mark(words: &[String]) -> Result<Kind, String> {
    let number = words.first().and_then(|text| text.parse().ok()).filter(|mark| *mark != 0);
    let number = number.ok_or("fwmark wants a number, 1 to 4294967295; left out")?;
    let family = match words.get(1).map(String::as_str) {
        Some("inet6") => Some(Family::V6),
        Some("inet") => Some(Family::V4),
        _ => None,
    };
    Ok(Kind::Mark(number, family))
}

/// `ADDRESS [PORT]`, with a range of addresses.
pub(super) fn addresses(text: &str, ports: &[String]) -> Result<Kind, String> {
    let shown: String = text.chars().take(64).collect();
    let addresses = texts::range(text).map_err(|error| match error {
        RangeError::Syntax => format!("`{shown}` is no address or range of addresses; left out"),
        RangeError::Backwards => format!("the range {shown} ends before it begins; left out"),
        RangeError::TooMany(count) => format!(
            "the range {shown} has {count} addresses, each of which would be a service of its own, \
             {RANGE_MAX} at most; left out. One service with group = \"NAME\" and a \
             [[service.match]] by prefix serves them all"
        ),
    })?;
    let port = match ports.first() {
        None => 0,
        Some(port) => port.parse().map_err(|_| format!("`{port}` is no port; left out"))?,
    };
    Ok(Kind::Addresses(addresses, port))
}
