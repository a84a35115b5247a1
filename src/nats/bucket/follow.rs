//! What an instance keeps in memory of a bucket, kept in step with it, also after the watch of the bucket began again.

use std::{collections::HashSet, sync::Mutex};

use serde::{Serialize, de::DeserializeOwned};
use tokio_util::sync::CancellationToken;

use super::{Bucket, Change, Versioned};
use crate::sync::lock;

/// What is in memory of a bucket.
pub(crate) trait Mirror<T> {
    fn told(&mut self) -> &mut Told;

    /// The watch tells a value. A value that is taken in is [noted](Told::note), from wherever it comes.
    fn on_put(&mut self, key: &str, value: Versioned<T>);

    /// The watch tells a deletion.
    fn on_delete(&mut self, key: &str, revision: u64);

    /// The bucket was read from its beginning, and has no other keys than those that were noted since.
    fn on_complete(&mut self, noted: &HashSet<String>);
}

/// How far the watch of a bucket has told it.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// Keys noted since the watch began again; `None` once all were told.
    noted: Option<HashSet<String>>,
    /// The watch has told everything up to this revision.
    through: u64,
}

impl Told {
    /// The bucket has this key. What this instance writes while the watch begins again may come too late for the watch.
    pub(crate) fn note(&mut self, key: impl FnOnce() -> String) {
        if let Some(noted) = &mut self.noted {
            noted.insert(key());
        }
    }

    /// Whether the watch has told what has this revision.
    pub(crate) fn has(&self, revision: u64) -> bool {
        revision <= self.through
    }
}

/// Takes a change into memory. What is in memory stays while the watch begins again; when all was told, what the bucket does
/// not have is given up.
pub(crate) fn tell<T>(mirror: &mut impl Mirror<T>, change: Change<T>) {
    if let Change::Put(_, Versioned { revision, .. }) | Change::Delete(_, revision) = &change {
        let told = mirror.told();
        told.through = told.through.max(*revision);
    }
    match change {
        Change::Restart => mirror.told().noted = Some(HashSet::new()),
        Change::Put(key, value) => mirror.on_put(&key, value),
        Change::Delete(key, revision) => mirror.on_delete(&key, revision),
        Change::Complete => {
            if let Some(noted) = mirror.told().noted.take() {
                mirror.on_complete(&noted);
            }
        }
    }
}

impl<T: Clone + Serialize + DeserializeOwned> Bucket<T> {
    /// Keeps `mirror` in step with the bucket until `stop`. `complete` is called when all that was there is known.
    pub(crate) async fn follow(self, mirror: &Mutex<impl Mirror<T>>, stop: CancellationToken, complete: impl FnOnce()) {
        let mut complete = Some(complete);
        self.watch(stop, |change| {
            let is_complete = matches!(change, Change::Complete);
            tell(&mut *lock(mirror), change);
            if is_complete && let Some(complete) = complete.take() {
                complete();
            }
        })
        .await;
    }
}
