//! A JetStream key-value bucket of JSON values: reads, compare-and-set writes, and a watch that heals.

use std::{
    marker::PhantomData,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use async_nats::jetstream::kv;
use bytes::Bytes;
use futures_util::StreamExt;
use serde::{Serialize, de::DeserializeOwned};
use tokio::time;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{lock, nats::Nats};
use crate::error::{Error, Reason, Result};

/// Keys read with one request; the server takes 1024.
const KEYS_AT_ONCE: usize = 1000;

/// The error would repeat what was read, which may be a secret: only its place is told.
const UNREADABLE: &str = "a value cannot be read and is passed over";

/// A value and its revision in the bucket.
#[derive(Clone, Debug)]
pub(super) struct Versioned<T> {
    pub value: T,
    pub revision: u64,
}

/// What a watch tells.
#[derive(Debug)]
pub(super) enum Change<T> {
    /// What follows up to `Complete` is all that the bucket holds; forget everything else.
    Restart,
    Put(String, Versioned<T>),
    Delete(String, u64),
    /// All that the bucket held has been told.
    Complete,
}

/// A bucket of JSON values of one type.
#[derive(Debug)]
pub(super) struct Bucket<T> {
    nats: Nats,
    config: kv::Config,
    opened: Arc<Mutex<Option<kv::Store>>>,
    value: PhantomData<fn() -> T>,
}

impl<T> Clone for Bucket<T> {
    fn clone(&self) -> Self {
        Self {
            nats: self.nats.clone(),
            config: self.config.clone(),
            opened: Arc::clone(&self.opened),
            value: PhantomData,
        }
    }
}

impl<T: Serialize + DeserializeOwned> Bucket<T> {
    pub(super) fn new(nats: &Nats, name: &str, description: &str, replicas: usize) -> Self {
        let config = kv::Config {
            bucket: name.to_owned(),
            description: description.to_owned(),
            history: 1,
            num_replicas: replicas,
            ..kv::Config::default()
        };
        Self { nats: nats.clone(), config, opened: Arc::default(), value: PhantomData }
    }

    async fn store(&self) -> Result<kv::Store> {
        self.nats.ready().await?;
        if let Some(store) = lock(&self.opened).clone() {
            return Ok(store);
        }
        let jetstream = &self.nats.jetstream;
        let store = match jetstream.get_key_value(&self.config.bucket).await {
            Ok(store) => store,
            Err(_) => jetstream.create_key_value(self.config.clone()).await.map_err(|error| self.failed(error))?,
        };
        *lock(&self.opened) = Some(store.clone());
        Ok(store)
    }

    /// The error for an operation that JetStream did not carry out; the bucket is looked up again the next time.
    fn failed(&self, error: impl std::error::Error + Send + Sync + 'static) -> Error {
        *lock(&self.opened) = None;
        Error::new(
            Reason::Timeout,
            "NATS did not answer as expected; what was asked for may have been done, asking again is safe",
        )
        .because(error)
    }

    /// The value of `key`.
    pub(super) async fn get(&self, key: &str) -> Result<Option<Versioned<T>>> {
        let entry = self.store().await?.entry(key).await.map_err(|error| self.failed(error))?;
        Ok(entry.filter(|entry| entry.operation == kv::Operation::Put).and_then(|entry| read(&entry)))
    }

    /// The values of those keys that exist, with the time of their last change, in no order. One round trip for a thousand
    /// keys (ADR-31).
    pub(super) async fn get_many(&self, keys: &[String]) -> Result<Vec<(T, SystemTime)>> {
        let bucket = &self.config.bucket;
        self.store().await?;
        let mut values = Vec::with_capacity(keys.len());
        for keys in keys.chunks(KEYS_AT_ONCE) {
            let subjects: Vec<_> = keys.iter().map(|key| format!("$KV.{bucket}.{key}")).collect();
            let stream = format!("KV_{bucket}");
            for message in self.nats.direct_get_last(&stream, &subjects).await.map_err(|error| self.failed(error))? {
                let is_deletion = message.headers.as_ref().is_some_and(|headers| headers.get("KV-Operation").is_some());
                if is_deletion {
                    continue;
                }
                match serde_json::from_slice(&message.payload) {
                    Ok(value) => values.push((value, stored_at(&message))),
                    Err(error) => {
                        let (line, column) = (error.line(), error.column());
                        warn!(bucket, subject = %message.subject, line, column, "{UNREADABLE}");
                    }
                }
            }
        }
        Ok(values)
    }

    /// Writes `key` if its revision is `expected` (`None`: if it does not exist). `None`: somebody else was faster.
    pub(super) async fn put(&self, key: &str, value: &T, expected: Option<u64>) -> Result<Option<u64>> {
        let json = Bytes::from(serde_json::to_vec(value).map_err(|error| Error::internal().because(error))?);
        let store = self.store().await?;
        match expected {
            None => match store.create(key, json).await {
                Ok(revision) => Ok(Some(revision)),
                Err(error) if error.kind() == kv::CreateErrorKind::AlreadyExists => Ok(None),
                Err(error) => Err(self.failed(error)),
            },
            Some(revision) => match store.update(key, json, revision).await {
                Ok(revision) => Ok(Some(revision)),
                Err(error) if error.kind() == kv::UpdateErrorKind::WrongLastRevision => Ok(None),
                Err(error) => Err(self.failed(error)),
            },
        }
    }

    /// Deletes `key` if its revision is `expected`. False: somebody else was faster.
    pub(super) async fn delete(&self, key: &str, expected: u64) -> Result<bool> {
        match self.store().await?.delete_expect_revision(key, Some(expected)).await {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == kv::UpdateErrorKind::WrongLastRevision => Ok(false),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Tells the watches that `key` is deleted, whether or not it was there.
    pub(super) async fn mark_deleted(&self, key: &str) -> Result<()> {
        self.store().await?.delete(key).await.map_err(|error| self.failed(error))
    }

    /// Removes every key that begins with the token `prefix`, without a trace.
    pub(super) async fn purge_below(&self, prefix: &str) -> Result<()> {
        let filter = format!("$KV.{}.{prefix}.>", self.config.bucket);
        self.store().await?.stream.purge().filter(filter).await.map(drop).map_err(|error| self.failed(error))
    }

    /// Tells every change to `apply` until `stop`, beginning with all that is there, and beginning again after trouble.
    pub(super) async fn watch(self, stop: CancellationToken, mut apply: impl FnMut(Change<T>)) {
        let mut delay = Duration::from_millis(50);
        loop {
            let watched = tokio::select! {
                () = stop.cancelled() => return,
                watched = self.watch_once(&mut apply) => watched,
            };
            match watched {
                // a broken watch that had worked is taken up again at once
                Ok(()) => delay = Duration::from_millis(50),
                Err(error) => {
                    warn!(bucket = self.config.bucket, %error, "watching the bucket failed, trying again");
                    delay = (delay * 2).min(Duration::from_secs(5));
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = time::sleep(delay) => {}
            }
        }
    }

    async fn watch_once(&self, apply: &mut impl FnMut(Change<T>)) -> Result<()> {
        let store = self.store().await?;
        // subscribed before the bucket is asked whether it is empty, so that nothing falls in between
        let mut watch = store.watch_with_history(">").await.map_err(|error| self.failed(error))?;
        let info = store.stream.get_info().await.map_err(|error| self.failed(error))?;
        let empty = info.state.messages == 0;
        apply(Change::Restart);
        let mut complete = empty;
        if empty {
            apply(Change::Complete);
        }
        let mut connections = self.nats.connections();
        connections.mark_unchanged();
        loop {
            let entry = tokio::select! {
                entry = watch.next() => entry,
                // what changed meanwhile on a server that lost its data can only be seen from the beginning
                _ = connections.changed() => return Ok(()),
            };
            let entry = match entry {
                Some(Ok(entry)) => entry,
                Some(Err(error)) => {
                    debug!(bucket = self.config.bucket, %error, "the bucket's watch broke");
                    return Ok(());
                }
                None => return Ok(()),
            };
            match entry.operation {
                kv::Operation::Put => {
                    if let Some(value) = read(&entry) {
                        apply(Change::Put(entry.key, value));
                    }
                }
                kv::Operation::Delete | kv::Operation::Purge => apply(Change::Delete(entry.key, entry.revision)),
            }
            if entry.seen_current && !complete {
                complete = true;
                apply(Change::Complete);
            }
        }
    }
}

fn stored_at(message: &async_nats::Message) -> SystemTime {
    let time = message.headers.as_ref().and_then(|headers| headers.get_last(async_nats::header::NATS_TIME_STAMP));
    time.and_then(|time| humantime::parse_rfc3339(time.as_str()).ok()).unwrap_or(SystemTime::UNIX_EPOCH)
}

fn read<T: DeserializeOwned>(entry: &kv::Entry) -> Option<Versioned<T>> {
    match serde_json::from_slice(&entry.value) {
        Ok(value) => Some(Versioned { value, revision: entry.revision }),
        Err(error) => {
            let (line, column) = (error.line(), error.column());
            warn!(bucket = entry.bucket, key = entry.key, line, column, "{UNREADABLE}");
            None
        }
    }
}
