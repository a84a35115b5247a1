//! Reserves storage so that deletions can still be written when JetStream is full.
//!
//! JetStream refuses every message when the server or the account has no storage left, including messages of the
//! registry. So no room could be deleted and no member removed. JetStream still accepts purges and deletions. So a
//! stream holds some storage. When JetStream refuses a write of the registry, the service purges a piece of that
//! stream and repeats the write. It fills the stream again as soon as there is storage, before publishers get it.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_nats::jetstream::{
    ErrorCode,
    stream::{Config, DiscardPolicy, Info, StorageType},
};
use bytes::Bytes;
use serde::{
    Deserialize,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_json::{Value, json};
use tokio::{
    sync::Notify,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    Nats,
    error::{ApiError, is_full},
    storage_gate::StorageGate,
};
use crate::{
    limits::{NATS_REQUEST_TIMEOUT, RESERVE_BYTES, RESERVE_PIECE_BYTES, RESERVE_REFILL_DELAY},
    sync::lock,
};

const STREAM: &str = "unibus_reserve";
const SUBJECT: &str = "unibus.sys.reserve";
const PIECES: usize = RESERVE_BYTES / RESERVE_PIECE_BYTES;
/// How often the reserve is checked, and filled if needed.
const CHECK_INTERVAL: Duration = Duration::from_secs(60);

/// The reserve. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Reserve(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    nats: Nats,
    replicas: usize,
    gate: StorageGate,
    released_at: Mutex<Option<Instant>>,
    low: Notify,
}

#[derive(Deserialize)]
struct ReserveAck {
    error: Option<async_nats::jetstream::Error>,
}

impl Reserve {
    pub(crate) fn new(nats: &Nats, replicas: usize, gate: &StorageGate) -> Self {
        let (nats, gate) = (nats.clone(), gate.clone());
        Self(Arc::new(Inner { nats, replicas, gate, released_at: Mutex::default(), low: Notify::new() }))
    }

    /// Frees a piece, and closes the gate for this instance's publishers. False: no piece is left, or the request
    /// failed.
    pub(crate) async fn release(&self) -> bool {
        let Inner { gate, released_at, low, .. } = &*self.0;
        gate.shut_for_all();
        *lock(released_at) = Some(Instant::now());
        low.notify_one();
        let released = async {
            let pieces = self.pieces().await?;
            // `keep: 0` would keep all messages
            let request = if pieces > 1 { json!({ "keep": pieces - 1 }) } else { json!({}) };
            self.api::<IgnoredAny>("PURGE", &request).await?;
            Ok::<_, ApiError>(pieces)
        };
        match released.await {
            Ok(pieces) => {
                info!(
                    pieces,
                    "the storage of the NATS server is full, and the registry uses its reserve; free storage"
                );
                pieces > 0
            }
            Err(error) => {
                warn!(%error, "the storage of the NATS server is full, and the reserve of the registry cannot be used; free storage");
                false
            }
        }
    }

    /// Fills the reserve whenever it is not full, until `stop`.
    pub(crate) async fn keep_full(self, stop: CancellationToken) {
        loop {
            let filled = tokio::select! {
                () = stop.cancelled() => return,
                filled = self.fill() => filled,
            };
            let wait = match filled {
                Ok(()) => CHECK_INTERVAL,
                Err(error) => {
                    debug!(%error, "the reserve of the registry cannot be filled now");
                    RESERVE_REFILL_DELAY
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = time::sleep(wait) => {}
                () = self.0.low.notified() => {}
            }
            // a piece that was just released is for a write that is under way
            while let Some(wait) = self.wait() {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = time::sleep(wait) => {}
                }
            }
        }
    }

    fn wait(&self) -> Option<Duration> {
        let released_at = (*lock(&self.0.released_at))?;
        RESERVE_REFILL_DELAY.checked_sub(released_at.elapsed()).filter(|wait| !wait.is_zero())
    }

    async fn fill(&self) -> Result<(), ApiError> {
        let pieces = match self.pieces().await {
            Err(error) if error.is(ErrorCode::STREAM_NOT_FOUND) => self.create().await?,
            pieces => pieces?,
        };
        for _ in pieces..PIECES {
            let piece = Bytes::from(vec![0; RESERVE_PIECE_BYTES]);
            let sent = self.0.nats.client.request(SUBJECT, piece);
            let reply = time::timeout(NATS_REQUEST_TIMEOUT, sent).await.map_err(|_| ApiError::TimedOut)?;
            let reply = reply.map_err(|error| ApiError::Other(error.into()))?;
            let ack: ReserveAck =
                serde_json::from_slice(&reply.payload).map_err(|error| ApiError::Other(error.into()))?;
            if let Some(error) = ack.error {
                if is_full(&error) {
                    self.0.gate.shut_for_all();
                }
                return Err(error.into());
            }
        }
        Ok(())
    }

    async fn create(&self) -> Result<usize, ApiError> {
        let config = Config {
            name: STREAM.to_owned(),
            description: Some("unibus: storage that is kept for the registry".to_owned()),
            subjects: vec![SUBJECT.to_owned()],
            storage: StorageType::File,
            num_replicas: self.0.replicas,
            max_messages: PIECES.try_into().unwrap_or(i64::MAX),
            discard: DiscardPolicy::Old,
            ..Config::default()
        };
        let config = serde_json::to_value(config).map_err(|error| ApiError::Other(error.into()))?;
        self.api::<IgnoredAny>("CREATE", &config).await.map(|_| 0)
    }

    async fn pieces(&self) -> Result<usize, ApiError> {
        let info: Info = self.api("INFO", &json!({})).await?;
        Ok(usize::try_from(info.state.messages).unwrap_or(usize::MAX))
    }

    async fn api<V: DeserializeOwned>(&self, action: &str, request: &Value) -> Result<V, ApiError> {
        self.0.nats.api(format!("STREAM.{action}.{STREAM}"), request).await
    }
}
