//! A connection within bounds, and what its calls share.
//!
//! A connection has a place, of which there are as many as `--max-connections` says, or is one of a few in excess that are
//! kept only to be told so; what comes beyond these is closed at once, so that descriptors are left for the rest.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use super::{coalesce::Coalescing, stream::Stream};
use crate::sync::lock;
use crate::{domain::ClientCertificate, limits::EXCESS_CONNECTIONS_MAX};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{self, Instant, Sleep},
};

/// What a client of HTTP/2 says first (RFC 9113, section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What is allowed to the connections of one listener.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Connections whose calls are served.
    pub connections_max: u32,
    /// Open calls of one connection.
    pub calls_max: u32,
    /// Silence of a client before it is asked for a sign of life.
    pub keepalive_interval: Duration,
    /// How long it may take for that sign.
    pub keepalive_timeout: Duration,
    /// How long a connection may be without an open call.
    pub idle_timeout: Duration,
}

impl Bounds {
    /// How long a client may take to say what it has to say first.
    pub(super) fn silence_max(&self) -> Duration {
        self.keepalive_interval.saturating_add(self.keepalive_timeout)
    }
}

/// The places that the connections of one listener share.
#[derive(Debug)]
pub(super) struct Places {
    regular: Arc<Semaphore>,
    excess: Arc<Semaphore>,
    bounds: Bounds,
}

impl Places {
    pub(super) fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self {
            regular: Arc::new(Semaphore::new(bounds.connections_max.try_into().unwrap_or(Semaphore::MAX_PERMITS))),
            excess: Arc::new(Semaphore::new(EXCESS_CONNECTIONS_MAX)),
            bounds,
        })
    }

    /// The bounds that are in force.
    pub(super) fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// A place, or one among those in excess; `None` when neither is free.
    pub(super) fn take(&self) -> Option<Place> {
        let regular = Arc::clone(&self.regular).try_acquire_owned().map(Place::Regular);
        regular.or_else(|_| Arc::clone(&self.excess).try_acquire_owned().map(Place::Excess)).ok()
    }
}

/// What a connection holds for as long as it lasts.
#[derive(Debug)]
pub(super) enum Place {
    Regular(#[expect(dead_code, reason = "held, not read")] OwnedSemaphorePermit),
    Excess(#[expect(dead_code, reason = "held, not read")] OwnedSemaphorePermit),
    /// The connection is closed: calls that still come to their end hold nothing.
    None,
}

/// What the calls of a connection share.
#[derive(Debug)]
pub(super) struct Client {
    places: Arc<Places>,
    place: Mutex<Place>,
    calls: AtomicU32,
    /// When the last call ended, or the connection began.
    quiet_since: Mutex<Instant>,
    certificate: Option<ClientCertificate>,
}

impl Client {
    /// Whether the connection has a place; takes one that became free meanwhile.
    pub(super) fn has_place(&self) -> bool {
        let mut place = self.place();
        if let Place::Excess(_) = *place {
            match Arc::clone(&self.places.regular).try_acquire_owned() {
                Ok(permit) => *place = Place::Regular(permit),
                Err(_) => return false,
            }
        }
        true
    }

    /// Counts a call until the guard is dropped; `None` when the connection has as many as it may.
    pub(super) fn begin_call(self: &Arc<Self>) -> Option<Call> {
        let open = self.calls.fetch_add(1, Ordering::AcqRel);
        let call = Call(Arc::clone(self));
        (open < self.places.bounds.calls_max).then_some(call)
    }

    /// Whether a call is open.
    pub(super) fn has_calls(&self) -> bool {
        self.calls.load(Ordering::Acquire) > 0
    }

    /// Waits until no call has been open for as long as a connection may be idle.
    ///
    /// # Cancel safety
    /// May be dropped at any point.
    pub(super) async fn is_idle(&self) {
        let idle_timeout = self.places.bounds.idle_timeout;
        loop {
            let now = Instant::now();
            let since = if self.has_calls() { now } else { *self.quiet_since() };
            let left = idle_timeout.saturating_sub(now - since);
            if left.is_zero() {
                return;
            }
            time::sleep(left).await;
        }
    }

    fn quiet_since(&self) -> MutexGuard<'_, Instant> {
        lock(&self.quiet_since)
    }

    /// What the client's verified certificate says, if it has shown one.
    pub(super) fn certificate(&self) -> Option<&ClientCertificate> {
        self.certificate.as_ref()
    }

    /// The bounds that are in force.
    pub(super) fn bounds(&self) -> Bounds {
        self.places.bounds
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        lock(&self.place)
    }
}

/// An open call. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Call(Arc<Client>);

impl Drop for Call {
    fn drop(&mut self) {
        // before the count: who sees no call sees since when
        *self.0.quiet_since() = Instant::now();
        self.0.calls.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A connection that is served. Its place is free again when it is dropped.
#[derive(Debug)]
pub(super) struct Connection {
    stream: Coalescing<Stream>,
    client: Arc<Client>,
    opening: Option<Opening>,
}

/// Until it is known which HTTP the client speaks: no later bound holds before.
#[derive(Debug)]
struct Opening {
    deadline: Pin<Box<Sleep>>,
    /// How much of the preface of HTTP/2 was heard.
    heard: usize,
}

impl Opening {
    /// Whether that is known with these bytes: they complete the preface, are none of it, or are the end.
    fn is_over_with(&mut self, bytes: &[u8]) -> bool {
        let awaited = HTTP2_PREFACE.get(self.heard..).unwrap_or_default();
        self.heard += bytes.len();
        bytes.is_empty() || bytes.len() >= awaited.len() || !awaited.starts_with(bytes)
    }
}

impl Connection {
    /// A connection that has just been accepted, with what the client's certificate says.
    pub(super) fn new(
        stream: Stream,
        place: Place,
        places: Arc<Places>,
        certificate: Option<ClientCertificate>,
    ) -> Self {
        let deadline = Box::pin(time::sleep(places.bounds.silence_max()));
        let client = Client {
            places,
            place: Mutex::new(place),
            calls: AtomicU32::new(0),
            quiet_since: Mutex::new(Instant::now()),
            certificate,
        };
        Self {
            stream: Coalescing::new(stream),
            client: Arc::new(client),
            opening: Some(Opening { deadline, heard: 0 }),
        }
    }

    /// What its calls share.
    pub(super) fn client(&self) -> Arc<Client> {
        Arc::clone(&self.client)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // calls may outlive the connection for a moment
        *self.client.place() = Place::None;
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(cx, buf);
        let Some(opening) = &mut this.opening else { return polled };
        if polled.is_ready() {
            if opening.is_over_with(buf.filled().get(before..).unwrap_or_default()) {
                this.opening = None;
            }
            return polled;
        }
        ready!(opening.deadline.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
