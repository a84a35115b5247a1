//! Faults in which a room's owner purges, deletes, seeks and updates. Failed calls are retried as the docs say.

use std::time::Duration;

use anyhow::Result;
use fastrand::Rng;
use tokio::time::sleep;
use unibus::v1::{
    DeleteMessageRequest, PurgeRoomRequest, Retention, Room, SeekSubscriberRequest, Start, UpdateRoomRequest, start::At,
};

use crate::{
    clients::{Scene, pause},
    oracle::{Failure, Move, MoveKind, Removal, RemovalKind},
};

/// Maximum number of attempts of a call.
const TRIES: usize = 40;

pub(crate) async fn purge(scene: &Scene, all: bool, rng: &mut Rng) -> Result<()> {
    let up_to = (!all).then(|| rng.u64(..=scene.latest(0)));
    for _ in 0..TRIES {
        let instance = rng.usize(..scene.instances());
        let Some(mut client) = scene.shared(instance) else { break };
        let started = scene.now();
        let request = PurgeRoomRequest { room_id: scene.room_id(0), up_to_sequence: up_to };
        let answer = scene.call("PurgeRoom", 0, instance, client.purge_room(scene.request(request))).await;
        let first = answer.as_ref().ok().and_then(|answer| Some(answer.room.as_ref()?.state.as_ref()?.first_sequence));
        let covered = up_to.or(first.map(|first| first.saturating_sub(1))).unwrap_or(u64::MAX);
        note(scene, RemovalKind::Purge { up_to: covered }, instance, started, answer.is_ok());
        if answer.is_ok() {
            break;
        }
        pause(scene).await;
    }
    Ok(())
}

pub(crate) async fn delete(scene: &Scene, count: u64, rng: &mut Rng) -> Result<()> {
    for _ in 0..count {
        let latest = scene.latest(0);
        if latest == 0 {
            break;
        }
        let newest = rng.bool();
        let sequence = if newest { latest.saturating_sub(rng.u64(..20)).max(1) } else { rng.u64(1..=latest) };
        for _ in 0..TRIES {
            let instance = rng.usize(..scene.instances());
            let Some(mut client) = scene.shared(instance) else { break };
            let started = scene.now();
            let request = DeleteMessageRequest { room_id: scene.room_id(0), sequence };
            let call = client.delete_message(scene.request(request));
            let answer = scene.call("DeleteMessage", 0, instance, call).await;
            let gone = matches!(&answer, Err(Failure { reason, .. }) if reason == "MESSAGE_NOT_FOUND");
            note(scene, RemovalKind::Delete { sequence }, instance, started, answer.is_ok() || gone);
            if answer.is_ok() || gone {
                break;
            }
            pause(scene).await;
        }
        sleep(Duration::from_millis(rng.u64(5..200))).await;
    }
    Ok(())
}

fn note(scene: &Scene, kind: RemovalKind, instance: usize, started: u64, done: bool) {
    let done = done.then(|| scene.now());
    scene.note(0, |room| room.removals.push(Removal { kind, instance: Some(instance), started, done }));
}

pub(crate) async fn seek(scene: &Scene, back: bool, rng: &mut Rng) -> Result<()> {
    let durable = if rng.bool() { "admin/explicit" } else { "admin/auto" };
    let latest = scene.latest(0);
    let position = if back { latest.saturating_sub(rng.u64(..500)) } else { latest };
    for _ in 0..TRIES {
        let instance = rng.usize(..scene.instances());
        let Some(mut client) = scene.shared(instance) else { break };
        let started = scene.now();
        let request = SeekSubscriberRequest {
            room_id: scene.room_id(0),
            subscriber: durable.into(),
            position: Some(Start { at: Some(At::AfterSequence(position)) }),
        };
        let answer = scene.call("SeekSubscriber", 0, instance, client.seek_subscriber(scene.request(request))).await;
        let done = answer.is_ok().then(|| scene.now());
        let moved = Move { durable: durable.into(), kind: MoveKind::Seek { position }, started, done };
        scene.note(0, |room| room.moves.push(moved));
        if answer.is_ok() {
            break;
        }
        pause(scene).await;
    }
    Ok(())
}

pub(crate) async fn update(scene: &Scene, rng: &mut Rng) -> Result<()> {
    for round in 0..rng.usize(2..6) {
        // labels first; then bounds, which remove the messages beyond them
        let bounds = round > 0 && rng.bool();
        // an atomic batch has up to 300 messages, and must fit
        let retention = bounds.then(|| Retention { max_messages: rng.i64(300..2000), ..Retention::default() });
        let labels = [("round".to_owned(), round.to_string())].into();
        let room = Room { room_id: scene.room_id(0), labels, retention, ..Room::default() };
        for _ in 0..TRIES {
            let instance = rng.usize(..scene.instances());
            let Some(mut client) = scene.shared(instance) else { break };
            if bounds {
                note(scene, RemovalKind::Bounds, instance, scene.now(), false);
            }
            let request = UpdateRoomRequest { room: Some(room.clone()), update_mask: None };
            let answer = scene.call("UpdateRoom", 0, instance, client.update_room(scene.request(request))).await;
            if answer.is_ok() {
                break;
            }
            pause(scene).await;
        }
        sleep(Duration::from_millis(rng.u64(100..800))).await;
    }
    Ok(())
}
