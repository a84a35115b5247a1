//! Receives the notices of the other instances, and announces this instance.

use std::sync::Arc;

use async_nats::{Client, Message};
use bytes::Bytes;
use tokio::time::{self, Instant, MissedTickBehavior};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::debug;

use super::{
    Changes, PURPOSE,
    notice::{Change, Envelope, Notice},
};
use crate::{
    error::Result,
    limits::PRESENCE_INTERVAL,
    nats::listening::Listening,
    store::{
        names::{NOTICES, SIGNATURE_HEADER, notices_to},
        registry::{Registry, members::Members},
        signatures::stamp::Verification,
    },
    sync::lock,
};

/// Receives the notices of the other instances. Notices that arrive before [`Self::run`] wait.
pub(in crate::store) struct Listener {
    changes: Changes,
    notices: Listening,
}

/// Applies the changes of other instances.
#[derive(Clone, Debug)]
struct NoticeReceiver {
    changes: Changes,
    registry: Registry,
    members: Members,
}

impl Listener {
    /// Subscribes to the notices, and announces this instance. Every later change of another instance reaches this
    /// one.
    pub(in crate::store) async fn open(changes: &Changes) -> Result<Self> {
        let nats = &changes.0.nats;
        let notices = Listening::open(nats, vec![NOTICES.to_owned(), notices_to(&changes.0.instance)]).await?;
        changes.send(NOTICES.to_owned(), Notice::Present { asks: true }).await;
        nats.settled().await?;
        Ok(Self { changes: changes.clone(), notices })
    }

    /// Runs until `stop`, and then announces that this instance leaves.
    pub(in crate::store) async fn run(
        mut self,
        registry: Registry,
        members: Members,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) {
        let mut connections = self.changes.0.nats.connections();
        connections.mark_unchanged();
        let mut interval = time::interval(PRESENCE_INTERVAL);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let receiver = Arc::new(NoticeReceiver { changes: self.changes.clone(), registry, members });
        loop {
            let message = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                message = self.notices.next() => message,
                // instances that started meanwhile are unknown, and the others may have forgotten this one
                _ = connections.changed() => {
                    self.changes.send(NOTICES.to_owned(), Notice::Present { asks: true }).await;
                    continue;
                }
                _ = interval.tick() => {
                    self.changes.send(NOTICES.to_owned(), Notice::Present { asks: false }).await;
                    continue;
                }
            };
            if let Some(key) = receiver.receive(&message, self.notices.client()).await {
                // not awaited, so that other notices are received meanwhile; revisions order them
                let (receiver, stop, client) = (Arc::clone(&receiver), stop.clone(), self.notices.client().clone());
                tasks.spawn(async move {
                    let learning = async {
                        receiver.changes.0.signatures.learn(key).await;
                        receiver.receive(&message, &client).await;
                    };
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = learning => {}
                    }
                });
            }
        }
        self.changes.send(NOTICES.to_owned(), Notice::Leaving).await;
    }
}

impl NoticeReceiver {
    /// Applies a notice that `client` received. Returns the number of the notice's key if the key is unknown.
    async fn receive(&self, message: &Message, client: &Client) -> Option<u64> {
        let Changes(inner) = &self.changes;
        let signature = message.headers.as_ref().and_then(|headers| headers.get(SIGNATURE_HEADER));
        let Some(signature) = signature else {
            answer_the_question(message, client).await;
            return None;
        };
        match inner.signatures.verify(PURPOSE, &message.payload, signature.as_str()) {
            Verification::Right => {}
            Verification::Wrong => {
                debug!("a notice with a wrong signature is ignored");
                return None;
            }
            Verification::UnknownKey(key) => return Some(key),
        }
        let envelope: Envelope = match serde_json::from_slice(&message.payload) {
            Ok(envelope) => envelope,
            Err(error) => {
                // the notice may be from a newer version
                debug!(%error, "a notice of another instance cannot be read");
                return None;
            }
        };
        if envelope.from == *inner.instance || envelope.subject != message.subject.as_str() {
            return None;
        }
        self.apply_notice(envelope).await;
        None
    }

    async fn apply_notice(&self, Envelope { from, notice, .. }: Envelope) {
        let Changes(inner) = &self.changes;
        match notice {
            Notice::Present { asks } => {
                lock(&inner.state).others.record_announcement(&from, Instant::now());
                if asks {
                    self.changes.send(NOTICES.to_owned(), Notice::Present { asks: false }).await;
                }
            }
            Notice::Leaving => lock(&inner.state).others.remove(&from),
            Notice::Change { number, change } => {
                self.apply(change);
                self.changes.send(notices_to(&from), Notice::Confirmed { number }).await;
            }
            Notice::Confirmed { number } => lock(&inner.state).settle(number, &from),
        }
    }

    fn apply(&self, change: Change) {
        match change {
            Change::Member(change) => self.members.apply_change(change),
            Change::Room(change) => self.registry.apply_change(change),
            Change::MessageDeleted { room_id, epoch, sequence } => {
                if let Some(registered) = self.registry.known(&room_id) {
                    registered.deleted(epoch, sequence);
                }
            }
        }
    }
}

/// Answers a request that asks whether this instance is present.
async fn answer_the_question(message: &Message, client: &Client) {
    if message.payload.is_empty()
        && let Some(reply) = message.reply.clone()
    {
        let _ = client.publish(reply, Bytes::new()).await;
    }
}
