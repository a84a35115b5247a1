//! Decides which streams of other programs a room can adopt.

use async_nats::jetstream::stream::{Config, PersistenceMode, RetentionPolicy, StorageType};

use crate::{
    domain::Room,
    error::{Error, Reason, Result},
};

/// Refuses a stream that the room cannot adopt: it captures another subject, or has settings that are not known to
/// work with a room.
///
/// # Errors
/// `STREAM_INCOMPATIBLE`.
pub(in crate::store) fn check(config: &Config, room: &Room) -> Result<()> {
    if is_adoptable(config, room) { Ok(()) } else { Err(refused()) }
}

/// The error for a stream that a room cannot adopt.
pub(in crate::store) fn refused() -> Error {
    Error::new(
        Reason::StreamIncompatible,
        "`room_id`: a NATS stream with the name of the room exists, and has another subject or settings that a room cannot \
         have; set `subject` to its subject, change its settings, or choose another id",
    )
}

/// Returns true if the room can adopt the stream. The stream must capture the room's subject alone. Its other
/// settings must be ones that the service replaces, or that are known to work with a room.
fn is_adoptable(config: &Config, room: &Room) -> bool {
    let Config {
        subjects,
        retention,
        storage,
        // replaced
        name: _,
        max_bytes: _,
        max_messages: _,
        max_messages_per_subject: _,
        max_message_size: _,
        max_age: _,
        max_consumers: _,
        num_replicas: _,
        discard: _,
        discard_new_per_subject: _,
        allow_direct: _,
        allow_atomic_publish: _,
        metadata: _,
        // kept if a room can have it
        duplicate_window: _,
        // kept
        description: _,
        republish: _,
        compression: _,
        placement: _,
        allow_message_ttl: _,
        allow_batch_publish: _,
        deny_delete: _,
        deny_purge: _,
        // refused: the stream acknowledges nothing, or before it has written
        no_ack,
        persist_mode,
        // refused: the stream stores nothing, or not the published message
        sealed,
        pause_until,
        allow_message_counter,
        subject_transform,
        // refused: messages come from other streams, or from the server itself
        mirror,
        mirror_direct,
        sources,
        allow_message_schedules,
        subject_delete_marker_ttl,
        // refused: publishers could empty the room
        allow_rollup,
        // refused: the stream may refuse readers and positions
        consumer_limits,
        // refused: the sequences before it would look like lost messages
        first_sequence,
        template_owner,
    } = config;
    matches!(subjects.as_slice(), [subject] if subject == room.subject.as_str())
        && *retention == RetentionPolicy::Limits
        && *storage == StorageType::File
        && !no_ack
        && matches!(persist_mode, None | Some(PersistenceMode::Default))
        && !sealed
        && pause_until.is_none()
        && !allow_message_counter
        && subject_transform.is_none()
        && mirror.is_none()
        && !mirror_direct
        && sources.as_ref().is_none_or(Vec::is_empty)
        && !allow_message_schedules
        && subject_delete_marker_ttl.is_none()
        && !allow_rollup
        && consumer_limits.is_none()
        && first_sequence.is_none_or(|first| first <= 1)
        && template_owner.is_empty()
}
