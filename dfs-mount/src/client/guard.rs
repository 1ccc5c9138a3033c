//! Locking of short critical sections.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks. A panic of another holder leaves the value as it was between two statements; every
/// section here is a few field updates, so it goes on.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
