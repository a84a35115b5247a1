//! How many open calls each caller has, on all its connections.

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
    sync::PerKey,
};

/// The open calls of all callers.
#[derive(Debug)]
pub(super) struct Callers {
    /// Those of one caller; `None` is no bound.
    max: Option<u32>,
    open: PerKey<MemberId, Open>,
}

#[derive(Debug)]
struct Open {
    calls: AtomicU32,
    /// Those of them whose requests are a stream: what the service has not read of it waits in the HTTP/2 library.
    request_streams: AtomicU32,
    /// HTTP/2 streams of its connections beyond those of calls that have arrived.
    streams_ahead: AtomicUsize,
    turns: grpc::Turns,
}

impl Default for Open {
    fn default() -> Self {
        let turns = grpc::Turns(Arc::new(Semaphore::new(CALLS_AT_ONCE_PER_CALLER_MAX)));
        Self {
            calls: AtomicU32::default(),
            request_streams: AtomicU32::default(),
            streams_ahead: AtomicUsize::default(),
            turns,
        }
    }
}

/// An open call of a caller. Dropping it ends it.
#[derive(Debug)]
pub(super) struct OpenCall {
    open: Arc<Open>,
    has_request_stream: bool,
}

impl Callers {
    pub(super) fn new(max: Option<u32>) -> Self {
        Self { max, open: PerKey::default() }
    }

    /// Counts a call of this caller, if callers have names and a bound.
    ///
    /// # Errors
    /// `LIMIT_REACHED`.
    pub(super) fn begin(&self, caller: &Caller, path: &str) -> Result<Option<OpenCall>> {
        let (Some(max), Some(id)) = (self.max, caller.id()) else { return Ok(None) };
        let open = self.open.get_or_make(id.clone(), Open::default);
        let has_request_stream = ["/PublishStream", "/Consume"].iter().any(|end| path.ends_with(end));
        let before = open.calls.fetch_add(1, Ordering::AcqRel);
        let streams_before = open.request_streams.fetch_add(u32::from(has_request_stream), Ordering::AcqRel);
        // dropped, it is not counted any more
        let call = OpenCall { open, has_request_stream };
        if before >= max {
            return Err(Error::limit_reached(
                Limit::CallsOfCaller,
                format!(
                    "the caller has as many open calls on this instance as --limit-calls allows ({max}); end a call"
                ),
            ));
        }
        if has_request_stream && streams_before >= REQUEST_STREAMS_PER_CALLER_MAX {
            return Err(Error::limit_reached(
                Limit::RequestStreamsOfCaller,
                format!(
                    "the caller has {REQUEST_STREAMS_PER_CALLER_MAX} open calls of PublishStream and Consume on this \
                     instance, which is the limit; use one call for many rooms"
                ),
            ));
        }
        Ok(Some(call))
    }
}

impl OpenCall {
    /// What the call takes turns in with others of its caller.
    pub(super) fn turns(&self) -> grpc::Turns {
        self.open.turns.clone()
    }
}

impl OpenCall {
    /// The share that the call's connection has of what its caller may have ahead.
    pub(super) fn streams_ahead(&self) -> StreamsAhead {
        StreamsAhead { open: Arc::clone(&self.open), told: AtomicUsize::new(0) }
    }
}

/// HTTP/2 streams of one connection beyond those of calls that have arrived, as its caller knows of them.
#[derive(Debug)]
pub(super) struct StreamsAhead {
    open: Arc<Open>,
    told: AtomicUsize,
}

impl StreamsAhead {
    /// There are this many now.
    pub(super) fn are(&self, count: usize) {
        let before = self.told.swap(count, Ordering::AcqRel);
        if count >= before {
            self.open.streams_ahead.fetch_add(count - before, Ordering::AcqRel);
        } else {
            self.open.streams_ahead.fetch_sub(before - count, Ordering::AcqRel);
        }
    }

    /// Those of the caller's other connections.
    pub(super) fn of_other_connections(&self) -> usize {
        let all = self.open.streams_ahead.load(Ordering::Acquire);
        all.saturating_sub(self.told.load(Ordering::Acquire))
    }
}

impl Drop for StreamsAhead {
    fn drop(&mut self) {
        self.are(0);
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.open.calls.fetch_sub(1, Ordering::AcqRel);
        self.open.request_streams.fetch_sub(u32::from(self.has_request_stream), Ordering::AcqRel);
    }
}
