//! Numbers, times, addresses and ranges as configuration files write them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Most addresses of one range: each becomes a service or a server of its own.
pub(super) const RANGE_MAX: usize = 1_024;

/// Why a range is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RangeError {
    /// Not in any known form.
    Syntax,
    /// Its end lies before its beginning.
    Backwards,
    /// So many addresses.
    TooMany(u128),
}

/// A single address, with or without brackets.
pub(super) fn address(text: &str) -> Option<IpAddr> {
    let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    inner.unwrap_or(text).parse().ok()
}

/// All addresses from one to another.
pub(super) fn between(first: IpAddr, last: IpAddr) -> Result<Vec<IpAddr>, RangeError> {
    let (low, high, is_ipv4) = match (first, last) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            (u128::from(u32::from(a)), u128::from(u32::from(b)), true)
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => (u128::from(a), u128::from(b), false),
        _ => return Err(RangeError::Syntax),
    };
    let span = high.checked_sub(low).ok_or(RangeError::Backwards)?;
    if span >= RANGE_MAX as u128 {
        return Err(RangeError::TooMany(span.saturating_add(1)));
    }
    let make = |number: u128| match is_ipv4 {
        true => IpAddr::V4(Ipv4Addr::from(number as u32)),
        false => IpAddr::V6(Ipv6Addr::from(number)),
    };
    Ok((low..=high).map(make).collect())
}

/// keepalived's ranges: `10.0.0.1-10` (the last part, hexadecimal in IPv6), `10.0.0.250-10.0.1.5`,
/// `10.0.0.8/29` (all of its addresses), or one address.
pub(super) fn range(text: &str) -> Result<Vec<IpAddr>, RangeError> {
    if let Some((first, last)) = text.split_once('-') {
        let first = address(first).ok_or(RangeError::Syntax)?;
        let last = match address(last) {
            Some(last) => last,
            None => last_part(first, last).ok_or(RangeError::Syntax)?,
        };
        return between(first, last);
    }
    let Some((network, bits)) = text.split_once('/') else {
        return Ok(vec![address(text).ok_or(RangeError::Syntax)?]);
    };
    let network = address(network).ok_or(RangeError::Syntax)?;
    let width = if network.is_ipv4() { 32 } else { 128 };
    let bits: u32 = bits.parse().ok().filter(|bits| *bits <= width).ok_or(RangeError::Syntax)?;
    let free = width - bits;
    let low = match network {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    };
    let mask = 1u128.checked_shl(free).map_or(u128::MAX, |size| size - 1);
    let make = |number: u128| match network {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from(number as u32)),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from(number)),
    };
    between(make(low & !mask), make(low | mask))
}

/// `first` with its last part replaced.
fn last_part(first: IpAddr, part: &str) -> Option<IpAddr> {
    match first {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            Some(Ipv4Addr::new(a, b, c, part.parse().ok()?).into())
        }
        IpAddr::V6(v6) => {
            let mut parts = v6.segments();
            parts[7] = u16::from_str_radix(part, 16).ok()?;
            Some(Ipv6Addr::from(parts).into())
        }
    }
}

/// Seconds, with a fraction or not, as milliseconds.
pub(super) fn millis(text: &str) -> Option<u32> {
    let plain = text.chars().all(|c| c.is_ascii_digit() || c == '.');
    let seconds: f64 = text.parse().ok().filter(|_| plain)?;
    let millis = (seconds * 1000.0).round();
    (0.0..=f64::from(u32::MAX)).contains(&millis).then_some(millis as u32)
}

/// A netmask, dotted or as a length, as leading bits.
pub(super) fn mask_bits(text: &str) -> Option<u8> {
    if let Ok(bits) = text.parse::<u8>() {
        return (1..=128).contains(&bits).then_some(bits);
    }
    let mask = match text.parse().ok()? {
        IpAddr::V4(v4) => (u128::from(u32::from(v4)) << 96, 32),
        IpAddr::V6(v6) => (u128::from(v6), 128),
    };
    let bits = mask.0.leading_ones();
    let is_contiguous = bits == 128 || mask.0 << bits == 0;
    (is_contiguous && bits > 0).then_some(bits.min(mask.1) as u8)
}

