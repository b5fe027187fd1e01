//! What FTP's control connections announce: addresses and ports in the client's commands and the
//! server's replies, found in one segment and written anew. Knows no flow.
//!
//! RFC 959 (PORT, 227), RFC 2428 (EPRT, 229). As the kernel's helper, this reads segments one by
//! one: an announcement that is cut in two is not seen.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;

use arrayvec::ArrayString;

use super::super::flow::Direction;

/// Longest text written: `|2|`, an IPv6 address, `|`, a port, `|`.
pub const TEXT_BYTES_MAX: usize = 56;

/// An address and port as FTP writes them.
pub type Text = ArrayString<TEXT_BYTES_MAX>;

/// How an announcement is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Six numbers: `PORT`, reply 227.
    Numbers,
    /// Family, address and port between delimiters: `EPRT`.
    Extended(u8),
    /// The port alone between delimiters: reply 229.
    PortOnly(u8),
}

/// A data connection that one side waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// Where in the payload its address and port stand.
    pub span: Range<usize>,
    /// How.
    pub form: Form,
    /// The address, where it is given.
    pub address: Option<IpAddr>,
    /// The port.
    pub port: u16,
}

/// The first announcement that a segment makes; `Err` when it starts one that cannot be read.
pub fn find(payload: &[u8], direction: Direction) -> Result<Option<Announcement>, ()> {
    let mut start = 0;
    while let Some(line) = payload.get(start..).filter(|rest| !rest.is_empty()) {
        let word = line.get(..5).unwrap_or_default();
        let found = match direction {
            Direction::Inbound if word.eq_ignore_ascii_case(b"PORT ") => Some(numbers(line, 5)),
            Direction::Inbound if word.eq_ignore_ascii_case(b"EPRT ") => Some(extended(line, 5)),
            Direction::Outbound if word.starts_with(b"227 ") => {
                Some(first_digit(line, 4).and_then(|at| numbers(line, at)))
            }
            Direction::Outbound if word.starts_with(b"229 ") => Some(port_only(line)),
            _ => None,
        };
        if let Some(found) = found {
            let mut found = found.filter(|found| found.port != 0).ok_or(())?;
            found.span = found.span.start + start..found.span.end + start;
            return Ok(Some(found));
        }
        let Some(end) = line.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
        start += end + 1;
    }
    Ok(None)
}

/// Writes an address and port; `None` where the form has no room for an IPv6 address.
pub fn write(form: Form, to: SocketAddr) -> Option<Text> {
    let mut text = Text::new();
    let port = to.port();
    let done = match (form, to.ip()) {
        (Form::Numbers, IpAddr::V4(address)) => {
            let [a, b, c, d] = address.octets();
            write!(text, "{a},{b},{c},{d},{},{}", port >> 8, port & 0xff)
        }
        (Form::Numbers, IpAddr::V6(_)) => return None,
        (Form::Extended(mark), address) => {
            let (mark, family) = (char::from(mark), if address.is_ipv4() { 1 } else { 2 });
            write!(text, "{mark}{family}{mark}{address}{mark}{port}{mark}")
        }
        (Form::PortOnly(mark), _) => {
            let mark = char::from(mark);
            write!(text, "{mark}{mark}{mark}{port}{mark}")
        }
    };
    done.ok().map(|()| text)
}

/// Six numbers from `at` on, and something behind them.
fn numbers(line: &[u8], at: usize) -> Option<Announcement> {
    let start = at + line.get(at..)?.iter().position(|byte| *byte != b' ')?;
    let mut values = [0u8; 6];
    let mut end = start;
    for (nth, value) in values.iter_mut().enumerate() {
        if nth > 0 {
            line.get(end).filter(|byte| **byte == b',')?;
            end += 1;
        }
        let (number, next) = number(line, end)?;
        (*value, end) = (u8::try_from(number).ok()?, next);
    }
    let [a, b, c, d, high, low] = values;
    Some(Announcement {
        span: start..end,
        form: Form::Numbers,
        address: Some(Ipv4Addr::new(a, b, c, d).into()),
        port: u16::from(high) << 8 | u16::from(low),
    })
}

/// `|1|10.0.0.7|40000|` or `|2|fd00::7|40000|`, any mark.
fn extended(line: &[u8], at: usize) -> Option<Announcement> {
    let start = at + line.get(at..)?.iter().position(|byte| *byte != b' ')?;
    let mark = mark(line, start)?;
    let family = *line.get(start + 1)?;
    let from = start + 3;
    let end = from + line.get(from..)?.iter().position(|byte| *byte == mark)?;
    let address = std::str::from_utf8(line.get(from..end)?).ok()?;
    let address: IpAddr = match (line.get(start + 2) == Some(&mark), family) {
        (true, b'1') => address.parse::<Ipv4Addr>().ok()?.into(),
        (true, b'2') => address.parse::<Ipv6Addr>().ok()?.into(),
        _ => return None,
    };
    let (port, end) = number(line, end + 1)?;
    (line.get(end) == Some(&mark)).then_some(Announcement {
        span: start..end + 1,
        form: Form::Extended(mark),
        address: Some(address),
        port,
    })
}

/// `229 Entering Extended Passive Mode (|||40000|)`.
fn port_only(line: &[u8]) -> Option<Announcement> {
    let start = 1 + line.iter().position(|byte| *byte == b'(')?;
    let mark = mark(line, start)?;
    if line.get(start..start + 3)? != [mark; 3] {
        return None;
    }
    let (port, end) = number(line, start + 3)?;
    (line.get(end) == Some(&mark)).then_some(Announcement {
        span: start..end + 1,
        form: Form::PortOnly(mark),
        address: None,
        port,
    })
}

