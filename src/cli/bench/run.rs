//! One run of a benchmark: connections and subscriptions, a warm-up, and the measurement.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::{
    sync::Notify,
    task::{JoinSet, spawn_blocking},
    time,
};
use tokio_util::sync::CancellationToken;

use super::{
    pace::{PhaseEnd, Schedule},
    payload::PayloadMaker,
    publisher::BenchPublisher,
    subscriber::BenchSubscriber,
    tally::{PublisherTally, SubscriberTally, room_of},
    workload::Workload,
};
use crate::cli::{
    connection::RoomClient,
    exit::Exit,
    failure::{CliResult, Failure},
    session::Session,
};

/// Connections and subscriptions that are opened at the same time.
const OPENING_MAX: usize = 16;
/// How often the run asks whether everything was delivered.
const DELIVERY_CHECK: time::Duration = time::Duration::from_millis(5);

/// What the tasks of a run share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) session: Session,
    pub(super) workload: Workload,
    /// The tag of the messages that are measured. Those of the warm-up have the next number.
    pub(super) tag: u32,
    /// The times in payloads count from here.
    pub(super) clock: Instant,
    pub(super) payloads: PayloadMaker,
    /// Counts of the warm-up and of the measurement.
    pub(super) counts: [PhaseCounts; 2],
    /// Everything ends at once.
    pub(super) stop: CancellationToken,
    /// Everything was delivered.
    pub(super) finish: CancellationToken,
}

/// The part of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    WarmUp,
    Measured,
}

/// How far a phase is.
#[derive(Debug, Default)]
pub(super) struct PhaseCounts {
    pub(super) acknowledged: AtomicU64,
    pub(super) delivered: AtomicU64,
}

impl Shared {
    pub(super) fn new(session: Session, workload: Workload) -> Self {
        let (tag, _) = uuid::Uuid::new_v4().as_u64_pair();
        Self {
            session,
            payloads: PayloadMaker::new(workload.size),
            workload,
            // the upper half of a random number
            tag: u32::try_from(tag >> 32).unwrap_or_default(),
            clock: Instant::now(),
            counts: [PhaseCounts::default(), PhaseCounts::default()],
            stop: CancellationToken::new(),
            finish: CancellationToken::new(),
        }
    }

    /// The tag of the messages of this phase.
    pub(super) fn tag_of(&self, phase: Phase) -> u32 {
        match phase {
            Phase::Measured => self.tag,
            Phase::WarmUp => self.tag.wrapping_add(1),
        }
    }

    pub(super) fn counts_of(&self, phase: Phase) -> &PhaseCounts {
        let [warm_up, measured] = &self.counts;
        match phase {
            Phase::WarmUp => warm_up,
            Phase::Measured => measured,
        }
    }
}

/// What a run has counted.
#[derive(Debug)]
pub(super) struct RunResult {
    pub(super) publishers: Vec<PublisherTally>,
    pub(super) subscribers: Vec<SubscriberTally>,
    /// Why the run ended early.
    pub(super) failure: Option<Failure>,
}

/// A task of a publisher has ended.
struct PublisherEnd {
    publisher: BenchPublisher,
    tally: PublisherTally,
    failure: Option<Failure>,
}

/// Runs a benchmark in these rooms. It ends by itself, or soon after `shared.stop` was cancelled.
pub(super) async fn run(shared: Arc<Shared>, room_ids: &[String]) -> RunResult {
    let mut result = RunResult { publishers: Vec::new(), subscribers: Vec::new(), failure: None };
    let opened = tokio::select! {
        opened = open(&shared, room_ids) => opened,
        () = shared.stop.cancelled() => return result,
    };
    let (publishers, subscribers) = match opened {
        Ok(opened) => opened,
        Err(failure) => return RunResult { failure: Some(failure), ..result },
    };
    let mut reading = JoinSet::new();
    for subscriber in subscribers {
        reading.spawn(subscriber.run());
    }
    result.failure = publish_all(&shared, publishers, &mut result.publishers).await;
    if result.failure.is_some() {
        shared.stop.cancel();
    }
    shared.finish.cancel();
    while let Some(ended) = reading.join_next().await {
        match ended {
            Ok((tally, failure)) => {
                result.subscribers.push(tally);
                result.failure = result.failure.or(failure);
            }
            Err(error) => result.failure = result.failure.or(Some(Failure::new(Exit::Failed, error.to_string()))),
        }
    }
    result
}

