//! Publishes the jobs of one room's queue, in order.
//!
//! Plain publishes are pipelined. `order` decides what may be sent while an answer is missing. Waiting messages are
//! committed in groups where that is faster (see `group`). If JetStream refuses a group, its messages are published
//! plainly, so that each message gets its own answer.

mod awaited;
mod runs;
mod tally;

use std::{collections::VecDeque, sync::Arc, task::Poll, time::Duration};

use tokio::{
    sync::watch,
    time::{self, Instant},
};
use tracing::{debug, warn};

use self::{
    awaited::{Answer, Awaited, AwaitedAnswer},
    tally::Tally,
};
use super::{
    Publisher,
    acks::Reply,
    group::{self, First, GROUP_MESSAGES_MIN, PLAIN_IN_FLIGHT},
    order::{InFlight, NextSend, Ordered, PublishAnswer, Settled},
    outbox::{Commit, LOST_ACK_GRACE},
    room_queue::{Job, Outcome, RoomQueue, Work},
    wire::{Outgoing, for_another_caller, may_pass, outcome_unknown},
};
use crate::{
    domain::Room, error::Result, limits::NATS_GRACE, nats::error::unavailable,
    store::log::high_water_marks::HighWaterMark, sync::lock,
};

/// How often the worker checks the connection, because it can miss an event.
const CONNECTION_TICK: Duration = Duration::from_millis(50);
/// Maximum number of plain publishes in flight.
const IN_FLIGHT_MESSAGES_MAX: usize = 1024;
/// Maximum bytes of plain publishes in flight. One message may exceed it.
const IN_FLIGHT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bounds the pause between groups after refusals. At each refusal in a row the number of messages that are published
/// plainly doubles, up to this many times.
const REFUSALS_DOUBLED_MAX: u32 = 5;

/// The worker's next step.
enum WorkerStep {
    /// No job waits, so the worker ends.
    Rest,
    /// Wait for an answer, for a deadline, and if `for_work` for a new job.
    Wait {
        for_work: bool,
    },
    Recover,
    Send(Job),
    Group(Vec<Job>),
    Run(Vec<Job>),
    All(Job),
}

pub(super) struct Worker {
    queue: Arc<RoomQueue>,
    publisher: Arc<Publisher>,
    groups: bool,
    /// The high-water mark of a room with a replicated log.
    mark: Option<Arc<HighWaterMark>>,
    connections: watch::Receiver<u64>,
    in_flight: InFlight<Job, Awaited>,
    /// Number of runs in flight. A message that could have joined a run but was sent alone counts as one.
    runs: usize,
    /// Number of messages to send one by one before the worker tries a group again.
    plain_left: usize,
    refusals: u32,
    tally: Tally,
}

impl Worker {
    pub(super) fn new(
        queue: Arc<RoomQueue>,
        publisher: Arc<Publisher>,
        groups: bool,
        mark: Option<Arc<HighWaterMark>>,
    ) -> Self {
        let mut connections = publisher.outbox.nats.connections();
        connections.mark_unchanged();
        let (in_flight, tally) = (InFlight::new(), Tally::default());
        Self { queue, publisher, groups, mark, connections, in_flight, runs: 0, plain_left: 0, refusals: 0, tally }
    }

    /// Runs until no job waits. Every job has a deadline, so the worker ends soon after the last one.
    pub(super) async fn run(mut self) {
        loop {
            self.tally.flush(&self.publisher.metrics);
            match self.step() {
                WorkerStep::Rest => return,
                WorkerStep::Wait { for_work } => self.wait(for_work).await,
                WorkerStep::Recover => self.recover().await,
                WorkerStep::Send(job) => self.send(job).await,
                WorkerStep::Group(jobs) => self.commit_group(jobs).await,
                WorkerStep::Run(jobs) => self.send_run(jobs).await,
                WorkerStep::All(job) => self.commit_all(job).await,
            }
        }
    }

