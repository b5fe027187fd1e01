//! The API over HTTP, for those who cannot reach the socket: `POST /rpc`, `GET /events`,
//! `GET /metrics`, `GET /healthz`. Off unless configured; nothing without the token.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::timeout;
use tracing::{debug, warn};

use super::answer::{Caller, Job};
use super::api::{EventKind, Request as ApiRequest, Status, SubscribeParams};
use super::error::ControlError;
use super::metrics::{self, Form, Latencies};
use super::notices::Notices;
use super::stop::Stop;
use crate::config::Http;
use crate::limits::{HTTP_CLIENTS_MAX, REQUEST_BYTES_MAX, TOKEN_BYTES_MAX, TOKEN_BYTES_MIN};

/// How long a client may take to send its headers.
const HEADER_PATIENCE: Duration = Duration::from_secs(10);
/// How long a request may take, its body included; events may stay.
const REQUEST_PATIENCE: Duration = Duration::from_secs(60);
/// Pause after `accept` failed, usually for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What every handler has.
#[derive(Clone)]
pub struct Api {
    pub core: mpsc::Sender<Job>,
    pub notices: Notices,
    pub latencies: Latencies,
}

/// A listener that waits to be served.
pub struct BoundHttp {
    listener: TcpListener,
    token: Arc<[u8]>,
}

impl BoundHttp {
    /// Reads the token and takes the address.
    pub async fn bind(http: &Http) -> Result<Self, ControlError> {
        let token = read_token(Path::new(&http.token_file))?;
        let address = http.listen;
        let listener = TcpListener::bind(address.0).await;
        let listener =
            listener.map_err(|error| ControlError::Http { address: address.0, error })?;
        if !address.0.ip().is_loopback() {
            warn!("http listens on {}: not on loopback, and without encryption", address.0);
        }
        Ok(BoundHttp { listener, token })
    }

    /// Where it listens.
    pub fn address(&self) -> Option<SocketAddr> {
        self.listener.local_addr().ok()
    }
}

fn read_token(path: &Path) -> Result<Arc<[u8]>, ControlError> {
    use std::os::unix::fs::PermissionsExt;
    let failed = |what: String| ControlError::Token { path: path.into(), what };
    let unread = |error: std::io::Error| failed(format!("{error}; {}", how_to_make(path)));
    let metadata = std::fs::metadata(path).map_err(unread)?;
    if !metadata.is_file() {
        return Err(failed(format!("not a file; {}", how_to_make(path))));
    }
    if metadata.permissions().mode() & 0o007 != 0 {
        return Err(failed(format!("everybody may use it; `chmod 600 {}`", path.display())));
    }
    if metadata.len() > TOKEN_BYTES_MAX {
        return Err(failed(format!("longer than {TOKEN_BYTES_MAX} bytes")));
    }
    let text = std::fs::read_to_string(path).map_err(unread)?;
    let token = text.trim();
    if token.len() < TOKEN_BYTES_MIN || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(failed(format!(
            "a token of at least {TOKEN_BYTES_MIN} letters and digits is needed; {}",
            how_to_make(path)
        )));
    }
    Ok(token.as_bytes().into())
}

fn how_to_make(path: &Path) -> String {
    let path = path.display();
    format!("make one: `head -c 24 /dev/urandom | base64 >{path} && chmod 600 {path}`")
}

