//! Converts between the generated types and the types of the service. Requests are checked field by field. Conversions
//! to responses cannot fail.

pub(super) mod life;
pub(super) mod members;
mod publish;
pub(super) mod subscribers;

use std::time::{Duration, SystemTime};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

pub(super) use self::publish::{
    acknowledged, atomic_batch, batch, batch_outcomes, publish, publish_acks, stream_request, stream_response,
    stream_through,
};
use crate::{
    domain::{
        AckMode, Acknowledgement, Anchor, Cursor, Gap, GapReason, Message, Page, Retention, Room, RoomId, RoomState,
        Start, SubscriberId,
    },
    error::{Error, Result, Violations},
    limits::{DURATION_MAX, HISTORY_LIMIT_MAX},
    rooms::{
        life::{CreateRoom, RoomPage},
        subscribe::SubscribeOptions,
    },
    v1,
};

pub(super) fn room_id(id: String) -> Result<RoomId> {
    RoomId::parse("room_id", id)
}

pub(super) fn create_room(request: v1::CreateRoomRequest) -> CreateRoom {
    let mut violations = Violations::default();
    let retention = retention(request.retention.unwrap_or_default(), &mut violations);
    let dedupe_window = request.dedupe_window.and_then(|window| violations.check(duration("dedupe_window", window)));
    CreateRoom {
        room_id: request.room_id,
        persist: request.persist,
        subject: request.subject,
        retention,
        dedupe_window,
        replicas: request.replicas,
        allow_message_ttl: request.allow_message_ttl,
        labels: request.labels.into_iter().collect(),
        violations,
    }
}

fn retention(retention: v1::Retention, violations: &mut Violations) -> Retention {
    let max_age = retention.max_age.and_then(|age| violations.check(duration("retention.max_age", age)));
    Retention {
        max_age: max_age.filter(|age| !age.is_zero()),
        max_bytes: Some(retention.max_bytes).filter(|bytes| *bytes != 0),
        max_messages: Some(retention.max_messages).filter(|messages| *messages != 0),
        max_message_bytes: Some(retention.max_message_bytes).filter(|bytes| *bytes != 0),
    }
}

fn duration(field: &str, duration: prost_types::Duration) -> Result<Duration> {
    let (seconds, nanos) = (duration.seconds, duration.nanos);
    let normal = nanos.unsigned_abs() < 1_000_000_000 && i64::from(nanos.signum()) * seconds.signum() >= 0;
    if !normal {
        return Err(Error::field(field, "must have `nanos` with the sign of `seconds`, and less than a second"));
    }
    // the conversion of prost overflows at the smallest number of seconds
    let (Ok(seconds), Ok(nanos)) = (u64::try_from(seconds), u32::try_from(nanos)) else {
        return Err(Error::field(field, "must not be negative"));
    };
    let duration = Duration::new(seconds, nanos);
    if duration > DURATION_MAX {
        return Err(Error::field(field, "must be at most 100 years"));
    }
    Ok(duration)
}

fn time(field: &str, time: prost_types::Timestamp) -> Result<SystemTime> {
    let in_range = (0..=253_402_300_799).contains(&time.seconds) && (0..=999_999_999).contains(&time.nanos);
    let converted = in_range.then(|| SystemTime::try_from(time).ok()).flatten();
    converted.ok_or_else(|| Error::field(field, "must be a time between the years 1970 and 9999"))
}

