//! HTTP/1.1, plain or over TLS: a request, the status and, where it is wanted, the body.

use std::future::Future;
use std::net::SocketAddr;
use std::num::NonZeroUsize;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, CONNECTION, HOST, USER_AGENT};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;

use super::reply::{Answer, Expressions, judge};
use super::tls::TlsClients;
use super::{Deadline, Failure};
use crate::limits::{CHECK_BODY_BYTES_MAX, CHECK_HEAD_BYTES_MAX};
use crate::model::check::{HttpCheck, HttpMethod};

const ANSWER: &str = "HTTP answer";
const BODY: &str = "end of the HTTP body";
const AGENT: &str = concat!("gyre/", env!("CARGO_PKG_VERSION"), " (health check)");

/// What attempts share.
#[derive(Clone, Copy)]
pub(super) struct Shared<'a> {
    /// Compiled expressions.
    pub expressions: &'a Expressions,
    /// TLS, where it was needed before.
    pub tls: &'a TlsClients,
}

/// Connects, asks, and judges; `address` is what is asked where no host is named.
pub(super) async fn attempt<S>(
    connecting: impl Future<Output = Result<S, Failure>>,
    (address, http): (SocketAddr, &HttpCheck),
    shared: Shared<'_>,
    deadline: Deadline,
) -> Result<(), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let request = request(address, http)?;
    let stream = connecting.await?;
    match &http.tls {
        None => exchange(stream, request, (http, shared.expressions), deadline).await,
        Some(tls) => {
            let name = tls.sni.as_deref().or(http.host.as_deref());
            let connector = shared.tls.connector(tls).await?;
            let handshake = connector.handshake(stream, name, address.ip());
            let stream = deadline.within("end of the TLS handshake", handshake).await?;
            exchange(stream, request, (http, shared.expressions), deadline).await
        }
    }
}

fn request(address: SocketAddr, http: &HttpCheck) -> Result<Request<Empty<Bytes>>, Failure> {
    let usual = if http.tls.is_some() { 443 } else { 80 };
    let host = match &http.host {
        Some(host) => host.clone(),
        None if address.port() == usual && address.is_ipv6() => format!("[{}]", address.ip()),
        None if address.port() == usual => address.ip().to_string(),
        None => address.to_string(),
    };
    let method = match http.method {
        HttpMethod::Get => Method::GET,
        HttpMethod::Head => Method::HEAD,
    };
    let builder = Request::builder().method(method).uri(&http.request);
    let builder = builder.header(HOST, host).header(USER_AGENT, AGENT);
    let builder = builder.header(ACCEPT, "*/*").header(CONNECTION, "close");
    let refused = |error| Failure::Director(format!("request {:?}: {error}", http.request));
    builder.body(Empty::new()).map_err(refused)
}

async fn exchange<S>(
    stream: S,
    request: Request<Empty<Bytes>>,
    (http, expressions): (&HttpCheck, &Expressions),
    deadline: Deadline,
) -> Result<(), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = http1::Builder::new();
    builder.max_buf_size(CHECK_HEAD_BYTES_MAX);
    let handshake = builder.handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| failure(&error, ANSWER))?;
    // Ends with the attempt, whichever way that goes.
    let mut beside = JoinSet::new();
    beside.spawn(connection);
    let asked = async {
        let response = sender.send_request(request).await;
        response.map_err(|error| failure(&error, ANSWER))
    };
    let mut response = deadline.within(ANSWER, asked).await?;
    status(&response, http)?;
    let body = deadline.within(BODY, read(&mut response)).await?;
    match &http.body {
        None => Ok(()),
        Some(wanted) => {
            let cut_at = NonZeroUsize::new(CHECK_BODY_BYTES_MAX);
            let cut_at = cut_at.filter(|_| body.len() > CHECK_BODY_BYTES_MAX);
            let bytes = &body[..body.len().min(CHECK_BODY_BYTES_MAX)];
            judge(wanted, &Answer { bytes, cut_at }, expressions)
        }
    }
}

fn status(response: &Response<Incoming>, http: &HttpCheck) -> Result<(), Failure> {
    let got = response.status().as_u16();
    if http.statuses.iter().any(|(first, last)| (*first..=*last).contains(&got)) {
        return Ok(());
    }
    let range = |(first, last): &(u16, u16)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    let wanted: Vec<String> = http.statuses.iter().map(range).collect();
    Err(Failure::Answer(format!("status {got}, wanted {}", wanted.join(" or "))))
}

/// The body to its end, or a little more than may be judged of it: a server that breaks off in the
/// middle is not good, whatever it began with.
async fn read(response: &mut Response<Incoming>) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    while let Some(frame) = response.body_mut().frame().await {
        let frame = frame.map_err(|error| failure(&error, BODY))?;
        if let Ok(data) = frame.into_data() {
            body.extend_from_slice(&data);
        }
        if body.len() > CHECK_BODY_BYTES_MAX {
            break;
        }
    }
    Ok(body)
}

/// What went wrong, in words of the check where the library's do not help.
fn failure(error: &hyper::Error, awaited: &'static str) -> Failure {
    use std::error::Error;
    if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        return Failure::Closed(awaited);
    }
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(io) = inner.downcast_ref::<std::io::Error>() {
            return Failure::of_socket(io, awaited);
        }
        cause = inner.source();
    }
    if error.is_parse() {
        return Failure::Answer(format!("something else than HTTP/1.1 ({error})"));
    }
    Failure::Answer(format!("{error} instead of {awaited}"))
}
