//! The `PublishStream` call: requests in, one result for each, in order.
//!
//! Requests are read only while the results that the client has not taken fit a window, so a client that does not read
//! is not read from either. The stream ends with OK after the client's half-close, and with a status when the service
//! stops, the caller's credentials expire or the client breaks the stream; in either case after the results of all that was read.

use std::{
    collections::VecDeque,
    pin::{Pin, pin},
    time::Duration,
};

use async_stream::stream;
use tokio::time::timeout;
use tonic::{Status, Streaming};

use super::{
    Responses, convert,
    skipped::{Skipped, too_large},
};
use crate::{
    domain::{Acknowledged, Draft, RoomId},
    error::Result,
    limits::{PUBLISH_STREAM_BYTES_MAX, PUBLISH_STREAM_MESSAGES_MAX},
    rooms::publish::Publishing,
    v1,
};

/// How long requests are read and thrown away after the last response.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(1);

type PendingResult<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A message whose result the client does not have yet.
struct Outstanding {
    correlation_id: u64,
    bytes: usize,
    outcome: PendingResult<Result<Acknowledged>>,
}

/// What has no result yet, in the order of the requests.
#[derive(Default)]
struct Window {
    outstanding: VecDeque<Outstanding>,
    bytes: usize,
}

impl Window {
    fn has_room(&self) -> bool {
        self.outstanding.len() < PUBLISH_STREAM_MESSAGES_MAX && self.bytes < PUBLISH_STREAM_BYTES_MAX
    }

    fn push(&mut self, outstanding: Outstanding) {
        self.bytes += outstanding.bytes;
        self.outstanding.push_back(outstanding);
    }

    /// The result of the oldest; never, if there is none.
    ///
    /// # Cancel safety
    /// May be dropped at any point without losing a result.
    async fn next(&mut self) -> v1::PublishStreamResponse {
        let Some(oldest) = self.outstanding.front_mut() else { return std::future::pending().await };
        let response = convert::stream_response(oldest.correlation_id, oldest.outcome.as_mut().await);
        self.bytes -= oldest.bytes;
        self.outstanding.pop_front();
        response
    }
}

/// A request that waits for its place in the order of its room.
struct Entering {
    correlation_id: u64,
    bytes: usize,
    entered: PendingResult<Result<PendingResult<Result<Acknowledged>>>>,
}

impl Entering {
    fn new(publishing: &Publishing, request: v1::PublishStreamRequest, is_too_large: bool) -> Self {
        let checked = if is_too_large { Err(too_large()) } else { convert::stream_request(request.publish) };
        let bytes = checked.as_ref().map_or(0, |(_, draft): &(RoomId, Draft)| draft.bytes());
        let publishing = publishing.clone();
        let entered = async move {
            let (room, draft) = checked?;
            let pending = publishing.submit(&room, draft).await?;
            Ok(Box::pin(pending.outcome()) as PendingResult<_>)
        };
        Self { correlation_id: request.correlation_id, bytes, entered: Box::pin(entered) }
    }

    /// What is outstanding then; never, if nothing is entering.
    async fn finish(entering: &mut Option<Self>) -> Outstanding {
        let Some(Self { correlation_id, bytes, entered }) = entering else { return std::future::pending().await };
        let (correlation_id, bytes) = (*correlation_id, *bytes);
        let outcome = entered.as_mut().await.unwrap_or_else(|error| Box::pin(async { Err(error) }));
        *entering = None;
        Outstanding { correlation_id, bytes, outcome }
    }
}

/// Reads what a client sends that has not heard yet that its stream ends. Without it the connection would be closed over
/// data that nobody has read, and the client's system would throw away the last results with it.
async fn discard(mut requests: Streaming<v1::PublishStreamRequest>) {
    let read = async { while let Ok(Some(_)) = requests.message().await {} };
    // a client that does not stop has heard it by then, or never will
    let _ = timeout(DISCARD_TIMEOUT, read).await;
}

/// The results of what comes in.
pub(super) fn results(
    publishing: Publishing,
    mut requests: Streaming<v1::PublishStreamRequest>,
    skipped: Skipped,
) -> Responses<v1::PublishStreamResponse> {
    Box::pin(stream! {
        let draining = publishing.draining();
        let mut expired = pin!(publishing.expired());
        let mut ended_early = false;
        let mut places = 0..;
        let mut window = Window::default();
        let mut entering = None;
        let mut ended: Option<Result<(), Status>> = None;
        loop {
            if window.outstanding.is_empty() && entering.is_none() && ended.is_some() {
                break;
            }
            let may_read = ended.is_none() && entering.is_none() && window.has_room();
            // in turns: results must not wait for requests to end, nor small requests pile up in the HTTP/2 library
            tokio::select! {
                response = window.next() => yield Ok(response),
                outstanding = Entering::finish(&mut entering) => window.push(outstanding),
                () = draining.cancelled(), if ended.is_none() => {
                    ended_early = true;
                    ended = Some(Err(Publishing::drained().into()));
                }
                error = &mut expired, if ended.is_none() => {
                    ended_early = true;
                    ended = Some(Err(error.into()));
                }
                request = requests.message(), if may_read => match request {
                    Ok(Some(request)) => {
                        let is_too_large = places.next().is_some_and(|place| skipped.take(place));
                        entering = Some(Entering::new(&publishing, request, is_too_large));
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
