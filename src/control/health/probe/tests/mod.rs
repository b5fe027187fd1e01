//! Attempts against servers of this process that answer rightly, wrongly, half, slowly or not.

mod datagrams;
mod http;
mod programs;
mod streams;
mod tls;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{Check, Failure, Probes, Target};
use crate::model::check::{CheckKind, CheckSpec, CheckWay};
use crate::model::{ForwardMode, Tunnel};

pub(super) const TIMEOUT_MS: u32 = 400;

pub(super) fn check(kind: CheckKind, server: SocketAddr) -> Check {
    let spec = CheckSpec {
        kind,
        port: None,
        way: CheckWay::Server,
        interval_ms: 2000,
        timeout_ms: TIMEOUT_MS,
        retries: 0,
        retry_delay_ms: 0,
        jitter_percent: 0,
        rise: 1,
        fall: 1,
    };
    let vip = Some("192.0.2.80:443".parse().unwrap());
    let (mode, tunnel) = (ForwardMode::Nat, Tunnel::default());
    Check { spec, target: Target { server, vip, mode, tunnel } }
}

/// An attempt, and the reason if it was not good.
pub(super) async fn attempt(kind: CheckKind, server: SocketAddr) -> Result<(), String> {
    attempt_with(Probes::new(), kind, server).await.map_err(|failure| failure.to_string())
}

pub(super) async fn attempt_with(
    probes: Probes,
    kind: CheckKind,
    server: SocketAddr,
) -> Result<(), Failure> {
    Arc::new(probes).attempt(Arc::new(check(kind, server))).await
}

/// A server that does `serve` with each connection.
pub(super) async fn server<F, Served>(serve: F) -> SocketAddr
where
    F: Fn(TcpStream) -> Served + Send + 'static,
    Served: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(stream));
        }
    });
    address
}

/// A server that reads a request to its end and writes `answer`.
pub(super) async fn answering(answer: impl Into<Vec<u8>>) -> SocketAddr {
    let answer: Arc<[u8]> = answer.into().into();
    server(move |mut stream| {
        let answer = answer.clone();
        async move {
            read_head(&mut stream).await;
            // A client that has read enough may be gone.
            let _ = stream.write_all(&answer).await;
        }
    })
    .await
}

/// A request to its empty line.
pub(super) async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(head).unwrap()
}

/// An address where nobody listens.
pub(super) async fn closed() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

pub(super) async fn hang() {
    tokio::time::sleep(Duration::from_secs(3600)).await;
}
