//! Live messages of an ephemeral room, by a core NATS subscription, with an account of what was lost.

use std::time::SystemTime;

use async_nats::Subscriber;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::watch;

use super::{
    nats::{Nats, unavailable},
    reader,
};
use crate::{
    domain::{Message, Room},
    error::Result,
};

/// What happens in an ephemeral room.
#[derive(Debug)]
pub(crate) enum LiveEvent {
    Message(Message),
    /// The NATS connection was lost and is back; what was published meanwhile is gone.
    Reconnected,
    /// The connection is closed for good.
    Closed,
}

/// One listener of an ephemeral room. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Live {
    messages: Subscriber,
    connections: watch::Receiver<u64>,
}

impl Live {
    /// Listens from now on: what is published after this returned is heard.
    pub(super) async fn open(nats: &Nats, room: &Room) -> Result<Self> {
        nats.ready().await?;
        let mut connections = nats.connections();
        connections.mark_unchanged();
        let subject = room.subject.as_str().to_owned();
        let messages = nats.client.subscribe(subject).await.map_err(|error| unavailable().because(error))?;
        nats.settled().await?;
        Ok(Self { messages, connections })
    }

    /// The next event. Messages come in the order of the NATS server.
    ///
    /// # Cancel safety
    /// May be dropped at any point without losing a message.
    pub(crate) async fn next(&mut self) -> LiveEvent {
        tokio::select! {
            biased;
            Ok(()) = self.connections.changed() => LiveEvent::Reconnected,
            message = self.messages.next() => event(message),
        }
    }

    /// The next event if it is here already.
    pub(crate) fn take_ready(&mut self) -> Option<LiveEvent> {
        if self.connections.has_changed().unwrap_or(false) {
            return None;
        }
        self.messages.next().now_or_never().map(event)
    }
}

fn event(message: Option<async_nats::Message>) -> LiveEvent {
    let Some(message) = message else { return LiveEvent::Closed };
    LiveEvent::Message(reader::stored(0, SystemTime::now(), message.headers.as_ref(), message.payload))
}
