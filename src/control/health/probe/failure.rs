//! Why an attempt was not good, as a person reads it.

use std::io;

/// Why an attempt was not good. Its text is the reason that is shown and logged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// What was awaited did not come in time.
    #[error("no {awaited} within {timeout_ms} ms")]
    Timeout {
        /// What was awaited.
        awaited: &'static str,
        /// How long.
        timeout_ms: u32,
    },
    /// Nobody listens.
    #[error("connection refused")]
    Refused,
    /// The server's or a router's kernel, or ours, says that there is no way.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// The server ended the connection early.
    #[error("connection closed instead of {0}")]
    Closed(&'static str),
    /// The server answered something else than wanted.
    #[error("{0}")]
    Answer(String),
    /// The director could not carry the check out: it says nothing of the server.
    #[error("check not carried out: {0}")]
    Director(String),
}

impl Failure {
    /// Whether it tells of the server. Where it does not (too few sockets, a program that cannot be
    /// started), the server should keep the state that it has.
    pub fn is_servers(&self) -> bool {
        !matches!(self, Failure::Director(_))
    }

    /// An error of a socket; `awaited` is what it came instead of.
    pub fn of_socket(error: &io::Error, awaited: &'static str) -> Self {
        use io::ErrorKind as Kind;
        match error.kind() {
            Kind::ConnectionRefused => Failure::Refused,
            Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe => {
                Failure::Answer(format!("connection reset instead of {awaited}"))
            }
            Kind::UnexpectedEof => Failure::Closed(awaited),
            Kind::TimedOut => Failure::Unreachable("no answer on the way".to_owned()),
            Kind::HostUnreachable | Kind::NetworkUnreachable | Kind::NetworkDown => {
                Failure::Unreachable(error_text(error))
            }
            _ => match error.raw_os_error() {
                Some(libc::EMFILE | libc::ENFILE) => {
                    Failure::Director("no more open files; raise LimitNOFILE".to_owned())
                }
                Some(libc::EADDRNOTAVAIL) => Failure::Director(
                    "no source port or address is free; widen net.ipv4.ip_local_port_range"
                        .to_owned(),
                ),
                Some(libc::EPERM | libc::EACCES) => {
                    Failure::Director(format!("not permitted ({})", error_text(error)))
                }
                Some(libc::ENOBUFS | libc::ENOMEM) => Failure::Director(error_text(error)),
                _ => Failure::Answer(format!("{} instead of {awaited}", error_text(error))),
            },
        }
    }
}

/// The error's words without its number: "No route to host" is enough.
fn error_text(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(code: i32) -> Failure {
        Failure::of_socket(&io::Error::from_raw_os_error(code), "an answer")
    }

    #[test]
    fn errors_of_sockets_say_whose_fault_they_are() {
        assert_eq!(failure(libc::ECONNREFUSED), Failure::Refused);
        let reset = failure(libc::ECONNRESET);
        assert_eq!(reset.to_string(), "connection reset instead of an answer");
        let far = failure(libc::EHOSTUNREACH);
        assert_eq!(far.to_string(), "unreachable: no route to host");
        assert!([&reset, &far, &failure(libc::EPROTO)].iter().all(|one| one.is_servers()));
        for ours in [libc::EMFILE, libc::EADDRNOTAVAIL, libc::EACCES, libc::ENOBUFS] {
            assert!(!failure(ours).is_servers(), "{ours}");
        }
        assert!(failure(libc::EMFILE).to_string().contains("LimitNOFILE"));
    }
}
