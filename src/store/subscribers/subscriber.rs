//! Which durable subscriber is meant by an id, and which name in NATS it has.
//!
//! A subscriber belongs to the endpoint that bound it: another endpoint's subscriber of the same id is another one. The bucket of
//! subscribers has one key for each name in NATS, so that two subscribers never have the same.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::domain::{MemberId, NatsName, RoomId, SubscriberId};

/// A durable subscriber of a room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Subscriber {
    pub room_id: RoomId,
    #[serde(rename = "subscriber")]
    pub id: SubscriberId,
    /// The endpoint that bound it; `None` if authorisation was off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<MemberId>,
    /// What its consumer's name has after the room's.
    pub name: NatsName,
}

impl Subscriber {
    /// Whether `other` is the same one: what is bound without an endpoint is of the first that wants it.
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