pub(super) fn room(room: Room, state: Option<RoomState>) -> v1::Room {
    let retention = room.persist.then(|| v1::Retention {
        max_age: room.retention.max_age.and_then(|age| age.try_into().ok()),
        max_bytes: room.retention.max_bytes.unwrap_or_default(),
        max_messages: room.retention.max_messages.unwrap_or_default(),
        max_message_bytes: room.retention.max_message_bytes.unwrap_or_default(),
    });
    let dedupe_window = room.persist.then(|| room.dedupe_window().try_into().ok()).flatten();
    v1::Room {
        room_id: room.room_id.into(),
        stream: if room.persist { room.stream.into() } else { String::new() },
        persist: room.persist,
        subject: room.subject.to_string(),
        retention,
        dedupe_window,
        replicas: room.replicas,
        allow_message_ttl: room.allow_message_ttl,
        labels: room.labels.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        created_at: Some(room.created_at.into()),
        creator: room.creator,
        state: state.map(|state| v1::RoomState {
            first_sequence: state.first_sequence,
            last_sequence: state.last_sequence,
            messages: state.messages,
            bytes: state.bytes,
        }),
    }
}

/// The room after which the page begins, and the size of the page.
pub(super) fn room_page(request: &v1::ListRoomsRequest) -> Result<(Option<RoomId>, usize)> {
    let mut violations = Violations::default();
    let size = usize::try_from(request.page_size);
    if size.is_err() {
        violations.add("page_size", "must not be negative; 0 means 100");
    }
    let after = (!request.page_token.is_empty()).then(|| {
        let id = URL_SAFE_NO_PAD.decode(&request.page_token).ok().and_then(|id| String::from_utf8(id).ok());
        id.and_then(|id| RoomId::parse("page_token", id).ok())
    });
    if after == Some(None) {
        violations
            .add("page_token", "is not a page token; give `next_page_token` of the previous page, or leave it empty");
    }
    violations.finish()?;
    Ok((after.flatten(), size.unwrap_or_default()))
}

pub(super) fn rooms(page: RoomPage) -> v1::ListRoomsResponse {
    v1::ListRoomsResponse {
        rooms: page.rooms.into_iter().map(|found| room(found, None)).collect(),
        next_page_token: page.next_after.map(|id| URL_SAFE_NO_PAD.encode(id.as_str())).unwrap_or_default(),
    }
}

pub(super) fn subscribe(request: v1::SubscribeRequest) -> Result<SubscribeOptions> {
    let mut violations = Violations::default();
    let room_id = violations.check(room_id(request.room_id));
    let subscriber = (!request.subscriber.is_empty())
        .then(|| violations.check(SubscriberId::parse("subscriber", request.subscriber)))
        .flatten();
    let ack_mode = match v1::AckMode::try_from(request.ack_mode) {
        Ok(v1::AckMode::Unspecified | v1::AckMode::Explicit) => AckMode::Explicit,
        Ok(v1::AckMode::Auto) => AckMode::Auto,
        Err(_) => {
            violations.add("ack_mode", "must be ACK_MODE_EXPLICIT or ACK_MODE_AUTO");
            AckMode::Explicit
        }
    };
    let start = violations.check(start("start", request.start));
    match (room_id, start) {
        (Some(room_id), Some(start)) => violations.finish().map(|()| SubscribeOptions {
            room_id,
            subscriber,
            ack_mode,
            start,
            until_caught_up: request.until_caught_up,
        }),
        _ => Err(violations.into_error()),
    }
}

fn start(field: &str, start: Option<v1::Start>) -> Result<Start> {
    use v1::start::At;
    Ok(match start.and_then(|start| start.at) {
        None => Start::Default,
        Some(At::All(())) => Start::All,
        Some(At::New(())) => Start::New,
        Some(At::AfterSequence(sequence)) => Start::AfterSequence(sequence),
        Some(At::AfterCursor(cursor)) => Start::AfterCursor(Cursor::decode(&format!("{field}.after_cursor"), &cursor)?),
        Some(At::Since(since)) => Start::Since(time(&format!("{field}.since"), since)?),
        Some(At::Last(0)) => {
            return Err(Error::field(format!("{field}.last"), "must be at least 1; use `new` to start at the end"));
        }
        Some(At::Last(count)) => Start::Last(count),
    })
}