/// keepalived's and ldirectord's yes and no.
pub(super) fn yes(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "on" | "true" | "yes" => Some(true),
        "off" | "false" | "no" => Some(false),
        _ => None,
    }
}

/// A command line as a shell would cut it, without a shell's expansions.
pub(super) fn command(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None | Some('"'), '\\') => {
                let next = characters.next().unwrap_or('\\');
                word.get_or_insert_default().push(next);
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// `{a,b}c` as `ac` and `bc`, as csh has it; what does not close stands for itself. At most
/// `RANGE_MAX` words come of it.
pub(super) fn braces(text: &str) -> Vec<String> {
    let (mut open, mut done) = (vec![text.to_owned()], Vec::new());
    while let Some(one) = open.pop() {
        match alternatives(&one) {
            Some(words) if open.len() + done.len() + words.len() <= RANGE_MAX => {
                open.extend(words.into_iter().rev());
            }
            _ => done.push(one),
        }
    }
    done
}

/// The words that the first pair of braces stands for.
fn alternatives(text: &str) -> Option<Vec<String>> {
    let start = text.find('{')?;
    let (mut depth, mut from, mut parts) = (0, start + 1, Vec::new());
    for (at, c) in text.char_indices().skip_while(|(at, _)| *at < start) {
        match c {
            '{' => depth += 1,
            ',' if depth == 1 => {
                parts.push(&text[from..at]);
                from = at + 1;
            }
            '}' if depth == 1 => {
                parts.push(&text[from..at]);
                let (before, after) = (&text[..start], &text[at + 1..]);
                return Some(parts.iter().map(|part| format!("{before}{part}{after}")).collect());
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_in_all_their_forms() {
        let shown = |text| range(text).map(|all| (all.len(), all[0].to_string()));
        assert_eq!(shown("10.0.0.1"), Ok((1, "10.0.0.1".into())));
        assert_eq!(shown("10.0.0.1-10"), Ok((10, "10.0.0.1".into())));
        assert_eq!(shown("10.0.0.250-10.0.1.5"), Ok((12, "10.0.0.250".into())));
        assert_eq!(shown("10.0.0.9/29"), Ok((8, "10.0.0.8".into())));
        assert_eq!(shown("2001:db8::2-1f"), Ok((30, "2001:db8::2".into())));
        assert_eq!(shown("2001:db8::/124"), Ok((16, "2001:db8::".into())));
    }

    #[test]
    fn ranges_that_are_none_or_too_large_are_refused() {
        for text in ["", "10.0.0", "10.0.0.1-", "10.0.0.1-300", "10.0.0.0/33", "10.0.0.1-::1"] {
            assert_eq!(range(text), Err(RangeError::Syntax), "{text}");
        }
        assert_eq!(range("10.0.0.9-3"), Err(RangeError::Backwards));
        assert_eq!(range("10.0.0.0/16"), Err(RangeError::TooMany(65_536)));
        assert_eq!(range("::/0"), Err(RangeError::TooMany(u128::MAX)));
    }

    #[test]
    fn braces_stand_for_their_parts() {
        assert_eq!(braces("a"), ["a"]);
        assert_eq!(braces("{foo/{,cat},bar}.conf"), ["foo/.conf", "foo/cat.conf", "bar.conf"]);
        assert_eq!(braces("{a"), ["{a"]);
        assert!(braces(&"{a,b}".repeat(100)).len() <= RANGE_MAX);
    }

    #[test]
    fn masks_and_times_are_read() {
        assert_eq!(mask_bits("255.255.255.0"), Some(24));
        assert_eq!(mask_bits("255.255.255.255"), Some(32));
        assert_eq!(mask_bits("64"), Some(64));
        assert_eq!(
            (mask_bits("255.0.255.0"), mask_bits("0.0.0.0"), mask_bits("x")),
            (None, None, None)
        );
        assert_eq!((millis("3"), millis("2.5"), millis("-1")), (Some(3000), Some(2500), None));
        assert_eq!((millis("nan"), millis("1e3")), (None, None));
    }

    #[test]
    fn commands_are_cut_as_a_shell_would() {
        assert_eq!(command(r#"/bin/x "a b"  'c d'e \" "#), ["/bin/x", "a b", "c de", "\""]);
        assert_eq!(command("  "), Vec::<String>::new());
    }
}
