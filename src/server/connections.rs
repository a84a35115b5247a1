//! A connection that keeps its bounds: it is read only as far as its calls keep up.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{self, Sleep},
};

use super::{
    addresses::SourceAddress,
    client::{ClientConnection, ReadPermission},
    client_socket::ClientSocket,
    coalesce::Coalescing,
    frames::Streams,
    places::{ConnectionPlace, ConnectionPlaces},
};
use crate::{
    domain::ClientCertificate,
    limits::{
        READ_IN_A_ROW_BYTES_MAX, REQUEST_TIMEOUT, STREAM_WAIT_MAX, UNIDENTIFIED_READ_BYTES_MAX,
        UNIDENTIFIED_READ_IN_A_ROW_BYTES_MAX,
    },
};

/// The first bytes of an HTTP/2 client (RFC 9113, section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// An accepted connection. Dropping it frees its place.
#[derive(Debug)]
pub(super) struct Connection {
    stream: Coalescing<ClientSocket>,
    client: Arc<ClientConnection>,
    opening: Option<Opening>,
    /// `None` with HTTP/1.1, whose connections have one call at a time.
    streams: Option<Streams>,
    /// Bytes that were read after the head of a stream that has to wait.
    withheld: Bytes,
    /// Ends the wait of a stream for calls that may never begin.
    patience: Option<Pin<Box<Sleep>>>,
    /// `None` after a caller was identified.
    unidentified: Option<UnidentifiedReads>,
    /// Bytes read in a row: since reading last found no bytes or paused.
    in_a_row: usize,
}

/// The read state of a connection without an identified caller.
#[derive(Debug, Default)]
struct UnidentifiedReads {
    /// When the calls must have read the received data. Set while reading is paused.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl UnidentifiedReads {
    /// Ready when the service may read more.
    ///
    /// # Errors
    /// `ConnectionAborted` when the connection has to end. `TimedOut` when reading was paused for `REQUEST_TIMEOUT`.
    fn poll_permission(&mut self, permission: ReadPermission, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match permission {
            ReadPermission::Granted => {
                self.deadline = None;
                Poll::Ready(Ok(()))
            }
            ReadPermission::Evicted => Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
            ReadPermission::Paused => {
                let deadline = self.deadline.get_or_insert_with(|| Box::pin(time::sleep(REQUEST_TIMEOUT)));
                ready!(deadline.as_mut().poll(cx));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

/// The time before the protocol of the client is known. It has a deadline of its own, because no later time limit
/// applies yet.
#[derive(Debug)]
struct Opening {
    deadline: Pin<Box<Sleep>>,
    /// Bytes of the HTTP/2 preface that were received.
    matched: usize,
}

/// The protocol of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HttpProtocol {
    Http2,
    /// HTTP/1.1, or a client that has sent its end. HTTP/1.1 needs no bound on reads: the library reads only as much as
    /// its one call reads.
    Other,
}

impl Opening {
    /// The protocol, once `bytes` decide it; `None` while the preface is incomplete. Empty `bytes` mean the end.
    fn read(&mut self, bytes: &[u8]) -> Option<HttpProtocol> {
        let awaited = HTTP2_PREFACE.get(self.matched..).unwrap_or_default();
        self.matched += bytes.len();
        let is_http2 = awaited.iter().zip(bytes).all(|(awaited, byte)| awaited == byte);
        match (is_http2, bytes.len()) {
            (false, _) | (true, 0) => Some(HttpProtocol::Other),
            (true, length) => (length >= awaited.len()).then_some(HttpProtocol::Http2),
        }
    }
}

impl Connection {
    /// Wraps a connection that was just accepted, and begins its opening deadline.
    pub(super) fn new(
        stream: ClientSocket,
        place: ConnectionPlace,
        places: Arc<ConnectionPlaces>,
        source: SourceAddress,
        certificate: Option<ClientCertificate>,
    ) -> Self {
        let deadline = Box::pin(time::sleep(places.bounds().silence_max()));
        let client = ClientConnection::new(places, place, source, certificate);
        Self {
            stream: Coalescing::new(stream),
            streams: Some(Streams::before_preface(HTTP2_PREFACE.len())),
            withheld: Bytes::new(),
            patience: None,
            unidentified: (!client.is_identified()).then(UnidentifiedReads::default),
            client: Arc::new(client),
            in_a_row: 0,
            opening: Some(Opening { deadline, matched: 0 }),
        }
    }

    /// The state that the calls of the connection share.
    pub(super) fn client(&self) -> Arc<ClientConnection> {
        Arc::clone(&self.client)
    }

    /// Ready when the service may read from the client.
    fn poll_may_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let must_wait = self.streams.as_ref().is_some_and(Streams::has_waiting) && self.must_wait(cx);
        if let Some(unidentified) = &mut self.unidentified {
            let permission = self.client.read_permission(cx);
            return unidentified
                .poll_permission(if must_wait { permission.max(ReadPermission::Paused) } else { permission }, cx);
        }
        if must_wait { Poll::Pending } else { Poll::Ready(Ok(())) }
    }

    /// Whether the next stream has to wait. Wakes the task of `cx` when the answer may have changed.
    fn must_wait(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.client.must_wait(cx) {
            self.patience = None;
            return false;
        }
        let patience = self.patience.get_or_insert_with(|| Box::pin(time::sleep(STREAM_WAIT_MAX)));
        if patience.as_mut().poll(cx).is_pending() {
            return true;
        }
        self.patience = None;
        self.client.forgive_streams();
        self.client.must_wait(cx)
    }

    /// Reads up to the next stream that has to wait, and keeps the bytes after it in `withheld`.
    fn poll_bytes(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let is_withheld = !self.withheld.is_empty();
        if is_withheld {
            let length = self.withheld.len().min(buf.remaining());
            buf.put_slice(self.withheld.get(..length).unwrap_or_default());
        } else if self.unidentified.is_some() {
            ready!(poll_read_little(&mut self.stream, cx, buf))?;
        } else {
            ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        }
        let Some(streams) = &mut self.streams else { return Poll::Ready(Ok(())) };
        let bytes = buf.filled().get(before..).unwrap_or_default();
        let received = streams.receive(bytes, self.client.new_streams_max());
        self.client.set_streams(streams.count(), streams.opened());
        if self.unidentified.is_some() {
            self.client.count_received(received.taken, received.data_cost);
        }
        let rest = bytes.get(received.taken..).unwrap_or_default();
        let is_still_waiting = received.taken == 0 && !rest.is_empty();
        if is_withheld {
            self.withheld.advance(received.taken);
        } else if !rest.is_empty() {
            self.withheld = Bytes::copy_from_slice(rest);
        }
        buf.set_filled(before + received.taken);
        if is_still_waiting {
            // the stream still has to wait; `Ready` without bytes would mean the end of the connection
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

/// Reads at most `UNIDENTIFIED_READ_BYTES_MAX`, so that the permission is checked again soon.
fn poll_read_little(
    stream: &mut Coalescing<ClientSocket>,
    cx: &mut Context<'_>,
    buf: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
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
        // the library hands over calls only when it cannot read; until then their headers may take a hundred times the
        // bytes that were received
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
            let protocol = opening.read(buf.filled().get(before..).unwrap_or_default());
            if protocol.is_some() {
                this.opening = None;
            }
            if protocol == Some(HttpProtocol::Other) {
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
        this.client.count_written(written);
        if let Some(streams) = &mut this.streams {
            streams.send(buf.get(..written).unwrap_or_default());
            this.client.set_streams(streams.count(), streams.opened());
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
