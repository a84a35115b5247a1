//! Checks whether a caller may publish, before the service receives its large message.

use std::task::{Context, Poll};

use futures_util::future::BoxFuture;

use crate::{
    domain::{Caller, RoomId},
    error::Error,
    grpc,
    rooms::Rooms,
};

/// The check whether the caller may publish in the room that the message names first.
pub(super) enum PublishRight {
    Unchecked(Box<(Rooms, Caller)>),
    Checking(BoxFuture<'static, Result<(), Error>>),
    /// The check has ended, or the message does not begin with the room.
    Settled,
}

impl PublishRight {
    pub(super) fn new(rooms: Rooms, caller: Caller) -> Self {
        Self::Unchecked(Box::new((rooms, caller)))
    }

    /// Ready when the service may receive the rest of the message that starts with `beginning`. `is_json`: the message is
    /// JSON.
    ///
    /// # Errors
    /// When the caller may not publish in the room.
    pub(super) fn poll(&mut self, beginning: &[u8], is_json: bool, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        loop {
            match std::mem::replace(self, Self::Settled) {
                Self::Unchecked(asking) => {
                    let id = if is_json { grpc::room_id_in_json(beginning) } else { grpc::room_id_at(beginning) };
                    let Some(id) = id else { return Poll::Ready(Ok(())) };
                    let (rooms, caller) = *asking;
                    *self = Self::Checking(Box::pin(async move {
                        rooms.may_publish(&caller, &RoomId::parse("room_id", id)?).await
                    }));
                }
                Self::Checking(mut asked) => {
                    let polled = asked.as_mut().poll(cx);
                    if polled.is_pending() {
                        *self = Self::Checking(asked);
                    }
                    return polled;
                }
                Self::Settled => return Poll::Ready(Ok(())),
            }
        }
    }
}
