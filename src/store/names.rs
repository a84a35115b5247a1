//! Every name that the store uses in NATS, and its inverse. The names of rooms and subscribers themselves, and of streams and
//! subjects of rooms, are in `domain`; `docs/nats.md` shows them all.

use crate::domain::{NatsName, Room};

/// Key-value bucket of the rooms, by id.
pub(super) const ROOMS_BUCKET: &str = "unibus_rooms";
/// Key-value bucket of the NATS names and subjects that rooms have.
pub(super) const NAMES_BUCKET: &str = "unibus_names";
/// Key-value bucket of the members, by room and id.
pub(super) const MEMBERS_BUCKET: &str = "unibus_members";
/// Key-value bucket of the durable subscribers, by room and NATS name.
pub(super) const SUBSCRIBERS_BUCKET: &str = "unibus_subscribers";
/// Key-value bucket of the keys that sign the senders of messages.
pub(super) const SECRETS_BUCKET: &str = "unibus_secrets";

/// Metadata of a stream: the id of its room.
pub(super) const METADATA_ROOM: &str = "unibus.room";
/// Metadata of a subscriber's consumer: the id of the subscriber. A native program that creates or updates the consumer
/// removes it; the bucket of subscribers has the valid value.
pub(super) const METADATA_SUBSCRIBER: &str = "unibus.subscriber";
/// Metadata of a subscriber's consumer: the endpoint that created the subscriber.
pub(super) const METADATA_ENDPOINT: &str = "unibus.endpoint";
/// Metadata of [`TURN_CONSUMER`]: a random value of the attempt that created it, so that no two attempts have the
/// same configuration.
pub(super) const METADATA_TURN: &str = "unibus.holder";

/// The consumer whose existence gives one instance the turn to change a stream.
pub(super) const TURN_CONSUMER: &str = "unibus_turn";

/// Header of a message: its sender, percent-encoded.
pub(super) const SENDER_HEADER: &str = "Unibus-Sender";
/// Header of a message, `<key id>.<milliseconds since 1970>.<MAC in URL-safe base64>`, and of a notice between instances.
pub(super) const SIGNATURE_HEADER: &str = "Unibus-Signature";

/// Subject of the notices to all instances. No instance has this name.
pub(super) const NOTICES: &str = "unibus.sys.all";

/// Returns the subject of the notices to one instance.
pub(super) fn notices_to(instance: &str) -> String {
    format!("unibus.sys.{instance}.heard")
}

/// Returns the subject of the requests to one instance.
pub(super) fn requests_to(instance: &str) -> String {
    format!("unibus.sys.{instance}")
}

/// Returns the subject of the commands to the sessions of one instance.
pub(super) fn session_commands_to(instance: &str) -> String {
    format!("unibus.sys.{instance}.session")
}

/// Returns the name of the consumer of the subscriber with this NATS name.
pub(super) fn consumer(room: &Room, subscriber: &NatsName) -> String {
    format!("{}{subscriber}", consumer_prefix(room))
}

/// Returns the beginning of the consumer names of all subscribers of the room.
pub(super) fn consumer_prefix(room: &Room) -> String {
    format!("{}_", room.stream.room())
}

/// Returns the NATS name of the subscriber whose consumer has this name; `None` if it is no subscriber's.
pub(super) fn subscriber_of_consumer<'a>(room: &Room, consumer: &'a str) -> Option<&'a str> {
    consumer.strip_prefix(&consumer_prefix(room))
}
