//! The settings of a room on the command line.

use std::{collections::HashMap, time::Duration};

use clap::Args;
use prost_types::FieldMask;
use unibus::v1::{CreateRoomRequest, Retention, Room, UpdateRoomRequest};

use super::{
    failure::{CliResult, Failure},
    room,
    session::Session,
    style::Style,
    values::{self, Limitation},
};

/// The settings of a new room.
#[derive(Args, Debug)]
pub(crate) struct RoomSettings {
    /// Id of the room
    room: Option<String>,
    /// Store no messages: a message reaches only the subscriptions that are open when it is published
    #[arg(long)]
    ephemeral: bool,
    /// NATS subject of the messages. Default: one that is made from the id
    #[arg(long, value_name = "SUBJECT")]
    subject: Option<String>,
    #[command(flatten)]
    bounds: BoundFlags,
    /// How long the room remembers the id of a message: 2m to 24h. Default: 2m
    #[arg(long, value_name = "DURATION", value_parser = values::duration, conflicts_with = "ephemeral")]
    dedupe_window: Option<Duration>,
    /// Copies of the messages in a NATS cluster: 1, 3 or 5
    #[arg(long, value_name = "COUNT", conflicts_with = "ephemeral")]
    replicas: Option<u32>,
    /// Let publishers set a lifetime for each message
    #[arg(long, conflicts_with = "ephemeral")]
    allow_message_ttl: bool,
    /// A label; may be given several times
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = values::pair)]
    labels: Vec<(String, String)>,
}

/// The bounds on the stored messages of a room.
#[derive(Args, Debug)]
struct BoundFlags {
    /// Largest age of a message, such as 7d, or none
    #[arg(long, value_name = "DURATION", value_parser = values::age_bound)]
    max_age: Option<Limitation<Duration>>,
    /// Largest total size of the messages, such as 1GiB, or none
    #[arg(long, value_name = "BYTES", value_parser = values::bytes_bound)]
    max_bytes: Option<Limitation<u64>>,
    /// Largest number of messages, or none
    #[arg(long, value_name = "COUNT", value_parser = values::count_bound)]
    max_messages: Option<Limitation<u64>>,
    /// Largest payload of one message, such as 64KiB, or none
    #[arg(long, value_name = "BYTES", value_parser = values::bytes_bound)]
    max_message_bytes: Option<Limitation<u64>>,
}

impl BoundFlags {
    fn retention(&self) -> Retention {
        // the service refuses what is larger than any message or store
        let number = |given: Option<Limitation<u64>>| {
            let value = given.and_then(Limitation::value).unwrap_or_default();
            i64::try_from(value).unwrap_or(i64::MAX)
        };
        Retention {
            max_age: self.max_age.and_then(Limitation::value).map(values::proto_duration),
            max_bytes: number(self.max_bytes),
            max_messages: number(self.max_messages),
            max_message_bytes: i32::try_from(number(self.max_message_bytes)).unwrap_or(i32::MAX),
        }
    }

    /// The paths of the given bounds in an update mask.
    fn paths(&self) -> impl Iterator<Item = &'static str> {
        [
            (self.max_age.is_some(), "retention.max_age"),
            (self.max_bytes.is_some(), "retention.max_bytes"),
            (self.max_messages.is_some(), "retention.max_messages"),
            (self.max_message_bytes.is_some(), "retention.max_message_bytes"),
        ]
        .into_iter()
        .filter_map(|(is_given, path)| is_given.then_some(path))
    }
}

impl RoomSettings {
    /// The request that creates the room.
    pub(super) fn request(self) -> CreateRoomRequest {
        let retention = self.bounds.retention();
        CreateRoomRequest {
            room_id: self.room.unwrap_or_default(),
            persist: !self.ephemeral,
            subject: self.subject.unwrap_or_default(),
            retention: (retention != Retention::default()).then_some(retention),
            replicas: self.replicas.unwrap_or_default(),
            allow_message_ttl: self.allow_message_ttl,
            dedupe_window: self.dedupe_window.map(values::proto_duration),
            labels: self.labels.into_iter().collect(),
        }
    }
}

/// The changes of a room.
#[derive(Args, Debug)]
#[command(group(clap::ArgGroup::new("change").required(true).multiple(true).args([
    "max_age", "max_bytes", "max_messages", "max_message_bytes", "dedupe_window", "replicas", "label", "remove_label", "remove_all_labels",
])))]
pub(crate) struct RoomChanges {
    /// Id of the room
    room: String,
    #[command(flatten)]
    bounds: BoundFlags,
    /// How long the room remembers the id of a message: 2m to 24h
    #[arg(long, value_name = "DURATION", value_parser = values::duration)]
    dedupe_window: Option<Duration>,
    /// Copies of the messages in a NATS cluster: 1, 3 or 5
    #[arg(long, value_name = "COUNT")]
    replicas: Option<u32>,
    /// Set a label and keep the others; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = values::pair)]
    label: Vec<(String, String)>,
    /// Remove a label; may be given several times
    #[arg(long, value_name = "NAME")]
    remove_label: Vec<String>,
    /// Remove all labels, before those of --label are set
    #[arg(long)]
    remove_all_labels: bool,
}

impl RoomChanges {
    /// Changes the room.
    pub(super) async fn run(self, session: &Session) -> CliResult {
        let changes_labels = self.remove_all_labels || !self.label.is_empty() || !self.remove_label.is_empty();
        let mut paths: Vec<_> = self.bounds.paths().collect();
        paths.extend(self.dedupe_window.map(|_| "dedupe_window"));
        paths.extend(self.replicas.map(|_| "replicas"));
        paths.extend(changes_labels.then_some("labels"));
        let changed = Room {
            room_id: self.room.clone(),
            retention: Some(self.bounds.retention()),
            dedupe_window: self.dedupe_window.map(values::proto_duration),
            replicas: self.replicas.unwrap_or_default(),
            labels: if changes_labels { self.labels(session).await? } else { HashMap::new() },
            ..Room::default()
        };
        let update_mask = Some(FieldMask { paths: paths.into_iter().map(str::to_owned).collect() });
        let request = session.request(UpdateRoomRequest { room: Some(changed), update_mask });
        let updated = session.client().await?.update_room(request).await;
        let updated = updated.map_err(|status| Failure::call(&format!("change the room {}", self.room), &status))?;
        let room = updated.into_inner().room.unwrap_or_default();
        let sentence = format!("{} the room {}", session.out.paint(Style::Good, "changed:"), room.room_id);
        session.out.result(&sentence, "Room", &room, &room.room_id)
    }

    /// All labels after the change. The contract replaces all labels together.
    async fn labels(&self, session: &Session) -> CliResult<HashMap<String, String>> {
        let mut labels =
            if self.remove_all_labels { HashMap::new() } else { room::read(session, &self.room).await?.labels };
        labels.retain(|name, _| !self.remove_label.contains(name));
        labels.extend(self.label.iter().cloned());
        Ok(labels)
    }
}
