//! Rooms to export, and what an import must keep of their messages.

use std::{collections::BTreeMap, path::Path, time::Duration};

use bytes::Bytes;
use unibus::v1::{BatchMessage, Message, PublishBatchRequest, publish_outcome::Outcome};

use crate::support::{Cli, Client};

/// How long something may take on a busy machine.
pub(super) const SOON: Duration = Duration::from_secs(60);

/// Messages of one publish.
const BATCH: u64 = 500;

/// The message with this number: binary payloads of many sizes, every third one with headers, every fifth one with an id.
pub(super) fn message(number: u64) -> BatchMessage {
    let size = usize::try_from(number * 37 % 700).unwrap();
    let payload: Vec<u8> = (0..size).map(|at| u8::try_from((at * 7 + size) % 256).unwrap()).collect();
    let payload = [number.to_string().as_bytes(), &[0, 0xff, b'\n'], &payload].concat();
    let headers = match number % 3 {
        0 => (0..number % 9).map(|header| (format!("h-{header}"), format!("value {number} ü"))).collect(),
        _ => std::collections::HashMap::new(),
    };
    let message_id = if number.is_multiple_of(5) { format!("id-{number}") } else { String::new() };
    BatchMessage { payload: payload.into(), headers, message_id, ..BatchMessage::default() }
}

/// Publishes these messages, in their order.
pub(super) async fn store(client: &Client, room_id: &str, messages: Vec<BatchMessage>) {
    let request = PublishBatchRequest { room_id: room_id.to_owned(), messages, atomic: false };
    let answer = client.clone().publish_batch(request).await.unwrap().into_inner();
    for result in answer.results {
        assert!(matches!(result.outcome, Some(Outcome::Result(_))), "{result:?}");
    }
}

/// Publishes the messages 1 to `count`.
pub(super) async fn fill(client: &Client, room_id: &str, count: u64) {
    for first in (1..=count).step_by(usize::try_from(BATCH).unwrap()) {
        store(client, room_id, (first..=count.min(first + BATCH - 1)).map(message).collect()).await;
    }
}

/// What an import keeps of a message.
#[derive(Debug, PartialEq)]
pub(super) struct Kept {
    payload: Bytes,
    headers: BTreeMap<String, String>,
    message_id: String,
}

/// What an import keeps of these messages.
pub(super) fn kept(messages: &[Message]) -> Vec<Kept> {
    let of = |message: &Message| Kept {
        payload: message.payload.clone(),
        headers: message.headers.clone().into_iter().collect(),
        message_id: message.message_id.clone(),
    };
    messages.iter().map(of).collect()
}

/// The bytes of a file in the home directory.
pub(super) fn content(cli: &Cli, name: impl AsRef<Path>) -> Vec<u8> {
    std::fs::read(cli.home().join(name)).expect("a file")
}

/// The bytes that a file in the home directory has by now.
pub(super) fn size(cli: &Cli, name: &str) -> u64 {
    std::fs::metadata(cli.path(name)).map_or(0, |file| file.len())
}
