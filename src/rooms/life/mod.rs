//! Creates, shows, lists, changes, purges and deletes rooms.

pub(crate) mod removal;
pub(crate) mod update;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    Rooms,
    access::{Admitted, Right, restricted},
};
use crate::{
    domain::{
        Caller, DedupeWindow, Labels, MemberId, NatsName, NewRoom, Retention, Role, Room, RoomId, RoomState,
        StreamName, Subject, Visible,
    },
    error::{Error, Reason, Result, Violations},
    limits::{HISTORY_PAGE_BYTES_MAX, PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX},
    store::registry::{NameClaim, Registration, known::Registered, not_found},
};

/// Number of attempts to create a room while other calls change the same room.
const ATTEMPTS: usize = 4;
const REPLICAS_ALLOWED: [u32; 3] = [1, 3, 5];

/// The request of a creator, not validated except for the parts with types of their own.
#[derive(Debug, Default)]
pub(crate) struct CreateRoom {
    pub room_id: String,
    pub persist: bool,
    pub subject: String,
    pub retention: Retention,
    /// How long the room remembers message ids; `None` is the default.
    pub dedupe_window: Option<Duration>,
    pub replicas: u32,
    pub allow_message_ttl: bool,
    pub labels: Vec<(String, String)>,
    /// The violations found so far.
    pub violations: Violations,
}

/// A page of rooms.
#[derive(Clone, Debug)]
pub(crate) struct RoomPage {
    pub rooms: Vec<Room>,
    /// The last room of the page, if more follow.
    pub next_after: Option<RoomId>,
}

impl CreateRoom {
    fn check(self, creator: String, payload_bytes_max: usize) -> Result<NewRoom> {
        let mut violations = self.violations;
        let id = if self.room_id.is_empty() { uuid::Uuid::new_v4().simple().to_string() } else { self.room_id };
        let room_id = violations.check(RoomId::parse("room_id", id));
        let stream = room_id.as_ref().map(NatsName::of_room).map(|[preferred, ..]| StreamName::of(preferred));
        let is_subject_given = !self.subject.is_empty();
        let subject = if is_subject_given {
            violations.check(Subject::parse("subject", &self.subject, room_id.as_ref()))
        } else {
            stream.as_ref().map(Subject::default_of)
        };
        let labels = violations.check(Labels::parse("labels", self.labels));
        let mut replicas = self.replicas;
        let mut dedupe = DedupeWindow::Default;
        if self.persist {
            self.retention.check("retention", payload_bytes_max, &mut violations);
            let max_age = self.retention.max_age;
            dedupe = DedupeWindow::choose(self.dedupe_window, max_age, "dedupe_window", &mut violations);
            replicas = check_replicas("replicas", replicas, &mut violations);
        } else {
            for (field, given) in [
                ("retention", self.retention != Retention::default()),
                ("dedupe_window", self.dedupe_window.is_some()),
                ("replicas", replicas != 0),
                ("allow_message_ttl", self.allow_message_ttl),
            ] {
                if given {
                    violations.add(field, "is only for persisted rooms; leave it out, or set `persist`");
                }
            }
        }
        match (room_id, stream, subject, labels) {
            (Some(room_id), Some(stream), Some(subject), Some(labels)) => violations.finish().map(|()| {
                let room = Room {
                    room_id,
                    stream,
                    subject,
                    persist: self.persist,
                    retention: self.retention,
                    dedupe,
                    replicas,
                    allow_message_ttl: self.allow_message_ttl,
                    labels,
                    created_at: SystemTime::now(),
                    creator,
                    purged: None,
                    purging: None,
                };
                NewRoom::new(room, is_subject_given)
            }),
            _ => Err(violations.into_error()),
        }
    }
}

/// The number of replicas for `given`. 0 means 1.
fn check_replicas(field: &str, given: u32, violations: &mut Violations) -> u32 {
    let replicas = if given == 0 { 1 } else { given };
    if !REPLICAS_ALLOWED.contains(&replicas) {
        violations.add(
            field,
            "must be 1, 3 or 5 (0 means 1); an even number survives no more failures than the odd number below it",
        );
    }
    replicas
}

