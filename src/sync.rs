//! What the modules share of locking.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex whose holders cannot leave its value half changed, so that poison means nothing.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
