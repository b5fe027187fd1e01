//! The configuration file that gyre was started with: read again, and written by `config.save`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use crate::config::{Checked, Problem, check};
use crate::control::api::{ApiError, ErrorCode};
use crate::limits::{CHANGES_SHOWN_MAX, REQUEST_BYTES_MAX};

/// The file's text.
pub fn read(path: &Path) -> Result<String, ApiError> {
    let failed = |error: io::Error| {
        ApiError::new(ErrorCode::File, format!("{}: {error}", path.display()))
            .hint("gyre reads the file that it was started with, by the user it runs as")
    };
    // Neither a pipe nor an endless file may hold up whoever waits for the reply.
    let metadata = fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() || metadata.len() > REQUEST_BYTES_MAX as u64 {
        return Err(failed(io::Error::other("not a file that can be a configuration")));
    }
    let mut text = String::new();
    let file = File::open(path).map_err(failed)?;
    file.take(REQUEST_BYTES_MAX as u64).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

/// The file's configuration, or every problem with the file's name and its place.
pub fn load(path: &Path) -> Result<Checked, ApiError> {
    check(&read(path)?).map_err(|problems| refused(path, &problems))
}

fn refused(path: &Path, problems: &[Problem]) -> ApiError {
    let line = |problem: &Problem| format!("{}:{problem}", path.display());
    let lines: Vec<String> = problems.iter().take(CHANGES_SHOWN_MAX).map(line).collect();
    let message = match &lines[..] {
        [one] => one.clone(),
        _ => format!("{}: {} problems; nothing has changed", path.display(), problems.len()),
    };
    ApiError::new(ErrorCode::InvalidConfig, message).problems(lines)
}

/// Puts `text` in the place of the file in one step: whoever reads it finds the old or the new.
pub fn write(path: &Path, text: &str) -> Result<(), ApiError> {
    replace(path, text).map_err(|error| {
        ApiError::new(ErrorCode::File, format!("{}: {error}", path.display()))
            .hint("`gyre save --to FILE` writes elsewhere")
    })
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    // Where the path is a link, the file behind it is meant.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let directory = path.parent().map_or_else(PathBuf::new, Path::to_owned);
    let new = directory.join(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
    let written = fill(&new, &path, text).and_then(|()| fs::rename(&new, &path));
    if written.is_err() {
        // What was begun is of no use; the first error is the one to tell.
        let _ = fs::remove_file(&new);
    }
    written?;
    // The name is as safe as the text only when the directory is.
    File::open(&directory).and_then(|directory| directory.sync_all())
}

fn fill(new: &Path, old: &Path, text: &str) -> io::Result<()> {
    let _ = fs::remove_file(new);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(new)?;
    file.write_all(text.as_bytes())?;
    if let Ok(metadata) = fs::metadata(old) {
        // The same owner where we may give files away; the same rights in any case.
        let _ = chown(new, Some(metadata.uid()), Some(metadata.gid()));
        file.set_permissions(fs::Permissions::from_mode(metadata.permissions().mode()))?;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_file_keeps_its_rights_and_leaves_nothing_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let (path, link) = (directory.path().join("a.toml"), directory.path().join("b.toml"));
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        write(&link, "new").unwrap();
        assert_eq!(read(&path).unwrap(), "new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
        let error = write(&directory.path().join("none/a.toml"), "x").unwrap_err();
        assert_eq!(error.name(), Some("file"));
    }

    #[test]
    fn what_is_no_file_is_refused_at_once() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(read(directory.path()).unwrap_err().name(), Some("file"));
        assert_eq!(read(Path::new("/dev/zero")).unwrap_err().name(), Some("file"));
        assert_eq!(read(Path::new("/nonexistent")).unwrap_err().name(), Some("file"));
    }
}
