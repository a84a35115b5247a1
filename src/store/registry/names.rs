//! The NATS names of rooms. Each name is claimed in its own key, so no two rooms have the same name.
//!
//! Every key is a subject. The claim of a stream uses the stream's default subject as key; the claim of a chosen
//! subject uses that subject. No creator can choose the default subject of another stream.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{Registry, conflict, subject_taken};
use crate::{
    domain::{NewRoom, Room, RoomId, Subject, rfc3339},
    error::{Error, Result},
    limits::NATS_REQUEST_TIMEOUT,
};

/// A claim without a room belongs to a creation that is under way, unless the claim is older than this.
const CLAIM_AGE_MAX: Duration = Duration::from_secs(10);
/// Number of attempts when a compare-and-set fails.
const ATTEMPTS: usize = 8;

/// A value in the bucket of names.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Claim {
    room_id: RoomId,
    /// Distinguishes this room from another room with the same id.
    #[serde(with = "rfc3339")]
    room_created_at: SystemTime,
    claimed_at_ms: u64,
}

/// A room whose names are claimed and that is not registered yet.
#[derive(Debug)]
pub(crate) struct ClaimedRoom {
    pub room: Room,
    since: Instant,
}

impl ClaimedRoom {
    /// Returns true if other calls may take the names as abandoned before the room is registered.
    pub(super) fn is_late(&self) -> bool {
        self.since.elapsed() + NATS_REQUEST_TIMEOUT > CLAIM_AGE_MAX
    }
}

impl Claim {
    fn new(room: &Room) -> Self {
        let (room_id, room_created_at) = (room.room_id.clone(), room.created_at);
        Self { room_id, room_created_at, claimed_at_ms: unix_ms() }
    }

    fn is_young(&self) -> bool {
        let age = unix_ms().saturating_sub(self.claimed_at_ms);
        age < u64::try_from(CLAIM_AGE_MAX.as_millis()).unwrap_or(u64::MAX)
    }
}

impl Registry {
    /// Claims the first free stream name, and the subject.
    ///
    /// # Errors
    /// `SUBJECT_TAKEN`, `CONFLICT`: nothing is claimed, or another room can take over the remaining claims.
    pub(super) async fn claim_names(&self, new: &NewRoom) -> Result<ClaimedRoom> {
        let since = Instant::now();
        for stream in new.streams() {
            let name = Subject::default_of(&stream);
            let room = new.named(stream);
            if !self.claim(&name, &room).await? {
                continue;
            }
            if room.subject == name {
                return Ok(ClaimedRoom { room, since });
            }
            // a default subject would be the claim of another stream
            let claimed = if room.subject.is_default() { Ok(false) } else { self.claim(&room.subject, &room).await };
            if let Ok(true) = claimed {
                return Ok(ClaimedRoom { room, since });
            }
            self.release_names(&room).await?;
            return claimed.and(Err(subject_taken()));
        }
        Err(Error::internal().because("a name that only one id can have belongs to another"))
    }

    /// Claims one name. False: the name belongs to another room, or to a room that is being created.
    async fn claim(&self, name: &Subject, room: &Room) -> Result<bool> {
        let key = name.as_str();
        for _ in 0..ATTEMPTS {
            let claim = Claim::new(room);
            if self.names.create(key, &claim).await?.is_some() {
                return Ok(true);
            }
            let Some(found) = self.names.get(key).await? else { continue };
            if found.value.room_id != room.room_id
                && (found.value.is_young() || self.has(&found.value.room_id, name).await?)
            {
                return Ok(false);
            }
            // renews the room's own claim too, so that no other call takes it as abandoned
            if self.names.put(key, &claim, Some(found.revision)).await?.is_some() {
                return Ok(true);
            }
        }
        Err(conflict())
    }

    /// Returns true if the room is registered with this name.
    async fn has(&self, id: &RoomId, name: &Subject) -> Result<bool> {
        let found = self.read(id).await?;
        Ok(found.is_some_and(|found| found.room.subject == *name || Subject::default_of(&found.room.stream) == *name))
    }

    /// Releases the names of a room that is not registered.
    pub(super) async fn release_names(&self, room: &Room) -> Result<()> {
        let name = Subject::default_of(&room.stream);
        let given = Some(&room.subject).filter(|subject| **subject != name);
        for key in given.into_iter().chain([&name]).map(Subject::as_str) {
            if let Some(found) = self.names.get(key).await?
                && found.value.room_id == room.room_id
                && found.value.room_created_at == room.created_at
            {
                self.names.delete(key, found.revision).await?;
            }
        }
        Ok(())
    }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
