//! A key-value bucket of JSON values: reads, compare-and-set writes, and a watch that restarts itself. JetStream
//! stores the bucket. If the NATS server has no JetStream, this process stores it in memory.

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
use super::{Nats, error::ApiError, reserve::Reserve};
use crate::error::Result;

/// A value and its revision in the bucket.
#[derive(Clone, Debug)]
pub(crate) struct Versioned<T> {
    pub value: T,
    pub revision: u64,
}

/// An event of a watch.
#[derive(Clone, Debug)]
pub(crate) enum WatchEvent<T> {
    /// The events up to `Complete` are all that the bucket holds. Other entries no longer exist.
    Restart,
    Put(String, Versioned<T>),
    Delete(String, u64),
    /// Every existing entry has been reported.
    Complete,
}

/// The settings that all buckets share.
#[derive(Clone, Debug)]
pub(crate) struct Buckets {
    pub nats: Nats,
    pub replicas: usize,
    pub reserve: Reserve,
}

/// A bucket of values of one type. Cheap to clone.
#[derive(Debug)]
pub(crate) struct Bucket<T>(BucketBackend<T>);

#[derive(Debug)]
enum BucketBackend<T> {
    JetStream(Arc<JetStreamBucket<T>>),
    Memory(Arc<MemoryBucket<T>>),
}

impl<T> Clone for Bucket<T> {
    fn clone(&self) -> Self {
        Self(match &self.0 {
            BucketBackend::JetStream(bucket) => BucketBackend::JetStream(Arc::clone(bucket)),
            BucketBackend::Memory(bucket) => BucketBackend::Memory(Arc::clone(bucket)),
        })
    }
}

impl<T: Clone> Bucket<T> {
    /// The bucket with this name in the NATS account. Without JetStream, an empty bucket in memory.
    pub(crate) fn new(buckets: &Buckets, name: &str, description: &str) -> Self {
        if buckets.nats.has_jetstream() {
            return Self(BucketBackend::JetStream(Arc::new(JetStreamBucket::new(buckets, name, description))));
        }
        Self::in_memory()
    }

    /// An empty bucket in the memory of this process.
    pub(crate) fn in_memory() -> Self {
        Self(BucketBackend::Memory(Arc::new(MemoryBucket::new())))
    }
}

impl<T: Clone + Serialize + DeserializeOwned> Bucket<T> {
    /// The value of `key`.
    ///
    /// # Errors
    /// `NATS_UNAVAILABLE` if no server that knows enough answers in time.
    pub(crate) async fn get(&self, key: &str) -> Result<Option<Versioned<T>>> {
        match &self.0 {
            BucketBackend::JetStream(bucket) => bucket.get(key).await,
            BucketBackend::Memory(bucket) => Ok(bucket.get(key)),
        }
    }

    /// Creates the bucket if it is missing.
    ///
    /// # Errors
    /// Those of the JetStream API. The bucket may be created.
    pub(crate) async fn create_if_missing(&self) -> Result<(), ApiError> {
        match &self.0 {
            BucketBackend::JetStream(bucket) => bucket.find().await.map(drop),
            BucketBackend::Memory(_) => Ok(()),
        }
    }

    /// The values of the existing keys, with the time of their last change, in no order. Needs one round trip for a
    /// thousand keys (ADR-31) if the servers are up to date.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub(crate) async fn get_many(&self, keys: &[String]) -> Result<Vec<(Versioned<T>, SystemTime)>> {
        match &self.0 {
            BucketBackend::JetStream(bucket) => bucket.get_many(keys).await,
            BucketBackend::Memory(bucket) => Ok(bucket.get_many(keys)),
        }
    }

    /// Writes `key` if its revision is `expected` (`None`: if it does not exist), and returns the new revision. Uses
    /// the reserve if there is no storage left. `None`: another call changed the key first.
    ///
    /// # Errors
    /// `STORAGE_FULL`, `NATS_UNAVAILABLE`: nothing was written. `TIMEOUT`: the value may be written.
    pub(crate) async fn put(&self, key: &str, value: &T, expected: Option<u64>) -> Result<Option<u64>> {
        match &self.0 {
            BucketBackend::JetStream(bucket) => bucket.put(key, value, expected).await,
            BucketBackend::Memory(bucket) => Ok(bucket.put(key, value, expected)),
        }
    }

    /// Writes `key` if it does not exist, without the reserve. `None`: another call created the key first.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub(crate) async fn create(&self, key: &str, value: &T) -> Result<Option<u64>> {
        match &self.0 {
            BucketBackend::JetStream(bucket) => bucket.create(key, value).await,
            BucketBackend::Memory(bucket) => Ok(bucket.put(key, value, None)),
        }
    }

    /// Deletes `key` if its revision is `expected`. False: another call changed the key first.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub(crate) async fn delete(&self, key: &str, expected: u64) -> Result<bool> {
        match &self.0 {
            BucketBackend::JetStream(bucket) => bucket.delete(key, expected).await,
            BucketBackend::Memory(bucket) => Ok(bucket.delete(key, expected)),
        }
    }

    /// Reports to the watches that `key` is deleted, even if it did not exist.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub(crate) async fn mark_deleted(&self, key: &str) -> Result<()> {
        match &self.0 {
            BucketBackend::JetStream(bucket) => bucket.mark_deleted(key).await,
            BucketBackend::Memory(bucket) => {
                bucket.mark_deleted(key);
                Ok(())
            }
        }
    }

    /// Removes every key below the token `prefix`. The watches do not report it.
    ///
    /// # Errors
    /// `NATS_UNAVAILABLE`, `TIMEOUT`; some keys may be removed.
    pub(crate) async fn purge_below(&self, prefix: &str) -> Result<()> {
        match &self.0 {
            BucketBackend::JetStream(bucket) => bucket.purge_below(prefix).await,
            BucketBackend::Memory(bucket) => {
                bucket.purge_below(prefix);
                Ok(())
            }
        }
    }

    /// Calls `apply` with every existing entry and then every change, until `stop`. Restarts after a failure.
    pub(crate) async fn watch(self, stop: CancellationToken, apply: impl FnMut(WatchEvent<T>)) {
        match self.0 {
            BucketBackend::JetStream(bucket) => bucket.watch(stop, apply).await,
            BucketBackend::Memory(bucket) => bucket.watch(stop, apply).await,
        }
    }
}
