//! keepalived.conf (keepalived.conf(5) of 2.2.7, with older names): virtual servers with their
//! groups and checkers. VRRP and the rest stay with keepalived, which goes on running beside gyre.

mod checks;
mod groups;
mod keywords;
mod lines;
mod repeat;
mod servers;
mod services;
mod tree;
mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::draft::{Draft, Identity, Service};
use super::notes::{Notes, Place};
use super::{Options, Source, Surroundings};
use groups::Groups;
use keywords::Block;
use tree::Statement;

/// VRRP's addresses that are looked at, in each list.
const VRRP_ADDRESSES_MAX: usize = 4096;

/// Names of top-level blocks that are VRRP's or keepalived's own.
fn stays(keyword: &str) -> bool {
    keywords::is_known(keyword, Block::File) && !keyword.starts_with("virtual_server")
}

/// What a keepalived.conf says.
pub(super) fn read(source: Source<'_>, world: &dyn Surroundings, options: &Options) -> Draft {
    let mut draft = Draft::default();
    let lines = lines::read(source, world, options, &mut draft.notes);
    let tree = tree::parse(lines, &mut draft.notes);
    let mut groups = Groups::default();
    groups.collect(&tree, &mut draft.notes);
    let (last_stray, first_vrrp, vrrp_addresses) = (None, None, BTreeMap::new());
    let mut file = File { draft, groups, last_stray, first_vrrp, vrrp_addresses };
    file.statements(&tree);
    scripts(&tree, &mut file.draft.notes);
    let File { mut draft, groups, first_vrrp, vrrp_addresses, .. } = file;
    of_vrrp(&vrrp_addresses, &mut draft);
    groups.unused(&mut draft);
    if let (Some(place), false) = (first_vrrp, draft.services.is_empty()) {
        let what = "VRRP stays with keepalived: run it on beside gyre, with virtual_server, \
                    virtual_server_group and SSL taken out of its file (docs/MIGRATION.md)";
        draft.notes.warn(&place, what);
    }
    draft
}

struct File {
    draft: Draft,
    groups: Groups,
    /// The stray keyword that was told last: repetitions bring the same one again and again.
    last_stray: Option<(Place, String)>,
    /// Where VRRP is configured first.
    first_vrrp: Option<Place>,
    /// The addresses that VRRP moves, and where they stand.
    vrrp_addresses: BTreeMap<IpAddr, Place>,
}

impl File {
    fn statements(&mut self, tree: &[Statement]) {
        for statement in tree {
            match statement.keyword() {
                "virtual_server" => services::read(statement, &self.groups, &mut self.draft),
                "virtual_server_group" => {}
                "SSL" => {
                    let what = "SSL: gyre's checks use no certificate of their own; left out";
                    self.draft.notes.warn(&statement.place, what);
                }
                keyword if stays(keyword) => self.stays(statement),
                keyword => {
                    let stray = (statement.place.clone(), keyword.to_owned());
                    if self.last_stray.as_ref() != Some(&stray) {
                        let title = "the file, outside of blocks";
                        let what = keywords::stray(keyword, Block::File, title);
                        self.draft.notes.warn(&statement.place, what);
                        self.last_stray = Some(stray);
                    }
                    self.nested(statement);
                }
            }
        }
    }

    /// A block that stays with keepalived, and what does not belong in it.
    fn stays(&mut self, statement: &Statement) {
        let keyword = statement.keyword();
        if keyword == "vrrp_instance" {
            self.first_vrrp.get_or_insert_with(|| statement.place.clone());
            let named = |inner: &&Statement| inner.keyword() == "interface";
            let interface = statement.inner().iter().find(named).and_then(Statement::value);
            if let Some(name) = interface.filter(|name| is_interface(name)) {
                let known = &mut self.draft.interfaces;
                if known.len() < 16 && !known.iter().any(|one| one == name) {
                    known.push(name.to_owned());
                }
            }
            let lists = statement.inner().iter();
            for list in lists.filter(|inner| inner.keyword().starts_with("virtual_ipaddress")) {
                let address = |line: &Statement| line.keyword().split('/').next()?.parse().ok();
                let rows = list.inner().iter().take(VRRP_ADDRESSES_MAX);
                let rows = rows.filter_map(|line| Some((address(line)?, line.place.clone())));
                self.vrrp_addresses.extend(rows);
            }
        }
        if self.draft.stays.len() < 1_000 {
            self.draft.stays.push(format!("{} ({})", statement.title(), statement.place));
        }
        self.nested(statement);
    }

    /// Virtual servers within blocks that cannot have any: a brace is missing before them. They
    /// are read all the same.
    fn nested(&mut self, statement: &Statement) {
        for inner in statement.inner() {
            match inner.keyword() {
                "virtual_server" if inner.block.is_some() => {
                    let what = format!(
                        "virtual_server within `{}`: is a `}}` missing before it? read all the \
                         same",
                        statement.title()
                    );
                    self.draft.notes.warn(&inner.place, what);
                    services::read(inner, &self.groups, &mut self.draft);
                    continue;
                }
                keyword if keywords::is_of_lvs(keyword) => {
                    let what = keywords::stray(keyword, Block::Vrrp, &statement.title());
                    self.draft.notes.warn(&inner.place, what);
                }
                _ => {}
            }
            self.nested(inner);
        }
    }
}

/// VIPs that are VRRP's addresses as well are keepalived's to put on interfaces: on a director that
/// is backup they must not be, or two machines would answer for them.
fn of_vrrp(addresses: &BTreeMap<IpAddr, Place>, draft: &mut Draft) {
    let vip = |service: &Service| match service.identity {
        Identity::Address { vip, .. } => Some((vip, service.place.clone())),
        Identity::Mark { .. } => None,
    };
    let vips: BTreeMap<IpAddr, Place> = draft.services.iter().filter_map(vip).collect();
    draft.vips_by_vrrp = vips.keys().find_map(|vip| addresses.get(vip)).cloned();
    if draft.vips_by_vrrp.is_none() {
        return;
    }
    for (vip, place) in vips.iter().filter(|(vip, _)| !addresses.contains_key(*vip)) {
        let what = format!(
            "{vip} is in no virtual_ipaddress, and others are: add it there, since with \
             `vip_addresses = \"others\"` gyre puts none on an interface"
        );
        draft.notes.warn(place, what);
    }
}

fn is_interface(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (1..=15).contains(&name.len()) && name.chars().all(plain)
}

/// track_script that names no vrrp_script: keepalived ignores it, which nobody notices.
fn scripts(tree: &[Statement], notes: &mut Notes) {
    let is_script = |statement: &&Statement| statement.keyword() == "vrrp_script";
    let defined: BTreeSet<&str> =
        tree.iter().filter(is_script).filter_map(Statement::value).collect();
    let of = |name: &'static str| move |inner: &&Statement| inner.keyword().starts_with(name);
    for instance in tree.iter().filter(of("vrrp_")) {
        for tracked in instance.inner().iter().filter(of("track_script")) {
            for one in tracked.inner().iter().filter(|one| !defined.contains(one.keyword())) {
                let what =
                    format!("track_script names `{}`, which no vrrp_script defines", one.keyword());
                notes.warn(&one.place, what);
            }
        }
    }
}
