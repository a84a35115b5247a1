//! A publisher: it publishes messages in one room, on a stream or with one call for each, and measures their answers.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::{
        Notify,
        mpsc::{self, error::TrySendError},
    },
    time,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};
use unibus::v1::{
    PublishRequest, PublishResponse, PublishStreamRequest, PublishStreamResponse, publish_stream_response::Outcome,
};

use super::{
    pace::Schedule,
    payload::Stamp,
    run::{Phase, Shared},
    tally::PublisherTally,
};
use crate::cli::{
    connection::RoomClient,
    exit::Exit,
    failure::{CliResult, Failure, status_of},
};

/// Requests between a publisher and its connection.
const REQUESTS_AHEAD: usize = 64;
/// The longest pause after the service refused a message for a moment.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Publishes in one room.
#[derive(Debug)]
pub(super) struct BenchPublisher {
    shared: Arc<Shared>,
    client: RoomClient,
    /// The number among all publishers.
    index: u32,
    room_id: String,
    /// `None`: each message is a call of its own.
    stream: Option<OpenStream>,
}

#[derive(Debug)]
struct OpenStream {
    requests: mpsc::Sender<PublishStreamRequest>,
    responses: Streaming<PublishStreamResponse>,
}

/// A message that was sent.
#[derive(Clone, Copy, Debug)]
struct SentMessage {
    number: u64,
    /// When the message was due; without a rate, when it was sent.
    due: Instant,
}

/// What a call has returned.
type CallEnd = (SentMessage, Result<Response<PublishResponse>, Status>);

/// One phase of one publisher.
struct PublisherPhase<'a> {
    shared: &'a Shared,
    phase: Phase,
    schedule: Schedule,
    tally: PublisherTally,
    /// Nothing is sent before this time.
    pause_until: Option<Instant>,
}

impl BenchPublisher {
    /// Opens the stream, if there is to be one.
    pub(super) async fn open(
        shared: Arc<Shared>,
        mut client: RoomClient,
        index: u32,
        room_id: String,
    ) -> CliResult<Self> {
        let stream = if shared.workload.unary {
            None
        } else {
            let (requests, receiver) = mpsc::channel(shared.workload.window.min(REQUESTS_AHEAD));
            let opened = client.publish_stream(ReceiverStream::new(receiver));
            let opened = time::timeout(shared.session.connector.timeout(), opened).await.map_err(|_| no_answer())?;
            let responses = opened.map_err(|status| Failure::call("publish", &status))?.into_inner();
            Some(OpenStream { requests, responses })
        };
        Ok(Self { shared, client, index, room_id, stream })
    }

    /// Publishes the messages of one phase. The failure is why the phase ended early.
    pub(super) async fn run(
        &mut self,
        phase: Phase,
        schedule: Schedule,
        waker: &Notify,
    ) -> (PublisherTally, Option<Failure>) {
        let shared = Arc::clone(&self.shared);
        let tally = PublisherTally::new(self.index);
        let mut state = PublisherPhase { shared: &shared, phase, schedule, tally, pause_until: None };
        let work = async {
            match &mut self.stream {
                Some(stream) => state.on_stream(stream, &self.room_id, waker).await,
                None => state.by_calls(&self.client, &self.room_id, waker).await,
            }
        };
        let ended = tokio::select! {
            ended = work => ended,
            () = shared.stop.cancelled() => Ok(()),
        };
        (state.tally, ended.err())
    }
}

