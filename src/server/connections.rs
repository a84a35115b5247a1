//! A connection within bounds, and what its calls share.
//!
//! A connection has a place, of which there are as many as `--max-connections` says, or is one of a few in excess that are
//! kept only to be told so; what comes beyond these is closed at once, so that descriptors are left for the rest.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{self, Sleep},
};

use super::{
    addresses::SourceAddress,
    client::{Client, Gate},
    coalesce::Coalescing,
    frames::Streams,
    stream::Stream,
};
use crate::{
    domain::ClientCertificate,
    limits::{
        READ_IN_A_ROW_BYTES_MAX, REQUEST_TIMEOUT, STREAM_WAIT_MAX, UNIDENTIFIED_READ_BYTES_MAX,
        UNIDENTIFIED_READ_IN_A_ROW_BYTES_MAX, UNIDENTIFIED_REFLECTIONS_MAX,
    },
};

/// What a client of HTTP/2 says first (RFC 9113, section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What is allowed to the connections of one listener.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Connections whose calls are served.
    pub connections_max: u32,
    /// Connections beyond these that are told so.
    pub excess_max: usize,
    /// Connections of one source address; `None` without a bound.
    pub connections_per_address_max: Option<u32>,
    /// Open calls of one connection.
    pub calls_max: u32,
    /// Whether callers must say who they are.
    pub identifies: bool,
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
    reflections: Arc<Semaphore>,
    bounds: Bounds,
}

impl Places {
    pub(super) fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self {
            regular: Arc::new(Semaphore::new(bounds.connections_max.try_into().unwrap_or(Semaphore::MAX_PERMITS))),
            excess: Arc::new(Semaphore::new(bounds.excess_max)),
            reflections: Arc::new(Semaphore::new(UNIDENTIFIED_REFLECTIONS_MAX)),
            bounds,
        })
    }

    /// The bounds that are in force.
    pub(super) fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// A place, or one among those in excess; `None` when neither is free.
    pub(super) fn take(&self) -> Option<Place> {
        self.regular().or_else(|| Arc::clone(&self.excess).try_acquire_owned().map(Place::Excess).ok())
    }

    /// A place that is none of those in excess.
    pub(super) fn regular(&self) -> Option<Place> {
        Arc::clone(&self.regular).try_acquire_owned().map(Place::Regular).ok()
    }

    /// A share of reflection for those who are not identified.
    pub(super) fn reflection(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.reflections).try_acquire_owned().ok()
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

/// A connection that is served. Its place is free again when it is dropped.
#[derive(Debug)]
pub(super) struct Connection {
    stream: Coalescing<Stream>,
    client: Arc<Client>,
    opening: Option<Opening>,
    /// `None` with HTTP/1.1, which has one call at a time.
    streams: Option<Streams>,
    /// What was read behind a stream that has to wait.
    withheld: Bytes,
    /// Until a waiting stream waits no longer for calls that may never begin.
    patience: Option<Pin<Box<Sleep>>>,
    /// Until somebody is identified.
    unidentified: Option<Unidentified>,
    /// Bytes that were read since the HTTP library had time for something else.
    in_a_row: usize,
}

