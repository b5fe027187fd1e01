//! Reads a configuration file for the subcommands that take one.

use std::fs;
use std::path::Path;

use super::BadUsage;
use crate::config::{self, Checked};

/// The configuration in the file, or all that is wrong with it, a line each.
pub fn read(path: &Path) -> Result<Checked, BadUsage> {
    let name = path.display();
    let text = fs::read_to_string(path)
        .map_err(|error| BadUsage(format!("{name}: {error}; name a configuration file")))?;
    config::check(&text).map_err(|problems| {
        let lines: Vec<String> =
            problems.iter().map(|problem| format!("{name}:{problem}")).collect();
        BadUsage(lines.join("\n"))
    })
}
