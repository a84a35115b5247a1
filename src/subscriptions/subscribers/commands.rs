//! Commands that only the holder may run. Another instance forwards them, or becomes the holder.

use super::{Subscribers, key, session::SessionEnd};
use crate::{
    domain::{Acknowledgement, Room},
    error::{Error, Reason, Result},
    store::subscribers::{
        durables::not_found as subscriber_not_found,
        holders::{Holding, taken_over},
        peers::{PeerReply, PeerRequest},
        subscriber::Subscriber,
    },
};

/// Number of attempts of a command whose subscriber changes its holder.
const ATTEMPTS: usize = 6;

/// A command that only the holder may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HolderCommand {
    /// Everything up to this sequence is processed.
    Acknowledge(Acknowledgement),
    /// Set the position, in either direction.
    Seek(u64),
    /// Delete the subscriber.
    Delete,
}

impl Subscribers {
    /// Moves the position forwards to the acknowledged sequence and returns the position.
    ///
    /// # Errors
    /// `SUBSCRIBER_NOT_FOUND`, `TAKEN_OVER`, `TIMEOUT`, `CONFLICT`.
    pub(crate) async fn acknowledge(
        &self,
        room: &Room,
        subscriber: &Subscriber,
        acknowledgement: Acknowledgement,
    ) -> Result<u64> {
        self.command(room, subscriber, HolderCommand::Acknowledge(acknowledgement)).await
    }

    /// Moves the position in either direction and returns it. The caller has checked `position` against the end of
    /// the log.
    ///
    /// # Errors
    /// `SUBSCRIBER_NOT_FOUND`, `TIMEOUT`, `CONFLICT`.
    pub(crate) async fn seek(&self, room: &Room, subscriber: &Subscriber, position: u64) -> Result<u64> {
        self.command(room, subscriber, HolderCommand::Seek(position)).await
    }

    /// Ends the open subscription and deletes the subscriber.
    ///
    /// # Errors
    /// `SUBSCRIBER_NOT_FOUND`, `TIMEOUT`, `CONFLICT`.
    pub(crate) async fn delete(&self, room: &Room, subscriber: &Subscriber) -> Result<()> {
        self.command(room, subscriber, HolderCommand::Delete).await.map(drop)
    }

    async fn command(&self, room: &Room, subscriber: &Subscriber, command: HolderCommand) -> Result<u64> {
        for _ in 0..ATTEMPTS {
            if let Some(position) = self.as_holder(room, subscriber, command).await? {
                return Ok(position);
            }
            let holder = self.store.holders.find(subscriber).await?;
            if let (Some(holder), HolderCommand::Acknowledge(acknowledgement)) = (&holder, command) {
                // the newest generation never becomes smaller
                holder.check_generation(acknowledgement.generation)?;
            }
            let is_held = holder.is_some();
            if let Some(holder) = holder.filter(|holder| holder.instance != self.store.instance()) {
                match self.store.peers.ask(&holder.instance, &request(subscriber, command)).await? {
                    Some(PeerReply::Position(position)) => return Ok(position),
                    Some(PeerReply::NotMine) => continue,
                    Some(PeerReply::Failed(reason)) => return Err(failed(subscriber, reason)),
                    Some(PeerReply::Released | PeerReply::Described(_)) => {
                        return Err(Error::internal().because("the holder answered another question"));
                    }
                    None => {}
                }
            }
            if !is_held || command != HolderCommand::Delete {
                // the subscriber must exist before its holding is written
                self.store.position(room, subscriber).await?;
            }
            if self.store.holders.claim(&self.holding(subscriber, None)).await?.is_none() {
                return Err(subscriber_not_found(&subscriber.id));
            }
        }
        Err(Error::new(Reason::Conflict, "other calls open subscriptions of the subscriber at this moment; call again"))
    }

    /// Runs `command` if this instance is the holder, and returns the new position. Returns 0 for a deleted
    /// subscriber, and `None` if this instance is not the holder.
    pub(super) async fn as_holder(
        &self,
        room: &Room,
        subscriber: &Subscriber,
        command: HolderCommand,
    ) -> Result<Option<u64>> {
        let key = key(subscriber);
        let moving = self.moving(&key);
        let _one_at_a_time = moving.lock().await;
        // checked under the lock: a release waits for the lock, so an instance that has released the subscriber never
        // moves the position
        let Some((holder, revision)) = self.store.holders.find_with_revision(subscriber).await? else {
            return Ok(None);
        };
        if holder.instance != self.store.instance() {
            return Ok(None);
        }
        let session = self.sessions().get(&key).cloned();
        match command {
            HolderCommand::Acknowledge(Acknowledgement { sequence, generation }) => {
                holder.check_generation(generation)?;
                let moved = self.move_forwards(room, subscriber, sequence).await;
                let known = session.as_ref().map_or(0, |session| session.written());
                let position = self.or_recreate(moved, session.as_ref(), sequence.max(known)).await?;
                if let Some(session) = session {
                    session.has_written(position);
                }
                Ok(Some(position))
            }
            HolderCommand::Seek(position) => {
                if holder.begins_at.is_some() {
                    // the seek replaces the start position
                    self.store.holders.settle(&holder, revision).await?;
                }
                let moved = self.store.move_to(room, subscriber, position).await;
                let position = self.or_recreate(moved, session.as_ref(), position).await?;
                if let Some(session) = session {
                    session.has_sought(position);
                }
                Ok(Some(position))
            }
            HolderCommand::Delete => {
                // another program may have deleted the consumer of an open subscription
                let existed = self.store.delete_consumer(room, subscriber).await? || session.is_some();
                if let Some(session) = session {
                    session.end(SessionEnd::Deleted);
                    self.remove(&session);
                }
                // a holding with a session and no consumer belongs to a subscription that is being opened
                if existed || holder.session.is_none() {
                    // last, because until then a newer subscription asks this instance, and waits
                    self.delete_holding(holder, revision).await?;
                }
                if existed { Ok(Some(0)) } else { Err(subscriber_not_found(&subscriber.id)) }
            }
        }
    }

    /// Deletes the holding of a deleted subscriber. The end of its subscription may change the holding at the same time: a
    /// holding that remained would keep the NATS name from other subscribers.
    async fn delete_holding(&self, holder: Holding, mut revision: u64) -> Result<()> {
        for _ in 0..ATTEMPTS {
            if self.store.holders.delete(&holder, revision).await? {
                return Ok(());
            }
            match self.store.holders.find_with_revision(&holder.subscriber).await? {
                Some((found, newer)) if found.session.is_none() || found.session == holder.session => revision = newer,
                // a newer subscription creates the subscriber again
                Some(_) | None => return Ok(()),
            }
        }
        Err(Error::new(Reason::Conflict, "other calls change the subscriber at this moment; call again"))
    }

    /// Moves the position to `sequence`, unless it is already further. A native program may have moved it.
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
        HolderCommand::Acknowledge(Acknowledgement { sequence, generation }) => {
            PeerRequest::Acknowledge { subscriber, sequence, generation }
        }
        HolderCommand::Seek(position) => PeerRequest::Seek { subscriber, position },
        HolderCommand::Delete => PeerRequest::Delete { subscriber },
    }
}

fn failed(subscriber: &Subscriber, reason: String) -> Error {
    if reason == Reason::SubscriberNotFound.name() {
        return subscriber_not_found(&subscriber.id);
    }
    if reason == Reason::TakenOver.name() {
        return taken_over();
    }
    Error::new(
        Reason::Timeout,
        "another instance holds the subscriber and could not carry out the call; calling again is safe",
    )
    .because(reason)
}