/// A connection on which nobody was identified.
#[derive(Debug, Default)]
struct Unidentified {
    /// When what has come must have been read.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Unidentified {
    /// Ready when more may be read.
    ///
    /// # Errors
    /// When the client has sent more than may wait, for too long.
    fn poll_gate(&mut self, gate: Gate, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match gate {
            Gate::Open => {
                self.deadline = None;
                Poll::Ready(Ok(()))
            }
            Gate::Evicted => Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
            Gate::Shut => {
                let deadline = self.deadline.get_or_insert_with(|| Box::pin(time::sleep(REQUEST_TIMEOUT)));
                ready!(deadline.as_mut().poll(cx));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

/// Until it is known which HTTP the client speaks: no later bound holds before.
#[derive(Debug)]
struct Opening {
    deadline: Pin<Box<Sleep>>,
    /// How much of the preface of HTTP/2 was heard.
    heard: usize,
}

/// Which HTTP a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spoken {
    Http2,
    /// HTTP/1.1, which reads no more than its one call does; or nothing, since this is the end.
    Other,
}

impl Opening {
    /// What these bytes say; `None` when they are only a part of the preface.
    fn read(&mut self, bytes: &[u8]) -> Option<Spoken> {
        let awaited = HTTP2_PREFACE.get(self.heard..).unwrap_or_default();
        self.heard += bytes.len();
        let is_http2 = awaited.iter().zip(bytes).all(|(awaited, byte)| awaited == byte);
        match (is_http2, bytes.len()) {
            (false, _) | (true, 0) => Some(Spoken::Other),
            (true, length) => (length >= awaited.len()).then_some(Spoken::Http2),
        }
    }
}

impl Connection {
    /// A connection that has just been accepted, with what the client's certificate says.
    pub(super) fn new(
        stream: Stream,
        place: Place,
        places: Arc<Places>,
        source: SourceAddress,
        certificate: Option<ClientCertificate>,
    ) -> Self {
        let deadline = Box::pin(time::sleep(places.bounds.silence_max()));
        let client = Client::new(places, place, source, certificate);
        Self {
            stream: Coalescing::new(stream),
            streams: Some(Streams::before_preface(HTTP2_PREFACE.len())),
            withheld: Bytes::new(),
            patience: None,
            unidentified: (!client.is_identified()).then(Unidentified::default),
            client: Arc::new(client),
            in_a_row: 0,
            opening: Some(Opening { deadline, heard: 0 }),
        }
    }

    /// What its calls share.
    pub(super) fn client(&self) -> Arc<Client> {
        Arc::clone(&self.client)
    }

    /// Ready when the client may be read from.
    fn poll_may_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let has_to_wait = self.streams.as_ref().is_some_and(Streams::has_waiting) && self.has_to_wait(cx);
        if let Some(unidentified) = &mut self.unidentified {
            let gate = self.client.gate(cx);
            return unidentified.poll_gate(if has_to_wait { gate.max(Gate::Shut) } else { gate }, cx);
        }
        if has_to_wait { Poll::Pending } else { Poll::Ready(Ok(())) }
    }

    /// Whether the next stream has to wait. The task is woken when it may be different.
    fn has_to_wait(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.client.has_to_wait(cx) {
            self.patience = None;
            return false;
        }
        let patience = self.patience.get_or_insert_with(|| Box::pin(time::sleep(STREAM_WAIT_MAX)));
        if patience.as_mut().poll(cx).is_pending() {
            return true;
        }
        self.patience = None;
        self.client.forgive_streams();
        self.client.has_to_wait(cx)
    }

    /// Reads up to the next stream that has to wait.
    fn poll_bytes(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let is_withheld = !self.withheld.is_empty();
        if is_withheld {
            let length = self.withheld.len().min(buf.remaining());
            buf.put_slice(self.withheld.get(..length).unwrap_or_default());
        } else if self.unidentified.is_some() {
            ready!(poll_little(&mut self.stream, cx, buf))?;
        } else {
            ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        }
        let Some(streams) = &mut self.streams else { return Poll::Ready(Ok(())) };
        let bytes = buf.filled().get(before..).unwrap_or_default();
        let received = streams.receive(bytes, self.client.new_streams_max());
        self.client.has_streams(streams.count(), streams.opened());
        if self.unidentified.is_some() {
            self.client.has_come(received.taken, received.data_cost);
        }
        let rest = bytes.get(received.taken..).unwrap_or_default();
        let is_nothing = received.taken == 0 && !rest.is_empty();
        if is_withheld {
            self.withheld.advance(received.taken);
        } else if !rest.is_empty() {
            self.withheld = Bytes::copy_from_slice(rest);
        }
        buf.set_filled(before + received.taken);
        if is_nothing {
            // another call has just been answered; nothing read would mean the end
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.client.leave();
    }
}

/// Reads no more at once than may be looked at before the next look.
fn poll_little(stream: &mut Coalescing<Stream>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
    let mut little = [0; UNIDENTIFIED_READ_BYTES_MAX];
    let length = little.len().min(buf.remaining());
    let mut read = ReadBuf::new(little.get_mut(..length).unwrap_or_default());
    ready!(Pin::new(stream).poll_read(cx, &mut read))?;
    buf.put_slice(read.filled());
    Poll::Ready(Ok(()))
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.client.is_identified() {
            this.unidentified = None;
        }
        ready!(this.poll_may_read(cx))?;
        // the library takes up calls only when it cannot read: their headers may be a hundred times as large as they came
        let most =
            if this.unidentified.is_some() { UNIDENTIFIED_READ_IN_A_ROW_BYTES_MAX } else { READ_IN_A_ROW_BYTES_MAX };
        if this.in_a_row >= most {
            this.in_a_row = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let polled = this.poll_bytes(cx, buf);
        this.in_a_row = if polled.is_ready() { this.in_a_row + buf.filled().len() - before } else { 0 };
        let Some(opening) = &mut this.opening else { return polled };
        if polled.is_ready() {
            let spoken = opening.read(buf.filled().get(before..).unwrap_or_default());
            if spoken.is_some() {
                this.opening = None;
            }
            if spoken == Some(Spoken::Other) {
                (this.unidentified, this.streams) = (None, None);
            }
            return polled;
        }
        ready!(opening.deadline.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let written = ready!(Pin::new(&mut this.stream).poll_write(cx, buf))?;
        if let Some(streams) = &mut this.streams {
            streams.send(buf.get(..written).unwrap_or_default());
            this.client.has_streams(streams.count(), streams.opened());
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
