//! Asks whether a caller may publish before its large message is received.

use std::task::{Context, Poll};

use futures_util::future::BoxFuture;

use crate::{
    domain::{Caller, RoomId},
    error::Error,
    grpc,
    rooms::Rooms,
};

/// Whether the caller may publish in the room that the message begins with.
pub(super) enum Right {
    Unasked(Box<(Rooms, Caller)>),
    Asked(BoxFuture<'static, Result<(), Error>>),
    /// It may, or the beginning does not name the room.
    Settled,
}

impl Right {
    pub(super) fn new(rooms: Rooms, caller: Caller) -> Self {
        Self::Unasked(Box::new((rooms, caller)))
    }

    /// Ready when the rest of the message, which begins so, may be received.
    ///
    /// # Errors
    /// When the caller may not publish there.
    pub(super) fn poll(&mut self, beginning: &[u8], cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        loop {
            match std::mem::replace(self, Self::Settled) {
                Self::Unasked(asking) => {
                    let Some(id) = grpc::room_id_at(beginning) else { return Poll::Ready(Ok(())) };
                    let (rooms, caller) = *asking;
                    *self = Self::Asked(Box::pin(async move {
                        rooms.may_publish(&caller, &RoomId::parse("room_id", id)?).await
                    }));
                }
                Self::Asked(mut asked) => {
                    let polled = asked.as_mut().poll(cx);
                    if polled.is_pending() {
                        *self = Self::Asked(asked);
                    }
                    return polled;
                }
                Self::Settled => return Poll::Ready(Ok(())),
            }
        }
    }
}
