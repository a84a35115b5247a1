//! The connections to NATS, their state, and the JetStream API over them.
//!
//! One connection carries publishes, their acknowledgements, the registry and the JetStream API. Bulk reads, and
//! messages that other programs can send to this process, use separate connections (`links`). So a slow reader, or a
//! message that the NATS client cannot parse, does not break the publishers' connection.

pub(crate) mod bucket;
pub(crate) mod connect;
pub(crate) mod direct;
pub(crate) mod embedded;
pub(crate) mod error;
pub(crate) mod links;
pub(crate) mod listening;
pub(crate) mod probe;
pub(crate) mod reserve;
pub(crate) mod storage_gate;
pub(crate) mod version;

use std::{sync::Arc, time::Duration};

use async_nats::{
    Client,
    client::FlushErrorKind,
    connection::State,
    jetstream::{
        self, ErrorCode,
        consumer::{self, IntoConsumerConfig, pull},
        context::RequestErrorKind,
        response::Response,
    },
};
use bytes::Bytes;
use serde::{
    Serialize,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_json::json;
use tokio::{
    sync::{SemaphorePermit, watch},
    time,
};
use tracing::info;

use self::{
    connect::NatsConfig,
    error::{ApiError, unavailable},
    links::{Links, Suspects},
};
use crate::{
    domain::RoomId,
    error::{Error, Reason, Result},
    limits::{NATS_GRACE, NATS_REQUEST_TIMEOUT, PAGES_UNDER_WAY_BYTES_MAX},
    metrics::{NatsApi, NatsLink, NatsMetrics},
    traces::{self, StepSpan, TraceStep},
};

/// A connection to NATS that reconnects itself, with access to the other connections. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Nats {
    pub(crate) client: Client,
    pub(crate) jetstream: jetstream::Context,
    connections: watch::Receiver<u64>,
    has_jetstream: bool,
    links: Arc<Links>,
    metrics: Arc<NatsMetrics>,
}

impl Nats {
    /// Connects, and checks the server's version and whether it has JetStream.
    ///
    /// # Errors
    /// `NATS_UNAVAILABLE` if no server answered in time, `INTERNAL` for unusable credentials or an old server. The
    /// message is for the operator.
    pub(crate) async fn connect(config: &NatsConfig, metrics: &Arc<NatsMetrics>) -> Result<Self> {
        let deadline = time::Instant::now() + config.connect_timeout;
        let (client, connections) = connect::connect(config, NatsLink::Main, metrics, deadline).await?;
        let (links, metrics) = (Arc::new(Links::new(config, metrics)), Arc::clone(metrics));
        let mut nats = Self { jetstream: context(&client), client, connections, has_jetstream: true, links, metrics };
        nats.has_jetstream = nats.probe(deadline).await?;
        info!(version = nats.client.server_info().version, jetstream = nats.has_jetstream, "connected to NATS");
        Ok(nats)
    }

    /// The connection that reads the logs of rooms. Suspect rooms, which contain a message that the NATS client
    /// cannot parse, use a separate connection, so readers of other rooms keep theirs.
    ///
    /// # Errors
    /// `NATS_UNAVAILABLE`.
    pub(crate) async fn reading(&self, room: &RoomId) -> Result<Self> {
        let link = if self.links.suspects.contains(room) { &self.links.suspect } else { &self.links.reading };
        self.link(link).await
    }

    /// The connection that receives the messages of ephemeral rooms.
    ///
    /// # Errors
    /// `NATS_UNAVAILABLE`.
    pub(crate) async fn live(&self) -> Result<Self> {
        self.link(&self.links.live).await
    }

    /// The rooms with a message that the NATS client cannot parse.
    pub(crate) fn suspects(&self) -> &Suspects {
        &self.links.suspects
    }

