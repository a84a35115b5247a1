//! The commands about rooms.

use clap::{Args, Subcommand};
use unibus::v1::{
    CreateRoomRequest, CreateRoomResponse, DeleteRoomRequest, DeleteRoomResponse, GetRoomRequest, ListRoomsRequest,
    PurgeRoomRequest, Room,
};

use super::{
    failure::{CliResult, Failure},
    listing::PrintedList,
    options::ClientOptions,
    output::Form,
    room_settings::{RoomChanges, RoomSettings},
    session::Session,
    style::Style,
    text,
};

/// Rooms on a page of the list: the largest page that the service gives.
const PAGE_SIZE: i32 = 1000;

/// Create, show, change and delete rooms.
#[derive(Args, Debug)]
pub(crate) struct RoomCommands {
    #[command(flatten)]
    pub(super) options: ClientOptions,
    #[command(subcommand)]
    pub(super) action: RoomAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RoomAction {
    /// Create a room
    ///
    /// The same command again succeeds and changes nothing. Without ROOM the service generates an id.
    Create(Box<RoomSettings>),
    /// Show the settings and the state of a room
    #[command(visible_alias = "show")]
    Get {
        /// Id of the room
        room: String,
    },
    /// List the rooms of which you are a member
    #[command(visible_alias = "ls")]
    List,
    /// Change the labels, bounds, dedupe window or replicas of a room
    ///
    /// Only the given settings change. `none` removes a bound.
    Update(Box<RoomChanges>),
    /// Remove all stored messages of a room, or the oldest ones
    Purge {
        /// Id of the room
        room: String,
        /// Remove the messages up to this sequence, inclusive
        #[arg(long, value_name = "SEQUENCE")]
        up_to: Option<u64>,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
    /// Delete a room with its messages, subscribers and members
    #[command(visible_alias = "rm")]
    Delete {
        /// Id of the room
        room: String,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

impl RoomAction {
    /// Runs the command.
    pub(super) async fn run(self, session: Session) -> CliResult {
        match self {
            Self::Create(settings) => create(&session, settings.request()).await,
            Self::Get { room } => get(&session, room).await,
            Self::List => list(&session).await,
            Self::Update(changes) => changes.run(&session).await,
            Self::Purge { room, up_to, yes } => purge(&session, room, up_to, yes).await,
            Self::Delete { room, yes } => delete(&session, room, yes).await,
        }
    }
}

async fn create(session: &Session, request: CreateRoomRequest) -> CliResult {
    let what = format!("create the room {}", request.room_id);
    let created = session.client().await?.create_room(session.request(request)).await;
    let CreateRoomResponse { room } = created.map_err(|status| Failure::call(what.trim_end(), &status))?.into_inner();
    let room = room.unwrap_or_default();
    let kind = if room.persist { "persisted" } else { "ephemeral" };
    let sentence = format!(
        "{} the {kind} room {} on the subject {}",
        session.out.paint(Style::Good, "ready:"),
        room.room_id,
        room.subject
    );
    session.out.result(&sentence, "Room", &room, &room.room_id)
}

/// Reads a room with its state.
pub(super) async fn read(session: &Session, room_id: &str) -> CliResult<Room> {
    let request = session.request(GetRoomRequest { room_id: room_id.to_owned() });
    let got = session.client().await?.get_room(request).await;
    let got = got.map_err(|status| Failure::call(&format!("read the room {room_id}"), &status))?;
    Ok(got.into_inner().room.unwrap_or_default())
}

async fn get(session: &Session, room_id: String) -> CliResult {
    let room = read(session, &room_id).await?;
    match session.out.form() {
        Form::People => session.out.pairs(&described(&room)),
        Form::Json => session.out.json("Room", &room),
        Form::Quiet => session.out.line(&room.room_id),
    }
}

/// The properties of a room, in the words of people.
pub(super) fn described(room: &Room) -> Vec<(&'static str, String)> {
    let state = room.state.unwrap_or_default();
    let retention = room.retention.unwrap_or_default();
    let bound = |value: u64, shown: String| if value == 0 { "no bound".to_owned() } else { shown };
    let number = |value: i64| bound(value.unsigned_abs(), value.to_string());
    let size = |value: u64| bound(value, text::bytes(value));
    let mut pairs = vec![
        ("Room", room.room_id.clone()),
        ("Persisted", text::yes_no(room.persist).to_owned()),
        ("Subject", room.subject.clone()),
        ("Stream", room.stream.clone()),
    ];
    if room.persist {
        let sequences = match state.messages {
            0 => format!("none; the last sequence is {}", state.last_sequence),
            count => format!("{count}, sequences {} to {}", state.first_sequence, state.last_sequence),
        };
        pairs.extend([
            ("Messages", sequences),
            ("Size", text::bytes(state.bytes)),
            ("Max age", retention.max_age.as_ref().map_or_else(|| "no bound".to_owned(), text::duration)),
            ("Max size", size(retention.max_bytes.unsigned_abs())),
            ("Max messages", number(retention.max_messages)),
            ("Max message", size(u64::from(retention.max_message_bytes.unsigned_abs()))),
            ("Dedupe window", room.dedupe_window.as_ref().map(text::duration).unwrap_or_default()),
            ("Replicas", room.replicas.to_string()),
            ("Message TTL", if room.allow_message_ttl { "allowed" } else { "not allowed" }.to_owned()),
        ]);
    }
    pairs.extend([
        ("Labels", labels(room)),
        ("Created", text::local_time(room.created_at.as_ref())),
        ("Creator", room.creator.clone()),
    ]);
    pairs
}

/// The labels of a room, sorted.
fn labels(room: &Room) -> String {
    let mut labels: Vec<_> = room.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    labels.sort();
    labels.join(", ")
}

/// Calls `each` with every page of the rooms that the caller may see.
pub(super) async fn pages(session: &Session, mut each: impl FnMut(Vec<Room>) -> CliResult) -> CliResult {
    let mut client = session.client().await?;
    let mut page_token = String::new();
    loop {
        let request = session.request(ListRoomsRequest { page_size: PAGE_SIZE, page_token });
        let page = client.list_rooms(request).await.map_err(|status| Failure::call("list the rooms", &status))?;
        let page = page.into_inner();
        each(page.rooms)?;
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(());
        }
    }
}

async fn list(session: &Session) -> CliResult {
    let mut listing = PrintedList::new(&session.out, "Room", |room: &Room| &room.room_id, row);
    pages(session, |rooms| listing.add(&rooms)).await?;
    let headings = ["ROOM", "PERSISTED", "REPLICAS", "SUBJECT", "CREATED", "CREATOR", "LABELS"];
    listing.end(&headings, "no rooms; `unibus room create ROOM` creates one")
}

fn row(room: &Room) -> Vec<String> {
    vec![
        room.room_id.clone(),
        text::yes_no(room.persist).to_owned(),
        room.replicas.to_string(),
        room.subject.clone(),
        text::local_time(room.created_at.as_ref()),
        room.creator.clone(),
        labels(room),
    ]
}

async fn purge(session: &Session, room_id: String, up_to_sequence: Option<u64>, yes: bool) -> CliResult {
    let which = match up_to_sequence {
        Some(sequence) => format!("the messages of {room_id} up to sequence {sequence}"),
        None => format!("all stored messages of {room_id}"),
    };
    Session::confirm(&format!("Remove {which}"), yes)?;
    let request = session.request(PurgeRoomRequest { room_id: room_id.clone(), up_to_sequence });
    let purged = session.client().await?.purge_room(request).await;
    let purged = purged.map_err(|status| Failure::call(&format!("purge the room {room_id}"), &status))?.into_inner();
    let sentence = format!(
        "{} {} of {room_id}",
        session.out.paint(Style::Good, "removed:"),
        text::count(purged.purged, "message")
    );
    session.out.result(&sentence, "PurgeRoomResponse", &purged, &purged.purged.to_string())
}

async fn delete(session: &Session, room_id: String, yes: bool) -> CliResult {
    Session::confirm(&format!("Delete the room {room_id} with its messages, subscribers and members"), yes)?;
    let request = session.request(DeleteRoomRequest { room_id: room_id.clone() });
    let deleted = session.client().await?.delete_room(request).await;
    deleted.map_err(|status| Failure::call(&format!("delete the room {room_id}"), &status))?;
    let sentence = format!("{} the room {room_id}", session.out.paint(Style::Good, "deleted:"));
    session.out.result(&sentence, "DeleteRoomResponse", &DeleteRoomResponse {}, &room_id)
}
