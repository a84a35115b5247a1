//! A key-value bucket of JSON values: reads, compare-and-set writes, and a watch that heals. JetStream keeps it; where the
//! NATS server has no JetStream, this process does.

pub(crate) mod follow;
mod jetstream;
mod mark;
mod memory;
mod read;
mod watch;
mod write;

use std::{sync::Arc, time::SystemTime};

use serde::{Serialize, de::DeserializeOwned};
use tokio_util::sync::CancellationToken;

use self::{jetstream::JetStreamBucket, memory::MemoryBucket};
use super::{Nats, reserve::Reserve};
use crate::error::Result;

/// A value and its revision in the bucket.
#[derive(Clone, Debug)]
pub(crate) struct Versioned<T> {
    pub value: T,
    pub revision: u64,
}

/// What a watch tells.
#[derive(Clone, Debug)]
pub(crate) enum Change<T> {
    /// What follows up to `Complete` is all that the bucket holds; forget everything else.
    Restart,
    Put(String, Versioned<T>),
    Delete(String, u64),
    /// All that the bucket held has been told.
    Complete,
}

/// What all buckets have in common.
#[derive(Clone, Debug)]
pub(crate) struct Buckets {
    pub nats: Nats,
    pub replicas: usize,
    pub reserve: Reserve,
}

/// A bucket of values of one type. Cheap to clone.
#[derive(Debug)]
pub(crate) struct Bucket<T>(Kept<T>);

#[derive(Debug)]
enum Kept<T> {
    JetStream(Arc<JetStreamBucket<T>>),
    Memory(Arc<MemoryBucket<T>>),
}

impl<T> Clone for Bucket<T> {
    fn clone(&self) -> Self {
        Self(match &self.0 {
            Kept::JetStream(bucket) => Kept::JetStream(Arc::clone(bucket)),
            Kept::Memory(bucket) => Kept::Memory(Arc::clone(bucket)),
        })
    }
}

impl<T: Clone> Bucket<T> {
    /// The bucket of this name in the account; one of this process alone if there is no JetStream.
    pub(crate) fn new(buckets: &Buckets, name: &str, description: &str) -> Self {
        if buckets.nats.has_jetstream() {
            return Self(Kept::JetStream(Arc::new(JetStreamBucket::new(buckets, name, description))));
        }
        Self::in_memory()
    }

    /// An empty bucket of this process alone.
    pub(crate) fn in_memory() -> Self {
        Self(Kept::Memory(Arc::new(MemoryBucket::new())))
    }
}

impl<T: Clone + Serialize + DeserializeOwned> Bucket<T> {
    /// The value of `key`.
    ///
    /// # Errors
    /// `NATS_UNAVAILABLE` when no server that knows enough answers in time.
    pub(crate) async fn get(&self, key: &str) -> Result<Option<Versioned<T>>> {
        match &self.0 {
            Kept::JetStream(bucket) => bucket.get(key).await,
            Kept::Memory(bucket) => Ok(bucket.get(key)),
        }
    }

    /// The values of those keys that exist, with the time of their last change, in no order. One round trip for a thousand
    /// keys (ADR-31) where the servers are up to date.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub(crate) async fn get_many(&self, keys: &[String]) -> Result<Vec<(T, SystemTime)>> {
        match &self.0 {
            Kept::JetStream(bucket) => bucket.get_many(keys).await,
            Kept::Memory(bucket) => Ok(bucket.get_many(keys)),
        }
    }

    /// Writes `key` if its revision is `expected` (`None`: if it does not exist), with the help of the reserve if there is no
    /// storage left. `None`: somebody else was faster.
    ///
    /// # Errors
    /// `STORAGE_FULL`, `NATS_UNAVAILABLE`: nothing was written. `TIMEOUT`: perhaps.
    pub(crate) async fn put(&self, key: &str, value: &T, expected: Option<u64>) -> Result<Option<u64>> {
        match &self.0 {
            Kept::JetStream(bucket) => bucket.put(key, value, expected).await,
            Kept::Memory(bucket) => Ok(bucket.put(key, value, expected)),
        }
    }

    /// Writes `key` if it does not exist and there is storage for it. `None`: somebody else was faster.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub(crate) async fn create(&self, key: &str, value: &T) -> Result<Option<u64>> {
        match &self.0 {
            Kept::JetStream(bucket) => bucket.create(key, value).await,
            Kept::Memory(bucket) => Ok(bucket.put(key, value, None)),
        }
    }

    /// Deletes `key` if its revision is `expected`. False: somebody else was faster.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub(crate) async fn delete(&self, key: &str, expected: u64) -> Result<bool> {
        match &self.0 {
            Kept::JetStream(bucket) => bucket.delete(key, expected).await,
            Kept::Memory(bucket) => Ok(bucket.delete(key, expected)),
        }
    }

    /// Tells the watches that `key` is deleted, whether or not it was there.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub(crate) async fn mark_deleted(&self, key: &str) -> Result<()> {
        match &self.0 {
            Kept::JetStream(bucket) => bucket.mark_deleted(key).await,
            Kept::Memory(bucket) => {
                bucket.mark_deleted(key);
                Ok(())
            }
        }
    }

    /// Removes every key that begins with the token `prefix`, without a trace.
    ///
    /// # Errors
    /// `NATS_UNAVAILABLE`, `TIMEOUT`; some keys may be removed.
    pub(crate) async fn purge_below(&self, prefix: &str) -> Result<()> {
        match &self.0 {
            Kept::JetStream(bucket) => bucket.purge_below(prefix).await,
            Kept::Memory(bucket) => {
                bucket.purge_below(prefix);
                Ok(())
            }
        }
    }

    /// Tells every change to `apply` until `stop`, beginning with all that is there, and beginning again after trouble.
    pub(crate) async fn watch(self, stop: CancellationToken, apply: impl FnMut(Change<T>)) {
        match self.0 {
            Kept::JetStream(bucket) => bucket.watch(stop, apply).await,
            Kept::Memory(bucket) => bucket.watch(stop, apply).await,
        }
    }
}
