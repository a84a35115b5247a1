//! A durable subscriber, and its NATS name.
//!
//! A subscriber belongs to the endpoint that created it. Two endpoints can each have a subscriber with the same id;
//! these are two subscribers. The bucket of subscribers has one key for each NATS name, so two subscribers of a room
//! never have the same NATS name.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::domain::{MemberId, NatsName, RoomId, SubscriberId};

/// A durable subscriber of a room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Subscriber {
    pub room_id: RoomId,
    #[serde(rename = "subscriber")]
    pub id: SubscriberId,
    /// The endpoint that created the subscriber. `None` if authorisation was off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<MemberId>,
    /// The part of the consumer's name after the room's part.
    pub name: NatsName,
}

impl Subscriber {
    /// Returns true if `other` is the same subscriber. A subscriber without an endpoint belongs to the first endpoint
    /// that binds it.
    pub(in crate::store) fn is_same(&self, other: &Self) -> bool {
        let is_same_endpoint = self.endpoint.is_none() || other.endpoint.is_none() || self.endpoint == other.endpoint;
        self.id == other.id && is_same_endpoint
    }
}

impl fmt::Display for Subscriber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.id, f)
    }
}
