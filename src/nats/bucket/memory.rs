//! A bucket in the memory of this process.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard},
    time::SystemTime,
};

use tokio::sync::broadcast::{self, error::RecvError};
use tokio_util::sync::CancellationToken;

use super::{Versioned, WatchEvent};
use crate::{limits::BUCKET_CHANGES_WAITING_MAX, sync::lock};

#[derive(Debug)]
pub(super) struct MemoryBucket<T> {
    state: Mutex<MemoryState<T>>,
}

#[derive(Debug)]
struct MemoryState<T> {
    values: BTreeMap<String, MemoryValue<T>>,
    /// The revision of the newest change.
    revision: u64,
    changes: broadcast::Sender<WatchEvent<T>>,
}

#[derive(Debug)]
struct MemoryValue<T> {
    found: Versioned<T>,
    stored_at: SystemTime,
}

impl<T: Clone> MemoryBucket<T> {
    pub(super) fn new() -> Self {
        let (changes, _) = broadcast::channel(BUCKET_CHANGES_WAITING_MAX);
        Self { state: Mutex::new(MemoryState { values: BTreeMap::new(), revision: 0, changes }) }
    }

    fn state(&self) -> MutexGuard<'_, MemoryState<T>> {
        lock(&self.state)
    }

    pub(super) fn get(&self, key: &str) -> Option<Versioned<T>> {
        self.state().values.get(key).map(|stored| stored.found.clone())
    }

    pub(super) fn get_many(&self, keys: &[String]) -> Vec<(Versioned<T>, SystemTime)> {
        let state = self.state();
        let found = keys.iter().filter_map(|key| state.values.get(key));
        found.map(|stored| (stored.found.clone(), stored.stored_at)).collect()
    }

    pub(super) fn put(&self, key: &str, value: &T, expected: Option<u64>) -> Option<u64> {
        let mut state = self.state();
        if state.revision_of(key) != expected {
            return None;
        }
        state.revision += 1;
        let found = Versioned { value: value.clone(), revision: state.revision };
        state.values.insert(key.to_owned(), MemoryValue { found: found.clone(), stored_at: SystemTime::now() });
        state.report(WatchEvent::Put(key.to_owned(), found));
        Some(state.revision)
    }

    pub(super) fn delete(&self, key: &str, expected: u64) -> bool {
        let mut state = self.state();
        let is_expected = state.revision_of(key) == Some(expected);
        if is_expected {
            state.remove(key);
        }
        is_expected
    }

    pub(super) fn mark_deleted(&self, key: &str) {
        self.state().remove(key);
    }

    pub(super) fn purge_below(&self, prefix: &str) {
        let prefix = format!("{prefix}.");
        self.state().values.retain(|key, _| !key.starts_with(&prefix));
    }

    /// Calls `apply` with every existing entry and then every change, until `stop`. Restarts if more changes wait
    /// than are kept.
    pub(super) async fn watch(&self, stop: CancellationToken, mut apply: impl FnMut(WatchEvent<T>)) {
        loop {
            // before the values are read, so that every later write is among the values or the changes
            apply(WatchEvent::Restart);
            let (values, mut changes) = self.state().begin_watch();
            values.into_iter().for_each(&mut apply);
            apply(WatchEvent::Complete);
            loop {
                let event = tokio::select! {
                    () = stop.cancelled() => return,
                    event = changes.recv() => event,
                };
                match event {
                    Ok(event) => apply(event),
                    Err(RecvError::Lagged(_)) => break,
                    Err(RecvError::Closed) => return,
                }
            }
        }
    }
}

impl<T: Clone> MemoryState<T> {
    fn revision_of(&self, key: &str) -> Option<u64> {
        self.values.get(key).map(|stored| stored.found.revision)
    }

    fn remove(&mut self, key: &str) {
        self.values.remove(key);
        self.revision += 1;
        self.report(WatchEvent::Delete(key.to_owned(), self.revision));
    }

    fn report(&self, event: WatchEvent<T>) {
        // an error only means that there is no watch
        let _ = self.changes.send(event);
    }

