//! Configuration files: read, and judged whole.

use std::fs;
use std::io::{Error, ErrorKind};
use std::path::Path;

use super::error::{BadConfig, BadUsage};
use crate::config::{self, Checked};

/// The text of a configuration file.
pub fn read(path: &Path) -> Result<String, BadUsage> {
    fs::read_to_string(path)
        .map_err(|error| BadUsage(format!("{}: {error}; {}", path.display(), remedy(&error))))
}

fn remedy(error: &Error) -> &'static str {
    match error.kind() {
        ErrorKind::PermissionDenied => "run this as root, or let this user read it",
        ErrorKind::InvalidData => "configurations are UTF-8: save it as that",
        _ => "name a TOML file",
    }
}

/// A configuration without fault, or every fault in it.
pub fn load(path: &Path) -> anyhow::Result<Checked> {
    let text = read(path)?;
    Ok(config::check(&text)
        .map_err(|problems| BadConfig { path: path.display().to_string(), problems })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_read_says_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("gyre.toml");
        let refusal = || read(&path).unwrap_err().to_string();
        assert!(refusal().ends_with("name a TOML file"), "{}", refusal());
        fs::write(&path, [0xff, 0xfe, b'[', 0]).unwrap();
        assert!(refusal().contains("UTF-8: save it"), "{}", refusal());
        let denied = Error::from(ErrorKind::PermissionDenied);
        assert!(remedy(&denied).starts_with("run this as root"));
    }
}