    fn step(&mut self) -> WorkerStep {
        match self.in_flight.next_send() {
            NextSend::Send => {}
            NextSend::AwaitAnswers => return WorkerStep::Wait { for_work: false },
            NextSend::Recover => return WorkerStep::Recover,
        }
        let queue = Arc::clone(&self.queue);
        let mut waiting = lock(&queue.waiting);
        let now = Instant::now();
        while let Some(job) = pop_if(&mut waiting.jobs, |job| job.is_abandoned() || job.send_by() <= now) {
            job.tell_unavailable();
        }
        let Some(first) = waiting.jobs.front() else {
            if self.in_flight.count() > 0 {
                return WorkerStep::Wait { for_work: true };
            }
            waiting.is_served = false;
            return WorkerStep::Rest;
        };
        if !self.publisher.outbox.nats.is_connected() {
            return WorkerStep::Wait { for_work: false };
        }
        let is_idle = self.in_flight.count() == 0;
        let next = match first.work {
            Work::All(_) if is_idle => waiting.jobs.pop_front().map(WorkerStep::All),
            Work::One(_) if self.fits(first) => match self.plan(&waiting.jobs) {
                Plan::Plain => waiting.jobs.pop_front().map(WorkerStep::Send),
                Plan::Group(count) => Some(WorkerStep::Group(waiting.jobs.drain(..count).collect())),
                Plan::Run(count) => Some(WorkerStep::Run(waiting.jobs.drain(..count).collect())),
                Plan::Wait => None,
            },
            Work::All(_) | Work::One(_) => None,
        };
        next.unwrap_or(WorkerStep::Wait { for_work: false })
    }

    fn fits(&self, job: &Job) -> bool {
        if self.groups && self.plain_left == 0 {
            return self.in_flight.count() < PLAIN_IN_FLIGHT;
        }
        let (count, bytes) = (self.in_flight.count(), self.in_flight.bytes());
        count == 0 || (count < IN_FLIGHT_MESSAGES_MAX && bytes + job.bytes <= IN_FLIGHT_BYTES_MAX)
    }

    fn plan(&mut self, jobs: &VecDeque<Job>) -> Plan {
        if !self.groups {
            return self.plan_run(jobs);
        }
        if self.plain_left > 0 {
            self.plain_left -= 1;
            return Plan::Plain;
        }
        if jobs.len() < GROUP_MESSAGES_MIN {
            return Plan::Plain;
        }
        if self.in_flight.count() > 0 {
            return Plan::Wait;
        }
        match group::first_of(jobs) {
            First::Together(count) => Plan::Group(count),
            First::Plainly(count) => {
                self.plain_left = count.saturating_sub(1);
                Plan::Plain
            }
        }
    }

    /// Sends one message, without waiting for its answer.
    async fn send(&mut self, job: Job) {
        let Work::One(message) = &job.work else { return job.tell_unavailable() };
        if !job.begin() {
            return;
        }
        let sent_at = self.leave_queue(job.since);
        match self.publisher.outbox.send(&self.queue.stream, &job.registered.room, message, job.send_by()).await {
            Ok(expected) => {
                let (deadline, epoch) = (job.deadline, self.epoch());
                let starts_run = job.may_join_run;
                self.runs += usize::from(starts_run);
                let answer = AwaitedAnswer::One(expected);
                self.in_flight.sent(job, Awaited { answer, epoch, sent_at, starts_run }, deadline);
            }
            Err(error) => job.tell(Outcome::Failed(error)),
        }
    }

