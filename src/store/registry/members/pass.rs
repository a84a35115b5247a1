//! The right of a member to read, as open subscriptions hold it.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use tokio_util::sync::CancellationToken;

use crate::{
    domain::{Membership, Visible},
    error::{Error, Reason},
    store::registry::known::Registered,
    sync::lock,
};

/// The right of one member to read one room, shared by all its subscriptions on this instance. It ends when the
/// member is removed, or may no longer see messages that it could see.
#[derive(Debug)]
pub(crate) struct Pass {
    pub(super) registered: Arc<Registered>,
    visible: Mutex<Visible>,
    /// The pass ended because the member may see less. It is still a member.
    narrowed: AtomicBool,
    ended: CancellationToken,
}

impl Pass {
    pub(super) fn new(registered: &Arc<Registered>, visible: Visible) -> Self {
        Self {
            registered: Arc::clone(registered),
            visible: Mutex::new(visible),
            narrowed: AtomicBool::new(false),
            ended: CancellationToken::new(),
        }
    }

    /// Applies the current membership. False: the pass has ended, and the caller must drop it.
    pub(super) fn follow(&self, now: Option<Membership>) -> bool {
        let mut visible = lock(&self.visible);
        match now {
            Some(now) if !now.visible.is_narrower_than(*visible) => {
                *visible = now.visible;
                return true;
            }
            Some(_) => self.narrowed.store(true, Ordering::Relaxed),
            None => {}
        }
        self.ended.cancel();
        false
    }

    /// Waits until the right ends. Returns the error that a subscription ends with.
    ///
    /// # Cancel safety
    /// May be dropped at any point.
    pub(crate) async fn ended(&self) -> Error {
        self.ended.cancelled().await;
        if self.narrowed.load(Ordering::Relaxed) {
            return Error::new(
                Reason::SubscribeAgain,
                "`visible_from` of the member was moved forwards; subscribe again to continue there",
            );
        }
        Error::new(Reason::PermissionDenied, "the caller was removed from the room; ask an owner to add it")
    }
}
