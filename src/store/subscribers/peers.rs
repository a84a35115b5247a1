//! Requests to the instance that holds a durable subscriber.

use serde::{Deserialize, Serialize};

use super::subscriber::Subscriber;
use crate::{
    domain::{NatsName, RoomId},
    store::{names::requests_to, peers::PeerCall},
};

/// A request of one instance to the holder of a durable subscriber.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PeerRequest {
    /// End the open subscription, write its position, and stop holding the subscriber.
    Release { subscriber: Subscriber },
    /// Everything up to the sequence is processed.
    Acknowledge {
        subscriber: Subscriber,
        sequence: u64,
        /// See [`Acknowledgement::generation`](crate::domain::Acknowledgement::generation).
        #[serde(default)]
        generation: Option<u64>,
    },
    /// Set the position, in either direction.
    Seek { subscriber: Subscriber, position: u64 },
    /// End the open subscription, and delete the subscriber.
    #[serde(rename = "forget")]
    Delete { subscriber: Subscriber },
    /// Report for each of these NATS names whether a subscription is open, and since when it has its position.
    Describe { room_id: RoomId, names: Vec<NatsName> },
}

/// An answer of the holder.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PeerReply {
    Released,
    /// The current position.
    Position(u64),
    /// In the order of the request: for an open subscription, the time of its last move in milliseconds since 1970.
    Described(Vec<Option<u64>>),
    /// This instance does not hold the subscriber. The caller must find the holder again.
    NotMine,
    /// The name of the error's reason.
    Failed(String),
}

impl PeerCall for PeerRequest {
    type Reply = PeerReply;

    fn subject(instance: &str) -> String {
        requests_to(instance)
    }
}