pub(super) fn acknowledge(request: v1::AcknowledgeRequest) -> Result<(RoomId, SubscriberId, Acknowledgement)> {
    let mut violations = Violations::default();
    let room_id = violations.check(room_id(request.room_id));
    let subscriber = violations.check(SubscriberId::parse("subscriber", request.subscriber));
    let acknowledgement = Acknowledgement { sequence: request.sequence, generation: request.generation };
    match (room_id, subscriber) {
        (Some(room_id), Some(subscriber)) => Ok((room_id, subscriber, acknowledgement)),
        _ => Err(violations.into_error()),
    }
}

pub(super) fn gap(gap: Gap) -> v1::Gap {
    let reason = match gap.reason {
        GapReason::Expired => v1::GapReason::Expired,
        GapReason::Purged => v1::GapReason::Purged,
        GapReason::Deleted => v1::GapReason::Deleted,
        GapReason::SlowReader => v1::GapReason::SlowReader,
        GapReason::Disconnected => v1::GapReason::Disconnected,
    };
    v1::Gap { from_sequence: gap.from, to_sequence: gap.to, reason: reason.into(), dropped: gap.dropped }
}

pub(super) fn message(message: Message, room: &RoomId, epoch: Option<i64>) -> v1::Message {
    let cursor = epoch.map(|epoch| Cursor::new(room, epoch, message.sequence).encode());
    v1::Message {
        sequence: message.sequence,
        payload: message.payload,
        headers: message.headers.into_map(),
        published_at: Some(message.published_at.into()),
        message_id: message.message_id,
        sender: message.sender,
        cursor: cursor.unwrap_or_default(),
    }
}

pub(super) fn history(request: v1::HistoryRequest) -> Result<(RoomId, usize, Anchor)> {
    let mut violations = Violations::default();
    let room_id = violations.check(room_id(request.room_id));
    let anchor = violations.check(anchor(request.anchor));
    // a limit out of range is clamped, as native programs expect; 0 means the default
    let limit = usize::try_from(request.limit.max(0)).unwrap_or(HISTORY_LIMIT_MAX);
    match (room_id, anchor) {
        (Some(room_id), Some(anchor)) => Ok((room_id, limit, anchor)),
        _ => Err(violations.into_error()),
    }
}

fn anchor(anchor: Option<v1::history_request::Anchor>) -> Result<Anchor> {
    use v1::history_request::Anchor as Wire;
    Ok(match anchor {
        None => Anchor::Newest,
        Some(Wire::BeforeSequence(sequence)) => Anchor::BeforeSequence(sequence),
        Some(Wire::BeforeCursor(cursor)) => Anchor::BeforeCursor(Cursor::decode("before_cursor", &cursor)?),
        Some(Wire::AfterSequence(sequence)) => Anchor::AfterSequence(sequence),
        Some(Wire::AfterCursor(cursor)) => Anchor::AfterCursor(Cursor::decode("after_cursor", &cursor)?),
        Some(Wire::TimeRange(range)) => {
            let start = range.start.map(|start| time("time_range.start", start)).transpose()?;
            let end = range.end.map(|end| time("time_range.end", end)).transpose()?;
            if let (Some(start), Some(end)) = (start, end)
                && start >= end
            {
                return Err(Error::field("time_range", "must end after it starts"));
            }
            Anchor::TimeRange(start, end)
        }
    })
}

pub(super) fn page(page: Page, room: &RoomId) -> v1::HistoryResponse {
    let Some(state) = page.state else { return v1::HistoryResponse::default() };
    let cursor = |sequence| Cursor::new(room, state.epoch, sequence).encode();
    let older_cursor = page.has_older.then(|| cursor(page.older_than));
    v1::HistoryResponse {
        has_older: page.has_older,
        has_newer: page.has_newer,
        older_cursor: older_cursor.unwrap_or_default(),
        newer_cursor: cursor(page.newer_than),
        first_sequence: state.first_sequence,
        last_sequence: state.last_sequence,
        messages: page.messages.into_iter().map(|found| message(found, room, Some(state.epoch))).collect(),
    }
}
