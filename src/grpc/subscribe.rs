//! The Subscribe stream: frames out, and back what the client's stream has taken.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::Stream;
use prost::Message;
use tonic::{Response, Status};

use super::{convert, taken::TakenBytes};
use crate::{
    delivery::TakenLedger,
    domain::RoomId,
    error::Result,
    rooms::{Frame, Session, Subscription},
    v1,
};

/// Bytes that gRPC puts before each message.
const PREFIX_BYTES: u64 = 5;

pub(super) fn respond(subscription: Subscription) -> Response<FrameStream> {
    let taken = TakenBytes::default();
    let stream = FrameStream {
        room: subscription.room.room_id.clone(),
        epoch: subscription.epoch,
        acks: subscription.auto_acks.clone().map(|session| (session, TakenLedger::default())),
        taken: taken.clone(),
        position: 0,
        frames: Box::pin(subscription.frames()),
    };
    let mut response = Response::new(stream);
    response.extensions_mut().insert(taken);
    response
}

/// Frames of one subscription, encoded one by one as the client takes them.
pub(crate) struct FrameStream {
    room: RoomId,
    epoch: Option<i64>,
    /// Where an AUTO subscriber's position is told.
    acks: Option<(Arc<Session>, TakenLedger)>,
    taken: TakenBytes,
    position: u64,
    frames: Pin<Box<dyn Stream<Item = Result<Frame>> + Send>>,
}

impl FrameStream {
    fn note_taken(&mut self) {
        if let Some((session, ledger)) = &mut self.acks
            && let Some(position) = ledger.taken(self.taken.get())
        {
            session.taken(position);
        }
    }
}

impl Drop for FrameStream {
    /// The last frames are taken after the stream has ended, when the body is asked for its trailers.
    fn drop(&mut self) {
        self.note_taken();
    }
}

impl Stream for FrameStream {
    type Item = Result<v1::SubscribeResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        this.note_taken();
        let Poll::Ready(next) = this.frames.as_mut().poll_next(cx) else { return Poll::Pending };
        Poll::Ready(next.map(|frame| {
            let (response, position) = convert::frame(frame?, &this.room, this.epoch);
            this.position = position.unwrap_or(this.position).max(this.position);
            if let Some((_, ledger)) = &mut this.acks {
                ledger.sent(PREFIX_BYTES + response.encoded_len() as u64, this.position);
            }
            Ok(response)
        }))
    }
}
