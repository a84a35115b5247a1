//! Reads of a bucket. An absence is believed only from a server that knows as much of the bucket as this instance has
//! seen.
//!
//! A bucket with one replica has one server, and its answer is authoritative. It is read by direct get, the cheapest
//! read. With several replicas any server answers a direct get, even one that lags or has just started, so the
//! service asks the leader. A deposed leader may still think that it leads. So an absence is confirmed by the
//! leader's information about the whole bucket.

use std::{
    error::Error as _,
    time::{Duration, SystemTime},
};

use async_nats::{
    HeaderMap, StatusCode,
    client::RequestErrorKind,
    jetstream::{
        ErrorCode,
        context::{CreateKeyValueError, CreateStreamError, CreateStreamErrorKind},
        message::StreamMessage,
        stream::RawMessage,
    },
};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;
use tokio::time::{self, Instant};
use tracing::{debug, warn};

use super::{
    Versioned,
    jetstream::JetStreamBucket,
    mark::{BucketIdentity, BucketInfo},
};
use crate::{
    error::{Error, Result},
    limits::{REGISTRY_ATTEMPT_TIMEOUT, REGISTRY_READ_TIMEOUT},
    nats::error::{ApiError, unavailable},
    sync::lock,
    traces::{self, TraceStep},
};

/// Maximum number of keys in one request. The server accepts 1024.
const KEYS_AT_ONCE: usize = 1000;
/// Maximum number of concurrent reads of single keys.
const READS_AT_ONCE: usize = 16;
/// First delay before a request is repeated. It doubles up to [`DELAY_MAX`].
const DELAY_MIN: Duration = Duration::from_millis(25);
const DELAY_MAX: Duration = Duration::from_millis(400);
/// Without the error's text, which would contain the value. The value may be a secret, so only its key is logged, and
/// the position of the error.
const UNREADABLE: &str =
    "a value of the bucket cannot be read and is ignored; another program or a newer version may have written it";

/// Waits between attempts.
#[derive(Debug)]
pub(super) struct Backoff {
    delay: Duration,
    deadline: Instant,
}

impl Backoff {
    pub(super) fn within(limit: Duration) -> Self {
        Self { delay: DELAY_MIN, deadline: Instant::now() + limit }
    }

    /// Waits before the next attempt. False: no time is left for one.
    pub(super) async fn wait(&mut self) -> bool {
        if Instant::now() + self.delay >= self.deadline {
            return false;
        }
        time::sleep(self.delay).await;
        self.delay = (self.delay * 2).min(DELAY_MAX);
        true
    }

    pub(super) fn is_over(&self) -> bool {
        Instant::now() >= self.deadline
    }

    /// The timeout of the next attempt.
    pub(super) fn attempt(&self) -> Duration {
        REGISTRY_ATTEMPT_TIMEOUT.min(self.deadline.saturating_duration_since(Instant::now()))
    }
}

/// The newest message of a key: a value, or the marker of its deletion.
#[derive(Debug)]
pub(super) struct RawEntry {
    pub revision: u64,
    pub headers: HeaderMap,
    pub value: Bytes,
    pub stored_at: SystemTime,
}

impl RawEntry {
    pub(super) fn is_deletion(&self) -> bool {
        self.headers.get("KV-Operation").is_some()
    }

    fn new(message: StreamMessage) -> Self {
        let StreamMessage { sequence, headers, payload, time, .. } = message;
        Self { revision: sequence, headers, value: payload, stored_at: time.into() }
    }
}

#[derive(Deserialize)]
struct RawAnswer {
    message: RawMessage,
}

impl<T> JetStreamBucket<T> {
    /// Reads the newest message of the key.
    ///
    /// # Errors
    /// `NATS_UNAVAILABLE` if no server that knows enough answers in time.
    pub(super) async fn entry(&self, key: &str) -> Result<Option<RawEntry>> {
        let mut backoff = Backoff::within(REGISTRY_READ_TIMEOUT);
        loop {
            self.nats.ready().await?;
            let asked = time::timeout(backoff.attempt(), self.ask(key)).await;
            let error = match asked.unwrap_or(Err(ApiError::TimedOut)) {
                Ok(entry) => return Ok(entry),
                Err(error) => error,
            };
            debug!(bucket = self.config.bucket, %error, "the bucket did not answer, trying again");
            if !backoff.wait().await {
                return Err(unavailable().because(error));
            }
        }
    }

