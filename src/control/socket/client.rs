//! One client: lines in, replies out, in order. A slow or broken client costs only its own task.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until, timeout};

use super::{Job, LineBuffer, SocketLimits};
use crate::control::api::rpc::{Id, Item, Line, Outcome, write_reply};
use crate::control::api::{ApiError, ErrorCode, Request};
use crate::control::stop::Stop;
use crate::limits::{DISCARD_BYTES_MAX, LONG_LINE_BYTES};

/// How long, and how much, is read and thrown away of a client that got its last reply, so that
/// it sees the reply and not a broken pipe.
const DISCARD_TIME: Duration = Duration::from_secs(2);
/// Room asked for at each read.
const READ_BYTES: usize = 16 << 10;

/// What a wait for more bytes ended with.
enum Read {
    More,
    End,
    TooSlow,
    Stopping,
}

/// Serves one client to its end.
pub async fn serve(
    mut stream: UnixStream,
    limits: SocketLimits,
    core: mpsc::Sender<Job>,
    stop: Stop,
) -> io::Result<()> {
    let mut buffer = LineBuffer::new(limits.request_bytes_max);
    // When the line that is being received must be whole.
    let mut deadline = None;
    loop {
        match buffer.next_line() {
            Ok(Some(line)) => {
                deadline = None;
                let reply = answer(line, &core).await;
                write(&mut stream, &reply, limits).await?;
                continue;
            }
            Ok(None) => {}
            Err(error) => {
                let error = ApiError::new(ErrorCode::TooLarge, error.to_string())
                    .hint("send the change in several smaller requests");
                return dismiss(stream, error, limits).await;
            }
        }
        if buffer.has_partial() {
            deadline = deadline.or_else(|| Instant::now().checked_add(limits.partial_max));
        }
        match read(&mut stream, &mut buffer, deadline, &stop).await? {
            Read::More => {}
            Read::End => {
                let reply = answer(buffer.take_rest(), &core).await;
                return write(&mut stream, &reply, limits).await;
            }
            Read::TooSlow => {
                let message = format!("no end of line within {} s", limits.partial_max.as_secs());
                let error = ApiError::new(ErrorCode::Incomplete, message)
                    .hint("end each request with a newline");
                return dismiss(stream, error, limits).await;
            }
            Read::Stopping => return Ok(()),
        }
    }
}

/// Tells a client that there are too many.
pub async fn turn_away(stream: UnixStream, limits: SocketLimits) {
    let message = format!("the control socket serves {} clients already", limits.clients_max);
    let error = ApiError::new(ErrorCode::TooManyClients, message).hint("close one and try again");
    let _ = dismiss(stream, error, limits).await;
}

async fn read(
    stream: &mut UnixStream,
    buffer: &mut LineBuffer,
    deadline: Option<Instant>,
    stop: &Stop,
) -> io::Result<Read> {
    // Between requests a client may be silent for as long as it likes.
    let late = async {
        match deadline {
            Some(deadline) => sleep_until(deadline).await,
            None => std::future::pending().await,
        }
    };
    buffer.bytes_mut().reserve(READ_BYTES);
    tokio::select! {
        read = stream.read_buf(buffer.bytes_mut()) => match read? {
            0 => Ok(Read::End),
            _ => Ok(Read::More),
        },
        () = late => Ok(Read::TooSlow),
        () = stop.requested() => Ok(Read::Stopping),
    }
}

async fn write(stream: &mut UnixStream, bytes: &[u8], limits: SocketLimits) -> io::Result<()> {
    match timeout(limits.write_max, stream.write_all(bytes)).await {
        Ok(written) => written,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Sends a last error and closes.
async fn dismiss(mut stream: UnixStream, error: ApiError, limits: SocketLimits) -> io::Result<()> {
    let mut reply = Vec::new();
    write_reply(&mut reply, &Id::NULL, &Err(error));
    reply.push(b'\n');
    write(&mut stream, &reply, limits).await?;
    stream.shutdown().await?;
    let mut waste = vec![0; READ_BYTES];
    let discard = async {
        let mut total = 0;
        while let Ok(n @ 1..) = stream.read(&mut waste).await {
            total += n;
            if total > DISCARD_BYTES_MAX {
                break;
            }
        }
    };
    let _ = timeout(DISCARD_TIME, discard).await;
    Ok(())
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

/// The bytes to send for one line: nothing, or a reply and a newline.
async fn answer(line: Bytes, core: &mpsc::Sender<Job>) -> Vec<u8> {
    let mut out = Vec::new();
    match read_calls(line).await {
        Calls::None => {}
        Calls::One(item) => {
            answer_one(item, core, &mut out).await;
        }
        Calls::Batch(items) => {
            out.push(b'[');
            for item in items {
                let is_first = out.len() == 1;
                let before = out.len();
                if !is_first {
                    out.push(b',');
                }
                if !answer_one(item, core, &mut out).await {
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
async fn answer_one(
    (reply_to, request): Asked,
    core: &mpsc::Sender<Job>,
    out: &mut Vec<u8>,
) -> bool {
    let outcome = match request {
        Ok(request) => ask(request, core).await,
        Err(error) => Err(error),
    };
    let Some(id) = reply_to else { return false };
    write_reply(out, &id, &outcome);
    true
}

async fn ask(request: Request, core: &mpsc::Sender<Job>) -> Outcome {
    let stopping = || ApiError::new(ErrorCode::ShuttingDown, "gyre is stopping");
    let (reply, answer) = oneshot::channel();
    core.send(Job { request, reply }).await.map_err(|_| stopping())?;
    answer.await.map_err(|_| stopping())?
}
