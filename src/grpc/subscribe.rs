//! The Subscribe stream: frames out, each noted for the acknowledgement of what the client takes.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use futures_util::Stream;
use prost::Message;
use tonic::{Response, Status};

use super::{convert, taken::AutoAcks};
use crate::{
    domain::RoomId,
    error::Result,
    rooms::{Frame, Subscription},
    v1,
};

/// Bytes that gRPC puts before each message.
const PREFIX_BYTES: u64 = 5;

pub(super) fn respond(subscription: Subscription) -> Response<FrameStream> {
    let acks = subscription.auto_acks.clone().map(AutoAcks::new);
    let stream = FrameStream {
        room: subscription.room.room_id.clone(),
        epoch: subscription.epoch,
        acks: acks.clone(),
        position: 0,
        frames: Box::pin(subscription.frames()),
    };
    let mut response = Response::new(stream);
    if let Some(acks) = acks {
        response.extensions_mut().insert(acks);
    }
    response
}

/// Frames of one subscription, encoded one by one as the client takes them.
pub(crate) struct FrameStream {
    room: RoomId,
    epoch: Option<i64>,
    acks: Option<AutoAcks>,
    position: u64,
    frames: Pin<Box<dyn Stream<Item = Result<Frame>> + Send>>,
}

impl Stream for FrameStream {
    type Item = Result<v1::SubscribeResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let Poll::Ready(next) = this.frames.as_mut().poll_next(cx) else { return Poll::Pending };
        Poll::Ready(next.map(|frame| {
            let (response, position) = convert::frame(frame?, &this.room, this.epoch);
            this.position = position.unwrap_or(this.position).max(this.position);
            if let Some(acks) = &this.acks {
                acks.sent(PREFIX_BYTES + response.encoded_len() as u64, this.position);
            }
            Ok(response)
        }))
    }
}