    async fn ask(&self, key: &str) -> Result<Option<RawEntry>, ApiError> {
        let found = self.find().await?;
        let answer = if found.is_replicated() { self.ask_leader(key).await } else { self.ask_directly(key).await };
        if let Err(ApiError::NoResponders) = &answer {
            lock(&self.mark).set_lost();
        }
        if let Ok(Some(entry)) = &answer {
            lock(&self.mark).raise(entry.revision);
        }
        answer
    }

    async fn ask_directly(&self, key: &str) -> Result<Option<RawEntry>, ApiError> {
        let subject = format!("$JS.API.DIRECT.GET.{}.{}", self.stream(), self.subject(key));
        let mut span = traces::step(TraceStep::ReadRegistry);
        let reply = self.nats.client.request(subject, Bytes::new()).await.map_err(|error| {
            let error = match error.kind() {
                RequestErrorKind::NoResponders => ApiError::NoResponders,
                RequestErrorKind::TimedOut => ApiError::TimedOut,
                _ => ApiError::Other(error.into()),
            };
            span.fail(error.failure().name());
            error
        })?;
        match reply.status {
            Some(StatusCode::NOT_FOUND) => Ok(None),
            Some(status) => Err(ApiError::Other(format!("status {status} for a direct get").into())),
            None => StreamMessage::try_from(reply)
                .map(|message| Some(RawEntry::new(message)))
                .map_err(|error| ApiError::Other(error.into())),
        }
    }

    async fn ask_leader(&self, key: &str) -> Result<Option<RawEntry>, ApiError> {
        let subject = self.subject(key);
        let request = json!({ "last_by_subj": subject });
        match self.nats.api::<_, RawAnswer>(format!("STREAM.MSG.GET.{}", self.stream()), &request).await {
            Ok(RawAnswer { message }) => {
                StreamMessage::try_from(message).map(|message| Some(RawEntry::new(message))).map_err(ApiError::Other)
            }
            Err(error) if error.is(ErrorCode::NO_MESSAGE_FOUND) => {
                // one request, so that both parts of the answer come from one server
                let info = self.info(&json!({ "subjects_filter": subject })).await?;
                let is_fresh = lock(&self.mark).takes_as_fresh(&info);
                if is_fresh && info.has_none() { Ok(None) } else { Err(stale()) }
            }
            Err(error) => {
                if error.is(ErrorCode::STREAM_NOT_FOUND) {
                    lock(&self.mark).set_lost();
                }
                Err(error)
            }
        }
    }

    /// The revision of the newest message of the bucket. 0 if it has no message.
    pub(super) async fn last(&self) -> Result<u64, ApiError> {
        self.find().await?;
        match self.ask_leader(">").await? {
            None => Ok(0),
            Some(entry) if lock(&self.mark).is_reached_by(entry.revision) => Ok(entry.revision),
            Some(entry) => {
                // newer messages may have been purged
                let info = self.info(&json!({})).await?;
                if lock(&self.mark).takes_as_fresh(&info) { Ok(entry.revision) } else { Err(stale()) }
            }
        }
    }

    async fn info(&self, request: &serde_json::Value) -> Result<BucketInfo, ApiError> {
        self.nats.api(format!("STREAM.INFO.{}", self.stream()), request).await
    }

    /// Finds the bucket. Creates it if it is missing.
    pub(super) async fn find(&self) -> Result<BucketIdentity, ApiError> {
        if let Some(found) = lock(&self.mark).found() {
            return Ok(found);
        }
        let info = match self.info(&json!({})).await {
            Err(error) if error.is(ErrorCode::STREAM_NOT_FOUND) => {
                self.nats.jetstream.create_key_value(self.config.clone()).await.map_err(of_creation)?;
                self.info(&json!({})).await?
            }
            info => info?,
        };
        let found = BucketIdentity::new(&info);
        lock(&self.mark).set_found(found);
        Ok(found)
    }
}

