//! Sends runs, and settles them (see `run`).

use std::{collections::VecDeque, sync::Arc};

use tracing::debug;

use super::{
    IN_FLIGHT_BYTES_MAX, Plan, Worker,
    awaited::{Awaited, AwaitedAnswer},
    single_messages,
};
use crate::store::publish::{
    order::{Ordered, PublishAnswer},
    room_queue::{Job, Outcome},
    run::{self, RUN_MESSAGES_MAX, RunAnswers, RunOutcome},
};

impl Worker {
    /// How the first waiting job is published in a room without groups.
    pub(super) fn plan_run(&self, jobs: &VecDeque<Job>) -> Plan {
        let Some(first) = jobs.front().filter(|first| first.may_join_run) else { return Plan::Plain };
        if self.publisher.plain_rooms.contains(&self.queue.stream) {
            return Plan::Plain;
        }
        if !run::may_start(self.runs, jobs.len()) {
            return Plan::Wait;
        }
        let mut bytes = self.in_flight.bytes();
        let may_join = |job: &&Job| {
            bytes += job.bytes;
            job.may_join_run && bytes <= IN_FLIGHT_BYTES_MAX && Arc::ptr_eq(&job.registered, &first.registered)
        };
        match jobs.iter().take(RUN_MESSAGES_MAX).take_while(may_join).count() {
            0 | 1 => Plan::Plain,
            count => Plan::Run(count),
        }
    }

    /// Sends a run, without waiting for its answers.
    pub(super) async fn send_run(&mut self, mut jobs: Vec<Job>) {
        jobs.retain(Job::begin);
        let (Some(by), Some(deadline)) =
            (jobs.iter().map(Job::send_by).min(), jobs.iter().map(|job| job.deadline).max())
        else {
            return;
        };
        let Some(first) = jobs.first() else { return };
        let (messages, sent_at) = (single_messages(&jobs), self.leave_queue(first.since));
        let outbox = &self.publisher.outbox;
        let (expected, sent) =
            outbox.send_run(&self.queue.stream, &first.registered.room, messages.into_iter(), by).await;
        let epoch = self.epoch();
        let mut of_first = Some(AwaitedAnswer::Run { expected, sent });
        for (job, place) in jobs.into_iter().zip(1..) {
            if place > sent {
                job.tell_unavailable();
                continue;
            }
            let starts_run = of_first.is_some();
            let answer = of_first.take().unwrap_or(AwaitedAnswer::InRun);
            self.in_flight.sent(job, Awaited { answer, epoch, sent_at, starts_run }, deadline);
        }
        self.runs += usize::from(sent > 0);
    }

    /// Applies the answers to the oldest run. `None`: no answer will come.
    pub(super) fn settle_run(&mut self, answers: Option<RunAnswers>, sent: usize) {
        let answers = answers.unwrap_or_else(|| RunAnswers::new(sent, true));
        let mut was_taken = true;
        for outcome in answers.outcomes().into_iter().take(sent) {
            match outcome {
                RunOutcome::Stored(Some(sequence)) => {
                    self.conclude(PublishAnswer::Stored, Outcome::Stored { sequence, duplicate: false });
                }
                RunOutcome::Stored(None) => self.conclude(PublishAnswer::Stored, Outcome::StoredUnnumbered),
                RunOutcome::Refused(error) => self.conclude(PublishAnswer::Refused, Outcome::Refused(error)),
                RunOutcome::NotTaken => {
                    was_taken = false;
                    self.conclude_unknown(PublishAnswer::NobodyListens);
                }
                RunOutcome::Lost => self.conclude_unknown(PublishAnswer::Lost),
            }
        }
        if !was_taken {
            debug!(
                stream = &*self.queue.stream,
                "NATS did not take a run; messages are published one by one for a while"
            );
            self.publisher.plain_rooms.add(&self.queue.stream);
        }
    }
}
