//! Requests between instances about the subscribers that they hold.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{Subscribers, WRITES_AT_ONCE, commands::HolderCommand, key, session::SessionEnd};
use crate::{
    domain::Acknowledgement,
    store::{
        peers::{IncomingRequest, PeerListener},
        subscribers::{
            holders::{HolderChange, Holding},
            peers::{PeerReply, PeerRequest},
            subscriber::Subscriber,
        },
    },
};

impl Subscribers {
    pub(super) async fn ask_to_release(&self, before: &Holding) {
        let request = PeerRequest::Release { subscriber: before.subscriber.clone() };
        match self.store.peers.ask(&before.instance, &request).await {
            Ok(_) => {}
            Err(error) => {
                // the other instance will see in the bucket that it no longer holds the subscriber
                warn!(
                    subscriber = %before.subscriber, %error,
                    "the instance of the older subscription did not answer; the newer one starts at the written position"
                );
            }
        }
    }

    /// Serves the requests of other instances until `stop`.
    pub(crate) async fn serve_peers(self: Arc<Self>, peers: PeerListener<PeerRequest>, stop: CancellationToken) {
        peers.serve(WRITES_AT_ONCE, stop, |asked| self.serve_peer(asked)).await;
    }

    async fn serve_peer(&self, asked: IncomingRequest<PeerRequest>) {
        let reply = match asked.request.clone() {
            PeerRequest::Release { subscriber } => {
                self.release(&key(&subscriber)).await;
                PeerReply::Released
            }
            PeerRequest::Acknowledge { subscriber, sequence, generation } => {
                let acknowledgement = Acknowledgement { sequence, generation };
                self.command_of_peer(&subscriber, HolderCommand::Acknowledge(acknowledgement)).await
            }
            PeerRequest::Seek { subscriber, position } => {
                self.command_of_peer(&subscriber, HolderCommand::Seek(position)).await
            }
            PeerRequest::Delete { subscriber } => self.command_of_peer(&subscriber, HolderCommand::Delete).await,
            PeerRequest::Describe { room_id, names } => {
                PeerReply::Described(names.into_iter().map(|name| self.open_since(&(room_id.clone(), name))).collect())
            }
        };
        asked.answer(&reply).await;
    }

    async fn command_of_peer(&self, subscriber: &Subscriber, command: HolderCommand) -> PeerReply {
        let done = async {
            let registered = self.store.registry.find(&subscriber.room_id).await?;
            self.as_holder(&registered.room, subscriber, command).await
        };
        match done.await {
            Ok(Some(position)) => PeerReply::Position(position),
            Ok(None) => PeerReply::NotMine,
            Err(error) => PeerReply::Failed(error.reason().name().to_owned()),
        }
    }

    /// Ends sessions whose subscriber another instance has claimed or deleted, until `stop`. This covers a lost
    /// request. A claim by this instance ends the older session itself.
    pub(crate) async fn follow_holders(self: Arc<Self>, stop: CancellationToken) {
        let (holders, instance) = (self.store.holders.clone(), self.store.instance().to_owned());
        holders
            .follow(stop, |change| match change {
                HolderChange::Restarted => self.endpoints.clear(),
                HolderChange::Held(holding, revision) => {
                    self.endpoints.add(&holding);
                    let key = key(&holding.subscriber);
                    let session = self.sessions().get(&key).cloned();
                    let superseded = session
                        .filter(|session| session.revision < revision && session.holding.session != holding.session);
                    if let Some(session) = superseded.filter(|_| holding.instance != instance) {
                        let subscribers = Arc::clone(&self);
                        self.store.spawn(async move { subscribers.let_go(&session).await });
                    }
                }
                HolderChange::Deleted(name, revision) => {
                    self.endpoints.remove(&name);
                    self.sessions().retain(|_, session| {
                        let forgotten = session.revision < revision && session.holding.key() == name;
                        if forgotten {
                            session.end(SessionEnd::Deleted);
                        }
                        !forgotten
                    });
                }
            })
            .await;
    }
}
