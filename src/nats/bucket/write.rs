//! Writes to a bucket by compare-and-set, so that an unanswered attempt can be repeated.

use async_nats::{
    HeaderMap,
    client::RequestErrorKind,
    header,
    jetstream::{self, ErrorCode},
};
use bytes::Bytes;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time;
use tracing::debug;

use super::{
    jetstream::JetStreamBucket,
    read::{Backoff, RawEntry},
};
use crate::{
    error::{Error, Reason, Result},
    limits::NATS_REQUEST_TIMEOUT,
    nats::error::{ApiError, is_full, unavailable},
    sync::lock,
    traces::{self, TraceStep},
};

const OPERATION: &str = "KV-Operation";
const DELETE: &str = "DEL";

/// JetStream's answer to a write.
#[derive(Deserialize)]
struct KeyWriteAck {
    stream: Option<String>,
    seq: Option<u64>,
    error: Option<jetstream::Error>,
}

/// The result of a write.
#[derive(Debug)]
enum Written {
    Revision(u64),
    /// The key has another revision than expected.
    Refused,
}

/// What a write does if there is no storage left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WhenFull {
    /// Uses the reserve.
    UseReserve,
    Fail,
}

/// A write of one key.
struct KeyWrite {
    value: Bytes,
    headers: HeaderMap,
    /// The revision that the key must have. `None`: any.
    expected: Option<u64>,
    when_full: WhenFull,
}

impl<T: Serialize> JetStreamBucket<T> {
    /// Writes `key` if its revision is `expected` (`None`: if it does not exist), and returns the new revision. Uses
    /// the reserve if there is no storage left. `None`: another call changed the key first.
    ///
    /// # Errors
    /// `STORAGE_FULL`, `NATS_UNAVAILABLE`: nothing was written. `TIMEOUT`: the value may be written.
    pub(super) async fn put(&self, key: &str, value: &T, expected: Option<u64>) -> Result<Option<u64>> {
        match expected {
            Some(_) => self.set(key, json(value)?, expected, WhenFull::UseReserve).await,
            None => self.add(key, json(value)?, WhenFull::UseReserve).await,
        }
    }

    /// Writes `key` if it does not exist, without the reserve. `None`: another call created the key first.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub(super) async fn create(&self, key: &str, value: &T) -> Result<Option<u64>> {
        self.add(key, json(value)?, WhenFull::Fail).await
    }
}

fn json(value: &impl Serialize) -> Result<Bytes> {
    serde_json::to_vec(value).map(Bytes::from).map_err(|error| Error::internal().because(error))
}

