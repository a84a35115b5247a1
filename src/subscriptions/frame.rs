//! What a subscription tells its client.

use std::time::Duration;

use bytes::BytesMut;

use crate::{
    delivery::Slice,
    domain::{Gap, Message, RoomId},
};

/// One step of a subscription.
#[derive(Clone, Debug)]
pub(crate) enum Frame {
    Opened {
        position: u64,
        first_sequence: u64,
        last_sequence: u64,
        heartbeat_interval: Duration,
        resumed: bool,
    },
    /// Messages that go out together.
    Messages(Slice),
    CaughtUp {
        position: u64,
    },
    Heartbeat {
        position: u64,
    },
    Gap(Gap),
}

/// Appends the form in which a message of a room, in this life of its log, goes out to every subscriber.
pub(crate) type Encode = fn(&RoomId, Option<i64>, Message, &mut BytesMut);