impl PublisherPhase<'_> {
    async fn on_stream(&mut self, stream: &mut OpenStream, room_id: &str, waker: &Notify) -> CliResult {
        let OpenStream { requests, responses } = stream;
        let mut waiting: VecDeque<SentMessage> = VecDeque::new();
        let timeout = self.shared.session.connector.timeout();
        let mut silence = std::pin::pin!(time::sleep(timeout));
        loop {
            let (mut due, mut is_blocked) = (self.next_due(), false);
            while let Some(next) = self.ready(due, waiting.len()) {
                match requests.try_reserve() {
                    Ok(permit) => {
                        let (message, publish) = self.take(next, room_id);
                        permit.send(PublishStreamRequest {
                            correlation_id: message.number,
                            publish: Some(publish),
                            acks: 0,
                        });
                        waiting.push_back(message);
                        due = self.next_due();
                    }
                    // the connection is busy, or gone: then the responses say why
                    Err(TrySendError::Full(()) | TrySendError::Closed(())) => {
                        is_blocked = true;
                        break;
                    }
                }
            }
            if due.is_none() && waiting.is_empty() {
                return Ok(());
            }
            let has_room = due.is_some() && waiting.len() < self.shared.workload.window;
            tokio::select! {
                response = responses.message() => {
                    silence.as_mut().reset(time::Instant::now() + timeout);
                    let response = response.map_err(|status| Failure::call("publish", &status))?;
                    let response =
                        response.ok_or_else(|| Failure::new(Exit::Unreachable, "the service ended the stream"))?;
                    let message = waiting.pop_front().filter(|first| first.number == response.correlation_id);
                    let message = message
                        .ok_or_else(|| Failure::new(Exit::Failed, "the service answered a message that was not sent"))?;
                    match response.outcome {
                        Some(Outcome::Result(_)) => self.stored(message),
                        Some(Outcome::Error(error)) => self.failed(Failure::call("publish", &status_of(&error)))?,
                        Some(Outcome::Through(_)) | None => {}
                    }
                }
                permit = requests.reserve(), if is_blocked && !requests.is_closed() => drop(permit),
                () = self.wait(waker), if has_room && !is_blocked => {}
                () = silence.as_mut() => {
                    silence.as_mut().reset(time::Instant::now() + timeout);
                    if !waiting.is_empty() {
                        return Err(no_answer());
                    }
                }
            }
        }
    }

    async fn by_calls(&mut self, client: &RoomClient, room_id: &str, waker: &Notify) -> CliResult {
        let mut calls: FuturesUnordered<BoxFuture<'static, CallEnd>> = FuturesUnordered::new();
        loop {
            let mut due = self.next_due();
            while let Some(next) = self.ready(due, calls.len()) {
                let (message, publish) = self.take(next, room_id);
                let (mut client, request) = (client.clone(), self.shared.session.request(publish));
                calls.push(Box::pin(async move { (message, client.publish(request).await) }));
                due = self.next_due();
            }
            if due.is_none() && calls.is_empty() {
                return Ok(());
            }
            let has_room = due.is_some() && calls.len() < self.shared.workload.window;
            tokio::select! {
                Some((message, published)) = calls.next(), if !calls.is_empty() => match published {
                    Ok(_) => self.stored(message),
                    Err(status) => self.failed(Failure::call("publish", &status))?,
                },
                () = self.wait(waker), if has_room => {}
            }
        }
    }

    /// When the next message is due; `None` if the phase has no further message.
    fn next_due(&self) -> Option<Instant> {
        self.schedule.due(self.tally.publisher, self.tally.sent, Instant::now())
    }

    /// The time of the next message, if it may be sent now.
    fn ready(&self, due: Option<Instant>, waiting: usize) -> Option<Instant> {
        let now = Instant::now();
        let may_send = waiting < self.shared.workload.window && self.pause_until.is_none_or(|end| end <= now);
        due.filter(|due| may_send && *due <= now)
    }

    /// Waits until the next message may be sent.
    async fn wait(&self, waker: &Notify) {
        match self.pause_until {
            Some(end) => time::sleep_until(end.into()).await,
            None => waker.notified().await,
        }
    }

    /// Makes the next message.
    fn take(&mut self, due: Instant, room_id: &str) -> (SentMessage, PublishRequest) {
        let (shared, number) = (self.shared, self.tally.sent);
        self.tally.sent += 1;
        self.tally.span.extend(Instant::now());
        self.pause_until = None;
        let at = u64::try_from(due.saturating_duration_since(shared.clock).as_nanos()).unwrap_or(u64::MAX);
        let stamp = Stamp { tag: shared.tag_of(self.phase), publisher: self.tally.publisher, number, at };
        let payload = shared.payloads.make(stamp);
        let publish = PublishRequest { room_id: room_id.to_owned(), payload, ..PublishRequest::default() };
        (SentMessage { number, due }, publish)
    }

    fn stored(&mut self, message: SentMessage) {
        let now = Instant::now();
        self.tally.latencies.record(now.saturating_duration_since(message.due));
        self.tally.span.extend(now);
        self.tally.acknowledged.insert(message.number);
        self.shared.counts_of(self.phase).acknowledged.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a message that was not confirmed. The phase ends if the next message would have the same fate.
    fn failed(&mut self, failure: Failure) -> CliResult {
        let retry_after = failure.retry_after();
        let may_pass = match failure.reason() {
            Some("OUTCOME_UNKNOWN" | "TIMEOUT" | "CONFLICT") => true,
            Some(_) => retry_after.is_some(),
            // the connection stands, and only this call took too long
            None => failure.exit() == Exit::Timeout,
        };
        if !may_pass {
            return Err(failure);
        }
        if self.schedule.rate.is_none() {
            // without a rate, a service that refuses would get requests without end
            self.pause_until = retry_after.map(|after| Instant::now() + after.min(PAUSE_MAX));
        }
        self.tally.failed(failure);
        Ok(())
    }
}

fn no_answer() -> Failure {
    Failure::new(Exit::Timeout, "cannot publish: no answer within --timeout")
}
