//! Requests between the instances of the service, over core NATS. An instance that is gone answers at once: nobody listens.

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

/// What one instance asks of another about a durable subscriber that the other one owns.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PeerRequest {
    /// End its open subscription, write its position, and own it no more.
    Release { subscriber: Subscriber },
    /// Everything up to the sequence is processed.
    Acknowledge { subscriber: Subscriber, sequence: u64 },
    /// Its position is this, wherever it was.
    Seek { subscriber: Subscriber, position: u64 },
    /// End its open subscription, and delete it.
    Forget { subscriber: Subscriber },
    /// Which of those with these names in NATS have an open subscription, and since when they stand where they stand.
    Describe { room_id: RoomId, names: Vec<NatsName> },
}

/// What the owner answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PeerReply {
    Released,
    /// The position as it is now.
    Position(u64),
    /// In the order of the question: for an open subscription milliseconds since 1970.
    Described(Vec<Option<u64>>),
    /// The subscriber is not this instance's, or not any more: look again who owns it.
    NotMine,
    /// The name of the reason for which it failed.
    Failed(String),
}

/// A request of another instance.
#[derive(Debug)]
pub(crate) struct Asked {
    pub request: PeerRequest,
    client: Client,
    reply_to: async_nats::Subject,
}

impl Asked {
    pub(crate) async fn answer(self, reply: &PeerReply) {
        let Ok(body) = serde_json::to_vec(reply) else { return };
        if let Err(error) = self.client.publish(self.reply_to, body.into()).await {
            warn!(%error, "a reply to another instance could not be sent");
        }
    }
}

/// This instance's ear for the others.
#[derive(Debug)]
pub(crate) struct PeerListener {
    requests: Listening,
}

impl PeerListener {
    /// The next request.
    ///
    /// # Cancel safety
    /// May be dropped at any point.
    pub(crate) async fn next(&mut self) -> Asked {
        loop {
            let message = self.requests.next().await;
            let Some(reply_to) = message.reply else { continue };
            match serde_json::from_slice(&message.payload) {
                Ok(request) => return Asked { request, client: self.requests.client().clone(), reply_to },
                Err(error) => warn!(%error, "a request of another instance cannot be read"),
            }
        }
    }
}

pub(in crate::store) async fn listen(nats: &Nats, instance: &str) -> Result<PeerListener> {
    // on the server before anybody can learn the instance's name
    let requests = Listening::open(nats, vec![requests_to(instance)]).await?;
    Ok(PeerListener { requests })
}

/// Asks another instance. `None`: there is no such instance any more.
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
