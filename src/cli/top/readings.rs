//! What `top` asks the service, and how much of it at a time.
//!
//! The list of the rooms comes in pages, and costs the service little. The state and the subscribers of a room cost it a
//! request to NATS each. So a refresh asks for the details of a bounded number of rooms, a few at the same time.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use unibus::v1::{GetRoomRequest, ListRoomsRequest, ListSubscribersRequest, Subscriber};

use crate::cli::{
    connection::RoomClient,
    failure::{CliResult, Failure},
    session::Session,
};

/// Rooms on a page of the list: the largest page that the service gives.
const LIST_PAGE_SIZE: i32 = 1000;
/// Pages of the list that are read.
const LIST_PAGES_MAX: usize = 100;
/// The shortest time between two readings of the list, for each of its pages.
const LIST_PAUSE: Duration = Duration::from_secs(2);
/// Rooms whose details are read at the same time, with two calls each.
const ROOMS_AT_ONCE: usize = 4;
/// Subscribers of a room that are read: as many as NATS lists in one answer.
const SUBSCRIBERS_MAX: i32 = 256;

/// A room of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ListedRoom {
    pub(super) room_id: String,
    pub(super) persist: bool,
}

/// The details of a persisted room at one time.
#[derive(Clone, Debug)]
pub(super) struct RoomReading {
    pub(super) at: Instant,
    pub(super) messages: u64,
    pub(super) bytes: u64,
    pub(super) last_sequence: u64,
    pub(super) subscribers: Vec<Subscriber>,
    /// Whether the room has more subscribers than these.
    pub(super) has_more: bool,
}

/// What the service answered about a room.
#[derive(Debug)]
pub(super) enum RoomAnswer {
    Read(RoomReading),
    /// The room does not exist any more, or not for this caller.
    Gone,
    Failed(Failure),
}

/// Asks the service.
#[derive(Debug)]
pub(super) struct Reader {
    session: Session,
    client: Option<RoomClient>,
    /// Only these rooms; empty: all rooms.
    only: BTreeSet<String>,
    next_list: Option<Instant>,
}

impl Reader {
    /// Reads these rooms, or without any all rooms. Nothing is sent yet.
    pub(super) fn new(session: Session, only: BTreeSet<String>) -> Self {
        Self { session, client: None, only, next_list: None }
    }

    /// Whether the list is to be read again.
    pub(super) fn needs_list(&self) -> bool {
        self.next_list.is_none_or(|next| next <= Instant::now())
    }

    /// Reads the list of the rooms.
    pub(super) async fn list(&mut self) -> CliResult<Vec<ListedRoom>> {
        let listed = self.pages().await;
        self.reconnect_after(listed)
    }

    async fn pages(&mut self) -> CliResult<Vec<ListedRoom>> {
        let mut client = self.client().await?;
        let (mut rooms, mut page_token, mut pause) = (Vec::new(), String::new(), Duration::ZERO);
        for _ in 0..LIST_PAGES_MAX {
            let request = self.session.request(ListRoomsRequest { page_size: LIST_PAGE_SIZE, page_token });
            let page = client.list_rooms(request).await.map_err(|status| Failure::call("list the rooms", &status))?;
            let page = page.into_inner();
            let listed =
                page.rooms.into_iter().filter(|room| self.only.is_empty() || self.only.contains(&room.room_id));
            rooms.extend(listed.map(|room| ListedRoom { room_id: room.room_id, persist: room.persist }));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
            pause += LIST_PAUSE;
        }
        self.next_list = Some(Instant::now() + pause);
        Ok(rooms)
    }

    /// Reads the details of these rooms.
    pub(super) async fn details(&mut self, room_ids: Vec<String>) -> CliResult<Vec<(String, RoomAnswer)>> {
        let read = self.rooms(room_ids).await;
        self.reconnect_after(read)
    }

    async fn rooms(&mut self, room_ids: Vec<String>) -> CliResult<Vec<(String, RoomAnswer)>> {
        let client = self.client().await?;
        let this = &*self;
        let reading = room_ids.into_iter().map(|room_id| {
            let client = client.clone();
            async move {
                let answer = this.room(client, &room_id).await;
                (room_id, answer)
            }
        });
        let mut reading = stream::iter(reading).buffer_unordered(ROOMS_AT_ONCE);
        let mut answers = Vec::new();
        while let Some((room_id, answer)) = reading.next().await {
            let answer = match answer {
                Ok(reading) => RoomAnswer::Read(reading),
                Err(failure) => match failure.reason() {
                    // the connection failed, not the room
                    None => return Err(failure),
                    Some("ROOM_NOT_FOUND" | "PERMISSION_DENIED") => RoomAnswer::Gone,
                    Some(_) => RoomAnswer::Failed(failure),
                },
            };
            answers.push((room_id, answer));
        }
        // what fails for every room is no problem of the rooms
        if answers.iter().all(|(_, answer)| matches!(answer, RoomAnswer::Failed(_)))
            && let Some((_, RoomAnswer::Failed(failure))) = answers.pop()
        {
            return Err(failure);
        }
        Ok(answers)
    }

    async fn room(&self, client: RoomClient, room_id: &str) -> CliResult<RoomReading> {
        let (mut for_state, mut for_subscribers) = (client.clone(), client);
        let state = async {
            let request = self.session.request(GetRoomRequest { room_id: room_id.to_owned() });
            let got = for_state.get_room(request).await;
            let got = got.map_err(|status| Failure::call(&format!("read the room {room_id}"), &status))?;
            CliResult::Ok((Instant::now(), got))
        };
        let subscribers = async {
            let request = ListSubscribersRequest {
                room_id: room_id.to_owned(),
                page_size: SUBSCRIBERS_MAX,
                ..Default::default()
            };
            let listed = for_subscribers.list_subscribers(self.session.request(request)).await;
            listed.map_err(|status| Failure::call(&format!("list the subscribers of {room_id}"), &status))
        };
        let ((at, got), listed) = tokio::try_join!(state, subscribers)?;
        let state = got.into_inner().room.unwrap_or_default().state.unwrap_or_default();
        let listed = listed.into_inner();
        Ok(RoomReading {
            at,
            messages: state.messages,
            bytes: state.bytes,
            last_sequence: state.last_sequence,
            subscribers: listed.subscribers,
            has_more: !listed.next_page_token.is_empty(),
        })
    }

    async fn client(&mut self) -> CliResult<RoomClient> {
        if let Some(client) = &self.client {
            return Ok(client.clone());
        }
        let client = self.session.client().await?;
        self.client = Some(client.clone());
        Ok(client)
    }

    /// The next call gets a new connection if this one failed.
    fn reconnect_after<T>(&mut self, done: CliResult<T>) -> CliResult<T> {
        if done.as_ref().is_err_and(|failure| failure.reason().is_none()) {
            (self.client, self.next_list) = (None, None);
        }
        done
    }

    /// Whether the same may succeed later.
    pub(super) fn may_pass(&self, failure: &Failure) -> bool {
        // a limit is free again when others end their calls
        failure.reason() == Some("LIMIT_REACHED") || self.session.may_pass(failure)
    }
}
