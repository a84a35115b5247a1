//! One room: its life, its settings, the removal of messages.

use std::{sync::Arc, time::Duration};

use unibus::v1::{
    self, CreateRoomRequest, DeleteMessageRequest, DeleteRoomRequest, GetRoomRequest, PurgeRoomRequest, Retention,
    UpdateRoomRequest,
};

use crate::{client::Client, error::Result, retry::call};

/// A room of a service. Cheap to clone. Made by [`Client::room`].
#[derive(Clone, Debug)]
pub struct Room {
    pub(crate) client: Client,
    pub(crate) id: Arc<str>,
}

impl Room {
    /// The id of the room.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The settings of the room, and what it holds.
    pub async fn get(&self) -> Result<v1::Room> {
        let request = GetRoomRequest { room_id: self.room_id() };
        Ok(call!(self.client, Always, get_room, request)?.room.unwrap_or_default())
    }

    /// Changes the settings that `paths` names, such as `retention.max_age`, to those of `room`. Returns the room after the
    /// call. Without paths the settings that `room` has are changed.
    pub async fn update(&self, room: v1::Room, paths: &[&str]) -> Result<v1::Room> {
        let room = v1::Room { room_id: self.room_id(), ..room };
        let paths: Vec<_> = paths.iter().map(|&path| path.to_owned()).collect();
        let update_mask = (!paths.is_empty()).then_some(prost_types::FieldMask { paths });
        let request = UpdateRoomRequest { room: Some(room), update_mask };
        let room = call!(self.client, Always, update_room, request)?.room.unwrap_or_default();
        self.client.connection.forget_facts(&self.id);
        Ok(room)
    }

    /// Deletes the room with its messages, subscribers and members (U10).
    pub async fn delete(&self) -> Result<()> {
        let request = DeleteRoomRequest { room_id: self.room_id() };
        call!(self.client, UntilGone("ROOM_NOT_FOUND"), delete_room, request)?;
        self.client.connection.forget_facts(&self.id);
        Ok(())
    }

    /// Removes all stored messages, and returns their number. Not repeated after an unknown outcome, since it would remove
    /// later messages too (U10).
    pub async fn purge(&self) -> Result<u64> {
        let request = PurgeRoomRequest { room_id: self.room_id(), up_to_sequence: None };
        Ok(call!(self.client, UnlessUnknown, purge_room, request)?.purged)
    }

    /// Removes all messages up to this sequence, and returns their number.
    pub async fn purge_up_to(&self, sequence: u64) -> Result<u64> {
        let request = PurgeRoomRequest { room_id: self.room_id(), up_to_sequence: Some(sequence) };
        Ok(call!(self.client, Always, purge_room, request)?.purged)
    }

    /// Erases one stored message (U10).
    pub async fn delete_message(&self, sequence: u64) -> Result<()> {
        let request = DeleteMessageRequest { room_id: self.room_id(), sequence };
        call!(self.client, UntilGone("MESSAGE_NOT_FOUND"), delete_message, request).map(drop)
    }

    pub(crate) fn room_id(&self) -> String {
        self.id.as_ref().to_owned()
    }
}

/// The settings of a new room, for [`Client::create_room`].
#[derive(Clone, Debug)]
#[must_use]
pub struct NewRoom(pub(crate) CreateRoomRequest);

impl NewRoom {
    /// A room that stores its messages. Without an id the client makes one.
    pub fn persisted(id: impl Into<String>) -> Self {
        Self(CreateRoomRequest { room_id: id.into(), persist: true, ..CreateRoomRequest::default() })
    }

    /// A room whose messages reach only the subscriptions that are open.
    pub fn ephemeral(id: impl Into<String>) -> Self {
        Self(CreateRoomRequest { room_id: id.into(), ..CreateRoomRequest::default() })
    }

    /// How long the room remembers ids of messages: for that time a publish with an unknown outcome can be repeated (U11), and
    /// a program that runs again can publish its messages again. From 2 minutes, the default, to 24 hours.
    pub fn dedupe_window(mut self, window: Duration) -> Self {
        self.0.dedupe_window = Some(duration(window));
        self
    }

    /// The largest age of a stored message.
    pub fn max_age(mut self, age: Duration) -> Self {
        self.retention().max_age = Some(duration(age));
        self
    }

    /// The largest number of stored messages.
    pub fn max_messages(mut self, messages: i64) -> Self {
        self.retention().max_messages = messages;
        self
    }

    /// The largest total size of the stored messages.
    pub fn max_bytes(mut self, bytes: i64) -> Self {
        self.retention().max_bytes = bytes;
        self
    }

    /// The copies of the log in a NATS cluster: 1, 3 or 5.
    pub fn replicas(mut self, replicas: u32) -> Self {
        self.0.replicas = replicas;
        self
    }

    /// Allows messages to have a lifetime of their own.
    pub fn allow_message_ttl(mut self) -> Self {
        self.0.allow_message_ttl = true;
        self
    }

    /// Adds a label.
    pub fn label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.labels.insert(name.into(), value.into());
        self
    }

    fn retention(&mut self) -> &mut Retention {
        self.0.retention.get_or_insert_default()
    }
}

/// A duration of the contract. The service refuses one that is too large for it.
pub(crate) fn duration(duration: Duration) -> prost_types::Duration {
    duration.try_into().unwrap_or(prost_types::Duration { seconds: i64::MAX, nanos: 0 })
}
