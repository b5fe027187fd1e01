//! Configuration files: read, and judged whole.

use std::fs;
use std::path::Path;

use super::error::{BadConfig, BadUsage};
use crate::config::{self, Checked};

/// The text of a configuration file.
pub fn read(path: &Path) -> Result<String, BadUsage> {
    fs::read_to_string(path)
        .map_err(|error| BadUsage(format!("{}: {error}; name a TOML file", path.display())))
}

/// A configuration without fault, or every fault in it.
pub fn load(path: &Path) -> anyhow::Result<Checked> {
    let text = read(path)?;
    Ok(config::check(&text)
        .map_err(|problems| BadConfig { path: path.display().to_string(), problems })?)
}
