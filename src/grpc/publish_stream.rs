//! The `PublishStream` call: one result for each request, in the order of the requests. A cumulative stream gathers the
//! results of stored messages (see `gathered`).
//!
//! The service reads requests only while the outstanding results fit a window, so it does not read from a client that
//! reads no results. The stream ends with `OK` after the client's half-close. It ends with an error when the service
//! drains, the caller's credentials expire, or the client breaks the stream. In each case the results of all requests
//! that were read come first.

use std::{
    collections::VecDeque,
    pin::{Pin, pin},
    time::Duration,
};

use async_stream::stream;
use futures_util::FutureExt;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Status, Streaming};

use super::{
    GrpcMetrics, Responses, convert,
    gathered::Gathered,
    skipped::{Skipped, too_large},
    status::status,
};
use crate::{
    domain::{Acknowledged, Draft, PublishAcks, RoomId},
    error::{Error, Result},
    limits::{PUBLISH_ACK_INTERVAL, PUBLISH_STREAM_BYTES_MAX, PUBLISH_STREAM_MESSAGES_MAX},
    rooms::publish::Publishing,
    v1,
};

/// How long the service reads and discards requests after the last response.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(1);

type PendingResult<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A message whose result was not sent yet.
struct OutstandingResult {
    correlation_id: u64,
    bytes: usize,
    outcome: PendingResult<Result<Acknowledged>>,
}

/// The outstanding messages, in the order of the requests.
#[derive(Default)]
struct Window {
    outstanding: VecDeque<OutstandingResult>,
    bytes: usize,
}

impl Window {
    fn has_space(&self) -> bool {
        self.outstanding.len() < PUBLISH_STREAM_MESSAGES_MAX && self.bytes < PUBLISH_STREAM_BYTES_MAX
    }

    fn push(&mut self, outstanding: OutstandingResult) {
        self.bytes += outstanding.bytes;
        self.outstanding.push_back(outstanding);
    }

    /// The oldest message's correlation id and outcome. Never completes when no message is outstanding.
    ///
    /// # Cancel safety
    /// May be dropped at any point without losing a result.
    async fn next(&mut self) -> (u64, Result<Acknowledged>) {
        let Some(oldest) = self.outstanding.front_mut() else { return std::future::pending().await };
        let (correlation_id, outcome) = (oldest.correlation_id, oldest.outcome.as_mut().await);
        self.bytes -= oldest.bytes;
        self.outstanding.pop_front();
        (correlation_id, outcome)
    }
}

/// How the stream answers. The first request decides.
#[derive(Debug, Default)]
enum Answering {
    #[default]
    Undecided,
    Each,
    Cumulative(Gathered),
}

impl Answering {
    /// Decides by the first request, and refuses a later one that says otherwise.
    ///
    /// # Errors
    /// `INVALID_FIELD`.
    fn check(&mut self, request: &v1::PublishStreamRequest) -> Result<PublishAcks> {
        let wanted = convert::publish_acks(request.acks);
        let decided = match self {
            Self::Undecided => {
                let first = wanted.as_ref().ok().copied().flatten().unwrap_or_default();
                *self = match first {
                    PublishAcks::Each => Self::Each,
                    PublishAcks::Cumulative => Self::Cumulative(Gathered::default()),
                };
                first
            }
            Self::Each => PublishAcks::Each,
            Self::Cumulative(_) => PublishAcks::Cumulative,
        };
        match wanted? {
            Some(wanted) if wanted != decided => {
                Err(Error::field("acks", "differs from the first request of the stream; leave it out"))
            }
            Some(_) | None => Ok(decided),
        }
    }

    /// The responses that the outcome of the next message causes.
    fn add(
        &mut self,
        (correlation_id, outcome): (u64, Result<Acknowledged>),
    ) -> [Option<v1::PublishStreamResponse>; 2] {
        match self {
            Self::Cumulative(gathered) => gathered.add(correlation_id, outcome, Instant::now()),
            Self::Undecided | Self::Each => [Some(convert::stream_response(correlation_id, outcome)), None],
        }
    }

    /// The response for all stored messages that have none.
    fn take(&mut self) -> Option<v1::PublishStreamResponse> {
        let Self::Cumulative(gathered) = self else { return None };
        gathered.take()
    }

    /// When the messages that have no response must get one.
    fn due(&self) -> Option<Instant> {
        let Self::Cumulative(gathered) = self else { return None };
        gathered.due()
    }
}

/// A request that waits until it is in the queue of its room.
struct Enqueueing {
    correlation_id: u64,
    bytes: usize,
    enqueued: PendingResult<Result<PendingResult<Result<Acknowledged>>>>,
}

