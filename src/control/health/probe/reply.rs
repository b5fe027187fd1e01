//! Whether an answer is what was wanted: any, a text, a regular expression, a digest.

use std::fmt::Write;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use hashbrown::HashMap;
use md5::{Digest, Md5};
use regex::bytes::Regex;
use sha2::Sha256;

use super::Failure;
use crate::limits::CHECK_REGEXES_MAX;
use crate::model::check::Reply;

/// What of an answer a reason quotes.
const QUOTED_CHARS_MAX: usize = 60;

/// Regular expressions by their text, so that each is compiled once.
#[derive(Debug, Default)]
pub(super) struct Expressions(Mutex<HashMap<String, Arc<Regex>>>);

impl Expressions {
    fn get(&self, text: &str) -> Result<Arc<Regex>, Failure> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known.get(text) {
            return Ok(found.clone());
        }
        let refused = |error| Failure::Director(format!("expression {text:?}: {error}"));
        let compiled = Arc::new(Regex::new(text).map_err(refused)?);
        // Configurations come and go; expressions of long ago need not stay.
        if known.len() >= CHECK_REGEXES_MAX {
            known.clear();
        }
        known.insert(text.to_owned(), compiled.clone());
        Ok(compiled)
    }
}

/// An answer, or as much of it as was read.
pub(super) struct Answer<'a> {
    /// Its bytes.
    pub bytes: &'a [u8],
    /// The bound at which reading ended before it did.
    pub cut_at: Option<NonZeroUsize>,
}

/// Judges an answer.
pub(super) fn judge(
    wanted: &Reply,
    answer: &Answer<'_>,
    expressions: &Expressions,
) -> Result<(), Failure> {
    let bytes = answer.bytes;
    let got = || quoted(bytes);
    let (is_good, what) = match wanted {
        Reply::Any => return Ok(()),
        Reply::Text(text) => (contains(bytes, text.as_bytes()), format!("the text {text:?}")),
        Reply::Regex(text) => {
            let expression = expressions.get(text)?;
            (expression.is_match(bytes), format!("a match of {text:?}"))
        }
        Reply::Md5(digest) => return same_digest("MD5", &Md5::digest(bytes), digest, answer),
        Reply::Sha256(digest) => {
            return same_digest("SHA-256", &Sha256::digest(bytes), digest, answer);
        }
    };
    match (is_good, answer.cut_at) {
        (true, _) => Ok(()),
        (false, None) => Err(Failure::Answer(format!("answer {} without {what}", got()))),
        (false, Some(most)) => {
            Err(Failure::Answer(format!("the answer's first {most} bytes are without {what}")))
        }
    }
}

fn same_digest(kind: &str, got: &[u8], wanted: &[u8], answer: &Answer<'_>) -> Result<(), Failure> {
    match answer.cut_at {
        Some(most) => Err(Failure::Answer(format!(
            "the answer is longer than the {most} bytes that are read for a digest"
        ))),
        None if got == wanted => Ok(()),
        None => Err(Failure::Answer(format!(
            "the answer's {kind} is {}, wanted {}",
            hex(got),
            hex(wanted)
        ))),
    }
}

fn contains(bytes: &[u8], text: &[u8]) -> bool {
    text.is_empty() || memchr::memmem::find(bytes, text).is_some()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The beginning of an answer as one line for a person, whatever bytes it has.
pub(super) fn quoted(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(4 * QUOTED_CHARS_MAX)]);
    let cut: String = text.trim().chars().take(QUOTED_CHARS_MAX).collect();
    let dots = if cut.len() < text.trim().len() { "…" } else { "" };
    format!("{cut:?}{dots}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(wanted: Reply, bytes: &[u8]) -> Result<(), String> {
        let answer = Answer { bytes, cut_at: None };
        judge(&wanted, &answer, &Expressions::default()).map_err(|failure| failure.to_string())
    }

    #[test]
    fn texts_are_looked_for_anywhere() {
        assert_eq!(judged(Reply::Text("all well".into()), b"<p>all well</p>"), Ok(()));
        let text = judged(Reply::Text("all well".into()), b"<p>ill\xff</p>").unwrap_err();
        assert_eq!(text, "answer \"<p>ill\u{fffd}</p>\" without the text \"all well\"");
        assert_eq!(judged(Reply::Text(String::new()), b""), Ok(()));
    }

    #[test]
    fn expressions_see_bytes_and_may_be_anchored() {
        assert_eq!(judged(Reply::Regex("^OK [0-9]+$".into()), b"OK 17"), Ok(()));
        assert!(judged(Reply::Regex("^OK".into()), b"not OK").unwrap_err().contains("a match of"));
        assert_eq!(judged(Reply::Regex("(?i)ok".into()), b"\xff\xfeOK"), Ok(()));
    }

    #[test]
    fn digests_are_of_the_whole_answer() {
        // Of "abc": RFC 1321, A.5, and FIPS 180-2, B.1.
        let md5 = *b"\x90\x01\x50\x98\x3c\xd2\x4f\xb0\xd6\x96\x3f\x7d\x28\xe1\x7f\x72";
        assert_eq!(judged(Reply::Md5(md5), b"abc"), Ok(()));
        let text = judged(Reply::Md5(md5), b"abd").unwrap_err();
        assert!(text.ends_with("wanted 900150983cd24fb0d6963f7d28e17f72"), "{text}");
        let sha = *b"\xba\x78\x16\xbf\x8f\x01\xcf\xea\x41\x41\x40\xde\x5d\xae\x22\x23\
                     \xb0\x03\x61\xa3\x96\x17\x7a\x9c\xb4\x10\xff\x61\xf2\x00\x15\xad";
        assert_eq!(judged(Reply::Sha256(sha), b"abc"), Ok(()));
        let cut = Answer { bytes: b"abc", cut_at: NonZeroUsize::new(3) };
        let refused = judge(&Reply::Sha256(sha), &cut, &Expressions::default()).unwrap_err();
        assert!(refused.to_string().contains("longer than the 3 bytes"), "{refused}");
    }

    #[test]
    fn a_reason_quotes_little_of_an_answer() {
        let long = "x".repeat(5000);
        let text = judged(Reply::Text("y".into()), long.as_bytes()).unwrap_err();
        assert!(text.len() < 150, "{text}");
        assert_eq!(quoted(b"a\r\nb\n"), "\"a\\r\\nb\"");
    }
}
