//! Accepts connections and serves each in a task of its own, until the drain; then waits for those that are left.

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
    client::Client,
    connections::{Bounds, Connection, Place, Places},
    headers,
    intake::unread::Counted,
    leaving::{Watched, may_be_closed},
    rest::{Rests, Whole},
    stream::Stream,
    tls::{
        Tls,
        handshake::{Handshake, Shown},
    },
};
use crate::limits::{
    CALL_HEADERS_BYTES_MAX, CONNECTION_WINDOW_BYTES, EXCESS_STREAMS_MAX, FAULTY_STREAMS_MAX, RESET_STREAMS_MAX,
    STREAM_WINDOW_BYTES,
};

/// How long accepting rests when the process has no descriptor left: trying again at once would be a storm.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Failures to accept are told at most this often.
const TELL_INTERVAL: Duration = Duration::from_secs(10);
/// How long a client that was told to leave may take to do so.
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
    rests: Rests,
    draining: CancellationToken,
) where
    S: Service<Request<tonic::body::Body>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data: Send> + Send + 'static,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let http = Arc::new(http(bounds));
    let places = Places::new(bounds);
    let addresses = Addresses::new(bounds.connections_per_address_max);
    let mut connections = JoinSet::new();
    let mut told = Told::default();
    loop {
        let accepted = tokio::select! {
            () = draining.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if is_of_one_client(&error) => continue,
            Err(error) => {
                if told.due() {
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
            if told.due() {
                let limit = addresses.max();
                warn!(
                    address = %peer.ip(), limit,
                    "an address has more connections than --max-connections-per-address allows; further ones are closed"
                );
            }
            continue;
        };
        let (http, service, rests, draining) = (Arc::clone(&http), service.clone(), rests.clone(), draining.clone());
        if let Some(tls) = &tls {
            // a place is for who has shown that it speaks TLS: a flood of handshakes takes none
            let (handshake, places) = (tls.begin(), Arc::clone(&places));
            connections.spawn(async move {
                let Some((connection, shown)) = secure(stream, source, handshake, &places, &draining).await else {
                    return;
                };
                tokio::select! {
                    () = attend(connection, &http, service, &rests, draining) => {}
                    () = shown.distrusted() => debug!("a client certificate is no longer signed by --tls-client-ca"),
                }
            });
        } else if let Some(place) = places.take() {
            let connection = Connection::new(Stream::Plain(stream), place, Arc::clone(&places), source, None);
            connections.spawn(async move { attend(connection, &http, service, &rests, draining).await });
        } else if told.due() {
            warn!(
                max_connections = bounds.connections_max,
                "the instance has more connections than --max-connections allows; further ones are closed"
            );
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Whether accepting failed because of that one client, and the next one may be accepted at once.
fn is_of_one_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// When something was told last.
#[derive(Default)]
struct Told(Option<Instant>);

impl Told {
    fn due(&mut self) -> bool {
        let now = Instant::now();
        let due = self.0.is_none_or(|last| now - last >= TELL_INTERVAL);
        if due {
            self.0 = Some(now);
        }
        due
    }
}

/// What HTTP itself bounds on a connection.
fn http(bounds: Bounds) -> Http {
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(bounds.calls_max.saturating_add(EXCESS_STREAMS_MAX))
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_header_list_size(u32::try_from(CALL_HEADERS_BYTES_MAX).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(RESET_STREAMS_MAX)
        .max_local_error_reset_streams(FAULTY_STREAMS_MAX)
        .keep_alive_interval(bounds.keepalive_interval)
        .keep_alive_timeout(bounds.keepalive_timeout);
    http.http1()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.silence_max())
        .max_buf_size(CALL_HEADERS_BYTES_MAX);
    http
}

/// The connection after its handshake; `None` when there will be none.
async fn secure(
    stream: TcpStream,
    source: SourceAddress,
    handshake: Handshake,
    places: &Arc<Places>,
    draining: &CancellationToken,
) -> Option<(Connection, Shown)> {
    let made = tokio::select! {
        () = draining.cancelled() => return None,
        made = handshake.make(stream, places.bounds().silence_max()) => made,
    };
    match made {
        Ok((stream, mut shown)) => {
            let place: Place = places.take()?;
            let (stream, certificate) = (Stream::Tls(Box::new(stream)), shown.certificate.take());
            Some((Connection::new(stream, place, Arc::clone(places), source, certificate), shown))
        }
        Err(error) => {
            debug!(%error, "a TLS handshake failed");
            None
        }
    }
}

/// Serves a connection until its end, until it was idle for too long, or until the drain has let its calls end.
async fn attend<S, B>(connection: Connection, http: &Http, service: S, rests: &Rests, draining: CancellationToken)
where
    S: Service<Request<tonic::body::Body>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data: Send> + Send + 'static,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let client = connection.client();
    let (of_request, rests) = (Arc::clone(&client), rests.of_connection(Arc::clone(&client)));
    let service = service.map_request(move |mut request: Request<hyper::body::Incoming>| {
        headers::drop_unread(&mut request);
        request.extensions_mut().insert(Arc::clone(&of_request));
        let version = request.version();
        request.map(|body| Counted::wrap(Whole::new(body, version, &rests), &of_request))
    });
    let (connection, written) = Watched::new(connection);
    let mut served = pin!(http.serve_connection(TokioIo::new(connection), TowerToHyperService::new(service)));
    tokio::select! {
        ended = served.as_mut() => return note(ended),
        () = client.is_idle() => {}
        () = draining.cancelled() => {}
    }
    // calls that cross with this on the way are still served
    served.as_mut().graceful_shutdown();
    let drained = draining.cancelled().then(|()| may_be_closed(&client, &written));
    tokio::select! {
        ended = served => note(ended),
        () = has_to_leave(&client) => debug!("an idle client did not close its connection in time; the service closes it"),
        () = drained => debug!("a client without a call did not close its connection at the drain; the service closes it"),
    }
}

/// Waits until a client that was told to leave has no call under way and had time enough.
async fn has_to_leave(client: &Client) {
    loop {
        time::sleep(LEAVE_TIMEOUT).await;
        if !client.is_busy() {
            return;
        }
    }
}

fn note(ended: Result<(), Box<dyn StdError + Send + Sync>>) {
    if let Err(error) = ended {
        debug!(error, "a connection ended");
    }
}
