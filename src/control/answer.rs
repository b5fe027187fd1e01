//! Lines of JSON-RPC to lines of replies, by way of the core. Knows no sockets: whoever carries
//! lines has one `Caller` a client.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::to_raw_value;
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;

use super::api::rpc::{Id, Item, Line, Outcome, write_reply};
use super::api::{ApiError, ErrorCode, NoParams, Notice, Request, SubscribeParams, discovery};
use super::metrics::{Facts, Latencies};
use super::notices::Listener;
use crate::limits::LONG_LINE_BYTES;

/// Something for the core to do.
#[derive(Debug)]
pub enum Job {
    /// A request.
    Call {
        /// What is asked.
        request: Request,
        /// Where the answer goes.
        reply: oneshot::Sender<Outcome>,
    },
    /// What metrics are made of.
    Facts {
        /// Where it goes.
        reply: oneshot::Sender<Box<Facts>>,
    },
}

/// A line's calls, typed.
enum Calls {
    None,
    One(Asked),
    Batch(Vec<Asked>),
}

/// A call, or what is wrong with it, and where the reply goes.
type Asked = (Option<Id>, Result<Request, ApiError>);

fn asked(item: Item) -> Asked {
    let request = item.call.and_then(|call| Request::read(&call.method, call.params));
    (item.reply_to, request)
}

fn read_line(line: &[u8]) -> Calls {
    match Line::read(line) {
        Line::Blank => Calls::None,
        Line::One(item) => Calls::One(asked(item)),
        Line::Batch(items) => Calls::Batch(items.into_iter().map(asked).collect()),
    }
}

/// Reads long lines beside the control thread, which serves others meanwhile.
async fn read_calls(line: Bytes) -> Calls {
    if line.len() < LONG_LINE_BYTES {
        return read_line(&line);
    }
    match spawn_blocking(move || read_line(&line)).await {
        Ok(calls) => calls,
        Err(error) => {
            let error = ApiError::new(ErrorCode::Internal, error.to_string());
            Calls::One((Some(Id::NULL), Err(error)))
        }
    }
}

/// A client of the API, by whatever way its lines come.
#[derive(Debug)]
pub struct Caller {
    /// Where requests go.
    pub core: mpsc::Sender<Job>,
    /// What it hears of events, where its way can carry them.
    pub listener: Option<Listener>,
    /// Where the time that requests took is noted.
    pub latencies: Latencies,
}

impl Caller {
    /// The bytes to send for one line: nothing, or a reply and a newline.
    pub async fn answer(&mut self, line: Bytes) -> Vec<u8> {
        let mut out = Vec::new();
        match read_calls(line).await {
            Calls::None => {}
            Calls::One(item) => {
                self.answer_one(item, &mut out).await;
            }
            Calls::Batch(items) => {
                out.push(b'[');
                for item in items {
                    let is_first = out.len() == 1;
                    let before = out.len();
                    if !is_first {
                        out.push(b',');
                    }
                    if !self.answer_one(item, &mut out).await {
                        out.truncate(before);
                    }
                }
                // A batch of notifications gets no reply at all, not an empty array.
                if out.len() == 1 {
                    out.clear();
                } else {
                    out.push(b']');
                }
            }
        }
        if !out.is_empty() {
            out.push(b'\n');
        }
        out
    }

    /// Appends the reply of one call; false when it gets none.
    async fn answer_one(&mut self, (reply_to, request): Asked, out: &mut Vec<u8>) -> bool {
        let outcome = match request {
            Ok(Request::EventsSubscribe(params)) => self.subscribe(params),
            Ok(Request::Discover(NoParams {})) => result(discovery()),
            Ok(request) => self.ask(request).await,
            Err(error) => Err(error),
        };
        let Some(id) = reply_to else { return false };
        write_reply(out, &id, &outcome);
        true
    }

    async fn ask(&self, request: Request) -> Outcome {
        let stopping = || ApiError::new(ErrorCode::ShuttingDown, "gyre is stopping");
        let (start, method) = (Instant::now(), request.method());
        let (reply, answer) = oneshot::channel();
        self.core.send(Job::Call { request, reply }).await.map_err(|_| stopping())?;
        let outcome = answer.await.map_err(|_| stopping())?;
        self.latencies.note(method, start.elapsed());
        outcome
    }

    fn subscribe(&mut self, params: SubscribeParams) -> Outcome {
        match &mut self.listener {
            Some(listener) => result(&listener.subscribe(params)),
            None => {
                let message = "events cannot come this way";
                Err(ApiError::new(ErrorCode::InvalidRequest, message)
                    .hint("`GET /events` streams them; or use the socket"))
            }
        }
    }

    /// The next event that this client asked for.
    pub async fn next_event(&mut self) -> Arc<Notice> {
        match &mut self.listener {
            Some(listener) => listener.next().await,
            None => std::future::pending().await,
        }
    }
}

fn result<T: Serialize>(result: &T) -> Outcome {
    to_raw_value(result).map_err(|error| ApiError::new(ErrorCode::Internal, error.to_string()))
}