    async fn wait(&mut self, for_work: bool) {
        let until = self.next_deadline();
        let answer = async {
            match self.in_flight.oldest() {
                Some(awaited) => awaited.answer.answer().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            answer = answer => {
                self.settle(answer);
                // the answers that arrived with it
                while let Some(awaited) = self.in_flight.oldest()
                    && let Poll::Ready(answer) = awaited.answer.try_answer()
                {
                    self.settle(answer);
                }
            }
            changed = self.connections.changed() => {
                if changed.is_ok() {
                    // messages that were sent over the previous connection will hardly be answered
                    self.in_flight.reconnected(Instant::now() + LOST_ACK_GRACE);
                }
            }
            () = self.queue.wake.notified(), if for_work => {}
            () = time::sleep_until(until) => self.expire(),
        }
    }

    /// The next time at which a job or an answer expires.
    fn next_deadline(&self) -> Instant {
        let now = Instant::now();
        let waiting = lock(&self.queue.waiting);
        let waiting = waiting.jobs.front().map(|job| {
            if self.publisher.outbox.nats.is_connected() {
                job.send_by()
            } else {
                job.send_by().min(job.since + NATS_GRACE).min(now + CONNECTION_TICK)
            }
        });
        waiting.into_iter().chain(self.in_flight.next_deadline()).min().unwrap_or(now + NATS_GRACE)
    }

    fn expire(&mut self) {
        let now = Instant::now();
        while self.in_flight.is_lost(now)
            && let Some(awaited) = self.in_flight.oldest()
        {
            let answer = awaited.answer.give_up();
            self.settle(answer);
        }
        self.in_flight.give_up_late(now).into_iter().for_each(Job::tell_unavailable);
        let is_connected = self.publisher.outbox.nats.is_connected();
        let has_expired = |job: &Job| job.send_by() <= now || (!is_connected && job.since + NATS_GRACE <= now);
        let mut waiting = lock(&self.queue.waiting);
        while let Some(job) = pop_if(&mut waiting.jobs, has_expired) {
            job.tell_unavailable();
        }
    }

    /// Applies the answer to the oldest message, or to the messages of the oldest run.
    fn settle(&mut self, answer: Answer) {
        if let Some(awaited) = self.in_flight.oldest() {
            let Publisher { metrics, outbox, .. } = &*self.publisher;
            tally::count_answer(metrics, outbox.nats.metrics(), awaited, &answer);
        }
        match answer {
            Answer::One(reply) => match reply {
                Some(Reply::Stored { sequence, duplicate }) => {
                    self.conclude(PublishAnswer::Stored, Outcome::Stored { sequence, duplicate });
                }
                Some(Reply::Refused(error)) => self.conclude(PublishAnswer::Refused, Outcome::Refused(error)),
                Some(Reply::NobodyListens) => self.conclude_unknown(PublishAnswer::NobodyListens),
                None => self.conclude_unknown(PublishAnswer::Lost),
            },
            Answer::Run(answers, sent) => self.settle_run(answers, sent),
        }
    }

    /// As [`Self::conclude`], for a message that no stream took, or whose answer is lost.
    fn conclude_unknown(&mut self, answer: PublishAnswer) {
        self.conclude(answer, Outcome::Failed(outcome_unknown()));
    }

    /// Applies the answer to the oldest message. The message gets `outcome`, unless it is held.
    fn conclude(&mut self, answer: PublishAnswer, outcome: Outcome) {
        if self.in_flight.oldest().is_some_and(|awaited| awaited.starts_run) {
            self.runs -= 1;
        }
        let (job, awaited) = match self.in_flight.settle(answer) {
            Some(Settled::Done { message, awaited, given_up }) => {
                given_up.into_iter().for_each(Job::tell_unavailable);
                (message, awaited)
            }
            Some(Settled::Held(job)) => return job.mark_waiting(),
            None => return,
        };
        let (gate, room) = (&self.publisher.gate, &job.registered.room);
        match &outcome {
            Outcome::Stored { sequence, .. } => {
                gate.note_stored(room);
                self.stored(awaited.epoch, *sequence);
            }
            Outcome::Refused(error) => gate.note_refused(room, error),
            Outcome::StoredUnnumbered | Outcome::Failed(_) => {}
        }
        self.tally.add(&job, &outcome);
        job.tell(outcome);
    }

    /// Creates the stream again if it is missing, and puts the held messages before all others.
    async fn recover(&mut self) {
        time::sleep(self.in_flight.back_off()).await;
        let (held, late) = self.in_flight.recover(Instant::now());
        late.into_iter().for_each(Job::tell_unavailable);
        let (Some(first), Some(by)) = (held.first(), held.iter().map(Job::send_by).min()) else { return };
        let ensured = time::timeout_at(by, self.ensure(first)).await;
        match ensured.map_err(|_| unavailable()).flatten() {
            Ok(()) => self.queue.put_back(held),
            Err(error) => held.into_iter().for_each(|job| job.tell(Outcome::Failed(for_another_caller(&error)))),
        }
    }

    /// The epoch of the room's log, as far as it is known.
    fn epoch(&self) -> i64 {
        self.mark.as_ref().map_or(0, |mark| mark.epoch())
    }

    /// Records that a message, sent to the log with this epoch, is stored at `sequence`.
    fn stored(&self, epoch: i64, sequence: u64) {
        if let Some(mark) = &self.mark {
            mark.raise(epoch, sequence);
        }
    }

    /// Configures the room's stream as the registry says.
    async fn ensure(&self, job: &Job) -> Result<()> {
        self.publisher.marks.ensure(&job.registered.room).await.map(drop)
    }

    /// Counts the wait of messages that are sent now, of which the oldest waited since `since`. Returns the time.
    fn leave_queue(&self, since: Instant) -> Instant {
        let now = Instant::now();
        self.publisher.metrics.queue_wait.observe(now.saturating_duration_since(since));
        now
    }

    /// Sends messages as one batch, which waited in the queue since `since`.
    async fn commit(&self, room: &Room, messages: &[&Outgoing], since: Instant, deadline: Instant) -> Commit {
        let Publisher { metrics, outbox, .. } = &*self.publisher;
        let sent_at = self.leave_queue(since);
        let committed = outbox.commit(&self.queue.stream, room, messages, deadline).await;
        tally::count_commit(metrics, outbox.nats.metrics(), sent_at.elapsed(), &committed);
        self.note(room, &committed);
        committed
    }

    fn note(&self, room: &Room, committed: &Commit) {
        if let Commit::Answered(reply) = committed {
            self.note_reply(room, reply);
        }
    }

    fn note_reply(&self, room: &Room, reply: &Reply) {
        match reply {
            Reply::Refused(error) => self.publisher.gate.note_refused(room, error),
            Reply::Stored { .. } => self.publisher.gate.note_stored(room),
            Reply::NobodyListens => {}
        }
    }

    /// Commits jobs of one message each as a group. If the group is refused, returns them to the queue to be
    /// published plainly.
    async fn commit_group(&mut self, mut jobs: Vec<Job>) {
        jobs.retain(Job::begin);
        let Some(deadline) = jobs.iter().map(|job| job.deadline).min() else { return };
        let messages = single_messages(&jobs);
        let Some((room, since)) = jobs.first().map(|job| (&job.registered.room, job.since)) else { return };
        let epoch = self.epoch();
        let committed = self.commit(room, &messages, since, deadline).await;
        match committed {
            Commit::Answered(Reply::Stored { sequence: last, .. }) => {
                self.stored(epoch, last);
                self.refusals = 0;
                self.in_flight.stream_answers();
                let first = (last + 1).saturating_sub(jobs.len() as u64);
                for (job, sequence) in jobs.into_iter().zip(first..) {
                    let outcome = Outcome::Stored { sequence, duplicate: false };
                    self.tally.add(&job, &outcome);
                    job.tell(outcome);
                }
            }
            Commit::Answered(Reply::Refused(error)) => {
                debug!(stream = &*self.queue.stream, %error, "NATS refused a group of messages; they are published one by one");
                self.plain_left = jobs.len() << self.refusals.min(REFUSALS_DOUBLED_MAX);
                self.refusals += 1;
                jobs.iter().for_each(Job::mark_waiting);
                let by = deadline.min(Instant::now() + LOST_ACK_GRACE);
                if let (true, Some(job)) = (may_pass(&error), jobs.first())
                    && let Ok(Err(error)) = time::timeout_at(by, self.ensure(job)).await
                {
                    warn!(
                        stream = &*self.queue.stream,
                        error = error.with_causes(),
                        "the stream of the room could not be checked"
                    );
                }
                self.queue.put_back(jobs);
            }
            Commit::Answered(Reply::NobodyListens) => {
                jobs.iter().for_each(Job::mark_waiting);
                for job in jobs {
                    self.in_flight.hold(job);
                }
            }
            Commit::Lost => jobs.into_iter().for_each(|job| job.tell(Outcome::Failed(outcome_unknown()))),
            Commit::NotSent => jobs.into_iter().for_each(Job::tell_unavailable),
        }
    }

    /// Commits the messages of one job as an atomic batch.
    async fn commit_all(&mut self, job: Job) {
        let Work::All(messages) = &job.work else { return job.tell_unavailable() };
        if !job.begin() {
            return;
        }
        let messages: Vec<_> = messages.iter().collect();
        let (room, epoch) = (&job.registered.room, self.epoch());
        let committed = self.commit(room, &messages, job.since, job.deadline).await;
        match committed {
            Commit::Answered(Reply::Stored { sequence, duplicate }) => {
                self.stored(epoch, sequence);
                self.in_flight.stream_answers();
                let outcome = Outcome::Stored { sequence, duplicate };
                self.tally.add(&job, &outcome);
                job.tell(outcome);
            }
            Commit::Answered(Reply::Refused(error)) if !may_pass(&error) => job.tell(Outcome::Refused(error)),
            Commit::Answered(Reply::Refused(_) | Reply::NobodyListens) => {
                job.mark_waiting();
                self.in_flight.hold(job);
            }
            Commit::Lost => job.tell(Outcome::Failed(outcome_unknown())),
            Commit::NotSent => job.tell_unavailable(),
        }
    }
}

/// Takes the first job if `is_such` returns true for it.
fn pop_if(jobs: &mut VecDeque<Job>, is_such: impl Fn(&Job) -> bool) -> Option<Job> {
    jobs.front().is_some_and(is_such).then(|| jobs.pop_front()).flatten()
}

/// The messages of jobs that have one message each.
fn single_messages(jobs: &[Job]) -> Vec<&Outgoing> {
    let messages = jobs.iter().filter_map(|job| match &job.work {
        Work::One(message) => Some(&**message),
        Work::All(_) => None,
    });
    messages.collect()
}

/// How the first waiting job is published.
enum Plan {
    Plain,
    Group(usize),
    Run(usize),
    /// Wait until the messages in flight are answered.
    Wait,
}
