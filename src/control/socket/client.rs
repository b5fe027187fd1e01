//! One client: lines in, replies out, in order. A slow or broken client costs only its own task.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep_until, timeout};

use super::{LineBuffer, SocketLimits};
use crate::control::answer::Caller;
use crate::control::api::rpc::{Id, write_notification, write_reply};
use crate::control::api::{ApiError, ErrorCode, Notice};
use crate::control::stop::Stop;
use crate::limits::DISCARD_BYTES_MAX;

/// How long, and how much, is read and thrown away of a client that got its last reply, so that
/// it sees the reply and not a broken pipe.
const DISCARD_TIME: Duration = Duration::from_secs(2);
/// Room asked for at each read.
const READ_BYTES: usize = 16 << 10;

/// What a wait for more bytes ended with.
enum Read {
    More,
    Event(Arc<Notice>),
    End,
    TooSlow,
    Stopping,
}

/// Serves one client to its end.
pub async fn serve(
    mut stream: UnixStream,
    limits: SocketLimits,
    mut caller: Caller,
    stop: Stop,
) -> io::Result<()> {
    let mut buffer = LineBuffer::new(limits.request_bytes_max);
    // When the line that is being received must be whole.
    let mut deadline = None;
    loop {
        match buffer.next_line() {
            Ok(Some(line)) => {
                deadline = None;
                let reply = caller.answer(line).await;
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
        let source = (&mut stream, &mut caller);
        match read(source, &mut buffer, deadline, &stop).await? {
            Read::More => {}
            Read::Event(notice) => {
                let mut line = write_notification("event", &*notice);
                line.push(b'\n');
                write(&mut stream, &line, limits).await?;
            }
            Read::End => {
                let reply = caller.answer(buffer.take_rest()).await;
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
    (stream, caller): (&mut UnixStream, &mut Caller),
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
        notice = caller.next_event() => Ok(Read::Event(notice)),
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
