//! Reads what the parts of an instance hold, each time the metrics are scraped.

use std::{fmt, sync::Arc};

use tokio_util::sync::CancellationToken;

use super::intake::budgets::Budgets;
use crate::{
    http,
    limits::{BACKLOGS_BYTES_MAX, FANOUT_BYTES_TOTAL_MAX, PAGES_UNDER_WAY_BYTES_MAX, REQUEST_BYTES_MAX},
    metrics::{InstanceLimit, Metrics, MetricsFormat},
    nats::embedded::{Disk, EmbeddedStatus},
    rooms::Rooms,
    store::Store,
};

/// The parts of an instance that the metrics read.
pub(super) struct Scrape {
    pub metrics: Metrics,
    pub store: Store,
    pub rooms: Rooms,
    pub budgets: Arc<Budgets>,
    pub embedded: Option<EmbeddedStatus>,
    pub connections_max: u32,
    pub draining: CancellationToken,
}

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scrape").finish_non_exhaustive()
    }
}

impl Scrape {
    /// All metrics as text.
    pub(super) fn text(&self, format: MetricsFormat) -> String {
        self.read_nats();
        self.read_usage();
        self.metrics.encode(format)
    }

    fn read_nats(&self) {
        let metrics = &self.metrics.nats;
        if let Some(embedded) = &self.embedded {
            metrics.restarts.set_number(embedded.restarts());
        }
        let space = self.store.disk().and_then(Disk::space);
        metrics.disk_free.set_known(space.map(|space| space.free));
        metrics.disk_size.set_known(space.map(|space| space.size));
        metrics.disk_reserve.set_known(space.map(|space| space.reserve));
    }

    fn read_usage(&self) {
        let (usage, store) = (&self.metrics.usage, self.store.usage());
        self.metrics.nats.storage_full.set_number(store.is_full.into());
        usage.ready.set_number(http::is_ready(&self.store, &self.draining).into());
        usage.rooms.set_number(store.rooms as u64);
        usage.queues.set_number(store.queues.queues as u64);
        usage.queued_messages.set_number(store.queues.messages as u64);
        usage.queued_bytes.set_number(store.queues.bytes as u64);
        usage.fullest_queue.set(store.queues.fullest);
        self.rooms.read_usage(usage);
        let connections = self.metrics.connections.open_now();
        for (limit, used, max) in [
            (InstanceLimit::Connections, connections, self.connections_max.into()),
            (InstanceLimit::RequestBytes, self.budgets.bytes() as u64, REQUEST_BYTES_MAX as u64),
            (InstanceLimit::BacklogBytes, store.backlog_bytes as u64, BACKLOGS_BYTES_MAX as u64),
            (InstanceLimit::PageBytes, store.page_bytes as u64, PAGES_UNDER_WAY_BYTES_MAX as u64),
        ] {
            usage.limit_used.set_number(limit, used);
            usage.limit_max.set_number(limit, max);
        }
        usage.limit_max.set_number(InstanceLimit::RingBytes, FANOUT_BYTES_TOTAL_MAX as u64);
    }
}
