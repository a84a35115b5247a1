//! Publishers over `PublishBatch`, plain and atomic.

use std::time::Duration;

use fastrand::Rng;
use tokio::time::sleep;
use unibus::v1::{BatchMessage, PublishBatchRequest, publish_outcome};

use super::{Scene, Wish, failure, pause, within};
use crate::oracle::{Attempt, Failure, Group, Outcome};

/// Publishes batches. The failed messages of a plain batch are in the next attempt. An atomic batch is retried as a
/// whole.
pub(crate) async fn batches(scene: &Scene, atomic: bool, seed: u64) {
    let mut rng = Rng::with_seed(seed);
    while scene.runs() {
        let size = if rng.u8(..8) == 0 { rng.u64(100..300) } else { rng.u64(1..30) };
        let batch = scene.number();
        let mut wishes: Vec<Wish> = (0..size)
            .map(|index| {
                let wish = Wish::new(scene, 0, if atomic { "atomic" } else { "batch" }, &mut rng);
                if atomic { wish.in_batch(Group { batch, index, size }) } else { wish }
            })
            .collect();
        while !wishes.is_empty() && !scene.is_over() {
            let instance = rng.usize(..scene.instances());
            one_batch(scene, &mut wishes, atomic, instance).await;
            let (open, done): (Vec<_>, Vec<_>) = wishes.into_iter().partition(Wish::is_open);
            scene.note(0, |room| room.publishes.extend(done.into_iter().map(|wish| wish.publish)));
            wishes = open;
            if !wishes.is_empty() {
                pause(scene).await;
            }
        }
        scene.note(0, |room| room.publishes.extend(wishes.into_iter().map(|wish| wish.publish)));
        sleep(Duration::from_millis(rng.u64(20..200))).await;
    }
}

async fn one_batch(scene: &Scene, wishes: &mut [Wish], atomic: bool, instance: usize) {
    let messages = wishes.iter().map(|wish| {
        let request = wish.request(scene);
        BatchMessage {
            payload: request.payload,
            headers: request.headers,
            message_id: request.message_id,
            expected_last_sequence: request.expected_last_sequence,
            ttl: request.ttl,
        }
    });
    let request = PublishBatchRequest { room_id: scene.room_id(0), messages: messages.collect(), atomic };
    let Some(mut client) = scene.shared(instance) else { return };
    let (call, started) = (scene.number(), scene.now());
    let answer = within(client.publish_batch(scene.request(request))).await;
    let ended = scene.now();
    let outcomes: Vec<Outcome> = match answer.map(tonic::Response::into_inner) {
        Ok(answer) => answer
            .results
            .into_iter()
            .map(|result| match result.outcome {
                Some(publish_outcome::Outcome::Result(result)) => {
                    Outcome::Stored { sequence: result.sequence, duplicate: result.duplicate }
                }
                Some(publish_outcome::Outcome::Error(error)) => Outcome::Failed(failure(&super::status(&error))),
                None => Outcome::Failed(Failure::default()),
            })
            .collect(),
        Err(failure) => vec![Outcome::Failed(failure); wishes.len()],
    };
    for ((place, wish), outcome) in (0..).zip(wishes).zip(outcomes) {
        wish.tried(scene, Attempt { call, place, instance, started, ended, outcome });
    }
}