impl<T> JetStreamBucket<T> {
    /// Deletes `key` if its revision is `expected`. False: another call changed the key first.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub(super) async fn delete(&self, key: &str, expected: u64) -> Result<bool> {
        Ok(matches!(self.write(key, deletion(Some(expected))).await?, Written::Revision(_)))
    }

    /// Reports to the watches that `key` is deleted, even if it did not exist.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub(super) async fn mark_deleted(&self, key: &str) -> Result<()> {
        self.write(key, deletion(None)).await.map(drop)
    }

    /// Removes every key below the token `prefix`. The watches do not report it.
    ///
    /// # Errors
    /// `NATS_UNAVAILABLE`, `TIMEOUT`; some keys may be removed.
    pub(super) async fn purge_below(&self, prefix: &str) -> Result<()> {
        let request = json!({ "filter": self.subject(&format!("{prefix}.>")) });
        let mut backoff = Backoff::within(NATS_REQUEST_TIMEOUT);
        loop {
            self.nats.ready().await?;
            let purge = async {
                self.find().await?;
                self.nats.api::<_, IgnoredAny>(format!("STREAM.PURGE.{}", self.stream()), &request).await
            };
            match time::timeout(backoff.attempt(), purge).await.unwrap_or(Err(ApiError::TimedOut)) {
                Ok(_) => return Ok(()),
                Err(error) => {
                    debug!(bucket = self.config.bucket, %error, "keys of the bucket could not be removed, trying again");
                    if !backoff.wait().await {
                        return Err(error.into());
                    }
                }
            }
        }
    }

    async fn set(&self, key: &str, value: Bytes, expected: Option<u64>, when_full: WhenFull) -> Result<Option<u64>> {
        match self.write(key, KeyWrite { value, headers: HeaderMap::new(), expected, when_full }).await? {
            Written::Revision(revision) => Ok(Some(revision)),
            Written::Refused => Ok(None),
        }
    }

    async fn add(&self, key: &str, value: Bytes, when_full: WhenFull) -> Result<Option<u64>> {
        if let Some(revision) = self.set(key, value.clone(), Some(0), when_full).await? {
            return Ok(Some(revision));
        }
        // a deleted key also has a revision
        match self.entry(key).await?.filter(RawEntry::is_deletion) {
            Some(deletion) => self.set(key, value, Some(deletion.revision), when_full).await,
            None => Ok(None),
        }
    }

    /// Repeats the write until its result is known, or the time is over.
    async fn write(&self, key: &str, change: KeyWrite) -> Result<Written> {
        traces::traced(TraceStep::WriteRegistry, self.write_untraced(key, change)).await
    }

    async fn write_untraced(&self, key: &str, change: KeyWrite) -> Result<Written> {
        let KeyWrite { value, mut headers, expected, when_full } = change;
        // identifies this write, in case it is stored and its answer is lost
        let id = uuid::Uuid::new_v4().simple().to_string();
        headers.insert(header::NATS_MESSAGE_ID, id.as_str());
        if let Some(expected) = expected {
            headers.insert(header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, expected.to_string());
        }
        let mut may_be_written = false;
        let mut backoff = Backoff::within(NATS_REQUEST_TIMEOUT);
        loop {
            self.nats
                .ready()
                .await
                .map_err(|error| if may_be_written { unanswered().because(error) } else { error })?;
            let sent = time::timeout(backoff.attempt(), self.send(key, value.clone(), headers.clone())).await;
            let error = match sent.unwrap_or(Err(ApiError::TimedOut)) {
                Ok(revision) => {
                    lock(&self.mark).raise(revision);
                    return Ok(Written::Revision(revision));
                }
                Err(ApiError::Refused(error)) if is_other_revision(&error) => {
                    if may_be_written && let Some(revision) = self.written_as(key, &id).await? {
                        return Ok(Written::Revision(revision));
                    }
                    return Ok(Written::Refused);
                }
                Err(error) => error,
            };
            match &error {
                ApiError::NoResponders => lock(&self.mark).set_lost(),
                ApiError::TimedOut | ApiError::Other(_) => may_be_written = true,
                ApiError::Disconnected => {}
                ApiError::Refused(refusal) if is_full(refusal) => {
                    if when_full == WhenFull::UseReserve && self.reserve.release().await && !backoff.is_over() {
                        continue;
                    }
                    return Err(error.into());
                }
                ApiError::Refused(refusal) if refusal.code() == BUSY => {}
                ApiError::Refused(_) => return Err(error.into()),
            }
            debug!(bucket = self.config.bucket, %error, "a write to the bucket was not answered, trying again");
            if !backoff.wait().await {
                return Err(if may_be_written { unanswered() } else { unavailable() }.because(error));
            }
        }
    }

    async fn send(&self, key: &str, value: Bytes, headers: HeaderMap) -> Result<u64, ApiError> {
        self.find().await?;
        let request = self.nats.client.request_with_headers(self.subject(key), headers, value).await;
        let reply = request.map_err(|error| match error.kind() {
            RequestErrorKind::NoResponders => ApiError::NoResponders,
            RequestErrorKind::TimedOut => ApiError::TimedOut,
            _ => ApiError::Other(error.into()),
        })?;
        let ack: KeyWriteAck = serde_json::from_slice(&reply.payload).map_err(|error| ApiError::Other(error.into()))?;
        match ack {
            KeyWriteAck { error: Some(error), .. } => Err(ApiError::Refused(error)),
            KeyWriteAck { stream: Some(stream), seq: Some(revision), .. } if stream == self.stream() => Ok(revision),
            KeyWriteAck { .. } => Err(ApiError::Other("another program answered in JetStream's place".into())),
        }
    }

    /// The revision of the write with this id, if it is the newest of the key.
    async fn written_as(&self, key: &str, id: &str) -> Result<Option<u64>> {
        let entry = self.entry(key).await.map_err(|error| unanswered().because(error))?;
        let is_own =
            |headers: &HeaderMap| headers.get(header::NATS_MESSAGE_ID).is_some_and(|found| found.as_str() == id);
        Ok(entry.filter(|entry| is_own(&entry.headers)).map(|entry| entry.revision))
    }
}

/// JetStream's code for a temporary failure.
const BUSY: usize = 503;

fn is_other_revision(error: &jetstream::Error) -> bool {
    matches!(error.error_code(), ErrorCode::STREAM_WRONG_LAST_SEQUENCE | ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT)
}

fn deletion(expected: Option<u64>) -> KeyWrite {
    let mut headers = HeaderMap::new();
    headers.insert(OPERATION, DELETE);
    KeyWrite { value: Bytes::new(), headers, expected, when_full: WhenFull::UseReserve }
}

fn unanswered() -> Error {
    Error::new(
        Reason::Timeout,
        "NATS did not answer in time; the call may have taken effect, and calling again is safe",
    )
}
