//! Counts and bounds the open calls of each caller, over all its connections.

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicUsize, Ordering},
};

use tokio::sync::Semaphore;

use crate::{
    domain::{Caller, MemberId},
    error::{Error, Limit, Result},
    grpc,
    limits::{CALLS_AT_ONCE_PER_CALLER_MAX, REQUEST_STREAMS_PER_CALLER_MAX},
    sync::{LiveBound, PerKey},
};

#[derive(Debug)]
pub(super) struct Callers {
    /// The maximum number of open calls of one caller.
    max: LiveBound,
    open: PerKey<MemberId, Open>,
}

#[derive(Debug)]
struct Open {
    calls: AtomicU32,
    /// Calls whose request is a stream, and sessions. They have a bound of their own, because unread parts of the stream
    /// wait in the HTTP/2 library, and commands of a session in its queue.
    command_streams: AtomicU32,
    /// The streams ahead of all the caller's connections: open HTTP/2 streams without a call that is counted in `calls`.
    streams_ahead: AtomicUsize,
    turns: grpc::CallTurns,
}

impl Default for Open {
    fn default() -> Self {
        let turns = grpc::CallTurns(Arc::new(Semaphore::new(CALLS_AT_ONCE_PER_CALLER_MAX)));
        Self {
            calls: AtomicU32::default(),
            command_streams: AtomicU32::default(),
            streams_ahead: AtomicUsize::default(),
            turns,
        }
    }
}

/// An open call of a caller. Dropping it ends the count.
#[derive(Debug)]
pub(super) struct CallerCall {
    open: Arc<Open>,
    has_commands: bool,
}

impl Callers {
    pub(super) fn new(max: Option<u32>) -> Self {
        Self { max: LiveBound::new(max), open: PerKey::default() }
    }

    /// Changes the bound. Calls that began without a bound are not counted.
    pub(super) fn set_max(&self, max: Option<u32>) {
        self.max.set(max);
    }

    /// Counts a call of this caller; `None` when the caller has no id or calls have no bound.
    ///
    /// # Errors
    /// `LIMIT_REACHED`, when the caller has its maximum of open calls, or of open streams of commands.
    pub(super) fn begin(&self, caller: &Caller, path: &str) -> Result<Option<CallerCall>> {
        let (Some(max), Some(id)) = (self.max.get(), caller.id()) else { return Ok(None) };
        let open = self.open.get_or_make(id.clone(), Open::default);
        let has_commands = grpc::has_commands(path);
        let before = open.calls.fetch_add(1, Ordering::AcqRel);
        let streams_before = open.command_streams.fetch_add(u32::from(has_commands), Ordering::AcqRel);
        // made before the checks: a refusal drops it, which takes the counts back
        let call = CallerCall { open, has_commands };
        if u64::from(before) >= max {
            return Err(Error::limit_reached(
                Limit::CallsOfCaller,
                format!(
                    "the caller has as many open calls on this instance as --limit-calls allows ({max}); end a call"
                ),
            ));
        }
        if has_commands && streams_before >= REQUEST_STREAMS_PER_CALLER_MAX {
            return Err(Error::limit_reached(
                Limit::RequestStreamsOfCaller,
                format!(
                    "the caller has {REQUEST_STREAMS_PER_CALLER_MAX} open calls of PublishStream, Consume and OpenSession \
                     on this instance, which is the limit; use one call for many rooms"
                ),
            ));
        }
        Ok(Some(call))
    }
}

impl CallerCall {
    /// The turns that the call shares with the other calls of its caller.
    pub(super) fn turns(&self) -> grpc::CallTurns {
        self.open.turns.clone()
    }

    /// Starts to count the streams ahead of the call's connection for its caller.
    pub(super) fn streams_ahead(&self) -> StreamsAhead {
        StreamsAhead { open: Arc::clone(&self.open), reported: AtomicUsize::new(0) }
    }
}

/// One connection's part of its caller's total of streams ahead. Dropping it subtracts this part from the total.
#[derive(Debug)]
pub(super) struct StreamsAhead {
    open: Arc<Open>,
    reported: AtomicUsize,
}

impl StreamsAhead {
    /// Replaces the connection's part of the total by `count`.
    pub(super) fn set(&self, count: usize) {
        let before = self.reported.swap(count, Ordering::AcqRel);
        if count >= before {
            self.open.streams_ahead.fetch_add(count - before, Ordering::AcqRel);
        } else {
            self.open.streams_ahead.fetch_sub(before - count, Ordering::AcqRel);
        }
    }

    /// The streams ahead of the caller's other connections.
    pub(super) fn of_other_connections(&self) -> usize {
        let all = self.open.streams_ahead.load(Ordering::Acquire);
        all.saturating_sub(self.reported.load(Ordering::Acquire))
    }
}

impl Drop for StreamsAhead {
    fn drop(&mut self) {
        self.set(0);
    }
}

impl Drop for CallerCall {
    fn drop(&mut self) {
        self.open.calls.fetch_sub(1, Ordering::AcqRel);
        self.open.command_streams.fetch_sub(u32::from(self.has_commands), Ordering::AcqRel);
    }
}