    /// Waits until `bytes` bytes of a page may be in flight. The NATS server drops a connection with more than about
    /// 64 MiB waiting.
    ///
    /// # Cancel safety
    /// May be dropped at any point.
    pub(crate) async fn share_of_reading(&self, bytes: usize) -> Option<SemaphorePermit<'_>> {
        let kib = bytes.min(PAGES_UNDER_WAY_BYTES_MAX).div_ceil(1024);
        self.links.page_budget.acquire_many(u32::try_from(kib).unwrap_or(u32::MAX)).await.ok()
    }

    async fn link(&self, link: &links::Link) -> Result<Self> {
        let (client, jetstream, connections) = link.connection().await?;
        let (links, metrics) = (Arc::clone(&self.links), Arc::clone(&self.metrics));
        Ok(Self { client, jetstream, connections, has_jetstream: self.has_jetstream, links, metrics })
    }

    pub(crate) fn metrics(&self) -> &NatsMetrics {
        &self.metrics
    }

    /// Bytes of pages that are in flight.
    pub(crate) fn page_bytes(&self) -> usize {
        PAGES_UNDER_WAY_BYTES_MAX.saturating_sub(self.links.page_budget.available_permits() * 1024)
    }

    /// Returns true if JetStream was available when the service started.
    pub(crate) fn has_jetstream(&self) -> bool {
        self.has_jetstream
    }

    /// Returns an error if JetStream is not available.
    pub(crate) fn require_jetstream(&self) -> Result<()> {
        if self.has_jetstream {
            return Ok(());
        }
        Err(Error::new(
            Reason::JetstreamMissing,
            "the NATS server runs without JetStream, so only ephemeral rooms can be used; enable JetStream on the server",
        ))
    }

    /// Returns true if the client is connected.
    pub(crate) fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// Returns true if the client's task has ended, so that it never reconnects. async-nats 0.51 panics on a header
    /// value that contains a bare CR.
    pub(crate) async fn has_died(&self) -> bool {
        // the flush waits while there is no connection
        let flushed = time::timeout(Duration::from_millis(100), self.client.flush()).await;
        matches!(flushed, Ok(Err(error)) if error.kind() == FlushErrorKind::SendError)
    }

    /// The number of connections made. Changes at each reconnection.
    pub(crate) fn connections(&self) -> watch::Receiver<u64> {
        self.connections.clone()
    }

    /// Waits until the client is connected.
    ///
    /// # Errors
    /// `NATS_UNAVAILABLE` after [`NATS_GRACE`].
    ///
    /// # Cancel safety
    /// May be dropped at any point.
    pub(crate) async fn ready(&self) -> Result<()> {
        if self.is_connected() {
            return Ok(());
        }
        let mut connections = self.connections.clone();
        let connected = async {
            while !self.is_connected() {
                // the sender lives as long as the client; the timeout covers a missed event
                let _ = time::timeout(Duration::from_millis(50), connections.changed()).await;
            }
        };
        time::timeout(NATS_GRACE, connected).await.map_err(|_| unavailable())
    }

    /// Waits until the server has processed everything that was sent before on this connection, such as
    /// subscriptions. async-nats's `flush` ends at the socket. A request without responders is answered by the server
    /// itself.
    pub(crate) async fn settled(&self) -> Result<()> {
        match self.client.request("unibus.sys.nobody", Bytes::new()).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == async_nats::RequestErrorKind::NoResponders => Ok(()),
            Err(error) => Err(unavailable().because(error)),
        }
    }

    /// Maximum payload of a message, without headers.
    pub(crate) fn payload_bytes_max(&self) -> usize {
        self.client.max_payload().saturating_sub(crate::limits::HEADROOM_BYTES)
    }

    /// Sends a request to the JetStream API. `subject` is without the `$JS.API` prefix.
    pub(crate) async fn api<T, V>(&self, subject: String, request: &T) -> Result<V, ApiError>
    where
        T: Serialize + ?Sized,
        V: DeserializeOwned,
    {
        let (api, begun) = (NatsApi::of(&subject), time::Instant::now());
        let span = traces::step(TraceStep::JetStream(api));
        let answer = match self.ready().await {
            Err(_) => Err(ApiError::Disconnected),
            // boxed, because it would make the futures of all callers larger
            Ok(()) => match Box::pin(self.jetstream.request(subject, request)).await {
                Ok(Response::Ok(value)) => Ok(value),
                Ok(Response::Err { error }) => Err(ApiError::Refused(error)),
                Err(error) => Err(match error.kind() {
                    RequestErrorKind::NoResponders => ApiError::NoResponders,
                    RequestErrorKind::TimedOut => ApiError::TimedOut,
                    RequestErrorKind::InvalidSubject | RequestErrorKind::Other => ApiError::Other(error.into()),
                }),
            },
        };
        self.count(api, begun, &answer, span);
        answer
    }

    /// Counts a request, its time and its failure, and ends its span.
    fn count<T>(&self, api: NatsApi, begun: time::Instant, answer: &Result<T, ApiError>, mut span: StepSpan) {
        self.metrics.requests.inc(api);
        if let Ok(_) | Err(ApiError::Refused(_)) = answer {
            self.metrics.request_seconds.observe(begun.elapsed());
        }
        if let Err(error) = answer {
            self.metrics.failed(api, error.failure());
            match error {
                // such as a missing consumer
                ApiError::Refused(_) => span.set_answer(error.failure().name()),
                _ => span.fail(error.failure().name()),
            }
        }
    }

    /// Creates a consumer with the name in its configuration. If a consumer with the same name and configuration
    /// exists, it is left unchanged, and its information is returned.
    ///
    /// # Errors
    /// `CONSUMER_ALREADY_EXISTS` if the name exists with another configuration.
    pub(crate) async fn create_consumer(&self, stream: &str, config: pull::Config) -> Result<consumer::Info, ApiError> {
        // converted, because async-nats 0.51 serializes some settings of a pull configuration under names that NATS
        // does not use
        let config = config.into_consumer_config();
        let subject = format!("CONSUMER.CREATE.{stream}.{}", config.name.as_deref().unwrap_or_default());
        let request = json!({ "stream_name": stream, "config": config, "action": "create" });
        self.api(subject, &request).await
    }

    pub(crate) async fn delete_consumer(&self, stream: &str, name: &str) -> Result<(), ApiError> {
        self.api::<_, IgnoredAny>(format!("CONSUMER.DELETE.{stream}.{name}"), &json!({})).await.map(drop)
    }

    /// Returns true if JetStream answers. Waits for a leader if the server reports that it has JetStream.
    async fn probe(&self, deadline: time::Instant) -> Result<bool> {
        loop {
            let error = match self.api::<_, IgnoredAny>("INFO".to_owned(), &json!({})).await {
                Ok(_) => return Ok(true),
                Err(ApiError::Refused(error))
                    if matches!(
                        error.error_code(),
                        ErrorCode::JETSTREAM_NOT_ENABLED | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT
                    ) =>
                {
                    return Ok(false);
                }
                Err(ApiError::NoResponders) if !self.client.server_info().jetstream => return Ok(false),
                Err(error) => error,
            };
            if time::Instant::now() > deadline {
                return Err(error.into());
            }
            time::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn context(client: &Client) -> jetstream::Context {
    jetstream::context::ContextBuilder::new().timeout(NATS_REQUEST_TIMEOUT).build(client.clone())
}
