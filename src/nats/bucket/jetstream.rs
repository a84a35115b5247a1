//! A bucket in JetStream, and its watch.

use std::{marker::PhantomData, sync::Mutex, time::Duration};

use async_nats::jetstream::kv;
use serde::de::DeserializeOwned;
use tokio::time;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{Buckets, WatchEvent, mark::BucketMark, watch::Watch};
use crate::{
    error::{Error, Reason, Result},
    limits::REGISTRY_WATCH_PATIENCE,
    nats::{Nats, error::ApiError, reserve::Reserve},
    sync::lock,
};

/// A JetStream key-value bucket of JSON values of one type.
#[derive(Debug)]
pub(super) struct JetStreamBucket<T> {
    pub(super) nats: Nats,
    pub(super) reserve: Reserve,
    pub(super) config: kv::Config,
    pub(super) mark: Mutex<BucketMark>,
    value: PhantomData<fn() -> T>,
}

impl<T> JetStreamBucket<T> {
    pub(super) fn new(buckets: &Buckets, name: &str, description: &str) -> Self {
        let Buckets { nats, replicas, reserve } = buckets;
        let config = kv::Config {
            bucket: name.to_owned(),
            description: description.to_owned(),
            history: 1,
            num_replicas: *replicas,
            ..kv::Config::default()
        };
        Self { nats: nats.clone(), reserve: reserve.clone(), config, mark: Mutex::default(), value: PhantomData }
    }

    /// The stream of the bucket.
    pub(super) fn stream(&self) -> String {
        format!("KV_{}", self.config.bucket)
    }

    pub(super) fn subject(&self, key: &str) -> String {
        format!("$KV.{}.{key}", self.config.bucket)
    }
}

impl<T: DeserializeOwned> JetStreamBucket<T> {
    /// Calls `apply` with every existing entry and then every change, until `stop`. Restarts after a failure.
    pub(super) async fn watch(&self, stop: CancellationToken, mut apply: impl FnMut(WatchEvent<T>)) {
        let (mut delay, mut has_failed) = (Duration::from_millis(50), false);
        loop {
            let mut apply = |event| {
                if matches!(event, WatchEvent::Complete) && std::mem::take(&mut has_failed) {
                    info!(bucket = self.config.bucket, "the watch of the bucket works again");
                }
                apply(event);
            };
            let watched = tokio::select! {
                () = stop.cancelled() => return,
                watched = self.watch_once(&mut apply) => watched,
            };
            match watched {
                // a watch that worked and then broke is restarted at once
                Ok(()) => delay = Duration::from_millis(50),
                Err(error) => {
                    let error = error.with_causes();
                    warn!(bucket = self.config.bucket, error, "the watch of the bucket failed, trying again");
                    has_failed = true;
                    delay = (delay * 2).min(Duration::from_secs(5));
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = time::sleep(delay) => {}
            }
        }
    }

    async fn watch_once(&self, apply: &mut impl FnMut(WatchEvent<T>)) -> Result<()> {
        self.nats.ready().await?;
        let mut connections = self.nats.connections();
        connections.mark_unchanged();
        // the revision that the watch must reach, because its server may lag
        let mut end = self.last().await?;
        let opened = Watch::open(&self.nats.jetstream, &self.config.bucket).await;
        let mut watch = opened.map_err(|error| Error::from(ApiError::Other(error)))?;
        apply(WatchEvent::Restart);
        let (mut reported, mut asked_again) = (0, false);
        let mut complete = end == 0;
        if complete {
            apply(WatchEvent::Complete);
        }
        loop {
            let entry = tokio::select! {
                entry = watch.next() => entry,
                // changes on a server that lost its data are visible only to a new watch
                _ = connections.changed() => return Ok(()),
                () = time::sleep(REGISTRY_WATCH_PATIENCE), if !complete => {
                    // the newest entry may have been purged since
                    end = self.last().await?;
                    if reported < end {
                        return Err(Error::new(Reason::NatsUnavailable, "the watch does not report all values of the bucket"));
                    }
                    complete = true;
                    apply(WatchEvent::Complete);
                    continue;
                }
            };
            let entry = match entry {
                Some(Ok(entry)) => entry,
                Some(Err(error)) => {
                    debug!(bucket = self.config.bucket, %error, "the watch of the bucket broke");
                    return Ok(());
                }
                None => return Ok(()),
            };
            lock(&self.mark).raise(entry.revision);
            reported = entry.revision;
            match entry.operation {
                kv::Operation::Put => {
                    if let Some(value) = self.parse(&entry.key, &entry.value, entry.revision) {
                        apply(WatchEvent::Put(entry.key, value));
                    }
                }
                kv::Operation::Delete | kv::Operation::Purge => apply(WatchEvent::Delete(entry.key, entry.revision)),
            }
            if reported >= end && !complete {
                if !asked_again {
                    // an entry that changed while the watch started arrives later than its old revision; the second
                    // read of the end makes sure that it arrives before `Complete`
                    asked_again = true;
                    end = self.last().await?;
                }
                complete = reported >= end;
                if complete {
                    apply(WatchEvent::Complete);
                }
            }
        }
    }
}
