//! SMTP (RFC 5321): a greeting 220, HELO answered by 250, and QUIT.

use std::future::Future;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};

use super::reply::quoted;
use super::{Deadline, Failure};

/// Lines of one reply; servers with long greetings have ten.
const LINES_MAX: usize = 64;
/// Octets of a line: four times what RFC 5321 allows (4.5.3.1.5).
const LINE_BYTES_MAX: u64 = 2048;

/// Greets and takes leave.
pub(super) async fn attempt<S: AsyncRead + AsyncWrite + Unpin>(
    connecting: impl Future<Output = Result<S, Failure>>,
    helo: &str,
    deadline: Deadline,
) -> Result<(), Failure> {
    let mut stream = BufReader::new(connecting.await?);
    deadline.within("SMTP greeting", reply(&mut stream, 220, "an SMTP greeting")).await?;
    let said = async {
        say(&mut stream, &format!("HELO {helo}\r\n"), "an answer to HELO").await?;
        reply(&mut stream, 250, "an answer to HELO").await
    };
    deadline.within("answer to HELO", said).await?;
    // The server has shown that it works; what it makes of the farewell is no matter, but it is
    // heard out so that the server does not log a client that vanished.
    let farewell = async {
        say(&mut stream, "QUIT\r\n", "an answer to QUIT").await?;
        reply(&mut stream, 221, "an answer to QUIT").await
    };
    let _ = deadline.within("answer to QUIT", farewell).await;
    Ok(())
}

async fn say<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut BufReader<S>,
    text: &str,
    awaited: &'static str,
) -> Result<(), Failure> {
    let written = stream.get_mut().write_all(text.as_bytes()).await;
    written.map_err(|error| Failure::of_socket(&error, awaited))
}

/// Reads a reply to its last line, which must have this code.
async fn reply<S: AsyncRead + Unpin>(
    stream: &mut BufReader<S>,
    wanted: u16,
    awaited: &'static str,
) -> Result<(), Failure> {
    for _ in 0..LINES_MAX {
        let mut line = Vec::new();
        let mut bounded = stream.take(LINE_BYTES_MAX);
        let read = bounded.read_until(b'\n', &mut line).await;
        read.map_err(|error| Failure::of_socket(&error, awaited))?;
        if line.is_empty() {
            return Err(Failure::Closed(awaited));
        }
        match Line::parse(&line) {
            Some(Line { code, is_last: true }) if code == wanted => return Ok(()),
            Some(Line { code, is_last: false }) if code == wanted => {}
            _ => {
                let got = quoted(&line);
                return Err(Failure::Answer(format!("{got} instead of {awaited} ({wanted})")));
            }
        }
    }
    Err(Failure::Answer(format!("more than {LINES_MAX} lines instead of {awaited}")))
}

/// One line of a reply (RFC 5321, 4.2).
#[derive(Debug, PartialEq, Eq)]
struct Line {
    code: u16,
    is_last: bool,
}

impl Line {
    fn parse(line: &[u8]) -> Option<Self> {
        let text = line.strip_suffix(b"\n")?;
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        let (digits, rest) = text.split_first_chunk::<3>()?;
        let code = std::str::from_utf8(digits).ok()?;
        let code = code.bytes().all(|byte| byte.is_ascii_digit()).then(|| code.parse().ok())??;
        match rest.first() {
            None | Some(b' ') => Some(Line { code, is_last: true }),
            Some(b'-') => Some(Line { code, is_last: false }),
            Some(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_end_a_reply_or_go_on() {
        let parsed = |text: &str| Line::parse(text.as_bytes());
        assert_eq!(parsed("220 mx ready\r\n"), Some(Line { code: 220, is_last: true }));
        assert_eq!(parsed("250-SIZE\r\n"), Some(Line { code: 250, is_last: false }));
        assert_eq!(parsed("250\n"), Some(Line { code: 250, is_last: true }));
        for wrong in ["", "\r\n", "25 x\r\n", "+20 x\r\n", "2200 x\r\n", "220 no end"] {
            assert_eq!(parsed(wrong), None, "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_line_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Some(line) = Line::parse(&bytes) {
                prop_assert!(line.code < 1000 && bytes.ends_with(b"\n"));
            }
        }
    }
}
