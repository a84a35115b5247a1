//! The rooms of a benchmark: made before it, and deleted after it.

use std::collections::HashMap;

use futures_util::{StreamExt, stream};
use unibus::v1::{CreateRoomRequest, DeleteRoomRequest};
use uuid::Uuid;

use crate::cli::{
    connection::RoomClient,
    failure::{CliResult, Failure},
    session::Session,
};

/// Calls at the same time.
const CALLS_MAX: usize = 8;
/// The characters of the random part of an id.
const RANDOM_CHARACTERS: usize = 12;

/// Rooms that did not exist before.
#[derive(Debug)]
pub(super) struct OwnRooms {
    pub(super) ids: Vec<String>,
    persist: bool,
    /// 0: the service's default.
    replicas: u32,
    /// Those that may exist.
    tried: usize,
}

impl OwnRooms {
    /// Chooses the ids of this number of rooms. None of the rooms exists yet.
    pub(super) fn new(count: u32, persist: bool, replicas: u32) -> Self {
        let random: String = Uuid::new_v4().simple().to_string().chars().take(RANDOM_CHARACTERS).collect();
        let ids = match count {
            1 => vec![format!("bench-{random}")],
            _ => (1..=count).map(|number| format!("bench-{random}-{number}")).collect(),
        };
        Self { ids, persist, replicas, tried: 0 }
    }

    /// Creates the next rooms. `false`: all rooms exist. A call that was begun is to be waited for, so that no room
    /// appears after its deletion.
    pub(super) async fn create_some(&mut self, session: &Session, client: &RoomClient) -> CliResult<bool> {
        let next: Vec<_> = self.ids.iter().skip(self.tried).take(CALLS_MAX).cloned().collect();
        self.tried += next.len();
        let (persist, replicas) = (self.persist, self.replicas);
        let creating = next.iter().map(|room_id| async move {
            let request = CreateRoomRequest {
                room_id: room_id.clone(),
                persist,
                replicas,
                labels: HashMap::from([("made-by".to_owned(), "unibus-bench".to_owned())]),
                ..CreateRoomRequest::default()
            };
            let created = client.clone().create_room(session.request(request)).await;
            created.map(drop).map_err(|status| Failure::call(&format!("create the room {room_id}"), &status))
        });
        let created: Vec<CliResult> = stream::iter(creating).buffer_unordered(CALLS_MAX).collect().await;
        created.into_iter().collect::<CliResult>()?;
        Ok(self.tried < self.ids.len())
    }

    /// The rooms that may exist.
    pub(super) fn made(&self) -> &[String] {
        self.ids.get(..self.tried).unwrap_or_default()
    }

    /// Deletes the rooms. Returns those that may still exist, with the first reason.
    pub(super) async fn delete(&self, session: &Session, client: &RoomClient) -> Option<(Vec<String>, Failure)> {
        let deleting = self.made().iter().map(|room_id| async move {
            let request = session.request(DeleteRoomRequest { room_id: room_id.clone() });
            let deleted = client.clone().delete_room(request).await;
            let failure = Failure::call(&format!("delete the room {room_id}"), &deleted.err()?);
            // the room was not created
            (failure.reason() != Some("ROOM_NOT_FOUND")).then(|| (room_id.clone(), failure))
        });
        let failed: Vec<Option<_>> = stream::iter(deleting).buffer_unordered(CALLS_MAX).collect().await;
        let (left, failures): (Vec<_>, Vec<_>) = failed.into_iter().flatten().unzip();
        Some((left, failures.into_iter().next()?))
    }
}
