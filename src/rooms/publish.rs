//! Publishes one message, a pipeline of messages, or a batch.

use std::{collections::HashMap, sync::Arc};

use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Rooms,
    access::{Right, expires_at},
};
use crate::{
    domain::{Acknowledged, Caller, Draft, PublishAcks, RoomId},
    error::{Error, Reason, Result, Violations},
    limits::{ACK_TIME_MIN, PUBLISH_BATCH_BYTES_MAX, PUBLISH_BATCH_MESSAGES_MAX, PUBLISH_TIMEOUT},
    store::{
        publish::{order::PublishOrder, pending::Pending, wire::ttl_not_allowed},
        registry::known::Registered,
    },
    subscriptions::standing::expired,
    traces::{self, TraceStep},
};

impl Rooms {
    /// Publishes a validated message. Returns when it is stored, or sent in an ephemeral room.
    ///
    /// # Errors
    /// As the contract lists them. Only with `OUTCOME_UNKNOWN` the message may be stored.
    pub(crate) async fn publish(&self, caller: &Caller, id: &RoomId, draft: Draft) -> Result<Acknowledged> {
        let deadline = publish_deadline();
        let registered = self.permit_publishing(caller, id, deadline).await?;
        self.enqueue_counted(caller, &registered, draft, (None, PublishAcks::Each), deadline).await?.outcome().await
    }

    /// Finds the room in time, and checks that the caller may publish to it.
    async fn permit_publishing(&self, caller: &Caller, id: &RoomId, deadline: Instant) -> Result<Arc<Registered>> {
        if let Some(registered) = self.store.registry.known(id) {
            return self.admit(caller, registered, Right::Write).map(|admitted| admitted.registered);
        }
        let permitted = time::timeout_at(deadline - ACK_TIME_MIN, self.permit(caller, id, Right::Write)).await;
        match permitted {
            // a timeout before sending means that nothing was sent
            Ok(Err(error)) if error.reason() == Reason::Timeout => Err(not_sent().because(error)),
            Ok(permitted) => permitted.map(|admitted| admitted.registered),
            Err(elapsed) => Err(not_sent().because(elapsed)),
        }
    }

    /// Starts the pipeline of one call, which publishes without waiting for each answer.
    pub(crate) fn publishing(&self, caller: &Caller) -> Publishing {
        Publishing { order: self.store.publish_order(), rooms: self.clone(), caller: caller.clone() }
    }

    /// Publishes each message separately, in order. Returns one result for each, in order. Drafts that are errors
    /// already are returned as they are.
    ///
    /// # Errors
    /// Nothing was done: the room does not exist, there are too many messages or bytes, or the caller's rate does not
    /// allow them now.
    pub(crate) async fn publish_each(
        &self,
        caller: &Caller,
        id: &RoomId,
        drafts: Vec<Result<Draft>>,
    ) -> Result<Vec<Result<Acknowledged>>> {
        traces::traced(TraceStep::PublishEach, self.publish_each_untraced(caller, id, drafts)).await
    }

    async fn publish_each_untraced(
        &self,
        caller: &Caller,
        id: &RoomId,
        drafts: Vec<Result<Draft>>,
    ) -> Result<Vec<Result<Acknowledged>>> {
        check_batch(drafts.len(), drafts.iter().flatten().map(Draft::bytes).sum())?;
        let deadline = publish_deadline();
        let registered = self.permit_publishing(caller, id, deadline).await?;
        let valid = drafts.iter().flatten();
        let (messages, bytes) = (valid.clone().count(), valid.map(Draft::bytes).sum());
        self.allowances.publish(caller, messages, bytes)?;
        self.stored.take(&self.store, &registered, messages, bytes).await?;
        let order = self.store.publish_order();
        let mut pending = Vec::with_capacity(drafts.len());
        for draft in drafts {
            pending.push(match draft {
                Ok(draft) => self.enqueue(&registered, draft.by(caller), Some(order), deadline).await,
                Err(error) => Err(error),
            });
        }
        let mut outcomes = Vec::with_capacity(pending.len());
        for pending in pending {
            outcomes.push(match pending {
                Ok(pending) => pending.outcome().await,
                Err(error) => Err(error),
            });
        }
        Ok(outcomes)
    }

