//! Pages of history from the ring of an active room.

use std::{sync::Arc, time::Duration};

use tokio::time::{self, Instant};

use super::Upstreams;
use crate::{
    delivery::{EncodedPage, PageFound, PageSought},
    store::registry::known::Registered,
};

/// How long a page waits for messages that are stored and have not reached the ring yet.
const PAGE_WAIT: Duration = Duration::from_millis(10);

impl Upstreams {
    /// Whether this instance has an upstream of the room in the log with this `epoch`.
    pub(crate) fn is_active(&self, registered: &Registered, epoch: i64) -> bool {
        self.active().contains_key(&(registered.room.room_id.clone(), Some(epoch)))
    }

    /// The page, if the room is active and its ring has exactly the messages that the log would answer with. `None`:
    /// only the log can answer. Starts no upstream, and does not keep one.
    ///
    /// # Cancel safety
    /// May be dropped at any point.
    pub(crate) async fn page(&self, registered: &Registered, sought: &PageSought) -> Option<EncodedPage> {
        let epoch = sought.state.epoch;
        let key = (registered.room.room_id.clone(), Some(epoch));
        let upstream = self.active().get(&key).filter(|upstream| upstream.is_usable()).map(Arc::clone)?;
        let give_up = Instant::now() + PAGE_WAIT;
        loop {
            // made before the ring is read, so that no growth is missed
            let grown = upstream.grown.notified();
            let found = upstream.ring().page(sought, registered.doubted_through(epoch));
            match found {
                PageFound::Page(page) => return Some(page),
                PageFound::NotHeld => return None,
                PageFound::Behind => time::timeout_at(give_up, grown).await.ok()?,
            }
        }
    }
}
