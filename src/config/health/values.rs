//! Values of checks that are written as text: ranges of statuses, digests, bytes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::config::values::as_text;
use crate::limits::CHECK_PAYLOAD_BYTES_MAX;

as_text!(StatusRange);
as_text!(HexBytes);
as_text!(Digest<16>);
as_text!(Digest<32>);

/// HTTP statuses from the first to the last: `200`, `200-299`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StatusRange(pub u16, pub u16);

impl FromStr for StatusRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let status = |text: &str| {
            let digits = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|status| digits && (100..=599).contains(status))
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (status(first), status(last)) {
            (Some(first), Some(last)) if first <= last => Ok(StatusRange(first, last)),
            _ => Err(format!("`{}` is no HTTP status or range of them", text.escape_debug())),
        }
    }
}

impl fmt::Display for StatusRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let StatusRange(first, last) = self;
        if first == last { write!(f, "{first}") } else { write!(f, "{first}-{last}") }
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !digits || !text.len().is_multiple_of(2) {
        return None;
    }
    let pairs = (0..text.len()).step_by(2);
    pairs.map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

fn write_hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

/// Bytes as hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HexBytes(pub Vec<u8>);

impl FromStr for HexBytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{}` are no hexadecimal bytes", text.escape_debug());
        let bytes = from_hex(text).ok_or_else(wrong)?;
        if bytes.len() > CHECK_PAYLOAD_BYTES_MAX {
            return Err(format!("more than {CHECK_PAYLOAD_BYTES_MAX} bytes"));
        }
        Ok(HexBytes(bytes))
    }
}

impl fmt::Display for HexBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

/// A digest as hexadecimal digits: 16 bytes of MD5, 32 of SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Digest<const BYTES: usize>(pub [u8; BYTES]);

impl<const BYTES: usize> FromStr for Digest<BYTES> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bytes = from_hex(text).and_then(|bytes| <[u8; BYTES]>::try_from(bytes).ok());
        bytes.map(Digest).ok_or_else(|| {
            format!("`{}` are not {} hexadecimal digits", text.escape_debug(), BYTES * 2)
        })
    }
}

impl<const BYTES: usize> fmt::Display for Digest<BYTES> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}