    /// The values in the order in which they were written, and a receiver of the later changes.
    fn begin_watch(&self) -> (Vec<WatchEvent<T>>, broadcast::Receiver<WatchEvent<T>>) {
        let mut values: Vec<_> = self.values.iter().map(|(key, stored)| (key.clone(), stored.found.clone())).collect();
        values.sort_unstable_by_key(|(_, found)| found.revision);
        let values = values.into_iter().map(|(key, found)| WatchEvent::Put(key, found)).collect();
        (values, self.changes.subscribe())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use tokio::sync::mpsc;
    use tokio_util::task::TaskTracker;

    use super::*;

    fn text<T: std::fmt::Display>(event: WatchEvent<T>) -> String {
        match event {
            WatchEvent::Restart => "restart".to_owned(),
            WatchEvent::Put(key, Versioned { value, revision }) => format!("{key}={value}@{revision}"),
            WatchEvent::Delete(key, revision) => format!("-{key}@{revision}"),
            WatchEvent::Complete => "complete".to_owned(),
        }
    }

    #[test]
    fn a_write_needs_the_revision_that_the_key_has() {
        // Goal: of two writers that read the same, one writes. Method: write with right and wrong revisions.
        let bucket = MemoryBucket::new();
        assert_eq!(bucket.put("a", &1, Some(1)), None);
        assert_eq!(bucket.put("a", &1, None), Some(1));
        assert_eq!(bucket.put("a", &2, None), None);
        assert_eq!(bucket.put("a", &2, Some(1)), Some(2));
        assert_eq!(bucket.put("a", &3, Some(1)), None);
        assert_eq!(bucket.get("a").unwrap().value, 2);
        assert!(!bucket.delete("a", 1) && bucket.delete("a", 2) && !bucket.delete("a", 2));
        // the revision of the deletion lies between, so that what was read before it is old
        assert_eq!(bucket.put("a", &4, None), Some(4));
        bucket.put("a.b", &5, None).unwrap();
        bucket.purge_below("a");
        assert!(bucket.get("a").is_some() && bucket.get("a.b").is_none());
        assert_eq!(bucket.get_many(&["a".to_owned(), "a.b".to_owned()]).len(), 1);
    }

    #[tokio::test]
    async fn a_watch_tells_what_is_there_and_every_change_and_ends_when_it_is_stopped() {
        // Goal: a watch reports the whole bucket. Method: write before and during a watch, then stop it.
        let bucket = Arc::new(MemoryBucket::new());
        bucket.put("b", &1, None).unwrap();
        bucket.put("a", &2, None).unwrap();
        let (tell, mut reported) = mpsc::channel(16);
        let stop = CancellationToken::new();
        let watching = {
            let (bucket, stop) = (Arc::clone(&bucket), stop.clone());
            TaskTracker::new()
                .spawn(async move { bucket.watch(stop, |change| tell.try_send(text(change)).unwrap()).await })
        };
        for expected in ["restart", "b=1@1", "a=2@2", "complete"] {
            assert_eq!(reported.recv().await.unwrap(), expected);
        }
        bucket.put("a", &3, Some(2)).unwrap();
        assert!(bucket.delete("b", 1));
        bucket.mark_deleted("c");
        for expected in ["a=3@3", "-b@4", "-c@5"] {
            assert_eq!(reported.recv().await.unwrap(), expected);
        }
        stop.cancel();
        watching.await.unwrap();
        assert_eq!(reported.recv().await, None);
    }

    #[tokio::test]
    async fn a_watch_that_is_too_slow_begins_again() {
        // Goal: waiting changes are bounded, and nothing is missed. Method: write more than the bound while the watch, on the
        // same thread, cannot run.
        let bucket = Arc::new(MemoryBucket::new());
        bucket.put("gone", &0, None).unwrap();
        let (tell, mut reported) = mpsc::channel(16);
        let stop = CancellationToken::new();
        let _stopped_at_the_end = stop.clone().drop_guard();
        {
            let bucket = Arc::clone(&bucket);
            TaskTracker::new()
                .spawn(async move { bucket.watch(stop, |change| tell.try_send(text(change)).unwrap()).await });
        }
        for expected in ["restart", "gone=0@1", "complete"] {
            assert_eq!(reported.recv().await.unwrap(), expected);
        }
        assert!(bucket.delete("gone", 1));
        let mut revision = None;
        for value in 0..=BUCKET_CHANGES_WAITING_MAX {
            revision = bucket.put("a", &value, revision);
        }
        let last = format!("a={BUCKET_CHANGES_WAITING_MAX}@{}", revision.unwrap());
        for expected in ["restart", last.as_str(), "complete"] {
            assert_eq!(reported.recv().await.unwrap(), expected);
        }
    }
}
