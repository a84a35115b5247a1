//! What the store of an instance holds now, for the metrics.

use super::{Store, publish::room_queue::QueueUsage};
use crate::nats::embedded::disk::Disk;

/// What a store holds at a moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StoreUsage {
    pub rooms: usize,
    pub queues: QueueUsage,
    /// Bytes of backlogs that NATS may be sending.
    pub backlog_bytes: usize,
    /// Bytes of pages that NATS may be sending.
    pub page_bytes: usize,
    /// Some publishes are refused, because there is no storage left.
    pub is_full: bool,
}

impl Store {
    /// The disk of the embedded nats-server is nearly full, so publishes are refused.
    pub(crate) fn is_disk_low(&self) -> bool {
        self.gate.disk().is_some_and(Disk::is_low)
    }

    /// The embedded nats-server stores nothing more until it is started again.
    pub(crate) fn is_disk_frozen(&self) -> bool {
        self.gate.disk().is_some_and(Disk::is_frozen)
    }

    /// What the store holds now.
    pub(crate) fn usage(&self) -> StoreUsage {
        StoreUsage {
            rooms: self.registry.count(),
            queues: self.publisher.queue_usage(),
            backlog_bytes: self.backlogs.bytes(),
            page_bytes: self.nats.page_bytes(),
            is_full: self.gate.is_full(),
        }
    }
}
