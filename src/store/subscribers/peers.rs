//! Requests between the instances of the service, over core NATS. A request to an instance that has stopped fails at
//! once, because nothing subscribes to its subject.

use std::time::Duration;

use async_nats::{Client, RequestErrorKind};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::subscriber::Subscriber;
use crate::{
    domain::{NatsName, RoomId},
    error::{Error, Reason, Result},
    nats::{Nats, listening::Listening},
    store::names::requests_to,
};

/// A request of one instance to the holder of a durable subscriber.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PeerRequest {
    /// End the open subscription, write its position, and stop holding the subscriber.
    Release { subscriber: Subscriber },
    /// Everything up to the sequence is processed.
    Acknowledge { subscriber: Subscriber, sequence: u64 },
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

/// A request of another instance, with the means to answer it.
#[derive(Debug)]
pub(crate) struct IncomingRequest {
    pub request: PeerRequest,
    client: Client,
    reply_to: async_nats::Subject,
}

impl IncomingRequest {
    pub(crate) async fn answer(self, reply: &PeerReply) {
        let Ok(body) = serde_json::to_vec(reply) else { return };
        if let Err(error) = self.client.publish(self.reply_to, body.into()).await {
            warn!(%error, "a reply to another instance could not be sent");
        }
    }
}

/// Receives the requests of other instances.
#[derive(Debug)]
pub(crate) struct PeerListener {
    requests: Listening,
}

impl PeerListener {
    /// Returns the next request.
    ///
    /// # Cancel safety
    /// May be dropped at any point.
    pub(crate) async fn next(&mut self) -> IncomingRequest {
        loop {
            let message = self.requests.next().await;
            let Some(reply_to) = message.reply else { continue };
            match serde_json::from_slice(&message.payload) {
                Ok(request) => return IncomingRequest { request, client: self.requests.client().clone(), reply_to },
                Err(error) => warn!(%error, "a request of another instance cannot be read"),
            }
        }
    }
}

pub(in crate::store) async fn listen(nats: &Nats, instance: &str) -> Result<PeerListener> {
    // the subscription reaches the server before another instance can learn this instance's name
    let requests = Listening::open(nats, vec![requests_to(instance)]).await?;
    Ok(PeerListener { requests })
}

/// Sends a request to another instance. Returns `None` if that instance has stopped.
pub(in crate::store) async fn ask(
    nats: &Nats,
    instance: &str,
    request: &PeerRequest,
    timeout: Duration,
) -> Result<Option<PeerReply>> {
    nats.ready().await?;
    let body = Bytes::from(serde_json::to_vec(request).map_err(|error| Error::internal().because(error))?);
    let request = async_nats::Request::new().payload(body).timeout(Some(timeout));
    match nats.client.send_request(requests_to(instance), request).await {
        Ok(message) => {
            serde_json::from_slice(&message.payload).map(Some).map_err(|error| Error::internal().because(error))
        }
        Err(error) if error.kind() == RequestErrorKind::NoResponders => Ok(None),
        Err(error) => {
            Err(Error::new(Reason::Timeout, "another instance did not answer in time; calling again is safe")
                .because(error))
        }
    }
}
