//! Decides when the drain closes a connection that its client does not close.
//!
//! The HTTP/2 library waits for the answer to a `PING` before it ends a connection. The HTTP/1.1 library waits for the
//! rest of a request. A client that sends neither would delay the drain until its timeout, although the client has no
//! call that could be cut off.

use std::time::Duration;

use tokio::time::{self, Instant};

use super::client::ClientConnection;
use crate::limits::{DRAIN_IDLE_TIMEOUT, DRAIN_REQUEST_TIMEOUT};

/// Interval at which a connection is checked.
const CHECK_INTERVAL: Duration = Duration::from_millis(200);

/// Waits until the drain may close a connection.
///
/// # Cancel safety
/// May be dropped at any point.
pub(super) async fn until_closable(client: &ClientConnection) {
    let mut leaving = Leaving::new(Instant::now());
    loop {
        time::sleep(CHECK_INTERVAL).await;
        let seen =
            ConnectionState { has_calls: client.has_calls(), is_busy: client.is_busy(), written: client.written() };
        if leaving.has_ended(seen, Instant::now()) {
            return;
        }
    }
}

/// The state of a connection at one check.
#[derive(Clone, Copy, Debug)]
struct ConnectionState {
    /// Whether a call has no complete answer yet.
    has_calls: bool,
    /// Whether a call is open whose request, or its first message, is complete.
    is_busy: bool,
    /// Bytes written so far.
    written: u64,
}

/// A connection during the drain.
#[derive(Debug)]
struct Leaving {
    written: u64,
    /// The last time with an unanswered call or a written byte.
    active_at: Instant,
    /// The last time with a call whose request, or its first message, was complete.
    busy_at: Instant,
}

impl Leaving {
    fn new(now: Instant) -> Self {
        Self { written: 0, active_at: now, busy_at: now }
    }

    fn has_ended(&mut self, seen: ConnectionState, now: Instant) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The time that the drain waits for a connection with these states, up to a minute.
    fn waited(seen: impl Fn(u32) -> ConnectionState) -> Duration {
        let begun = Instant::now();
        let mut leaving = Leaving::new(begun);
        let looks = (1..300).map(|look| (look, begun + look * CHECK_INTERVAL));
        let end = looks.map(|(look, now)| (leaving.has_ended(seen(look), now), now)).find(|(has_ended, _)| *has_ended);
        end.map_or(Duration::from_secs(60), |(_, now)| now - begun)
    }

    #[test]
    fn open_calls_are_waited_for_and_nothing_else_for_long() {
        let nothing = ConnectionState { has_calls: false, is_busy: false, written: 0 };
        assert_eq!(waited(|_| nothing), DRAIN_IDLE_TIMEOUT);
        assert_eq!(waited(|_| ConnectionState { has_calls: true, ..nothing }), DRAIN_REQUEST_TIMEOUT);
        assert_eq!(waited(|_| ConnectionState { has_calls: true, is_busy: true, ..nothing }), Duration::from_secs(60));
        // the connection writes the end of an answer after the call has ended
        assert_eq!(
            waited(|look| ConnectionState { written: look.min(10).into(), ..nothing }),
            10 * CHECK_INTERVAL + DRAIN_IDLE_TIMEOUT
        );
        // the connection answers `PING`s without end
        assert_eq!(waited(|look| ConnectionState { written: look.into(), ..nothing }), DRAIN_REQUEST_TIMEOUT);
        let call_until =
            |end: u32| move |look: u32| ConnectionState { has_calls: look < end, is_busy: look < end, written: 0 };
        assert_eq!(waited(call_until(50)), 49 * CHECK_INTERVAL + DRAIN_IDLE_TIMEOUT);
    }
}