/// JetStream's own error, if JetStream refused to create the bucket.
fn of_creation(error: CreateKeyValueError) -> ApiError {
    let of_stream = error.source().and_then(|source| source.downcast_ref::<CreateStreamError>());
    match of_stream.map(CreateStreamError::kind) {
        Some(CreateStreamErrorKind::JetStream(refusal)) => ApiError::Refused(refusal),
        _ => ApiError::Other(error.into()),
    }
}

impl<T: DeserializeOwned> JetStreamBucket<T> {
    /// The value of `key`.
    ///
    /// # Errors
    /// `NATS_UNAVAILABLE` if no server that knows enough answers in time.
    pub(super) async fn get(&self, key: &str) -> Result<Option<Versioned<T>>> {
        let entry = self.entry(key).await?.filter(|entry| !entry.is_deletion());
        Ok(entry.and_then(|entry| self.parse(key, &entry.value, entry.revision)))
    }

    /// The values of the existing keys, with the time of their last change, in no order. Needs one round trip for a
    /// thousand keys (ADR-31) if the servers are up to date.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub(super) async fn get_many(&self, keys: &[String]) -> Result<Vec<(Versioned<T>, SystemTime)>> {
        let mut values = Vec::with_capacity(keys.len());
        for keys in keys.chunks(KEYS_AT_ONCE) {
            for (key, entry) in self.entries(keys).await? {
                if !entry.is_deletion()
                    && let Some(found) = self.parse(&key, &entry.value, entry.revision)
                {
                    values.push((found, entry.stored_at));
                }
            }
        }
        Ok(values)
    }

    async fn entries(&self, keys: &[String]) -> Result<Vec<(String, RawEntry)>> {
        self.nats.ready().await?;
        match time::timeout(REGISTRY_ATTEMPT_TIMEOUT, self.ask_many(keys)).await.unwrap_or(Err(ApiError::TimedOut)) {
            Ok(entries) => Ok(entries),
            Err(error) => {
                debug!(bucket = self.config.bucket, %error, "the keys of the bucket cannot be read together; they are read one by one");
                let reads = keys.iter().cloned().map(|key| async move {
                    let entry = self.entry(&key).await?;
                    Ok::<_, Error>(entry.map(|entry| (key, entry)))
                });
                let read: Vec<_> = stream::iter(reads).buffer_unordered(READS_AT_ONCE).try_collect().await?;
                Ok(read.into_iter().flatten().collect())
            }
        }
    }

    async fn ask_many(&self, keys: &[String]) -> Result<Vec<(String, RawEntry)>, ApiError> {
        let found = self.find().await?;
        let subjects: Vec<_> = keys.iter().map(|key| self.subject(key)).collect();
        let many = self.nats.direct_get_last(&self.stream(), &subjects).await?;
        if found.is_replicated() && !many.up_to.is_some_and(|up_to| lock(&self.mark).is_reached_by(up_to)) {
            return Err(stale());
        }
        let prefix = self.subject("");
        let entries = many.messages.into_iter().map(|message| {
            let key = message.subject.strip_prefix(prefix.as_str()).unwrap_or_default().to_owned();
            let message = StreamMessage::try_from(message).map_err(|error| ApiError::Other(error.into()))?;
            Ok((key, RawEntry::new(message)))
        });
        entries.collect()
    }

    /// `None` for a value that this version cannot parse.
    pub(super) fn parse(&self, key: &str, value: &[u8], revision: u64) -> Option<Versioned<T>> {
        match serde_json::from_slice(value) {
            Ok(value) => Some(Versioned { value, revision }),
            Err(error) => {
                let (line, column) = (error.line(), error.column());
                warn!(bucket = self.config.bucket, key, line, column, "{UNREADABLE}");
                None
            }
        }
    }
}

fn stale() -> ApiError {
    ApiError::Other("the answer knows less of the bucket than this instance has seen".into())
}
