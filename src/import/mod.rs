//! Stock configuration of other directors into gyre's: keepalived.conf and ldirectord.cf.
//!
//! Pure: a text and what surrounds it go in, a gyre.toml with comments and a list of warnings come
//! out. What a file says wrongly is a warning with its place, never a refusal: real files carry
//! slips, and the rest of them is still wanted. Files, names and addresses are asked of
//! `Surroundings`; whether the outcome is without fault is for `config` to say.

mod draft;
mod keepalived;
mod ldirectord;
mod notes;
mod settle;
mod texts;
mod write;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::config::{InterfaceAddress, Match};

pub use notes::{Place, Warning};

/// What an importer asks of the world around the text.
pub trait Surroundings {
    /// The files that an `include` in a file of the folder `beside` names, in order, each with its
    /// text or why it cannot be read. The pattern is as `glob(3)` takes it.
    fn included(&self, pattern: &str, beside: &Path) -> Vec<(PathBuf, Result<String, String>)>;

    /// Addresses of a host's name.
    fn resolve(&self, host: &str) -> Vec<IpAddr>;

    /// Port of a service's name (`/etc/services`).
    fn service_port(&self, name: &str, protocol: &str) -> Option<u16>;
}

/// What the file itself cannot say.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// keepalived's `--config-id`: which `@` lines count.
    pub config_id: Option<String>,
    /// Packets that carry a firewall mark.
    pub marks: BTreeMap<u32, Vec<Match>>,
    /// The ports of the director.
    pub ports: Vec<PortOption>,
}

/// A port of the director.
#[derive(Clone, Debug)]
pub struct PortOption {
    /// Name.
    pub name: String,
    /// PCI address or DPDK devargs.
    pub device: String,
    /// Whether the kernel goes on using the interface.
    pub is_shared: bool,
    /// The director's addresses on it.
    pub addresses: Vec<InterfaceAddress>,
}

/// What became of a configuration.
#[derive(Clone, Debug)]
pub struct Imported {
    /// A gyre.toml.
    pub text: String,
    /// What was not mapped, or not exactly, file by file in the order of lines.
    pub warnings: Vec<Warning>,
    /// Services in it.
    pub services: usize,
    /// Their servers.
    pub servers: usize,
    /// Whether ports have yet to be filled in before `gyre check` is content.
    pub needs_port: bool,
}

/// Why nothing came of it.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// Nothing to balance.
    #[error(
        "{file}: {found}; is this the right file? gyre takes over `virtual_server` of \
         keepalived.conf and `virtual=` of ldirectord.cf"
    )]
    Nothing {
        /// The file.
        file: String,
        /// What is missing.
        found: &'static str,
        /// What was odd about it, which may be the reason.
        warnings: Vec<Warning>,
    },
}

impl ImportError {
    /// What was odd about the file.
    pub fn warnings(&self) -> &[Warning] {
        let ImportError::Nothing { warnings, .. } = self;
        warnings
    }
}

/// A file as the user named it, with its text.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// Path as given.
    pub path: &'a Path,
    /// What is in it.
    pub text: &'a str,
}

/// keepalived.conf.
pub fn keepalived(
    source: Source<'_>,
    world: &dyn Surroundings,
    options: &Options,
) -> Result<Imported, ImportError> {
    let draft = keepalived::read(source, world, options);
    finish(draft, source, options, "keepalived")
}

/// ldirectord.cf.
pub fn ldirectord(
    source: Source<'_>,
    world: &dyn Surroundings,
    options: &Options,
) -> Result<Imported, ImportError> {
    let draft = ldirectord::read(source, world);
    finish(draft, source, options, "ldirectord")
}

/// The words that a pattern with csh's braces stands for: `{a,b}.conf`.
pub fn braces(pattern: &str) -> Vec<String> {
    texts::braces(pattern)
}

fn finish(
    mut draft: draft::Draft,
    source: Source<'_>,
    options: &Options,
    format: &'static str,
) -> Result<Imported, ImportError> {
    if draft.services.is_empty() {
        let found =
            if format == "keepalived" { "no virtual_server in it" } else { "no virtual= in it" };
        let file = source.path.display().to_string();
        return Err(ImportError::Nothing { file, found, warnings: draft.notes.into_warnings() });
    }
    settle::settle(&mut draft, options);
    let live = || draft.services.iter().filter(|service| service.left_out.is_none());
    let services = live().count();
    let servers = live().map(|service| service.servers.len()).sum();
    let text = write::document(&draft, source, options, format);
    let needs_port = options.ports.is_empty();
    let warnings = draft.notes.into_warnings();
    Ok(Imported { text, warnings, services, servers, needs_port })
}
