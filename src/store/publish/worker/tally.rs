//! Counts what a worker publishes. Messages that are settled together are counted together.

use std::time::Duration;

use super::awaited::{Answer, Awaited};
use crate::{
    metrics::{NatsApi, NatsFailure, NatsMetrics, PublishMetrics, RoomKind},
    store::publish::{
        acks::Reply,
        outbox::Commit,
        room_queue::{Job, Outcome},
    },
};

/// What was stored and is not in the metrics yet.
#[derive(Debug, Default)]
pub(super) struct Tally {
    messages: u64,
    bytes: u64,
    duplicates: u64,
}

impl Tally {
    /// Adds the outcome of a job.
    pub(super) fn add(&mut self, job: &Job, outcome: &Outcome) {
        match outcome {
            Outcome::Stored { duplicate: true, .. } => self.duplicates += job.messages() as u64,
            Outcome::Stored { duplicate: false, .. } | Outcome::StoredUnnumbered => {
                self.messages += job.messages() as u64;
                self.bytes += job.bytes as u64;
            }
            Outcome::Refused(_) | Outcome::Failed(_) => {}
        }
    }

    /// Moves everything to the metrics.
    pub(super) fn flush(&mut self, metrics: &PublishMetrics) {
        let Self { messages, bytes, duplicates } = std::mem::take(self);
        if messages > 0 {
            metrics.messages.inc_by(RoomKind::Persisted, messages);
            metrics.bytes.inc_by(RoomKind::Persisted, bytes);
        }
        if duplicates > 0 {
            metrics.duplicates.inc_by(duplicates);
        }
    }
}

/// Counts the answer to the oldest message or run.
pub(super) fn count_answer(metrics: &PublishMetrics, nats: &NatsMetrics, awaited: &Awaited, answer: &Answer) {
    let failure = match answer {
        Answer::One(Some(reply)) => failure(reply),
        Answer::Run(Some(_), _) => None,
        Answer::One(None) | Answer::Run(None, _) => Some(NatsFailure::TimedOut),
    };
    count(metrics, nats, awaited.sent_at.elapsed(), failure);
}

/// Counts a batch that took this `time`.
pub(super) fn count_commit(metrics: &PublishMetrics, nats: &NatsMetrics, time: Duration, commit: &Commit) {
    let failure = match commit {
        Commit::Answered(reply) => failure(reply),
        Commit::Lost => Some(NatsFailure::TimedOut),
        Commit::NotSent => return,
    };
    count(metrics, nats, time, failure);
}

fn failure(reply: &Reply) -> Option<NatsFailure> {
    match reply {
        Reply::Stored { .. } => None,
        Reply::Refused(_) => Some(NatsFailure::Refused),
        Reply::NobodyListens => Some(NatsFailure::NoResponders),
    }
}

fn count(metrics: &PublishMetrics, nats: &NatsMetrics, time: Duration, failure: Option<NatsFailure>) {
    nats.requests.inc(NatsApi::Publish);
    if let None | Some(NatsFailure::Refused) = failure {
        metrics.ack.observe(time);
    }
    if let Some(failure) = failure {
        nats.failed(NatsApi::Publish, failure);
    }
}
