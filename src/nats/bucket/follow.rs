//! Keeps a copy of a bucket in memory, also across restarts of its watch.

use std::{collections::HashSet, sync::Mutex};

use serde::{Serialize, de::DeserializeOwned};
use tokio_util::sync::CancellationToken;

use super::{Bucket, Versioned, WatchEvent};
use crate::sync::lock;

/// A copy of a bucket in memory.
pub(crate) trait Mirror<T> {
    fn progress(&mut self) -> &mut WatchProgress;

    /// Applies a value that the watch reported. Every value that is applied, from any source, is [noted](WatchProgress::note).
    fn on_put(&mut self, key: &str, value: Versioned<T>);

    /// Applies a deletion that the watch reported.
    fn on_delete(&mut self, key: &str, revision: u64);

    /// The watch has reported the whole bucket. The bucket has no keys but those in `noted`.
    fn on_complete(&mut self, noted: &HashSet<String>);
}

/// How far the watch of a bucket has reported it.
#[derive(Debug, Default)]
pub(crate) struct WatchProgress {
    /// Keys that were noted since the watch restarted. `None` when the watch has reported all.
    noted: Option<HashSet<String>>,
    /// The watch has reported everything up to this revision.
    through: u64,
}

impl WatchProgress {
    /// Records that the bucket has this key. A value that this instance writes while the watch restarts may be
    /// missing in the watch.
    pub(crate) fn note(&mut self, key: impl FnOnce() -> String) {
        if let Some(noted) = &mut self.noted {
            noted.insert(key());
        }
    }

    /// Returns true if the watch has reported this revision.
    pub(crate) fn has_reported(&self, revision: u64) -> bool {
        revision <= self.through
    }
}

/// Applies an event of the watch to the copy in memory. The copy is kept while the watch restarts. When the watch has
/// reported all, keys that the bucket does not have are removed.
pub(crate) fn apply<T>(mirror: &mut impl Mirror<T>, event: WatchEvent<T>) {
    if let WatchEvent::Put(_, Versioned { revision, .. }) | WatchEvent::Delete(_, revision) = &event {
        let progress = mirror.progress();
        progress.through = progress.through.max(*revision);
    }
    match event {
        WatchEvent::Restart => mirror.progress().noted = Some(HashSet::new()),
        WatchEvent::Put(key, value) => mirror.on_put(&key, value),
        WatchEvent::Delete(key, revision) => mirror.on_delete(&key, revision),
        WatchEvent::Complete => {
            if let Some(noted) = mirror.progress().noted.take() {
                mirror.on_complete(&noted);
            }
        }
    }
}

impl<T: Clone + Serialize + DeserializeOwned> Bucket<T> {
    /// Keeps `mirror` equal to the bucket until `stop`. `complete` is called when all existing entries are known.
    pub(crate) async fn follow(self, mirror: &Mutex<impl Mirror<T>>, stop: CancellationToken, complete: impl FnOnce()) {
        let mut complete = Some(complete);
        self.watch(stop, |event| {
            let is_complete = matches!(event, WatchEvent::Complete);
            apply(&mut *lock(mirror), event);
            if is_complete && let Some(complete) = complete.take() {
                complete();
            }
        })
        .await;
    }
}
