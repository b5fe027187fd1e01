//! UDP: a datagram is sent from a connected socket, so that the kernel tells of an ICMP error.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::reply::{self, Answer, Expressions};
use super::{Deadline, Failure};
use crate::limits::CHECK_DATAGRAM_BYTES_MAX;
use crate::model::check::Reply;

/// What is awaited.
pub(super) const ANSWER: &str = "answer";

/// Judges what came of a datagram. Where an answer is wanted the first one decides. Otherwise the
/// server is good once it answers, or has let the time pass without its kernel or a router saying
/// that nobody is there.
pub(super) fn judge(
    answer: Result<Vec<u8>, Failure>,
    wanted: Option<&Reply>,
    expressions: &Expressions,
) -> Result<(), Failure> {
    match (answer, wanted) {
        (Ok(bytes), Some(wanted)) => {
            reply::judge(wanted, &Answer { bytes: &bytes, cut_at: None }, expressions)
        }
        (Ok(_) | Err(Failure::Timeout { .. }), None) => Ok(()),
        (Err(failure), _) => Err(failure),
    }
}

/// Sends `payload` and gives the first answer.
pub(super) async fn ask(
    address: SocketAddr,
    payload: &[u8],
    awaited: &'static str,
    deadline: Deadline,
) -> Result<Vec<u8>, Failure> {
    let talk = async {
        let socket = connected(address).await?;
        socket.send(payload).await?;
        receive(&socket).await
    };
    let named = async { talk.await.map_err(|error| refusal(&error, awaited)) };
    deadline.within(awaited, named).await
}

/// The next datagram, or the error that an ICMP message made. Thousands of attempts wait at one
/// time, so that room for the answer is taken when it is there.
async fn receive(socket: &UdpSocket) -> std::io::Result<Vec<u8>> {
    loop {
        // An ICMP error makes a socket ready for nothing but that.
        let ready = socket.ready(Interest::READABLE | Interest::ERROR).await?;
        if let Some(error) = ready.is_error().then(|| socket.take_error()).transpose()?.flatten() {
            return Err(error);
        }
        let mut answer = vec![0; CHECK_DATAGRAM_BYTES_MAX];
        match socket.try_recv(&mut answer) {
            Ok(bytes) => {
                answer.truncate(bytes);
                return Ok(answer);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// A socket that hears only the server.
async fn connected(address: SocketAddr) -> std::io::Result<UdpSocket> {
    let own: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(own).await?;
    socket.connect(address).await?;
    Ok(socket)
}

fn refusal(error: &std::io::Error, awaited: &'static str) -> Failure {
    match Failure::of_socket(error, awaited) {
        Failure::Refused => Failure::Answer("nobody listens (ICMP port unreachable)".to_owned()),
        other => other,
    }
}
