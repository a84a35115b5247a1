//! Messages of an ephemeral room, received by a core NATS subscription. Reports when messages may have been lost.

use std::time::{Duration, SystemTime};

use async_nats::Subscriber;
use futures_util::{FutureExt, StreamExt};
use tokio::{sync::watch, time};
use tracing::debug;

use super::message::StoredMessage;
use crate::{
    domain::{Message, Room},
    error::Result,
    nats::{Nats, error::unavailable},
    store::signatures::{Attribution, Signatures, seal::Seal},
};

const RETRY_DELAY_MIN: Duration = Duration::from_millis(20);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(1);

/// An event in an ephemeral room.
#[derive(Debug)]
pub(crate) enum EphemeralEvent {
    Message(Message),
    /// The NATS connection was lost and is back. Messages that were published meanwhile are lost.
    Reconnected,
}

/// A subscription to the subject of an ephemeral room. Dropping it ends the subscription.
#[derive(Debug)]
pub(crate) struct EphemeralFeed {
    nats: Nats,
    messages: Subscriber,
    signatures: Signatures,
    room: Room,
    /// A message that waits until its sender is known.
    held: Option<(Message, Seal)>,
    connections: watch::Receiver<u64>,
}

impl EphemeralFeed {
    /// Subscribes. Every message that is published after this returns is received.
    pub(in crate::store) async fn open(nats: &Nats, signatures: &Signatures, room: &Room) -> Result<Self> {
        let (messages, connections) = listen(nats, room).await?;
        let (nats, signatures, room) = (nats.clone(), signatures.clone(), room.clone());
        Ok(Self { nats, messages, signatures, room, held: None, connections })
    }

    /// Waits for the next event. Messages arrive in the order of the NATS server.
    ///
    /// # Cancel safety
    /// May be dropped at any point without losing a message.
    pub(crate) async fn next(&mut self) -> EphemeralEvent {
        loop {
            if let Some((message, seal)) = &mut self.held {
                self.signatures.attribute_surely(&self.room, message, seal).await;
            }
            if let Some((message, _)) = self.held.take() {
                return EphemeralEvent::Message(message);
            }
            let message = tokio::select! {
                biased;
                Ok(()) = self.connections.changed() => return EphemeralEvent::Reconnected,
                message = self.messages.next() => message,
            };
            let Some(message) = message else {
                self.listen_again().await;
                return EphemeralEvent::Reconnected;
            };
            if let Some(event) = self.event(message) {
                return event;
            }
        }
    }

    /// Subscribes again after the NATS client ended because of a message that it could not parse.
    async fn listen_again(&mut self) {
        let mut delay = RETRY_DELAY_MIN;
        loop {
            match listen(&self.nats, &self.room).await {
                Ok((messages, connections)) => {
                    (self.messages, self.connections) = (messages, connections);
                    return;
                }
                Err(error) => {
                    debug!(room = %self.room.room_id, %error, "the subject of an ephemeral room cannot be subscribed yet, trying again");
                }
            }
            time::sleep(delay).await;
            delay = (delay * 2).min(RETRY_DELAY_MAX);
        }
    }

    /// Takes the next event if it has arrived.
    pub(crate) fn take_ready(&mut self) -> Option<EphemeralEvent> {
        if self.held.is_some() || self.connections.has_changed().unwrap_or(false) {
            return None;
        }
        let message = self.messages.next().now_or_never()??;
        self.event(message)
    }

    /// Converts a message. `None` if the message is held until its sender is known.
    fn event(&mut self, message: async_nats::Message) -> Option<EphemeralEvent> {
        let StoredMessage { mut message, seal, .. } =
            StoredMessage::new(0, SystemTime::now(), message.headers.as_ref(), message.payload);
        if let Some(seal) = seal
            && self.signatures.attribute(&self.room, &mut message, &seal) == Attribution::UnknownKey
        {
            self.held = Some((message, seal));
            return None;
        }
        Some(EphemeralEvent::Message(message))
    }
}

async fn listen(nats: &Nats, room: &Room) -> Result<(Subscriber, watch::Receiver<u64>)> {
    let nats = nats.live().await?;
    nats.ready().await?;
    let mut connections = nats.connections();
    connections.mark_unchanged();
    let subject = room.subject.as_str().to_owned();
    let messages = nats.client.subscribe(subject).await.map_err(|error| unavailable().because(error))?;
    nats.settled().await?;
    Ok((messages, connections))
}