impl Rooms {
    /// Creates a room, or returns the existing room with the same settings.
    ///
    /// # Errors
    /// `INVALID_FIELD`; `ROOM_EXISTS`, `SUBJECT_TAKEN`, `STREAM_INCOMPATIBLE`; `JETSTREAM_MISSING`,
    /// `REPLICAS_UNAVAILABLE`; `LIMIT_REACHED`; `PERMISSION_DENIED`. No room was created.
    pub(crate) async fn create(&self, caller: &Caller, request: CreateRoom) -> Result<(Room, Option<RoomState>)> {
        let creator = caller.id().map(|id| id.as_str().to_owned()).unwrap_or_default();
        let new = request.check(creator, self.payload_bytes_max())?;
        let room = new.preferred();
        if room.persist {
            self.store.require_jetstream()?;
            self.store.check_bounds(room, caller, "retention")?;
        }
        let _turn = self.allowances.turn_to_create(caller).await;
        if self.store.registry.known(&room.room_id).is_none() {
            if restricted(caller).is_some() && !room.subject.is_default() {
                return Err(Error::new(
                    Reason::PermissionDenied,
                    "`subject`: only an administrator may set it, since native programs may already use it; leave it empty",
                ));
            }
            self.store.require_space()?;
            self.allowances.create(caller, |creator| self.rooms_created(creator))?;
        }
        for _ in 0..ATTEMPTS {
            let registration = self.register(caller, &new).await;
            if let Err(error) = &registration
                && error.reason() == Reason::RoomExists
            {
                self.find_existing(caller, &room.room_id).await?;
            }
            let registered = match registration? {
                Registration::New(registered) => registered,
                Registration::Existing => {
                    let Admitted { registered, visible, .. } = self.find_existing(caller, &room.room_id).await?;
                    return self.describe(&registered, visible).await;
                }
                Registration::Deleting(registered) => {
                    self.finish_deletion(&registered).await?;
                    continue;
                }
            };
            if !room.persist {
                return Ok((registered.room.clone(), None));
            }
            return match self.store.create_log(&registered.room).await {
                Ok(state) => Ok((registered.room.clone(), Some(state))),
                Err(error) => Err(self.take_back(&registered, error).await),
            };
        }
        Err(Error::new(Reason::Conflict, "other calls create and delete the room at this moment; call again"))
    }

    /// The number of rooms that the caller created and owns. For callers without names, the number of rooms without a
    /// creator. A room that the caller gave away does not count, because another owner can delete it.
    fn rooms_created(&self, caller: Option<&MemberId>) -> usize {
        let created = self.store.registry.created(caller.map_or("", MemberId::as_str)).into_iter();
        let is_owner = |room: &Room, id| self.store.members.of(room, id).is_some_and(|found| found.role == Role::Owner);
        created.filter(|registered| caller.is_none_or(|id| is_owner(&registered.room, id))).count()
    }

    /// Names the room and registers it, unless it exists.
    async fn register(&self, caller: &Caller, new: &NewRoom) -> Result<Registration> {
        let registry = &self.store.registry;
        let mut claimed = match registry.name(new).await? {
            NameClaim::Claimed(claimed) => claimed,
            NameClaim::Found(found) => return Ok(found),
        };
        match self.checked(caller, &claimed.room).await {
            Ok(dedupe) => {
                claimed.room.dedupe = dedupe;
                registry.register(new, &claimed).await
            }
            Err(error) => {
                let _ = registry.release(&claimed).await;
                Err(error)
            }
        }
    }

    /// Checks a named room before its registration. Returns how long it remembers message ids.
    async fn checked(&self, caller: &Caller, room: &Room) -> Result<DedupeWindow> {
        if !room.persist {
            return Ok(room.dedupe);
        }
        // its subject may be longer than the preferred one
        self.store.check_bounds(room, caller, "retention")?;
        let Some(found) = self.store.adoptable(room).await? else { return Ok(room.dedupe) };
        if restricted(caller).is_some() {
            // the registration would make existing messages readable
            found.require_empty()?;
        }
        let adopted = found.dedupe_window(room.retention.max_age).filter(|_| room.dedupe.is_default());
        Ok(adopted.unwrap_or(room.dedupe))
    }

    /// Removes the registration of a room whose log was refused. If the log may exist, the registration stays: other
    /// callers may already use the room, and the same call continues from it.
    async fn take_back(&self, registered: &Arc<Registered>, error: Error) -> Error {
        let is_refused = error.reason().is_side_effect_free()
            && !matches!(error.reason(), Reason::NatsUnavailable | Reason::RoomNotFound);
        if !is_refused {
            return half_done(error);
        }
        match self.store.registry.unregister(registered).await {
            Ok(()) => error,
            Err(leftover) => {
                tracing::warn!(
                    room = %registered.room.room_id, error = %leftover,
                    "NATS refused the stream of a new room, and the room is still registered; create or delete it again"
                );
                half_done(error)
            }
        }
    }

    /// Returns the room and the state of its log.
    pub(crate) async fn get(&self, caller: &Caller, id: &RoomId) -> Result<(Room, Option<RoomState>)> {
        let Admitted { registered, visible, .. } = self.permit(caller, id, Right::Read).await?;
        self.describe(&registered, visible).await
    }

