//! What a person can do about an error of the service.

use std::collections::HashMap;

use tonic::Status;

/// Fields of the contract, each with the argument or flag that sets it.
const FLAGS: &[(&str, &str)] = &[
    ("room_id", "ROOM"),
    ("room.room_id", "ROOM"),
    ("member_id", "MEMBER"),
    ("role", "--role"),
    ("visible_from", "--visible-from"),
    ("subject", "--subject"),
    ("replicas", "--replicas"),
    ("room.replicas", "--replicas"),
    ("dedupe_window", "--dedupe-window"),
    ("room.dedupe_window", "--dedupe-window"),
    ("retention.max_age", "--max-age"),
    ("retention.max_bytes", "--max-bytes"),
    ("retention.max_messages", "--max-messages"),
    ("retention.max_message_bytes", "--max-message-bytes"),
    ("room.retention.max_age", "--max-age"),
    ("room.retention.max_bytes", "--max-bytes"),
    ("room.retention.max_messages", "--max-messages"),
    ("room.retention.max_message_bytes", "--max-message-bytes"),
    ("message_id", "--id"),
    ("ttl", "--ttl"),
    ("expected_last_sequence", "--expected-sequence"),
    ("subscriber", "NAME"),
    ("sequence", "SEQUENCE"),
    ("up_to_sequence", "--up-to"),
];

/// The argument or flag that sets this field.
pub(super) fn flag_of(field: &str) -> Option<&'static str> {
    let field = field.strip_prefix("publish.").unwrap_or(field);
    FLAGS.iter().find(|(name, _)| *name == field).map(|(_, flag)| *flag)
}

/// What to do about an error with this reason and these metadata.
pub(super) fn of(reason: &str, metadata: &HashMap<String, String>, status: &Status) -> Option<String> {
    let last = || metadata.get("last_sequence").map(|last| format!("The last sequence of the room is {last}."));
    let hint = match reason {
        "UNAUTHENTICATED" => "Give a token with --token-file or UNIBUS_TOKEN, or a certificate with --cert and --key.",
        "CREDENTIALS_EXPIRED" => "Get a new token or certificate.",
        "PERMISSION_DENIED" => {
            "An owner of the room can give you a role: `unibus member add ROOM MEMBER --role writer`."
        }
        "SUBSCRIBER_FOREIGN" => {
            "Your subscribers have your id as their name, or your id followed by `/` and the name of a device."
        }
        "ROOM_NOT_FOUND" => "`unibus room list` lists your rooms; `unibus room create ROOM` creates one.",
        "ROOM_EXISTS" => "`unibus room get ROOM` shows its settings; `unibus room update ROOM` changes them.",
        "SUBSCRIBER_NOT_FOUND" => "`unibus subscriber list ROOM` lists the durable subscribers.",
        "MEMBER_NOT_FOUND" => "`unibus member list ROOM` lists the members.",
        "MESSAGE_NOT_FOUND" => "`unibus history ROOM` shows the stored messages with their sequences.",
        "TTL_NOT_ALLOWED" => "Only a room that was created with --allow-message-ttl takes --ttl.",
        "ROOM_NOT_PERSISTED" => "Only a persisted room stores messages: `unibus room create ROOM` without --ephemeral.",
        "LAST_OWNER" => "Add another owner first: `unibus member add ROOM MEMBER --role owner`.",
        "CURSOR_INVALID" | "CURSOR_EXPIRED" | "ROOM_RECREATED" => "Start again, for example with --from first.",
        "TAKEN_OVER" => "Another subscription uses this name. Give each program a name of its own.",
        "STORAGE_FULL" => "Make room: `unibus room purge ROOM`, or tighter bounds with `unibus room update ROOM`.",
        "REPLICAS_UNAVAILABLE" => "The NATS cluster has too few servers; use fewer --replicas.",
        "POSITION_AFTER_END" | "SEQUENCE_MISMATCH" => return last(),
        "LIMIT_REACHED" => return metadata.get("limit").map(|limit| format!("The limit is {limit} of the service.")),
        "RATE_LIMITED" | "NATS_UNAVAILABLE" | "DRAINING" | "SUBSCRIBE_AGAIN" | "CONFLICT" => "Try again.",
        "OUTCOME_UNKNOWN" => "The message may be stored. Publish it again with the same --id.",
        "TIMEOUT" => "The call may have taken effect. Try again; that is safe.",
        "INTERNAL" => return request_id(status),
        _ => return None,
    };
    Some(hint.to_owned())
}

fn request_id(status: &Status) -> Option<String> {
    let id = status.metadata().get("x-request-id")?.to_str().ok()?;
    Some(format!("The log of the service has the details under the request id {id}."))
}
