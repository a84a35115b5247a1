//! Lists, moves and deletes durable subscribers, with or without an open subscription.

use super::{Rooms, access::Right};
use crate::{
    domain::SubscriberToken,
    domain::{Caller, NatsName, RoomId, Start, SubscriberId},
    error::Result,
    limits::{PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX},
    subscriptions::subscribers::list::SubscriberPage,
};

impl Rooms {
    /// Returns a page of the room's durable subscribers. A caller that is not an owner sees only its own subscribers,
    /// so a page may be short. 0 is the default page size. An ephemeral room has none.
    ///
    /// # Errors
    /// `ROOM_NOT_FOUND`, `PERMISSION_DENIED`.
    pub(crate) async fn list_subscribers(
        &self,
        caller: &Caller,
        id: &RoomId,
        after: Option<&SubscriberToken>,
        page_size: usize,
    ) -> Result<SubscriberPage> {
        let admitted = self.permit(caller, id, Right::Read).await?;
        let room = &admitted.registered.room;
        if !room.persist {
            return Ok(SubscriberPage::default());
        }
        let size = if page_size == 0 { PAGE_SIZE_DEFAULT } else { page_size.min(PAGE_SIZE_MAX) };
        let state = self.store.log_state(room).await?;
        let Some(own) = caller.id().filter(|_| !admitted.has(Right::Own)) else {
            return self.subscribers.page(room, after, &state, size, &|_| true).await;
        };
        let stem = NatsName::stem_of_subscriber(own.as_str());
        let mut page = self.subscribers.page(room, after, &state, size, &|name| name.starts_with(&stem)).await?;
        // different names may be mapped to the same beginning
        page.subscribers.retain(|found| {
            let is_bound_by_own = found.endpoint.as_ref().is_none_or(|endpoint| endpoint == own.as_str());
            is_bound_by_own && self.is_own(own, room, &found.name)
        });
        Ok(page)
    }

    /// Deletes a durable subscriber, and ends its open subscription.
    ///
    /// # Errors
    /// `ROOM_NOT_FOUND`, `ROOM_NOT_PERSISTED`, `SUBSCRIBER_NOT_FOUND`, `CONFLICT`.
    pub(crate) async fn delete_subscriber(
        &self,
        caller: &Caller,
        id: &RoomId,
        subscriber: &SubscriberId,
    ) -> Result<()> {
        let admitted = self.permit_persisted(caller, id, Right::Read).await?;
        let whose = self.require_subscriber_or_owner(caller, &admitted, subscriber)?;
        let room = &admitted.registered.room;
        let subscriber = self.subscribers.find(room, subscriber, &whose).await?;
        self.subscribers.delete(room, &subscriber).await
    }

    /// Moves a durable subscriber's position in either direction, and returns it.
    ///
    /// # Errors
    /// `ROOM_NOT_FOUND`, `ROOM_NOT_PERSISTED`, `SUBSCRIBER_NOT_FOUND`, `POSITION_AFTER_END`, `CURSOR_INVALID`,
    /// `CURSOR_EXPIRED`, `CONFLICT`: the position was not moved.
    pub(crate) async fn seek_subscriber(
        &self,
        caller: &Caller,
        id: &RoomId,
        subscriber: &SubscriberId,
        to: Start,
    ) -> Result<u64> {
        let admitted = self.permit_persisted(caller, id, Right::Read).await?;
        let whose = self.require_subscriber_or_owner(caller, &admitted, subscriber)?;
        let room = &admitted.registered.room;
        let state = self.store.log_state(room).await?;
        let position = self.position_of("position", room, state, to).await?;
        let position = position.max(admitted.visible.hidden_through(&state).min(state.last_sequence));
        let subscriber = self.subscribers.find(room, subscriber, &whose).await?;
        self.subscribers.seek(room, &subscriber, position).await
    }
}
