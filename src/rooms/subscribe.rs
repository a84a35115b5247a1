//! Opens a subscription: its start, its durable subscriber, and its upstream.

use std::sync::Arc;

use super::{
    Rooms,
    access::{Admitted, Right},
};
use crate::{
    domain::{AckMode, Acknowledgement, Caller, RoomId, Start, SubscriberId, Visible},
    error::{Error, Reason, Result},
    metrics::SubscriptionKind,
    store::{
        registry::{known::Registered, not_found},
        subscribers::selector::SubscriberSelector,
    },
    subscriptions::{
        ending::{Ending, draining},
        limit::SubscriptionPlace,
        standing::Standing,
        subscribers::session::SubscriberSession,
        subscription::{LogStart, Subscription, SubscriptionSource},
    },
    traces::{self, TraceStep},
};

/// The options of a subscription.
#[derive(Clone, Debug)]
pub(crate) struct SubscribeOptions {
    pub room_id: RoomId,
    /// The durable subscriber, if the subscription has one.
    pub subscriber: Option<SubscriberId>,
    pub ack_mode: AckMode,
    pub start: Start,
    pub until_caught_up: bool,
}

impl Rooms {
    /// Opens a subscription.
    ///
    /// # Errors
    /// As the contract lists them. Nothing was changed.
    pub(crate) fn subscribe(
        &self,
        caller: &Caller,
        options: SubscribeOptions,
    ) -> impl Future<Output = Result<Subscription>> + Send {
        traces::traced(TraceStep::OpenSubscription, self.subscribe_untraced(caller, options))
    }

    async fn subscribe_untraced(&self, caller: &Caller, options: SubscribeOptions) -> Result<Subscription> {
        if self.draining.is_cancelled() {
            return Err(draining());
        }
        let place = self.open_subscriptions.take(caller)?;
        let (admitted, standing) = self.permit_subscription(caller, &options.room_id).await?;
        let registered = Arc::clone(&admitted.registered);
        // what would end the open subscription also ends the wait for NATS
        tokio::select! {
            biased;
            () = registered.gone() => Err(not_found(&registered.room.room_id)),
            error = standing.ended() => Err(error),
            () = self.draining.cancelled() => Err(draining()),
            opened = self.open(caller, &options, admitted, standing.clone(), place) => opened,
        }
    }

    async fn open(
        &self,
        caller: &Caller,
        options: &SubscribeOptions,
        Admitted { registered, visible, .. }: Admitted,
        standing: Standing,
        place: SubscriptionPlace,
    ) -> Result<Subscription> {
        let subscriber = match &options.subscriber {
            Some(subscriber) => Some((subscriber, self.require_own_subscriber(caller, &registered.room, subscriber)?)),
            None => None,
        };
        let (source, session) = if registered.room.persist {
            let (start, session) = self.open_log(caller, &registered, &options.start, subscriber, visible).await?;
            (SubscriptionSource::Log(Box::new(start)), session)
        } else {
            check_ephemeral(options)?;
            let tap = self.upstreams.of_ephemeral(&registered).await?;
            (SubscriptionSource::Ephemeral(tap, self.allowances.reads(caller)), None)
        };
        let session = session.map(Arc::new);
        let kind = match (registered.room.persist, &session) {
            (false, _) => SubscriptionKind::Ephemeral,
            (true, Some(_)) => SubscriptionKind::Durable,
            (true, None) => SubscriptionKind::Transient,
        };
        let place = Arc::new((place, self.metrics.open(kind)));
        Ok(Subscription {
            auto_acks: session.clone().filter(|_| options.ack_mode == AckMode::Auto),
            resumed: session.as_ref().is_some_and(|session| session.resumed),
            ending: Ending { session, registered, draining: self.draining.clone(), standing, place },
            source,
            heartbeat_interval: self.settings.heartbeat_interval,
            until_caught_up: options.until_caught_up,
        })
    }

    /// Acknowledges everything up to and including a sequence. Returns the position.
    ///
    /// # Errors
    /// `ROOM_NOT_FOUND`, `PERMISSION_DENIED`, `ROOM_NOT_PERSISTED`, `SUBSCRIBER_FOREIGN`, `SUBSCRIBER_NOT_FOUND`,
    /// `POSITION_AFTER_END`, `TAKEN_OVER`.
    pub(crate) async fn acknowledge(
        &self,
        caller: &Caller,
        id: &RoomId,
        subscriber: &SubscriberId,
        acknowledgement: Acknowledgement,
    ) -> Result<u64> {
        let Admitted { registered, .. } = self.permit_persisted(caller, id, Right::Read).await?;
        let selector = self.require_own_subscriber(caller, &registered.room, subscriber)?;
        let state = self.store.log_state(&registered.room).await?;
        self.check_end("sequence", acknowledgement.sequence, &registered.room, state).await?;
        let subscriber = self.subscribers.find(&registered.room, subscriber, &selector).await?;
        self.subscribers.acknowledge(&registered.room, &subscriber, acknowledgement).await
    }

    async fn open_log(
        &self,
        caller: &Caller,
        registered: &Arc<Registered>,
        start: &Start,
        subscriber: Option<(&SubscriberId, SubscriberSelector)>,
        visible: Visible,
    ) -> Result<(LogStart, Option<SubscriberSession>)> {
        let room = &registered.room;
        let state = self.store.log_state(room).await?;
        let hidden = visible.hidden_through(&state);
        let start = || async { Ok(self.start_position(room, state, start.clone()).await?.max(hidden)) };
        let (session, position) = match subscriber {
            Some((subscriber, selector)) => {
                // boxed, because it is too large for the future of every subscription
                let session =
                    Box::pin(self.subscribers.open(registered, state.epoch, subscriber, &selector, start)).await?;
                // messages may have been stored while the subscriber was bound
                let position = session.position;
                (Some(session), position)
            }
            None => (None, start().await?),
        };
        let state = if position > state.last_sequence { self.store.log_state(room).await? } else { state };
        let state = self.store.log_reaching(room, position, state).await?;
        let position = position.max(hidden).min(state.last_sequence);
        let tap = self.upstreams.of_log(registered, &state);
        let store = self.upstreams.store();
        let (encode, reads) = (self.settings.encode, self.allowances.reads(caller));
        Ok((LogStart { store, encode, tap, reads, state, position, hidden }, session))
    }
}

fn check_ephemeral(options: &SubscribeOptions) -> Result<()> {
    if options.subscriber.is_none() && matches!(options.start, Start::Default | Start::New) {
        return Ok(());
    }
    Err(Error::new(
        Reason::RoomNotPersisted,
        "the room is ephemeral: leave `subscriber` empty, and `start` unset or `new`; or use a persisted room",
    ))
}
