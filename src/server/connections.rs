//! Accepts connections within bounds, and counts the calls of each one.
//!
//! A connection has a place, of which there are as many as `--max-connections` says, or is one of a few in excess that are
//! kept only to be told so; what comes beyond these is closed at once, so that descriptors are left for the rest.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::Stream;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{self, Sleep},
};
use tonic::transport::server::Connected;
use tracing::{debug, warn};

use super::coalesce::Coalescing;
use crate::{domain::ClientCertificate, limits::EXCESS_CONNECTIONS_MAX};

/// How long accepting rests when the process has no descriptor left: trying again at once would be a storm.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Failures to accept are told at most this often.
const TELL_INTERVAL: Duration = Duration::from_secs(10);

/// What is allowed to the connections of one listener.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Connections whose calls are served.
    pub connections_max: u32,
    /// Open calls of one connection.
    pub calls_max: u32,
    /// How long a new connection may send nothing at all.
    pub silence_max: Duration,
}

/// The connections of a listener, for as long as it is polled.
pub(super) fn accept(listener: TcpListener, bounds: Bounds) -> impl Stream<Item = io::Result<Connection>> {
    let places = Arc::new(Places {
        regular: Arc::new(Semaphore::new(bounds.connections_max.try_into().unwrap_or(Semaphore::MAX_PERMITS))),
        excess: Arc::new(Semaphore::new(EXCESS_CONNECTIONS_MAX)),
        bounds,
    });
    async_stream::stream! {
        let mut told: Option<time::Instant> = None;
        let mut tell = move || {
            let now = time::Instant::now();
            let due = told.is_none_or(|last| now - last >= TELL_INTERVAL);
            if due {
                told = Some(now);
            }
            due
        };
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) if is_of_one_client(&error) => continue,
                Err(error) => {
                    if tell() {
                        warn!(%error, "no connection can be accepted; raise the limit of open files");
                    }
                    time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Some(place) = places.take() else {
                if tell() {
                    warn!(max_connections = bounds.connections_max, "connections beyond the limit are closed");
                }
                continue;
            };
            if let Err(error) = stream.set_nodelay(true) {
                debug!(%error, "a connection without TCP_NODELAY");
            }
            yield Ok(Connection::new(stream, place, Arc::clone(&places)));
        }
    }
}

/// Whether accepting failed because of that one client, and the next one may be accepted at once.
fn is_of_one_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

#[derive(Debug)]
struct Places {
    regular: Arc<Semaphore>,
    excess: Arc<Semaphore>,
    bounds: Bounds,
}

impl Places {
    fn take(&self) -> Option<Place> {
        let regular = Arc::clone(&self.regular).try_acquire_owned().map(Place::Regular);
        regular.or_else(|_| Arc::clone(&self.excess).try_acquire_owned().map(Place::Excess)).ok()
    }
}

#[derive(Debug)]
enum Place {
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
        let open = self.calls.fetch_add(1, Ordering::Relaxed);
        let call = Call(Arc::clone(self));
        (open < self.places.bounds.calls_max).then_some(call)
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
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An open call. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Call(Arc<Client>);

impl Drop for Call {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An accepted connection. Its place is free again when it is dropped.
pub(super) struct Connection {
    stream: Coalescing<TcpStream>,
    client: Arc<Client>,
    /// Until the first byte: HTTP has no ping for a client that never said a word.
    unheard: Option<Pin<Box<Sleep>>>,
}

impl Connection {
    fn new(stream: TcpStream, place: Place, places: Arc<Places>) -> Self {
        let unheard = Some(Box::pin(time::sleep(places.bounds.silence_max)));
        let client = Client { places, place: Mutex::new(place), calls: AtomicU32::new(0), certificate: None };
        Self { stream: Coalescing::new(stream), client: Arc::new(client), unheard }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // calls may outlive the connection for a moment
        *self.client.place() = Place::None;
    }
}

impl Connected for Connection {
    type ConnectInfo = Arc<Client>;

    fn connect_info(&self) -> Self::ConnectInfo {
        Arc::clone(&self.client)
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let polled = Pin::new(&mut this.stream).poll_read(cx, buf);
        let Some(unheard) = &mut this.unheard else { return polled };
        if polled.is_ready() {
            this.unheard = None;
            return polled;
        }
        ready!(unheard.as_mut().poll(cx));
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