    /// Stores all messages in adjacent sequences, or none.
    ///
    /// # Errors
    /// As the contract lists them. Only with `OUTCOME_UNKNOWN` the messages may be stored, and then all of them.
    pub(crate) async fn publish_all(
        &self,
        caller: &Caller,
        id: &RoomId,
        drafts: Vec<Draft>,
    ) -> Result<Vec<Acknowledged>> {
        check_batch(drafts.len(), drafts.iter().map(Draft::bytes).sum())?;
        let deadline = publish_deadline();
        let registered = self.permit_publishing(caller, id, deadline).await?;
        if !registered.room.persist {
            return Err(Error::new(
                Reason::RoomNotPersisted,
                "`atomic`: the room is ephemeral, so it cannot store all messages or none; publish without `atomic`",
            ));
        }
        check_together(&drafts)?;
        for (index, draft) in drafts.iter().enumerate() {
            self.check(&registered, draft, &format!("messages[{index}]."))?;
        }
        let bytes = drafts.iter().map(Draft::bytes).sum();
        self.allowances.publish(caller, drafts.len(), bytes)?;
        self.stored.take(&self.store, &registered, drafts.len(), bytes).await?;
        let drafts = drafts.into_iter().map(|draft| draft.by(caller)).collect();
        self.store.store_all(&registered, drafts, deadline).await
    }

    /// As [`Self::enqueue`], and charges the message to the caller.
    async fn enqueue_counted(
        &self,
        caller: &Caller,
        registered: &Arc<Registered>,
        draft: Draft,
        (order, acks): (Option<PublishOrder>, PublishAcks),
        deadline: Instant,
    ) -> Result<Pending> {
        self.check(registered, &draft, "")?;
        self.allowances.publish(caller, 1, draft.bytes())?;
        self.stored.take(&self.store, registered, 1, draft.bytes()).await?;
        self.store.enqueue(registered, draft.by(caller), order, acks, deadline).await
    }

    async fn enqueue(
        &self,
        registered: &Arc<Registered>,
        draft: Draft,
        order: Option<PublishOrder>,
        deadline: Instant,
    ) -> Result<Pending> {
        self.check(registered, &draft, "")?;
        self.store.enqueue(registered, draft, order, PublishAcks::Each, deadline).await
    }

    /// Refuses a message that the room does not accept. `prefix` precedes field names in errors.
    fn check(&self, registered: &Registered, draft: &Draft, prefix: &str) -> Result<()> {
        let room = &registered.room;
        self.check_size(registered, draft, prefix)?;
        if !room.persist {
            return draft.check_ephemeral();
        }
        if draft.ttl.is_some() && !room.allow_message_ttl {
            return Err(ttl_not_allowed());
        }
        Ok(())
    }

    /// Checks that the caller may publish to the room, before a large request is read.
    ///
    /// # Errors
    /// `ROOM_NOT_FOUND`, `PERMISSION_DENIED`.
    pub(crate) async fn may_publish(&self, caller: &Caller, id: &RoomId) -> Result<()> {
        self.permit(caller, id, Right::Write).await.map(drop)
    }

    /// Checks the size of the payload. NATS closes the connection on a too large message, so none may be sent.
    fn check_size(&self, registered: &Registered, draft: &Draft, prefix: &str) -> Result<()> {
        let room_max = registered.room.retention.max_message_bytes.and_then(|max| usize::try_from(max).ok());
        let server_max = self.payload_bytes_max();
        let (max, whose) = match room_max {
            Some(max) if max < server_max => (max, "the room"),
            Some(_) | None => (server_max, "the NATS server"),
        };
        let bytes = draft.payload.len();
        if bytes <= max {
            return Ok(());
        }
        let mut violations = Violations::default();
        violations.add(
            format!("{prefix}payload"),
            format!("has {bytes} bytes; {whose} allows at most {max}; split the message"),
        );
        violations.because(Reason::PayloadTooLarge).finish()
    }
}

