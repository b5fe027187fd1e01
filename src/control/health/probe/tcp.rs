//! TCP: a connection is opened, and closed again in order.
//!
//! Closed by a FIN, not by a reset: the server's program sees a connection that ends at once, as
//! any client may do, where a reset would be an error in its log every few seconds (or no
//! connection at all, so that the check would not show that it accepts). The price is a TIME_WAIT
//! in the director's kernel, which that reuses or bounds (`tcp_max_tw_buckets`) by itself.

use std::net::SocketAddr;

use tokio::net::TcpStream;

use super::{Deadline, Failure};

/// What a connection's beginning is called in reasons.
const ANSWER: &str = "answer to the connection attempt";

/// Opens a connection and ends it.
pub(super) async fn attempt(address: SocketAddr, deadline: Deadline) -> Result<(), Failure> {
    connect(address, deadline).await.map(drop)
}

/// Opens a connection.
pub(super) async fn connect(address: SocketAddr, deadline: Deadline) -> Result<TcpStream, Failure> {
    let connecting = async {
        let stream = TcpStream::connect(address).await;
        stream.map_err(|error| Failure::of_socket(&error, ANSWER))
    };
    deadline.within(ANSWER, connecting).await
}
