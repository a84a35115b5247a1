//! What is done to a subscriber by its owner alone: whoever is asked does it as the owner, asks the owner, or becomes it.

use super::{Subscribers, key, session::SessionEnd};
use crate::{
    domain::Room,
    error::{Error, Reason, Result},
    store::subscribers::{
        durables::not_found as subscriber_not_found,
        peers::{PeerReply, PeerRequest},
        subscriber::Subscriber,
    },
};

/// How often a command follows a subscriber that changes its owner.
const ATTEMPTS: usize = 6;

/// What only the owner may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HolderCommand {
    /// Everything up to this sequence is processed.
    Acknowledge(u64),
    /// The position is this, wherever it was.
    Seek(u64),
    /// There is no such subscriber any more.
    Forget,
}

impl Subscribers {
    /// Everything up to `sequence` is processed; answers with the position.
    ///
    /// # Errors
    /// `SUBSCRIBER_NOT_FOUND`, `TIMEOUT`, `CONFLICT`.
    pub(crate) async fn acknowledge(&self, room: &Room, subscriber: &Subscriber, sequence: u64) -> Result<u64> {
        self.command(room, subscriber, HolderCommand::Acknowledge(sequence)).await
    }

    /// Moves the position either way; answers with it. The caller has checked it against the end of the log.
    ///
    /// # Errors
    /// `SUBSCRIBER_NOT_FOUND`, `TIMEOUT`, `CONFLICT`.
    pub(crate) async fn seek(&self, room: &Room, subscriber: &Subscriber, position: u64) -> Result<u64> {
        self.command(room, subscriber, HolderCommand::Seek(position)).await
    }

    /// Ends the open subscription and forgets the subscriber.
    ///
    /// # Errors
    /// `SUBSCRIBER_NOT_FOUND`, `TIMEOUT`, `CONFLICT`.
    pub(crate) async fn forget(&self, room: &Room, subscriber: &Subscriber) -> Result<()> {
        self.command(room, subscriber, HolderCommand::Forget).await.map(drop)
    }

    async fn command(&self, room: &Room, subscriber: &Subscriber, command: HolderCommand) -> Result<u64> {
        for _ in 0..ATTEMPTS {
            if let Some(position) = self.as_holder(room, subscriber, command).await? {
                return Ok(position);
            }
            let holder = self.store.holders.find(subscriber).await?;
            let is_held = holder.is_some();
            if let Some(holder) = holder.filter(|holder| holder.instance != self.store.instance()) {
                match self.store.ask(&holder.instance, &request(subscriber, command)).await? {
                    Some(PeerReply::Position(position)) => return Ok(position),
                    Some(PeerReply::NotMine) => continue,
                    Some(PeerReply::Failed(reason)) => return Err(failed(subscriber, reason)),
                    Some(PeerReply::Released | PeerReply::Described(_)) => {
                        return Err(Error::internal().because("an owner answered another question"));
                    }
                    None => {}
                }
            }
            if !is_held || command != HolderCommand::Forget {
                // before anything is written for it, the subscriber must exist
                self.store.position(room, subscriber).await?;
            }
            if self.store.holders.claim(&self.holding(subscriber, None)).await?.is_none() {
                return Err(subscriber_not_found(&subscriber.id));
            }
        }
        Err(Error::new(Reason::Conflict, "other calls open subscriptions of the subscriber at this moment; call again"))
    }

    /// Does it if this instance owns the subscriber; `None` if it does not. The position then, 0 if it is forgotten.
    pub(super) async fn as_holder(
        &self,
        room: &Room,
        subscriber: &Subscriber,
        command: HolderCommand,
    ) -> Result<Option<u64>> {
        let key = key(subscriber);
        let moving = self.moving(&key);
        let _one_at_a_time = moving.lock().await;
        // asked under the lock: a release waits for it, so an owner that was asked to let go never moves again
        let Some((holder, revision)) = self.store.holders.find_with_revision(subscriber).await? else {
            return Ok(None);
        };
        if holder.instance != self.store.instance() {
            return Ok(None);
        }
        let session = self.sessions().get(&key).cloned();
        match command {
            HolderCommand::Acknowledge(sequence) => {
                let moved = self.move_forwards(room, subscriber, sequence).await;
                let known = session.as_ref().map_or(0, |session| session.written());
                let position = self.or_again(moved, session.as_ref(), sequence.max(known)).await?;
                if let Some(session) = session {
                    session.has_written(position);
                }
                Ok(Some(position))
            }
            HolderCommand::Seek(position) => {
                if holder.begins_at.is_some() {
                    // from now on another position counts
                    self.store.holders.settle(&holder, revision).await?;
                }
                let moved = self.store.move_to(room, subscriber, position).await;
                let position = self.or_again(moved, session.as_ref(), position).await?;
                if let Some(session) = session {
                    session.has_sought(position);
                }
                Ok(Some(position))
            }
            HolderCommand::Forget => {
                // another program may have deleted the consumer of an open subscription
                let existed = self.store.forget(room, subscriber).await? || session.is_some();
                if let Some(session) = session {
                    session.end(SessionEnd::Forgotten);
                    self.remove(&session);
                }
                // without a consumer, a session is one that is being opened at this moment
                if existed || holder.session.is_none() {
                    // last: until then a newer subscription asks this instance, and waits
                    self.store.holders.forget(&holder, revision).await?;
                }
                if existed { Ok(Some(0)) } else { Err(subscriber_not_found(&subscriber.id)) }
            }
        }
    }

    /// The floor is read first, since a native peer may have moved it further.
    pub(super) async fn move_forwards(&self, room: &Room, subscriber: &Subscriber, sequence: u64) -> Result<u64> {
        let position = self.store.position(room, subscriber).await?;
        if position >= sequence {
            return Ok(position);
        }
        self.store.move_to(room, subscriber, sequence).await
    }
}

fn request(subscriber: &Subscriber, command: HolderCommand) -> PeerRequest {
    let subscriber = subscriber.clone();
    match command {
        HolderCommand::Acknowledge(sequence) => PeerRequest::Acknowledge { subscriber, sequence },
        HolderCommand::Seek(position) => PeerRequest::Seek { subscriber, position },
        HolderCommand::Forget => PeerRequest::Forget { subscriber },
    }
}

fn failed(subscriber: &Subscriber, reason: String) -> Error {
    if reason == Reason::SubscriberNotFound.name() {
        return subscriber_not_found(&subscriber.id);
    }
    Error::new(
        Reason::Timeout,
        "another instance holds the subscriber and could not carry out the call; calling again is safe",
    )
    .because(reason)
}
