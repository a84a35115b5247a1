//! Faults of a full disk or a full store: publishes are refused, while removals and reads work.

use std::time::Duration;

use anyhow::{Context, Result};
use fastrand::Rng;
use tokio::time::sleep;
use unibus::v1::{
    AddMemberRequest, DeleteSubscriberRequest, PurgeRoomRequest, RemoveMemberRequest, Role, SubscribeRequest,
};

use crate::{
    clients::{Wish, publish_surely},
    faults::Stage,
    oracle::{Removal, RemovalKind},
};

/// Time limit for calls that need no space, while there is none.
const WORKS_WITHIN: Duration = Duration::from_secs(10);
/// Time limit for publishes to work once there is space again.
const HEALS_WITHIN: Duration = Duration::from_secs(20);

/// Fills the disk of the embedded nats-server for a while.
pub(crate) async fn disk(stage: &Stage, time: Duration) -> Result<()> {
    let disk = stage.world.disk.as_ref().context("a small disk")?;
    disk.fill();
    sleep(time).await;
    disk.free()?;
    publishes_again(stage).await;
    Ok(())
}

/// Fills the store with messages, purges and deletes, and then publishes again.
pub(crate) async fn store(stage: &Stage, rng: &mut Rng) -> Result<()> {
    let scene = &stage.scene;
    let mut client = scene.client(0).context("an instance")?;
    let (room_id, member_id) = (scene.room_id(0), "mallory".to_owned());
    stage
        .succeeds("AddMember", WORKS_WITHIN, async || {
            let request = AddMemberRequest {
                room_id: room_id.clone(),
                member_id: member_id.clone(),
                role: Role::Writer.into(),
                visible_from: 0,
            };
            client.clone().add_member(scene.request(request)).await.is_ok()
        })
        .await;
    subscribes(stage, "admin/early").await;
    stage.succeeds("filling the store", Duration::from_secs(20), async || fill(stage, rng).await).await;

    // One that was bound before, and a new one.
    subscribes(stage, "admin/early").await;
    subscribes(stage, "admin/late").await;
    stage
        .succeeds("DeleteSubscriber with a full store", WORKS_WITHIN, async || {
            let subscriber = "admin/late".to_owned();
            let request = DeleteSubscriberRequest { room_id: scene.room_id(0), subscriber };
            let deleted = client.clone().delete_subscriber(scene.request(request)).await;
            deleted.is_ok() || matches!(deleted, Err(status) if status.code() == tonic::Code::NotFound)
        })
        .await;
    stage
        .succeeds("RemoveMember with a full store", WORKS_WITHIN, async || {
            let request = RemoveMemberRequest { room_id: scene.room_id(0), member_id: member_id.clone() };
            let removed = client.clone().remove_member(scene.request(request)).await;
            removed.is_ok() || matches!(removed, Err(status) if status.code() == tonic::Code::NotFound)
        })
        .await;
    let started = scene.now();
    scene.note(0, |room| {
        room.removals.push(Removal {
            kind: RemovalKind::Purge { up_to: u64::MAX },
            instance: None,
            started,
            done: None,
        });
    });
    stage
        .succeeds("PurgeRoom with a full store", WORKS_WITHIN, async || {
            let request = PurgeRoomRequest { room_id: scene.room_id(0), up_to_sequence: None };
            client.purge_room(scene.request(request)).await.is_ok()
        })
        .await;
    publishes_again(stage).await;
    Ok(())
}

/// A durable subscription opens.
async fn subscribes(stage: &Stage, subscriber: &str) {
    let scene = &stage.scene;
    let request = SubscribeRequest {
        room_id: scene.room_id(0),
        subscriber: subscriber.to_owned(),
        until_caught_up: true,
        ..SubscribeRequest::default()
    };
    let Some(client) = scene.client(0) else { return };
    stage
        .succeeds(&format!("Subscribe as {subscriber}"), WORKS_WITHIN, async || {
            let request = scene.request(request.clone());
            let opened = async { client.clone().subscribe(request).await?.into_inner().message().await };
            matches!(opened.await, Ok(Some(_)))
        })
        .await;
}

/// Publishes large messages until some are refused for want of space.
async fn fill(stage: &Stage, rng: &mut Rng) -> bool {
    let mut refused = 0;
    for _ in 0..60 {
        let mut wish = Wish::new(&stage.scene, 0, "fill", rng);
        wish.payload.resize(if refused == 0 { 400_000 } else { 2_000 }, b'x');
        wish.publish.digest = crate::clients::digest(&wish.payload);
        match publish_surely(&stage.scene, wish, 0).await {
            Err(Some(failure)) if failure.reason == "STORAGE_FULL" => refused += 1,
            _ => {}
        }
        if refused > 3 {
            return true;
        }
    }
    false
}

async fn publishes_again(stage: &Stage) {
    stage
        .succeeds("Publish with space again", HEALS_WITHIN, async || {
            let wish = Wish::new(&stage.scene, 0, "again", &mut Rng::new());
            publish_surely(&stage.scene, wish, 0).await.is_ok()
        })
        .await;
}
