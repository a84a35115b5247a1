//! Accepts connections until the drain, and serves each in its own task. Then waits for the open connections to end.

use std::{convert::Infallible, error::Error as StdError, io, pin::pin, sync::Arc, time::Duration};

use ::http::{Request, Response};
use futures_util::FutureExt;
use http_body::Body;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;
use tower::{Service, ServiceExt};
use tracing::{debug, warn};

use super::{
    addresses::{Addresses, SourceAddress},
    client::ClientConnection,
    client_socket::ClientSocket,
    connections::Connection,
    discard::{DiscardRest, Discards},
    headers,
    intake::read_counter::ReadCounter,
    leaving::until_closable,
    places::{Bounds, ConnectionPlace, ConnectionPlaces},
    tls::{
        Tls,
        handshake::{Handshake, Presented},
    },
};
use crate::{
    limits::{
        CALL_HEADERS_BYTES_MAX, CONNECTION_WINDOW_BYTES, EXCESS_STREAMS_MAX, FAULTY_STREAMS_MAX, RESET_STREAMS_MAX,
        STREAM_WINDOW_BYTES,
    },
    metrics::{ConnectionMetrics, RefusedConnection},
};

/// Pause after a failed accept. Without a pause, a process without free file descriptors would loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Minimum time between two warnings of a listener.
const WARN_INTERVAL: Duration = Duration::from_secs(10);
/// Time that a client has to close its connection after the service has asked it to.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);

type Http = auto::Builder<TokioExecutor>;

