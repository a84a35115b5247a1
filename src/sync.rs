//! Locking, bounds that may change, and values that live for as long as they are used.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

/// Number of keys at which unused keys are removed.
const UNPRUNED: usize = 1024;

/// Locks a mutex and ignores poisoning. Only for values that a panic cannot leave half changed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A bound that may change while it is read; `None`: no bound.
#[derive(Debug)]
pub(crate) struct LiveBound(AtomicU64);

impl LiveBound {
    /// Stands for no bound. No number reaches it.
    const NONE: u64 = u64::MAX;

    pub(crate) fn new(max: Option<impl Into<u64>>) -> Self {
        Self(AtomicU64::new(max.map_or(Self::NONE, Into::into)))
    }

    pub(crate) fn get(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|max| *max != Self::NONE)
    }

    pub(crate) fn set(&self, max: Option<impl Into<u64>>) {
        self.0.store(max.map_or(Self::NONE, Into::into), Ordering::Relaxed);
    }
}

/// One shared value for each key. A value lives for as long as it is used.
#[derive(Debug)]
pub(crate) struct PerKey<K, V>(Mutex<HashMap<K, Weak<V>>>);

impl<K, V> Default for PerKey<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash, V> PerKey<K, V> {
    /// The value in use for `key`, or a new one.
    pub(crate) fn get_or_make(&self, key: K, make: impl FnOnce() -> V) -> Arc<V> {
        let mut values = lock(&self.0);
        if let Some(value) = values.get(&key).and_then(Weak::upgrade) {
            return value;
        }
        if values.len() >= UNPRUNED {
            values.retain(|_, value| value.strong_count() > 0);
        }
        let value = Arc::new(make());
        values.insert(key, Arc::downgrade(&value));
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_lives_as_long_as_somebody_holds_it() {
        let values = PerKey::default();
        let first = values.get_or_make(0, || 1);
        assert_eq!(*values.get_or_make(0, || 2), 1);
        drop(first);
        assert_eq!(*values.get_or_make(0, || 3), 3);
        for key in 0..10 * UNPRUNED {
            values.get_or_make(key, || 4);
        }
        assert!(lock(&values.0).len() <= UNPRUNED);
    }
}
