//! When a connection that was told to leave is closed at the drain, although its client does not leave.
//!
//! HTTP/2 asks a client for a sign of life before the connection ends, and HTTP/1.1 waits for the rest of a request. A client
//! that gives neither would hold the drain for all its time, although it has no call that could be cut off.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{self, Instant},
};

use super::{client::Client, connections::Connection};
use crate::limits::{DRAIN_IDLE_TIMEOUT, DRAIN_REQUEST_TIMEOUT};

/// How often a connection is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// A connection that counts the bytes that were written to it.
#[derive(Debug)]
pub(super) struct Watched {
    connection: Connection,
    written: Written,
}

/// The bytes that were written to a connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Written(Arc<AtomicU64>);

impl Watched {
    pub(super) fn new(connection: Connection) -> (Self, Written) {
        let written = Written::default();
        (Self { connection, written: written.clone() }, written)
    }
}

/// Waits until the drain need not wait for a connection.
///
/// # Cancel safety
/// May be dropped at any point.
pub(super) async fn may_be_closed(client: &Client, written: &Written) {
    let mut leaving = Leaving::new(Instant::now());
    loop {
        time::sleep(LOOK_INTERVAL).await;
        let seen = Seen {
            has_calls: client.has_calls(),
            is_busy: client.is_busy(),
            written: written.0.load(Ordering::Acquire),
        };
        if leaving.has_ended(seen, Instant::now()) {
            return;
        }
    }
}

/// What a connection does.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// Whether a call has no complete answer.
    has_calls: bool,
    /// Whether the request of one of them has come.
    is_busy: bool,
    /// Bytes that were written so far.
    written: u64,
}

/// A connection during the drain.
#[derive(Debug)]
struct Leaving {
    written: u64,
    /// When it last had a call, or took a part of an answer.
    active_at: Instant,
    /// When it last had a call whose request has come.
    busy_at: Instant,
}

impl Leaving {
    fn new(now: Instant) -> Self {
        Self { written: 0, active_at: now, busy_at: now }
    }

    fn has_ended(&mut self, seen: Seen, now: Instant) -> bool {
        if seen.is_busy {
            self.busy_at = now;
        }
        if seen.has_calls || seen.written != self.written {
            self.active_at = now;
        }
        self.written = seen.written;
        now - self.active_at >= DRAIN_IDLE_TIMEOUT || now - self.busy_at >= DRAIN_REQUEST_TIMEOUT
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_read(cx, buf)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let length = ready!(Pin::new(&mut self.connection).poll_write(cx, buf))?;
        self.written.0.fetch_add(length.try_into().unwrap_or(u64::MAX), Ordering::AcqRel);
        Poll::Ready(Ok(length))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long a connection that is seen like this at each look is waited for, up to a minute.
    fn waited(seen: impl Fn(u32) -> Seen) -> Duration {
        let begun = Instant::now();
        let mut leaving = Leaving::new(begun);
        let looks = (1..300).map(|look| (look, begun + look * LOOK_INTERVAL));
        let end = looks.map(|(look, now)| (leaving.has_ended(seen(look), now), now)).find(|(has_ended, _)| *has_ended);
        end.map_or(Duration::from_secs(60), |(_, now)| now - begun)
    }

    #[test]
    fn open_calls_are_waited_for_and_nothing_else_for_long() {
        let nothing = Seen { has_calls: false, is_busy: false, written: 0 };
        assert_eq!(waited(|_| nothing), DRAIN_IDLE_TIMEOUT);
        assert_eq!(waited(|_| Seen { has_calls: true, ..nothing }), DRAIN_REQUEST_TIMEOUT);
        assert_eq!(waited(|_| Seen { has_calls: true, is_busy: true, ..nothing }), Duration::from_secs(60));
        // the end of an answer, after the call
        assert_eq!(
            waited(|look| Seen { written: look.min(10).into(), ..nothing }),
            10 * LOOK_INTERVAL + DRAIN_IDLE_TIMEOUT
        );
        // answers to signs of life, without end
        assert_eq!(waited(|look| Seen { written: look.into(), ..nothing }), DRAIN_REQUEST_TIMEOUT);
        let call_until = |end: u32| move |look: u32| Seen { has_calls: look < end, is_busy: look < end, written: 0 };
        assert_eq!(waited(call_until(50)), 49 * LOOK_INTERVAL + DRAIN_IDLE_TIMEOUT);
    }
}