/// Serves the connections of a listener. Returns when `draining` is cancelled and the last connection has ended.
///
/// # Cancel safety
/// Dropping it closes every connection.
pub(super) async fn serve<S, B>(
    listener: TcpListener,
    bounds: Bounds,
    tls: Option<Tls>,
    service: S,
    discards: Discards,
    metrics: Arc<ConnectionMetrics>,
    draining: CancellationToken,
) where
    S: Service<Request<tonic::body::Body>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data: Send> + Send + 'static,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let http = Arc::new(http(bounds));
    let places = ConnectionPlaces::new(bounds);
    let addresses = Addresses::new(bounds.connections.max_per_address);
    let mut connections = JoinSet::new();
    let mut warning = WarningInterval::default();
    loop {
        let accepted = tokio::select! {
            () = draining.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if is_fault_of_one_client(&error) => continue,
            Err(error) => {
                if warning.due() {
                    warn!(%error, "the service cannot accept connections; raise the limit of open files");
                }
                time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "TCP_NODELAY could not be set on a connection");
        }
        let Some(source) = addresses.take(peer.ip()) else {
            metrics.refused.inc(RefusedConnection::Address);
            if warning.due() {
                let limit = addresses.max();
                warn!(
                    address = %peer.ip(), limit,
                    "an address has more connections than --max-connections-per-address allows; further ones are closed"
                );
            }
            continue;
        };
        let (http, service, discards, draining) =
            (Arc::clone(&http), service.clone(), discards.clone(), draining.clone());
        if let Some(tls) = &tls {
            // a connection gets its place after the handshake, so that a flood of handshakes takes no places
            let (handshake, places, metrics) = (tls.begin(), Arc::clone(&places), Arc::clone(&metrics));
            connections.spawn(async move {
                let made = after_handshake(stream, source, handshake, &places, &metrics, &draining).await;
                let Some((connection, shown)) = made else { return };
                let _open = metrics.open();
                tokio::select! {
                    () = serve_one(connection, &http, service, &discards, draining) => {}
                    () = shown.distrusted() => debug!("a client certificate is no longer signed by --tls-client-ca"),
                }
            });
        } else if let Some(place) = places.take() {
            let connection = Connection::new(ClientSocket::Plain(stream), place, Arc::clone(&places), source, None);
            let open = metrics.open();
            connections.spawn(async move {
                serve_one(connection, &http, service, &discards, draining).await;
                drop(open);
            });
        } else {
            metrics.refused.inc(RefusedConnection::Places);
            if warning.due() {
                warn!(
                    max_connections = bounds.connections.max,
                    "the instance has more connections than --max-connections allows; further ones are closed"
                );
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Whether only one client caused the failure, so that the listener can accept the next one at once.
fn is_fault_of_one_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Limits warnings to one for each [`WARN_INTERVAL`].
#[derive(Default)]
struct WarningInterval(Option<Instant>);

impl WarningInterval {
    fn due(&mut self) -> bool {
        let now = Instant::now();
        let due = self.0.is_none_or(|last| now - last >= WARN_INTERVAL);
        if due {
            self.0 = Some(now);
        }
        due
    }
}

/// Sets the bounds that the HTTP library applies to a connection.
fn http(bounds: Bounds) -> Http {
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(bounds.connections.max_streams.saturating_add(EXCESS_STREAMS_MAX))
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_header_list_size(u32::try_from(CALL_HEADERS_BYTES_MAX).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(RESET_STREAMS_MAX)
        .max_local_error_reset_streams(FAULTY_STREAMS_MAX)
        .keep_alive_interval(bounds.keepalive.interval)
        .keep_alive_timeout(bounds.keepalive.timeout);
    http.http1()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.silence_max())
        .max_buf_size(CALL_HEADERS_BYTES_MAX);
    http
}

/// Makes the TLS handshake of a connection; `None` when the handshake fails, no place is free, or the drain begins.
async fn after_handshake(
    stream: TcpStream,
    source: SourceAddress,
    handshake: Handshake,
    places: &Arc<ConnectionPlaces>,
    metrics: &ConnectionMetrics,
    draining: &CancellationToken,
) -> Option<(Connection, Presented)> {
    let made = tokio::select! {
        () = draining.cancelled() => return None,
        made = handshake.make(stream, places.bounds().silence_max()) => made,
    };
    match made {
        Ok((stream, mut shown)) => {
            let Some(place): Option<ConnectionPlace> = places.take() else {
                metrics.refused.inc(RefusedConnection::Places);
                return None;
            };
            let (stream, certificate) = (ClientSocket::Tls(Box::new(stream)), shown.certificate.take());
            Some((Connection::new(stream, place, Arc::clone(places), source, certificate), shown))
        }
        Err(error) => {
            metrics.refused.inc(RefusedConnection::Handshake);
            debug!(%error, "a TLS handshake failed");
            None
        }
    }
}

/// Serves a connection until it ends, until it has been idle for too long, or until its calls have ended in the drain.
async fn serve_one<S, B>(
    connection: Connection,
    http: &Http,
    service: S,
    discards: &Discards,
    draining: CancellationToken,
) where
    S: Service<Request<tonic::body::Body>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data: Send> + Send + 'static,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let client = connection.client();
    let (of_request, discards) = (Arc::clone(&client), discards.of_connection(Arc::clone(&client)));
    let service = service.map_request(move |mut request: Request<hyper::body::Incoming>| {
        headers::drop_unread(&mut request);
        request.extensions_mut().insert(Arc::clone(&of_request));
        let version = request.version();
        request.map(|body| ReadCounter::wrap(DiscardRest::new(body, version, &discards), &of_request))
    });
    let mut served = pin!(http.serve_connection(TokioIo::new(connection), TowerToHyperService::new(service)));
    tokio::select! {
        ended = served.as_mut() => return log_end(ended),
        () = client.until_idle() => {}
        () = draining.cancelled() => {}
    }
    // calls that the client sends before it receives this are still served
    served.as_mut().graceful_shutdown();
    let drained = draining.cancelled().then(|()| until_closable(&client));
    tokio::select! {
        ended = served => log_end(ended),
        () = until_leave_timeout(&client) => debug!("an idle client did not close its connection in time; the service closes it"),
        () = drained => debug!("a client without a call did not close its connection at the drain; the service closes it"),
    }
}

/// Waits for [`LEAVE_TIMEOUT`], and again while a call is under way.
async fn until_leave_timeout(client: &ClientConnection) {
    loop {
        time::sleep(LEAVE_TIMEOUT).await;
        if !client.is_busy() {
            return;
        }
    }
}

fn log_end(ended: Result<(), Box<dyn StdError + Send + Sync>>) {
    if let Err(error) = ended {
        debug!(error, "a connection ended");
    }
}
