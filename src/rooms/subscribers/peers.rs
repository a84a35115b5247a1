//! What instances ask of each other about the subscribers that they own.

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{Subscribers, WRITES_AT_ONCE};
use crate::{
    domain::{RoomId, SubscriberId},
    error::Result,
    store::{Asked, Ownership, PeerListener, PeerReply, PeerRequest},
};

impl Subscribers {
    pub(super) async fn ask_to_release(&self, before: &Ownership) {
        let request = PeerRequest::Release { room_id: before.room_id.clone(), subscriber: before.subscriber.clone() };
        match self.store.ask(&before.instance, &request).await {
            Ok(_) => {}
            Err(error) => {
                // it will see in the bucket that it owns the subscriber no more
                warn!(subscriber = %before.subscriber, %error, "the instance of the older subscription does not answer");
            }
        }
    }

    /// Serves the requests of other instances until `stop`.
    pub(crate) async fn serve_peers(self: Arc<Self>, mut peers: PeerListener, stop: CancellationToken) {
        let requests = stream::poll_fn(move |cx| {
            let next = std::pin::pin!(peers.next());
            next.poll(cx)
        });
        let serve = requests.for_each_concurrent(WRITES_AT_ONCE, |asked| self.serve_peer(asked));
        tokio::select! {
            () = stop.cancelled() => {}
            () = serve => {}
        }
    }

    async fn serve_peer(&self, asked: Asked) {
        let reply = match asked.request.clone() {
            PeerRequest::Release { room_id, subscriber } => {
                self.release(&(room_id, subscriber)).await;
                PeerReply::Released
            }
            PeerRequest::Acknowledge { room_id, subscriber, sequence } => {
                match self.acknowledge_for_peer(&room_id, &subscriber, sequence).await {
                    Ok(Some(position)) => PeerReply::Position(position),
                    Ok(None) => PeerReply::NotMine,
                    Err(error) => PeerReply::Failed(error.reason().name().to_owned()),
                }
            }
        };
        asked.answer(&reply).await;
    }

    async fn acknowledge_for_peer(
        &self,
        room: &RoomId,
        subscriber: &SubscriberId,
        sequence: u64,
    ) -> Result<Option<u64>> {
        let registered = self.store.registry.find(room).await?;
        self.acknowledge_as_owner(&registered.room, subscriber, sequence).await
    }

    /// Ends sessions whose subscriber another instance has claimed, until `stop`. Covers a request to release that was lost.
    pub(crate) async fn follow_owners(self: Arc<Self>, stop: CancellationToken) {
        let owners = self.store.owners.clone();
        owners
            .follow(stop, |ownership, revision| {
                let key = (ownership.room_id.clone(), ownership.subscriber.clone());
                let mut open = self.sessions();
                let superseded = open.get(&key).is_some_and(|session| {
                    session.revision < revision && session.ownership.session != ownership.session
                });
                if superseded && let Some(session) = open.remove(&key) {
                    session.superseded.cancel();
                }
            })
            .await;
    }
}