/// Opens everything that the run needs, so that only publishing and delivering is measured.
async fn open(shared: &Arc<Shared>, room_ids: &[String]) -> CliResult<(Vec<BenchPublisher>, Vec<BenchSubscriber>)> {
    let workload = &shared.workload;
    let connecting = (0..workload.connections).map(|_| shared.session.client());
    let clients: Vec<RoomClient> = stream::iter(connecting).buffered(OPENING_MAX).try_collect().await?;
    let mut clients = clients.iter().cycle();
    let mut client = || clients.next().cloned();
    let no_client = || Failure::new(Exit::Failed, "there is no connection");
    let mut opening = Vec::new();
    for (room, room_id) in room_ids.iter().enumerate() {
        for _ in 0..workload.subscribers {
            let client = client().ok_or_else(no_client)?;
            opening.push(BenchSubscriber::open(Arc::clone(shared), client, room, room_id.clone()));
        }
    }
    let subscribers = stream::iter(opening).buffer_unordered(OPENING_MAX).try_collect().await?;
    let mut publishers = Vec::new();
    for index in 0..workload.publishers_of_all_rooms() {
        let room_id = room_ids.get(room_of(index, workload.publishers)).cloned().unwrap_or_default();
        let client = client().ok_or_else(no_client)?;
        publishers.push(BenchPublisher::open(Arc::clone(shared), client, index, room_id).await?);
    }
    Ok((publishers, subscribers))
}

/// Publishes the messages of both phases, and waits until they are delivered.
async fn publish_all(
    shared: &Arc<Shared>,
    publishers: Vec<BenchPublisher>,
    tallies: &mut Vec<PublisherTally>,
) -> Option<Failure> {
    let workload = &shared.workload;
    let mut publishers = publishers;
    if !workload.warm_up.is_zero() {
        let (ready, warm, failure) =
            publish(shared, publishers, Phase::WarmUp, PhaseEnd::After(workload.warm_up)).await;
        if failure.is_some() {
            return failure;
        }
        delivered(shared, Phase::WarmUp, &warm).await;
        publishers = ready;
    }
    let (_, measured, failure) = publish(shared, publishers, Phase::Measured, workload.end).await;
    if failure.is_none() {
        delivered(shared, Phase::Measured, &measured).await;
    }
    tallies.extend(measured);
    failure
}

/// Publishes the messages of one phase.
async fn publish(
    shared: &Arc<Shared>,
    publishers: Vec<BenchPublisher>,
    phase: Phase,
    end: PhaseEnd,
) -> (Vec<BenchPublisher>, Vec<PublisherTally>, Option<Failure>) {
    let workload = &shared.workload;
    let begins = Instant::now();
    let schedule = Schedule { begins, end, publishers: workload.publishers_of_all_rooms(), rate: workload.rate };
    let wakers: Vec<_> = publishers.iter().map(|_| Arc::new(Notify::new())).collect();
    let is_over = shared.stop.child_token();
    let waking = workload.rate.is_some().then(|| {
        let (wakers, is_over) = (wakers.clone(), is_over.clone());
        spawn_blocking(move || schedule.wake(&wakers, &is_over))
    });
    let mut running = JoinSet::new();
    for (mut publisher, waker) in publishers.into_iter().zip(wakers) {
        running.spawn(async move {
            let (tally, failure) = publisher.run(phase, schedule, &waker).await;
            PublisherEnd { publisher, tally, failure }
        });
    }
    let (mut publishers, mut tallies, mut first_failure) = (Vec::new(), Vec::new(), None);
    while let Some(ended) = running.join_next().await {
        let failure = match ended {
            Ok(PublisherEnd { publisher, tally, failure }) => {
                publishers.push(publisher);
                tallies.push(tally);
                failure
            }
            Err(error) => Some(Failure::new(Exit::Failed, error.to_string())),
        };
        if let Some(failure) = failure {
            shared.stop.cancel();
            first_failure.get_or_insert(failure);
        }
    }
    is_over.cancel();
    if let Some(waking) = waking {
        // it has nothing to report
        let _ = waking.await;
    }
    (publishers, tallies, first_failure)
}

/// Waits until everything that was acknowledged was delivered, or nothing was delivered for the time limit of a call.
async fn delivered(shared: &Shared, phase: Phase, published: &[PublisherTally]) {
    let acknowledged: u64 = published.iter().map(|tally| tally.acknowledged.len()).sum();
    let expected = acknowledged * u64::from(shared.workload.subscribers);
    let delivered = || shared.counts_of(phase).delivered.load(Ordering::Relaxed);
    let (mut last, mut since) = (delivered(), Instant::now());
    while last < expected && !shared.stop.is_cancelled() && since.elapsed() < shared.session.connector.timeout() {
        time::sleep(DELIVERY_CHECK).await;
        let now = delivered();
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
}
