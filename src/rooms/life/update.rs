//! Changes the settings of an existing room: labels, retention, dedupe window, replicas.

use std::time::Duration;

use crate::{
    domain::{Caller, DedupeWindow, Labels, Retention, Room, RoomId, RoomState},
    error::{Error, Reason, Result, Violations},
    rooms::{
        Rooms,
        access::{Admitted, Right},
    },
};

use super::{check_replicas, half_done};

/// Number of attempts to make a change while other calls change the room.
const ATTEMPTS: usize = 16;

/// The settings that can be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RoomField {
    Labels,
    MaxAge,
    MaxBytes,
    MaxMessages,
    MaxMessageBytes,
    DedupeWindow,
    Replicas,
}

/// The request of a caller, not validated except for the parts with types of their own.
#[derive(Debug, Default)]
pub(crate) struct UpdateRoom {
    pub room_id: String,
    /// The settings to change. Other values are ignored.
    pub fields: Vec<RoomField>,
    pub labels: Vec<(String, String)>,
    pub retention: Retention,
    /// How long the room remembers message ids; `None` is the default.
    pub dedupe_window: Option<Duration>,
    pub replicas: u32,
    /// The fixed settings that the caller repeats. They must match.
    pub fixed: Fixed,
    /// The violations found so far.
    pub violations: Violations,
}

/// The settings that cannot change. Settings at their default are not checked.
#[derive(Debug, Default)]
pub(crate) struct Fixed {
    pub persist: bool,
    pub subject: String,
    pub allow_message_ttl: bool,
}

impl UpdateRoom {
    fn wants(&self, field: RoomField) -> bool {
        self.fields.contains(&field)
    }

    /// Returns `room` with the requested changes. Adds every problem to `violations`.
    fn apply(&self, before: &Room, payload_bytes_max: usize, violations: &mut Violations) -> Room {
        let mut room = before.clone();
        for (field, differs) in [
            ("room.persist", self.fixed.persist && !room.persist),
            ("room.subject", !self.fixed.subject.is_empty() && self.fixed.subject != room.subject.as_str()),
            ("room.allow_message_ttl", self.fixed.allow_message_ttl && !room.allow_message_ttl),
        ] {
            if differs {
                violations.add(field, "cannot change after the room was created; leave it out, or create another room");
            }
        }
        if self.wants(RoomField::Labels)
            && let Some(labels) = violations.check(Labels::parse("room.labels", self.labels.iter().cloned()))
        {
            room.labels = labels;
        }
        let given = &self.retention;
        if self.wants(RoomField::MaxAge) {
            room.retention.max_age = given.max_age;
        }
        if self.wants(RoomField::MaxBytes) {
            room.retention.max_bytes = given.max_bytes;
        }
        if self.wants(RoomField::MaxMessages) {
            room.retention.max_messages = given.max_messages;
        }
        if self.wants(RoomField::MaxMessageBytes) {
            room.retention.max_message_bytes = given.max_message_bytes;
        }
        if room.persist {
            room.retention.check("room.retention", payload_bytes_max, violations);
            self.apply_dedupe_window(&mut room, before, violations);
            if self.wants(RoomField::Replicas) {
                room.replicas = check_replicas("room.replicas", self.replicas, violations);
            }
        } else {
            let replicas = self.wants(RoomField::Replicas) && self.replicas != 0;
            let dedupe_window = self.wants(RoomField::DedupeWindow) && self.dedupe_window.is_some();
            for (field, given) in [
                ("room.retention", room.retention != Retention::default()),
                ("room.dedupe_window", dedupe_window),
                ("room.replicas", replicas),
            ] {
                if given {
                    violations.add(field, "is only for persisted rooms, and this room is ephemeral; leave it out");
                }
            }
        }
        room
    }

    /// Changes how long the room remembers message ids. A caller that repeats the length that the room had changes
    /// nothing. A chosen length prevents a shorter `max_age`; any other length becomes as short.
    fn apply_dedupe_window(&self, room: &mut Room, before: &Room, violations: &mut Violations) {
        let max_age = room.retention.max_age;
        if self.wants(RoomField::DedupeWindow) && self.dedupe_window != Some(before.dedupe_window()) {
            room.dedupe = DedupeWindow::choose(self.dedupe_window, max_age, "room.dedupe_window", violations);
            return;
        }
        if let (DedupeWindow::Chosen(length), Some(max_age)) = (room.dedupe, max_age)
            && length > max_age
        {
            let length = humantime::format_duration(length);
            violations.add(
                "room.retention.max_age",
                format!("is shorter than the `dedupe_window` of the room, {length}; shorten or reset that too"),
            );
        }
    }
}

/// The error of a field that NATS refused, with the path of the field in the request.
fn in_room(error: Error) -> Error {
    if error.reason() == Reason::InvalidField { error.within("room") } else { error }
}

impl Rooms {
    /// Changes a room's settings. When this returns, they are in force on this instance; other instances apply them
    /// soon after.
    ///
    /// # Errors
    /// `INVALID_FIELD`, `ROOM_NOT_FOUND`, `REPLICAS_UNAVAILABLE`, `STORAGE_FULL`, `CONFLICT`. The room was not
    /// changed.
    pub(crate) async fn update(&self, caller: &Caller, mut request: UpdateRoom) -> Result<(Room, Option<RoomState>)> {
        let id = std::mem::take(&mut request.room_id);
        let mut violations = std::mem::take(&mut request.violations);
        let Some(id) = violations.check(RoomId::parse("room.room_id", id)) else {
            return Err(violations.into_error());
        };
        for _ in 0..ATTEMPTS {
            let Admitted { registered, visible, .. } = match self.permit_fresh(caller, &id, Right::Own).await {
                Ok(admitted) => admitted,
                Err(error) => return violations.finish().and(Err(error)),
            };
            let room = request.apply(&registered.room, self.payload_bytes_max(), &mut violations);
            std::mem::take(&mut violations).finish()?;
            if room.persist {
                self.store.check_bounds(&room, caller, "room.retention")?;
                // the log first, because NATS may refuse the change, and the registry must stay true
                self.store.update_log(&room).await.map_err(in_room)?;
            }
            if room == registered.room {
                return self.describe(&registered, visible).await;
            }
            let persist = room.persist;
            let updated = self.store.registry.update(&registered, room).await;
            if let Some(registered) = updated.map_err(|error| if persist { half_done(error) } else { error })? {
                // reads the log once more, because an instance with the old settings may have restored them
                return self.describe(&registered, visible).await;
            }
        }
        Err(Error::new(Reason::Conflict, "other calls change the room at this moment; call again"))
    }
}
