//! A subscriber: it reads all messages of one room, and counts and measures those of the run.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio::time;
use tonic::{Status, Streaming};
use unibus::v1::{Message, Start, SubscribeRequest, SubscribeResponse, start::At, subscribe_response::Frame};

use super::{
    payload::Stamp,
    run::{Phase, Shared},
    tally::{SubscriberTally, room_of},
};
use crate::cli::{
    connection::RoomClient,
    exit::Exit,
    failure::{CliResult, Failure},
};

/// More messages than a publisher ever sends in a run: what claims a higher number is none of ours.
const NUMBER_MAX: u64 = 1 << 33;

/// Reads one room.
#[derive(Debug)]
pub(super) struct BenchSubscriber {
    shared: Arc<Shared>,
    room_id: String,
    frames: Streaming<SubscribeResponse>,
    tally: SubscriberTally,
}

impl BenchSubscriber {
    /// Opens the subscription. Every later message is delivered to it.
    pub(super) async fn open(
        shared: Arc<Shared>,
        mut client: RoomClient,
        room: usize,
        room_id: String,
    ) -> CliResult<Self> {
        let what = format!("subscribe to the room {room_id}");
        let start = Some(Start { at: Some(At::New(())) });
        let request = SubscribeRequest { room_id: room_id.clone(), start, ..SubscribeRequest::default() };
        let opening = async {
            let mut frames = client.subscribe(request).await?.into_inner();
            let first = frames.message().await?;
            Ok::<_, Status>((frames, first))
        };
        let opened = time::timeout(shared.session.connector.timeout(), opening).await;
        let opened = opened.map_err(|_| Failure::new(Exit::Timeout, format!("cannot {what}: no answer in time")))?;
        let (frames, first) = opened.map_err(|status| Failure::call(&what, &status))?;
        match first {
            Some(SubscribeResponse { frame: Some(Frame::Opened(_)) }) => {
                Ok(Self { shared, room_id, frames, tally: SubscriberTally::new(room) })
            }
            _ => Err(Failure::new(Exit::Failed, format!("cannot {what}: the first frame is another one"))),
        }
    }

    /// Reads messages until the run ends. The failure is why reading ended early.
    pub(super) async fn run(mut self) -> (SubscriberTally, Option<Failure>) {
        let shared = Arc::clone(&self.shared);
        loop {
            let frame = tokio::select! {
                frame = self.frames.message() => frame,
                () = shared.finish.cancelled() => return (self.tally, None),
                () = shared.stop.cancelled() => return (self.tally, None),
            };
            let failure = match frame {
                Ok(Some(SubscribeResponse { frame: Some(Frame::Message(message)) })) => {
                    self.count(&message);
                    continue;
                }
                // the messages of a gap are missing in the count
                Ok(Some(_)) => continue,
                Ok(None) => Failure::new(Exit::Unreachable, format!("the subscription of {} ended", self.room_id)),
                Err(status) => Failure::call(&format!("read the room {}", self.room_id), &status),
            };
            shared.stop.cancel();
            return (self.tally, Some(failure));
        }
    }

    fn count(&mut self, message: &Message) {
        let shared = &self.shared;
        let Some(stamp) = Stamp::read(&message.payload) else { return };
        if stamp.tag == shared.tag_of(Phase::WarmUp) {
            shared.counts_of(Phase::WarmUp).delivered.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let is_of_room = room_of(stamp.publisher, shared.workload.publishers) == self.tally.room;
        if stamp.tag != shared.tag_of(Phase::Measured) || !is_of_room || stamp.number > NUMBER_MAX {
            return;
        }
        if !self.tally.seen.entry(stamp.publisher).or_default().insert(stamp.number) {
            self.tally.duplicated += 1;
            return;
        }
        let now = Instant::now();
        let published = shared.clock + Duration::from_nanos(stamp.at);
        self.tally.latencies.record(now.saturating_duration_since(published));
        self.tally.span.extend(now);
        shared.counts_of(Phase::Measured).delivered.fetch_add(1, Ordering::Relaxed);
    }
}
