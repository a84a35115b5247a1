//! Converts the requests that change a room or remove messages, and their responses.

use super::{duration, room, room_id};
use crate::{
    domain::{Retention, RoomId},
    error::{Error, Result, Violations},
    rooms::life::{
        removal::PurgeOutcome,
        update::{Fixed, RoomField, UpdateRoom},
    },
    v1,
};

/// Maximum number of paths in an update mask.
const MASK_PATHS_MAX: usize = 32;
/// Maximum characters of a path that an error repeats.
const PATH_CHARS_MAX: usize = 64;

const RETENTION: [RoomField; 4] =
    [RoomField::MaxAge, RoomField::MaxBytes, RoomField::MaxMessages, RoomField::MaxMessageBytes];

pub(in crate::grpc) fn update_room(request: v1::UpdateRoomRequest) -> UpdateRoom {
    let mut violations = Violations::default();
    let room = request.room.unwrap_or_default();
    let wanted = room.retention.unwrap_or_default();
    let paths = request.update_mask.unwrap_or_default().paths;
    let covers_all_fields = paths.is_empty() || paths.iter().any(|path| path == "*");
    let fields = if paths.is_empty() { fields_that_are_set(&room) } else { fields_of_mask(&paths, &mut violations) };
    let max_age = wanted.max_age.filter(|_| fields.contains(&RoomField::MaxAge));
    let max_age = max_age.and_then(|age| violations.check(duration("room.retention.max_age", age)));
    let retention = Retention {
        max_age: max_age.filter(|age| !age.is_zero()),
        max_bytes: Some(wanted.max_bytes).filter(|bytes| *bytes != 0),
        max_messages: Some(wanted.max_messages).filter(|messages| *messages != 0),
        max_message_bytes: Some(wanted.max_message_bytes).filter(|bytes| *bytes != 0),
    };
    let dedupe_window = room.dedupe_window.filter(|_| fields.contains(&RoomField::DedupeWindow));
    let dedupe_window = dedupe_window.and_then(|window| violations.check(duration("room.dedupe_window", window)));
    let fixed = Fixed { persist: room.persist, subject: room.subject, allow_message_ttl: room.allow_message_ttl };
    UpdateRoom {
        room_id: room.room_id,
        fields,
        labels: room.labels.into_iter().collect(),
        retention,
        dedupe_window,
        replicas: room.replicas,
        // a mask that names single fields ignores all other fields
        fixed: if covers_all_fields { fixed } else { Fixed::default() },
        violations,
    }
}

/// The fields that an absent mask stands for: every field that can change and is not at its default (AIP-134).
fn fields_that_are_set(room: &v1::Room) -> Vec<RoomField> {
    let retention = room.retention.unwrap_or_default();
    [
        (RoomField::Labels, !room.labels.is_empty()),
        (RoomField::MaxAge, retention.max_age.is_some()),
        (RoomField::MaxBytes, retention.max_bytes != 0),
        (RoomField::MaxMessages, retention.max_messages != 0),
        (RoomField::MaxMessageBytes, retention.max_message_bytes != 0),
        (RoomField::DedupeWindow, room.dedupe_window.is_some()),
        (RoomField::Replicas, room.replicas != 0),
    ]
    .into_iter()
    .filter_map(|(field, is_set)| is_set.then_some(field))
    .collect()
}

fn fields_of_mask(paths: &[String], violations: &mut Violations) -> Vec<RoomField> {
    if paths.len() > MASK_PATHS_MAX {
        violations.add("update_mask", format!("has {} paths; at most {MASK_PATHS_MAX} are allowed", paths.len()));
        return Vec::new();
    }
    let mut fields = Vec::new();
    for path in paths {
        match path.as_str() {
            "*" => {
                fields.extend(RETENTION);
                fields.extend([RoomField::Labels, RoomField::DedupeWindow, RoomField::Replicas]);
            }
            "labels" => fields.push(RoomField::Labels),
            "retention" => fields.extend(RETENTION),
            "retention.max_age" => fields.push(RoomField::MaxAge),
            "retention.max_bytes" => fields.push(RoomField::MaxBytes),
            "retention.max_messages" => fields.push(RoomField::MaxMessages),
            "retention.max_message_bytes" => fields.push(RoomField::MaxMessageBytes),
            "dedupe_window" => fields.push(RoomField::DedupeWindow),
            "replicas" => fields.push(RoomField::Replicas),
            other => violations.add(format!("update_mask[{}]", shortened(other)), problem(other)),
        }
    }
    fields
}

fn problem(path: &str) -> &'static str {
    match path.split('.').next().unwrap_or(path) {
        "room_id" => "names the room and cannot change; leave it out of the mask",
        "persist" | "subject" | "allow_message_ttl" => {
            "cannot change after the room was created; leave it out, or create another room"
        }
        "created_at" | "creator" | "state" | "stream" => {
            "is set by the service and cannot change; leave it out of the mask"
        }
        "labels" => "labels can only change together; use the path `labels`",
        _ => "is not a field that can change; use labels, retention, a field of retention, dedupe_window, or replicas",
    }
}

fn shortened(path: &str) -> String {
    path.chars().take(PATH_CHARS_MAX).collect()
}

pub(in crate::grpc) fn purged(outcome: PurgeOutcome) -> v1::PurgeRoomResponse {
    v1::PurgeRoomResponse { purged: outcome.purged, room: Some(room(outcome.room, Some(outcome.state))) }
}

pub(in crate::grpc) fn delete_message(request: v1::DeleteMessageRequest) -> Result<(RoomId, u64)> {
    let mut violations = Violations::default();
    let room_id = violations.check(room_id(request.room_id));
    if request.sequence == 0 {
        violations.check::<()>(Err(Error::field("sequence", "must be at least 1, the first sequence of every room")));
    }
    match room_id {
        Some(room_id) => violations.finish().map(|()| (room_id, request.sequence)),
        None => Err(violations.into_error()),
    }
}
