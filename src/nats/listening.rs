//! Subscriptions for messages that other programs can send to this process, over a separate connection.

use std::time::Duration;

use async_nats::{Client, Message, Subscriber};
use futures_util::{StreamExt, stream::SelectAll};
use tokio::time;
use tracing::debug;

use super::{Nats, error::unavailable};
use crate::error::Result;

const RETRY_DELAY_MIN: Duration = Duration::from_millis(20);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(1);

/// Subscriptions that are opened again when their NATS client has died. An unparsable message loses the messages sent
/// until the client reconnects. It does not break the publishers' connection.
#[derive(Debug)]
pub(crate) struct Listening {
    nats: Nats,
    subjects: Vec<String>,
    messages: SelectAll<Subscriber>,
    client: Client,
}

impl Listening {
    /// Subscribes to `subjects`. Every message that is sent after this returns is received.
    ///
    /// # Errors
    /// `NATS_UNAVAILABLE`.
    pub(crate) async fn open(nats: &Nats, subjects: Vec<String>) -> Result<Self> {
        let (client, messages) = subscribe(nats, &subjects).await?;
        Ok(Self { nats: nats.clone(), subjects, messages, client })
    }

    /// The client of the subscriptions. Only this client may answer (`allow_responses`).
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Waits for the next message to any of the subjects.
    ///
    /// # Cancel safety
    /// May be dropped at any point without losing a message.
    pub(crate) async fn next(&mut self) -> Message {
        let mut delay = RETRY_DELAY_MIN;
        loop {
            if let Some(message) = self.messages.next().await {
                return message;
            }
            match subscribe(&self.nats, &self.subjects).await {
                Ok((client, messages)) => (self.client, self.messages) = (client, messages),
                Err(error) => {
                    debug!(%error, "a NATS subscription of the service cannot be made yet, trying again");
                    time::sleep(delay).await;
                    delay = (delay * 2).min(RETRY_DELAY_MAX);
                }
            }
        }
    }
}

async fn subscribe(nats: &Nats, subjects: &[String]) -> Result<(Client, SelectAll<Subscriber>)> {
    let nats = nats.link(&nats.links.system).await?;
    nats.ready().await?;
    let mut messages = SelectAll::new();
    for subject in subjects {
        messages.push(nats.client.subscribe(subject.clone()).await.map_err(|error| unavailable().because(error))?);
    }
    nats.settled().await?;
    Ok((nats.client, messages))
}
