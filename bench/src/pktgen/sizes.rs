//! Frame sizes: one, a mix by weights, or a list of either to go through.
//!
//! Sizes are those of RFC 2544: with FCS, without preamble. What a protocol needs at least is
//! `frame`'s business.

use std::fmt;
use std::str::FromStr;

/// The sizes of RFC 2544 section 9.1 for Ethernet.
const RFC_2544: [u16; 7] = [64, 128, 256, 512, 1024, 1280, 1518];
/// The simple IMIX: seven small, four middling, one large.
const IMIX: [(u16, u32); 3] = [(64, 7), (594, 4), (1518, 1)];
/// Of a jumbo frame.
const FRAME_BYTES_MAX: u16 = 9018;
/// Of Ethernet (IEEE 802.3).
pub const FRAME_BYTES_MIN: u16 = 64;
/// Sum of a mix's weights; the pattern is as long.
const WEIGHTS_MAX: u32 = 1000;
/// Of one mix; an index into it is a byte.
const SIZES_MAX: usize = 16;

/// Frame sizes and how often each comes, one or more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SizeMix {
    parts: Vec<(u16, u32)>,
    is_imix: bool,
}

/// Text that is no frame size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no frame size; write bytes with FCS from {FRAME_BYTES_MIN} to {FRAME_BYTES_MAX} \
     (`64`), a mix by weights (`64:7+594:4+1518:1`), `imix`, or several with commas; `rfc2544` is \
     64,128,256,512,1024,1280,1518"
)]
pub struct SizeSyntax(String);

impl FromStr for SizeMix {
    type Err = SizeSyntax;

    fn from_str(text: &str) -> Result<Self, SizeSyntax> {
        if text.eq_ignore_ascii_case("imix") {
            return Ok(SizeMix { parts: IMIX.to_vec(), is_imix: true });
        }
        let part = |part: &str| {
            let (size, weight) = part.split_once(':').unwrap_or((part, "1"));
            let size: u16 = size.parse().ok()?;
            let weight: u32 = weight.parse().ok()?;
            let fits = (FRAME_BYTES_MIN..=FRAME_BYTES_MAX).contains(&size)
                && (1..=WEIGHTS_MAX).contains(&weight);
            fits.then_some((size, weight))
        };
        let parts: Option<Vec<(u16, u32)>> = text.split('+').map(part).collect();
        parts
            .filter(|parts| parts.len() <= SIZES_MAX)
            .filter(|parts| parts.iter().map(|(_, weight)| weight).sum::<u32>() <= WEIGHTS_MAX)
            .map(|parts| SizeMix { parts, is_imix: false })
            .ok_or_else(|| SizeSyntax(text.to_owned()))
    }
}

impl fmt::Display for SizeMix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_imix {
            f.write_str("imix ")?;
        }
        let is_one = self.parts.len() == 1;
        for (at, (size, weight)) in self.parts.iter().enumerate() {
            let plus = if at > 0 { "+" } else { "" };
            if is_one { write!(f, "{size}")? } else { write!(f, "{plus}{size}:{weight}")? }
        }
        Ok(())
    }
}

impl SizeMix {
    /// One size only.
    pub fn one(frame_bytes: u16) -> Self {
        SizeMix { parts: vec![(frame_bytes, 1)], is_imix: false }
    }

    /// The sizes with FCS, each once, in the order that [`SizeMix::pattern`] counts them by.
    pub fn sizes(&self) -> Vec<u16> {
        self.parts.iter().map(|(size, _)| *size).collect()
    }

    /// The IMIX with its sizes below `frame_bytes_min` raised to it; any other mix as it is.
    pub fn raised(mut self, frame_bytes_min: u16) -> Self {
        if self.is_imix {
            self.parts.iter_mut().for_each(|(size, _)| *size = (*size).max(frame_bytes_min));
        }
        self
    }

    /// Average frame in bytes, FCS included.
    pub fn mean_bytes(&self) -> f64 {
        let weights: u32 = self.parts.iter().map(|(_, weight)| weight).sum();
        let bytes: u64 =
            self.parts.iter().map(|&(size, weight)| u64::from(size) * u64::from(weight)).sum();
        bytes as f64 / f64::from(weights.max(1))
    }

    /// The largest frame in bytes.
    pub fn largest_bytes(&self) -> u16 {
        self.parts.iter().map(|(size, _)| *size).max().unwrap_or(0)
    }

    /// Which size each frame of a round has, the weights spread evenly: of 7:4:1 no two large
    /// ones ever meet.
    pub fn pattern(&self) -> Vec<u8> {
        let total: i64 = self.parts.iter().map(|(_, weight)| i64::from(*weight)).sum();
        let mut credit = vec![0i64; self.parts.len()];
        let mut pattern = Vec::new();
        for _ in 0..total {
            for (credit, (_, weight)) in credit.iter_mut().zip(&self.parts) {
                *credit += i64::from(*weight);
            }
            // Of equals the first.
            let best = (0..credit.len()).rev().max_by_key(|&at| credit[at]).unwrap_or(0);
            credit[best] -= total;
            pattern.push(best as u8);
        }
        pattern
    }
}

/// Sizes or mixes to measure one after another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SizeList(pub Vec<SizeMix>);

impl FromStr for SizeList {
    type Err = SizeSyntax;

    fn from_str(text: &str) -> Result<Self, SizeSyntax> {
        let mut list = Vec::new();
        for part in text.split(',').map(str::trim) {
            if part.eq_ignore_ascii_case("rfc2544") {
                list.extend(RFC_2544.map(SizeMix::one));
            } else {
                list.push(part.parse()?);
            }
        }
        Ok(SizeList(list))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_back_and_nonsense_is_told_how_to_be_written() {
        let list: SizeList = "64,imix,100:1+200:3".parse().unwrap();
        let shown: Vec<String> = list.0.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["64", "imix 64:7+594:4+1518:1", "100:1+200:3"]);
        assert_eq!("rfc2544".parse::<SizeList>().unwrap().0.len(), 7);
        for text in ["", "63", "9019", "64:0", "64:7+", "64;128", "64:2000"] {
            let error = text.parse::<SizeList>().unwrap_err().to_string();
            assert!(error.contains("imix"), "{text}: {error}");
        }
    }

    #[test]
    fn imix_comes_in_its_proportions_and_evenly() {
        let imix: SizeMix = "imix".parse().unwrap();
        let pattern = imix.pattern();
        let count = |size: u8| pattern.iter().filter(|&&at| at == size).count();
        assert_eq!((count(0), count(1), count(2)), (7, 4, 1));
        assert!(pattern.windows(2).all(|pair| pair != [1, 1]), "{pattern:?}");
        assert!((imix.mean_bytes() - 361.833).abs() < 0.001);
        assert_eq!(imix.clone().raised(76).sizes(), [76, 594, 1518]);
        assert_eq!(SizeMix::one(64).raised(76).sizes(), [64], "what was asked for is not bent");
    }
}