    /// The existing room with the requested id. A caller that is not a member learns only that the room exists.
    async fn find_existing(&self, caller: &Caller, id: &RoomId) -> Result<Admitted> {
        match self.permit(caller, id, Right::Read).await {
            Err(error) if error.reason() == Reason::PermissionDenied => Err(Error::new(
                Reason::RoomExists,
                "`room_id`: the room exists, and the caller is not a member of it; choose another id",
            )),
            permitted => permitted,
        }
    }

    async fn describe(&self, registered: &Registered, visible: Visible) -> Result<(Room, Option<RoomState>)> {
        let room = registered.room.clone();
        if !room.persist {
            return Ok((room, None));
        }
        let state = self.store.log_state(&room).await?;
        let state = self.visible_state(&room, state, visible).await?;
        Ok((room, Some(state)))
    }

    /// Lists the rooms after `after` of which the caller is a member, by ascending id. 0 is the default page size.
    pub(crate) fn list(&self, caller: &Caller, after: Option<&RoomId>, page_size: usize) -> RoomPage {
        let size = if page_size == 0 { PAGE_SIZE_DEFAULT } else { page_size.min(PAGE_SIZE_MAX) };
        let mut found = match restricted(caller) {
            None => self.store.registry.list(after, size + 1),
            Some(identity) => self.rooms_of(&identity.id, after, size + 1),
        };
        let mut bytes = 0;
        let fit = found.iter().take_while(|registered| {
            bytes += described_bytes(&registered.room);
            bytes <= HISTORY_PAGE_BYTES_MAX
        });
        let size = fit.count().clamp(1, size);
        let more = found.len() > size;
        found.truncate(size);
        let next_after = found.last().filter(|_| more).map(|last| last.room.room_id.clone());
        RoomPage { rooms: found.iter().map(|registered| registered.room.clone()).collect(), next_after }
    }

    fn rooms_of(&self, member: &MemberId, after: Option<&RoomId>, limit: usize) -> Vec<Arc<Registered>> {
        let (registry, members) = (&self.store.registry, &self.store.members);
        let mut rooms = members.rooms_of(member, after);
        rooms.extend(registry.created_by(member.as_str(), after));
        let found = rooms.iter().filter_map(|id| registry.known(id));
        found.filter(|registered| members.of(&registered.room, member).is_some()).take(limit).collect()
    }

    /// Deletes the room and everything that belongs to it.
    pub(crate) async fn delete(&self, caller: &Caller, id: &RoomId) -> Result<()> {
        for _ in 0..ATTEMPTS {
            if let Some(deleting) = self.store.registry.find_deleting(id).await? {
                // the call that began the deletion has stopped, or still runs
                let admitted = self.admit(caller, deleting, Right::Own).map_err(|_| not_found(id))?;
                return self.finish_deletion(&admitted.registered).await;
            }
            let Admitted { registered, .. } = self.permit_fresh(caller, id, Right::Own).await?;
            match self.store.registry.begin_deletion(&registered).await {
                Ok(deleting) => return self.finish_deletion(&deleting).await,
                Err(error) if error.reason() == Reason::Conflict => {}
                Err(error) if error.reason() == Reason::StorageFull && registered.room.persist => {
                    // purging the messages frees storage for the registration of the deletion
                    let state = self.store.log_state(&registered.room).await?;
                    if self.store.purge(&registered.room, state.last_sequence).await? == 0 {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Err(Error::new(Reason::Conflict, "other calls change the room at this moment; call again"))
    }

    /// Deletes the log, and then the registration. The id stays taken until the end.
    async fn finish_deletion(&self, registered: &Arc<Registered>) -> Result<()> {
        let finished = async {
            self.store.delete_log(&registered.room).await?;
            self.store.registry.unregister(registered).await
        };
        finished.await.map_err(half_done)
    }
}

/// An upper bound of the bytes of a room on a page. The room may take a little less.
fn described_bytes(room: &Room) -> usize {
    const NUMBERS_AND_FRAMING: usize = 256;
    const LABEL_FRAMING: usize = 16;
    let labels = room.labels.iter().map(|(name, value)| name.len() + value.len() + LABEL_FRAMING);
    let names = room.room_id.as_str().len() + room.subject.as_str().len() + room.creator.len();
    NUMBERS_AND_FRAMING + names + labels.sum::<usize>()
}

/// The error of a later step: a part was done, and the same call completes it.
fn half_done(error: Error) -> Error {
    if !error.reason().is_side_effect_free() {
        return error;
    }
    Error::new(Reason::Timeout, "only a part of the call was carried out; make the same call again to complete it")
        .because(error)
}