/// Serves clients until `stop`.
pub async fn serve(bound: BoundHttp, api: Api, stop: Stop) {
    let router = Router::new()
        .route("/rpc", post(rpc))
        .route("/metrics", get(scrape))
        .route("/healthz", get(health))
        .layer(from_fn_with_state((), in_time))
        .route("/events", get(events))
        .layer(DefaultBodyLimit::max(REQUEST_BYTES_MAX))
        .layer(from_fn_with_state(bound.token, with_token))
        .with_state(api);
    let mut clients = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = bound.listener.accept(), if clients.len() < HTTP_CLIENTS_MAX => accepted,
            Some(_) = clients.join_next(), if !clients.is_empty() => continue,
            () = stop.requested() => break,
        };
        match accepted {
            Ok((stream, _)) => drop(clients.spawn(connection(stream, router.clone()))),
            Err(error) => {
                warn!(%error, "http: accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, router: Router) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_PATIENCE)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    if let Err(error) = served.await {
        debug!(%error, "http: client lost");
    }
}

/// Whether two are the same, in a time that does not tell where they differ.
fn is_same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

async fn with_token(State(token): State<Arc<[u8]>>, request: Request, next: Next) -> Response {
    let given = request.headers().get(header::AUTHORIZATION).map(|value| value.as_bytes());
    let bearer = given.and_then(|value| {
        let (scheme, token) = value.split_at_checked(b"bearer ".len())?;
        scheme.eq_ignore_ascii_case(b"bearer ").then_some(token)
    });
    if bearer.is_some_and(|given| is_same(given, &token)) {
        return next.run(request).await;
    }
    let challenge = [(header::WWW_AUTHENTICATE, "Bearer realm=\"gyre\"")];
    (StatusCode::UNAUTHORIZED, challenge, "send `Authorization: Bearer TOKEN`\n").into_response()
}

async fn in_time(State(()): State<()>, request: Request, next: Next) -> Response {
    match timeout(REQUEST_PATIENCE, next.run(request)).await {
        Ok(response) => response,
        Err(_) => (StatusCode::REQUEST_TIMEOUT, "took too long\n").into_response(),
    }
}

async fn rpc(State(api): State<Api>, body: Bytes) -> Response {
    let mut caller = Caller { core: api.core, listener: None, latencies: api.latencies };
    let reply = caller.answer(body).await;
    if reply.is_empty() {
        return StatusCode::NO_CONTENT.into_response();
    }
    ([(header::CONTENT_TYPE, "application/json")], Body::from(reply)).into_response()
}

async fn scrape(State(api): State<Api>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let form = Form::of_accept(accept.unwrap_or(""));
    let (reply, answer) = oneshot::channel();
    if api.core.send(Job::Facts { reply }).await.is_err() {
        return stopping();
    }
    let Ok(facts) = answer.await else { return stopping() };
    let latencies = api.latencies.clone();
    match spawn_blocking(move || metrics::text(*facts, &latencies, form)).await {
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, form.content_type())], text).into_response(),
        _ => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn stopping() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, "gyre is stopping\n").into_response()
}

/// 200 while gyre does its work, 503 while workers stand still.
async fn health(State(api): State<Api>) -> Response {
    let (reply, answer) = oneshot::channel();
    let request = ApiRequest::Status(super::api::NoParams {});
    if api.core.send(Job::Call { request, reply }).await.is_err() {
        return stopping();
    }
    let Ok(Ok(raw)) = answer.await else { return stopping() };
    match serde_json::from_str::<Status>(raw.get()) {
        Ok(status) if status.workers_stalled.is_empty() => Json(status).into_response(),
        Ok(status) => (StatusCode::SERVICE_UNAVAILABLE, Json(status)).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// `?kinds=server.up,server.down`.
fn kinds(uri: &Uri) -> Result<Option<Vec<EventKind>>, String> {
    let given = uri.query().unwrap_or("").split('&').find_map(|part| part.strip_prefix("kinds="));
    let Some(given) = given else { return Ok(None) };
    let one = |word: &str| {
        let found = EventKind::ALL.iter().find(|kind| kind.word() == word).copied();
        found.ok_or_else(|| {
            let all: Vec<&str> = EventKind::ALL.iter().map(|kind| kind.word()).collect();
            format!("there is no kind `{}`; kinds: {}\n", word.escape_debug(), all.join(", "))
        })
    };
    given.split([',']).map(one).collect::<Result<_, _>>().map(Some)
}

async fn events(State(api): State<Api>, uri: Uri) -> Response {
    let kinds = match kinds(&uri) {
        Ok(kinds) => kinds,
        Err(text) => return (StatusCode::BAD_REQUEST, text).into_response(),
    };
    let mut listener = api.notices.listener();
    listener.subscribe(SubscribeParams { kinds });
    let stream = futures::stream::unfold(listener, |mut listener| async {
        let notice = listener.next().await;
        let event = Event::default().event(notice.event.kind().word());
        let text = serde_json::to_string(&*notice).unwrap_or_default();
        Some((Ok::<_, Infallible>(event.id(notice.number.to_string()).data(text)), listener))
    });
    Sse::new(stream).keep_alive(KeepAlive::default()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_must_be_long_and_not_everybodys() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let write = |text: &str, mode: u32| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            read_token(&path)
        };
        assert_eq!(&*write("0123456789abcdef\n", 0o640).unwrap(), b"0123456789abcdef");
        for (text, mode) in [("short", 0o600), ("", 0o600), ("0123456789abcdef", 0o644)] {
            assert!(matches!(write(text, mode), Err(ControlError::Token { .. })), "{text}");
        }
        assert!(write(&"x".repeat(100_000), 0o600).is_err());
        assert!(read_token(Path::new("/nonexistent")).is_err());
    }

    #[test]
    fn kinds_come_from_the_query() {
        let read = |text: &str| kinds(&text.parse().unwrap());
        assert_eq!(read("/events"), Ok(None));
        let two = vec![EventKind::ServerUp, EventKind::DrainDone];
        assert_eq!(read("/events?x=1&kinds=server.up,drain.done"), Ok(Some(two)));
        assert!(read("/events?kinds=rain").is_err());
    }
}
