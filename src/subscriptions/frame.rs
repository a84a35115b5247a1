//! The frames that a subscription sends to its client.

use std::time::Duration;

use bytes::BytesMut;

use crate::{
    delivery::Slice,
    domain::{Cursor, Gap, Message, RoomId},
};

/// One frame of a subscription.
#[derive(Clone, Debug)]
pub(crate) enum Frame {
    Opened {
        position: u64,
        first_sequence: u64,
        last_sequence: u64,
        heartbeat_interval: Duration,
        resumed: bool,
        /// 0 without a durable subscriber.
        generation: u64,
        /// The place of `position`. `None` in an ephemeral room.
        cursor: Option<Cursor>,
    },
    /// Messages that are sent together.
    Messages(Slice),
    CaughtUp {
        position: u64,
    },
    Heartbeat {
        position: u64,
    },
    Gap(Gap),
}

/// Appends the encoding of a message. All subscriptions of the room send the same encoding. The arguments are the
/// room, the epoch of its log if it has one, the message, and the buffer.
pub(crate) type Encode = fn(&RoomId, Option<i64>, Message, &mut BytesMut);