/// The pipeline of one call. Its messages to a room are stored in the order in which they were submitted.
#[derive(Clone, Debug)]
pub(crate) struct Publishing {
    rooms: Rooms,
    caller: Caller,
    order: PublishOrder,
}

impl Publishing {
    /// Enqueues a message in its room. Waits while the queue is full. With [`PublishAcks::Cumulative`] the outcome may
    /// lack the sequence.
    ///
    /// # Errors
    /// As [`Rooms::publish`], without `OUTCOME_UNKNOWN`.
    ///
    /// # Cancel safety
    /// A call that is dropped has not stored the message.
    pub(crate) async fn submit(&self, id: &RoomId, draft: Draft, acks: PublishAcks) -> Result<Pending> {
        let deadline = publish_deadline();
        let registered = self.rooms.permit_publishing(&self.caller, id, deadline).await?;
        self.rooms.enqueue_counted(&self.caller, &registered, draft, (Some(self.order), acks), deadline).await
    }

    /// Waits until the caller's credentials expire. Returns the error that the stream ends with.
    ///
    /// # Cancel safety
    /// May be dropped at any point.
    pub(crate) fn expired(&self) -> impl Future<Output = Error> + Send + 'static {
        expired(expires_at(&self.caller))
    }

    /// Cancelled when the service begins to stop.
    pub(crate) fn draining(&self) -> CancellationToken {
        self.rooms.draining.clone()
    }

    /// Runs the rest of the work after the stream has ended. The service waits for it before it stops.
    pub(crate) fn follow(&self, rest: impl Future<Output = ()> + Send + 'static) {
        self.rooms.store.spawn(rest);
    }

    /// The error of a drained stream, after all of its results.
    pub(crate) fn drained() -> Error {
        Error::new(
            Reason::Draining,
            "this instance is stopping; messages without a response were not published, publish them on another instance or a little later",
        )
    }
}

/// The deadline of a publish that starts now.
fn publish_deadline() -> Instant {
    Instant::now() + PUBLISH_TIMEOUT
}

fn not_sent() -> Error {
    Error::new(
        Reason::NatsUnavailable,
        "NATS does not answer at this moment; nothing was stored, publish the message again",
    )
}

fn check_batch(messages: usize, bytes: usize) -> Result<()> {
    if messages == 0 || messages > PUBLISH_BATCH_MESSAGES_MAX {
        return Err(Error::field(
            "messages",
            format!("has {messages} messages; 1 to {PUBLISH_BATCH_MESSAGES_MAX} are allowed"),
        ));
    }
    if bytes > PUBLISH_BATCH_BYTES_MAX {
        let mut violations = Violations::default();
        violations.add(
            "messages",
            format!(
                "has {bytes} bytes of payloads, headers and message ids; at most {PUBLISH_BATCH_BYTES_MAX} are allowed"
            ),
        );
        return violations.because(Reason::PayloadTooLarge).finish();
    }
    Ok(())
}

/// Refuses fields that messages of an atomic batch may not have.
fn check_together(drafts: &[Draft]) -> Result<()> {
    let mut violations = Violations::default();
    let mut places: HashMap<&str, usize> = HashMap::new();
    for (index, draft) in drafts.iter().enumerate() {
        if index > 0 && draft.expected_last_sequence.is_some() {
            violations.add(
                format!("messages[{index}].expected_last_sequence"),
                "is only allowed in the first message of an atomic batch; leave it out",
            );
        }
        if let Some(id) = &draft.message_id
            && let Some(first) = places.insert(id, index)
        {
            violations.add(
                format!("messages[{index}].message_id"),
                format!("is also the id of messages[{first}]; every message of an atomic batch needs its own id"),
            );
        }
    }
    violations.finish()
}