/// RFC 2428: any printable character but a digit.
fn mark(line: &[u8], at: usize) -> Option<u8> {
    line.get(at).copied().filter(|byte| byte.is_ascii_graphic() && !byte.is_ascii_digit())
}

/// A number and where it ends, which is not at the end of the segment.
fn number(line: &[u8], at: usize) -> Option<(u16, usize)> {
    let digits = line.get(at..)?.iter().position(|byte| !byte.is_ascii_digit())?;
    if !(1..=5).contains(&digits) {
        return None;
    }
    let text = std::str::from_utf8(line.get(at..at + digits)?).ok()?;
    Some((text.parse().ok()?, at + digits))
}

/// RFC 1123 section 4.1.2.6: the numbers are found by looking for a digit; where there is a
/// parenthesis they stand in it.
fn first_digit(line: &[u8], at: usize) -> Option<usize> {
    let end = line.iter().position(|byte| *byte == b'\n').unwrap_or(line.len());
    let text = line.get(at..end)?;
    let from = text.iter().position(|byte| *byte == b'(').unwrap_or(0);
    Some(at + from + text.get(from..)?.iter().position(u8::is_ascii_digit)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn told(line: &str, direction: Direction) -> Option<(String, String, u16)> {
        let found = find(line.as_bytes(), direction).unwrap()?;
        let address = found.address.map_or(String::new(), |address| address.to_string());
        Some((line[found.span].to_string(), address, found.port))
    }

    #[test]
    fn every_form_is_read() {
        use Direction::{Inbound, Outbound};
        for (line, direction, span, address, port) in [
            ("PORT 10,0,0,7,156,64\r\n", Inbound, "10,0,0,7,156,64", "10.0.0.7", 40000),
            ("TYPE I\r\nport 10,0,0,7,4,1\r\n", Inbound, "10,0,0,7,4,1", "10.0.0.7", 1025),
            ("EPRT |1|10.0.0.7|40000|\r\n", Inbound, "|1|10.0.0.7|40000|", "10.0.0.7", 40000),
            ("EPRT !2!fd00::7!9!\r\n", Inbound, "!2!fd00::7!9!", "fd00::7", 9),
            (
                "227 Passive Mode (10,2,0,11,117,48).\r\n",
                Outbound,
                "10,2,0,11,117,48",
                "10.2.0.11",
                30000,
            ),
            ("227 Mode 7 =10,2,0,11,0,9\r\n", Outbound, "", "", 0),
            ("227 =10,2,0,11,0,9\r\n", Outbound, "10,2,0,11,0,9", "10.2.0.11", 9),
            ("229 Extended (|||30001|)\r\n", Outbound, "|||30001|", "", 30001),
        ] {
            if port == 0 {
                assert_eq!(find(line.as_bytes(), direction), Err(()), "{line}");
                continue;
            }
            let wanted = (span.to_string(), address.to_string(), port);
            assert_eq!(told(line, direction), Some(wanted), "{line}");
        }
    }

    #[test]
    fn what_the_other_side_may_say_and_replies_without_an_address_are_nothing() {
        assert_eq!(find(b"PORT 10,0,0,7,156,64\r\n", Direction::Outbound), Ok(None));
        assert_eq!(find(b"227 x (10,2,0,11,117,48)\r\n", Direction::Inbound), Ok(None));
        assert_eq!(find(b"RETR PORT 10,0,0,7,156,64\r\n", Direction::Inbound), Ok(None));
        assert_eq!(find(b"", Direction::Inbound), Ok(None));
    }

    #[test]
    fn what_is_cut_or_out_of_range_is_an_error() {
        for line in ["PORT 10,0,0,7,156,6", "PORT 10,0,0,256,1,1\r\n", "PORT 10,0,0,7,0,0\r\n"] {
            assert_eq!(find(line.as_bytes(), Direction::Inbound), Err(()), "{line}");
        }
        for line in ["EPRT |3|x|1|\r\n", "EPRT |1|fd00::1|1|\r\n", "EPRT |1|10.0.0.7|99999|\r\n"] {
            assert_eq!(find(line.as_bytes(), Direction::Inbound), Err(()), "{line}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            for verb in [&b"PORT "[..], b"EPRT ", b"227 (", b"229 (", b""] {
                let line = [verb, &bytes].concat();
                for direction in [Direction::Inbound, Direction::Outbound] {
                    if let Ok(Some(found)) = find(&line, direction) {
                        prop_assert!(found.span.end <= line.len() && found.port != 0);
                    }
                }
            }
        }

        #[test]
        fn what_is_written_is_read_back(v6: bool, bits: u128, port in 1u16..) {
            let address: IpAddr = if v6 { Ipv6Addr::from(bits).into() } else {
                Ipv4Addr::from(bits as u32).into()
            };
            let forms: &[_] = if v6 { &[Form::Extended(b'|')] } else {
                &[Form::Extended(b'|'), Form::Numbers]
            };
            for form in forms {
                let text = write(*form, (address, port).into()).unwrap();
                let verb = if *form == Form::Numbers { "PORT" } else { "EPRT" };
                let line = [verb, " ", &text, "\r\n"].concat();
                let found = find(line.as_bytes(), Direction::Inbound).unwrap().unwrap();
                prop_assert_eq!((found.address, found.port), (Some(address), port));
            }
        }
    }
}