impl Enqueueing {
    fn new(
        publishing: &Publishing,
        request: v1::PublishStreamRequest,
        is_too_large: bool,
        answering: &mut Answering,
    ) -> Self {
        let acks = if is_too_large { Err(too_large()) } else { answering.check(&request) };
        let checked = acks.and_then(|acks| Ok((convert::stream_request(request.publish)?, acks)));
        let bytes = checked.as_ref().map_or(0, |((_, draft), _): &((RoomId, Draft), PublishAcks)| draft.bytes());
        let publishing = publishing.clone();
        let enqueued = async move {
            let ((room, draft), acks) = checked?;
            let pending = publishing.submit(&room, draft, acks).await.map_err(in_publish)?;
            Ok(Box::pin(async move { pending.outcome().await.map_err(in_publish) }) as PendingResult<_>)
        };
        Self { correlation_id: request.correlation_id, bytes, enqueued: Box::pin(enqueued) }
    }

    /// Waits until the request is in the queue of its room. Never completes when no request waits.
    async fn finish(enqueueing: &mut Option<Self>) -> OutstandingResult {
        let Some(Self { correlation_id, bytes, enqueued }) = enqueueing else { return std::future::pending().await };
        let (correlation_id, bytes) = (*correlation_id, *bytes);
        let outcome = enqueued.as_mut().await.unwrap_or_else(|error| Box::pin(async { Err(error) }));
        *enqueueing = None;
        OutstandingResult { correlation_id, bytes, outcome }
    }
}

/// Names wrong fields as fields of `PublishStreamRequest`.
fn in_publish(error: Error) -> Error {
    error.within("publish")
}

/// Reads and discards requests until the client knows that its stream has ended. Without this, the connection would
/// close with unread data, and the client's system would drop the last results.
async fn discard(mut requests: Streaming<v1::PublishStreamRequest>) {
    let read = async { while let Ok(Some(_)) = requests.message().await {} };
    // a client that still sends after this time ignores the end of the stream
    let _ = timeout(DISCARD_TIMEOUT, read).await;
}

/// Submits `requests` and returns their results.
pub(super) fn results(
    publishing: Publishing,
    mut requests: Streaming<v1::PublishStreamRequest>,
    skipped: Skipped,
    metrics: GrpcMetrics,
) -> Responses<v1::PublishStreamResponse> {
    Box::pin(stream! {
        let draining = publishing.draining();
        let mut expired = pin!(publishing.expired());
        let mut ended_early = false;
        let mut places = 0..;
        let mut window = Window::default();
        let mut enqueueing = None;
        let mut answering = Answering::default();
        let mut due = pin!(sleep(PUBLISH_ACK_INTERVAL));
        let mut ended: Option<Result<(), Status>> = None;
        loop {
            if window.outstanding.is_empty() && enqueueing.is_none()
                && let Some(response) = answering.take()
            {
                yield Ok(response);
            }
            if window.outstanding.is_empty() && enqueueing.is_none() && ended.is_some() {
                break;
            }
            let may_read = ended.is_none() && enqueueing.is_none() && window.has_space();
            // not biased: results must not wait until the requests end, and small requests must not pile up in the
            // HTTP/2 library
            tokio::select! {
                outcome = window.next() => {
                    let mut next = Some(outcome);
                    // the outcomes that arrived with it
                    while let Some(outcome) = next {
                        metrics.failed(&outcome.1);
                        for response in answering.add(outcome).into_iter().flatten() {
                            yield Ok(response);
                        }
                        next = window.next().now_or_never();
                    }
                }
                () = &mut due, if answering.due().is_some() => {
                    let now = Instant::now();
                    if let Some(at) = answering.due().filter(|at| *at > now) {
                        due.as_mut().reset(at);
                    } else {
                        due.as_mut().reset(now + PUBLISH_ACK_INTERVAL);
                        if let Some(response) = answering.take() {
                            yield Ok(response);
                        }
                    }
                }
                outstanding = Enqueueing::finish(&mut enqueueing) => window.push(outstanding),
                () = draining.cancelled(), if ended.is_none() => {
                    ended_early = true;
                    ended = Some(Err(status(Publishing::drained())));
                }
                error = &mut expired, if ended.is_none() => {
                    ended_early = true;
                    ended = Some(Err(status(error)));
                }
                request = requests.message(), if may_read => match request {
                    Ok(Some(request)) => {
                        let is_too_large = places.next().is_some_and(|place| skipped.take(place));
                        enqueueing = Some(Enqueueing::new(&publishing, request, is_too_large, &mut answering));
                    }
                    Ok(None) => ended = Some(Ok(())),
                    Err(status) => ended = Some(Err(status)),
                },
            }
        }
        if let Some(Err(status)) = ended {
            if ended_early {
                publishing.follow(discard(requests));
            }
            yield Err(status);
        }
    })
}
