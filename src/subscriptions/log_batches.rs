//! Reads a room's log in encoded batches.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    frame::Encode,
    reads::{CallerReads, ReadCharge},
};
use crate::{
    delivery::{Batch, BatchBuilder, Sizes},
    domain::Room,
    error::Result,
    limits::{BATCH_BYTES_MAX, BATCH_MESSAGES_MAX},
    store::{
        Store,
        log::reader::{Arrival, LogReader},
    },
};

/// How long the oldest kept sequence is cached while holes follow each other.
const FIRST_KEPT_KNOWN_FOR: Duration = Duration::from_millis(200);

/// A batch that was read, and its charge.
pub(crate) struct LogBatch {
    pub batch: Arc<Batch>,
    /// The log held no message after the batch when the batch was read.
    pub ends_log: bool,
    /// The caller keeps this while the batch waits for a client.
    pub charge: ReadCharge,
}

/// Reads a room's log and gathers the messages that are ready.
pub(crate) struct LogBatches {
    reader: LogReader,
    store: Store,
    room: Room,
    epoch: i64,
    encode: Encode,
    position: u64,
    arrived: VecDeque<Arrival>,
    first_kept: u64,
    looked_at: Option<Instant>,
    /// The caller whose backlog is read. `None` for an upstream.
    reads: Option<CallerReads>,
    /// Bytes that were returned and not yet charged to the caller's rate.
    owed: usize,
}

impl LogBatches {
    /// Reads the messages after `position` in the log with this `epoch`. With `reads`, reads the backlog of a caller
    /// within its bounds.
    pub(crate) fn new(
        store: &Store,
        room: &Room,
        (epoch, position): (i64, u64),
        encode: Encode,
        reads: Option<CallerReads>,
    ) -> Self {
        let turns = reads.as_ref().map(|reads| store.turns(reads.backlogs_at_once()));
        Self {
            reader: store.reader(room, epoch, position, turns),
            store: store.clone(),
            room: room.clone(),
            epoch,
            encode,
            position,
            arrived: VecDeque::new(),
            first_kept: 0,
            looked_at: None,
            reads,
            owed: 0,
        }
    }

    /// The epoch of the log.
    pub(crate) fn epoch(&self) -> i64 {
        self.epoch
    }

    /// Returns the next batch: all messages that are ready, up to a batch's bounds. Waits while no message is ready.
    ///
    /// # Errors
    /// As [`LogReader::next`].
    ///
    /// # Cancel safety
    /// May be dropped at any point without losing a message.
    pub(crate) async fn next(&mut self) -> Result<LogBatch> {
        if let Some(reads) = &self.reads {
            // before any message is taken, so that dropping this future loses none
            reads.pay(self.owed).await;
            self.owed = 0;
        }
        let mut charge = None;
        loop {
            if self.arrived.is_empty() {
                self.reader.ready().await?;
                if charge.is_none() {
                    charge = Some(self.charge().await);
                    continue;
                }
                let arrival = self.reader.next().await?;
                self.arrived.push_back(arrival);
            }
            let mut bytes = self.arrived.iter().map(|arrival| arrival.message.payload.len()).sum::<usize>();
            while bytes < BATCH_BYTES_MAX
                && self.arrived.len() < BATCH_MESSAGES_MAX
                && let Some(arrival) = self.reader.take_ready()
            {
                bytes += arrival.message.payload.len();
                self.arrived.push_back(arrival);
            }
            if self.must_look() {
                // only the reasons of gaps depend on the state, so an error is ignored
                if let Ok(state) = Box::pin(self.store.log_state(&self.room)).await {
                    self.first_kept = self.first_kept.max(state.first_sequence);
                }
                self.looked_at = Some(Instant::now());
            }
            if let Some((batch, ends_log)) = self.batch() {
                self.owed = bytes;
                let mut charge = charge.unwrap_or_default();
                charge.shrink_to(batch.size());
                return Ok(LogBatch { batch, ends_log, charge });
            }
        }
    }

    /// Charges the largest possible batch to the caller. While the charge waits, other readers have the turn.
    async fn charge(&mut self) -> ReadCharge {
        let Some(reads) = &self.reads else { return ReadCharge::default() };
        let bytes = self.store.batch_bytes_max();
        if let Some(charge) = reads.try_charge(bytes) {
            return charge;
        }
        self.reader.pause();
        reads.charge(bytes).await
    }

    /// Returns true if sequences are missing that may have expired since the last check of the log.
    fn must_look(&self) -> bool {
        let mut before = self.position;
        let mut missing = false;
        for arrival in &self.arrived {
            let sequence = arrival.message.sequence;
            missing |= sequence > before + 1 && sequence > self.first_kept;
            before = sequence;
        }
        missing && self.looked_at.is_none_or(|looked| looked.elapsed() > FIRST_KEPT_KNOWN_FOR)
    }

    fn batch(&mut self) -> Option<(Arc<Batch>, bool)> {
        let mut batch = BatchBuilder::default();
        let mut ends_log = false;
        while !batch.is_full()
            && let Some(Arrival { message, pending, expires_at }) = self.arrived.pop_front()
        {
            let sequence = message.sequence;
            let first_kept = if sequence > self.position + 1 { self.first_kept } else { 0 };
            batch.lasts(message.published_at, expires_at);
            let sizes = Sizes { payload: message.payload.len(), page: message.page_bytes() };
            batch.message(sequence, first_kept, sizes, |bytes| {
                (self.encode)(&self.room.room_id, Some(self.epoch), message, bytes);
            });
            self.position = sequence;
            // a replica may lag, so its `pending == 0` does not prove the end of the log
            ends_log = pending == 0 && self.room.replicas < 2;
        }
        batch.finish().map(|batch| (batch, ends_log))
    }
}
