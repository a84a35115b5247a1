//! Readers of pages.

use std::time::Duration;

use fastrand::Rng;
use tokio::time::sleep;
use unibus::v1::{HistoryRequest, HistoryResponse, history_request};

use super::{Scene, message};
use crate::oracle::{Anchor, Failure, Frame, Page};

/// Reads pages of the room from anywhere, again and again.
pub(crate) async fn history(scene: &Scene, room: usize, seed: u64) {
    let mut rng = Rng::with_seed(seed);
    while scene.target(room).is_none() {
        let latest = scene.latest(room);
        let anchor = match rng.u8(..4) {
            0 | 1 => Anchor::Newest,
            2 => Anchor::Before(rng.u64(1..=latest + 1)),
            _ => Anchor::After(rng.u64(..=latest)),
        };
        let limit = rng.usize(1..300);
        let instance = rng.usize(..scene.instances());
        let _ = page(scene, room, instance, anchor, limit).await;
        sleep(Duration::from_millis(rng.u64(20..120))).await;
    }
}

/// One page; gives it to the facts.
async fn page(
    scene: &Scene,
    room: usize,
    instance: usize,
    anchor: Anchor,
    limit: usize,
) -> Result<HistoryResponse, Failure> {
    let wire = match anchor {
        Anchor::Newest => None,
        Anchor::Before(sequence) => Some(history_request::Anchor::BeforeSequence(sequence)),
        Anchor::After(sequence) => Some(history_request::Anchor::AfterSequence(sequence)),
    };
    let request =
        HistoryRequest { room_id: scene.room_id(room), limit: i32::try_from(limit).unwrap_or(1), anchor: wire };
    let Some(mut client) = scene.shared(instance) else { return Err(Failure::default()) };
    let asked = scene.now();
    let answer = scene.call("History", room, instance, client.history(scene.request(request))).await?;
    let messages = answer.messages.iter().filter_map(|answer| match message(answer) {
        Frame::Message { sequence, digest } => Some((sequence, digest)),
        _ => None,
    });
    let page = Page {
        instance,
        asked,
        answered: scene.now(),
        anchor,
        limit,
        messages: messages.collect(),
        bytes: answer.messages.iter().map(|message| message.payload.len()).sum(),
        has_older: answer.has_older,
        has_newer: answer.has_newer,
        older_cursor: !answer.older_cursor.is_empty(),
        last_sequence: answer.last_sequence,
    };
    scene.note(room, |room| room.pages.push(page));
    Ok(answer)
}

/// Pages through the whole room from its newest message, by each instance.
pub(crate) async fn walk(scene: &Scene, room: usize) {
    for instance in 0..scene.instances() {
        let mut anchor = Anchor::Newest;
        for _ in 0..200 {
            let Ok(answer) = page(scene, room, instance, anchor, 1000).await else { break };
            match answer.messages.first() {
                Some(first) if answer.has_older => anchor = Anchor::Before(first.sequence),
                _ => break,
            }
        }
    }
}
