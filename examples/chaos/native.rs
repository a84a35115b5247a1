//! Faults in which a native NATS program changes a room.

use std::time::Duration;

use anyhow::Result;
use async_nats::jetstream::stream;
use fastrand::Rng;
use serde_json::json;
use tokio::time::sleep;

use crate::{
    faults::Stage,
    oracle::{Move, MoveKind},
    proxy::Mode,
};

const SUBJECT: &str = "unibus.room.lobby";
const STREAM: &str = "UNIBUS_lobby";

/// Updates the room's stream with the bare configuration of a native client. With `cut`, every link is down meanwhile.
pub(crate) async fn bare_update(stage: &Stage, cut: bool) -> Result<()> {
    let bare = stream::Config {
        name: STREAM.into(),
        subjects: vec![SUBJECT.into()],
        num_replicas: stage.world.nodes.len(),
        ..stream::Config::default()
    };
    let jetstream = stage.world.jetstream().await?;
    let links = || stage.world.links.iter().flatten();
    let from = stage.scene.now();
    if cut {
        links().for_each(|link| link.set(Mode::Down));
    }
    // A nats-server that is away just now answers later.
    for _ in 0..20 {
        if jetstream.create_or_update_stream(bare.clone()).await.is_ok() {
            break;
        }
        sleep(Duration::from_millis(500)).await;
    }
    if cut {
        sleep(Duration::from_millis(500)).await;
        links().for_each(|link| link.set(Mode::Pass));
        (0..stage.world.instances.len()).for_each(|instance| stage.unreached(instance, from));
    }
    Ok(())
}

/// Publishes plain messages with core NATS.
pub(crate) async fn publish(stage: &Stage, count: u64, rng: &mut Rng) -> Result<()> {
    for _ in 0..count {
        let wish = stage.native_wish("native", rng);
        let Ok(mut raw) = stage.world.raw().await else { continue };
        let put = [format!("PUB {SUBJECT} {}\r\n", wish.payload.len()).as_bytes(), &wish.payload, b"\r\n"].concat();
        if raw.send(&put).await.is_ok() {
            // the nats-server may have ended meanwhile
            let _ = raw.settle().await;
        }
        sleep(Duration::from_millis(rng.u64(1..50))).await;
    }
    Ok(())
}

/// Publishes messages with headers that the service's NATS client cannot parse.
pub(crate) async fn publish_bad_headers(stage: &Stage, count: u64, rng: &mut Rng) -> Result<()> {
    for _ in 0..count {
        let headers: &[u8] = match rng.u8(..3) {
            0 => b"NATS/1.0\r\nX-Name: caf\xe9\r\n\r\n",
            1 => b"NATS/1.0\r\nX-Name: a\rb\r\n\r\n",
            _ => b"NATS/1.0\r\nX-First: fine\r\nX-Name: \xff\xfe\r\nX-Last: a\rb\r\n\r\n",
        };
        let wish = stage.native_wish("bad", rng);
        let Ok(mut raw) = stage.world.raw().await else { continue };
        if raw.publish_with(SUBJECT, headers, &wish.payload).await.is_ok() {
            let _ = raw.settle().await;
        }
        sleep(Duration::from_millis(rng.u64(100..1000))).await;
    }
    Ok(())
}

/// Deletes the consumer that stores the position of a durable subscriber.
pub(crate) async fn delete_durable(stage: &Stage, rng: &mut Rng) -> Result<()> {
    let name = if rng.bool() { "explicit" } else { "auto" };
    for _ in 0..20 {
        let started = stage.scene.now();
        let asked = async {
            let mut raw = stage.world.raw().await?;
            raw.ask(&format!("CONSUMER.DELETE.{STREAM}.lobby_admin_{name}"), &json!({})).await
        };
        let answer = asked.await;
        let done = answer.is_ok().then(|| stage.scene.now());
        let durable = format!("admin/{name}");
        stage.scene.note(0, |room| room.moves.push(Move { durable, kind: MoveKind::Deleted, started, done }));
        if answer.is_ok() {
            break;
        }
        // A nats-server that is away just now answers later.
        sleep(Duration::from_millis(500)).await;
    }
    Ok(())
}
