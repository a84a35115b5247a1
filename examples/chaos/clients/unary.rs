//! Publishers that make one call for each message.

use std::time::Duration;

use fastrand::Rng;
use tokio::time::sleep;
use unibus::v1::PublishRequest;

use super::{Scene, digest, pause, within};
use crate::oracle::{Attempt, Failure, Group, Outcome, Publish};

/// A message that a client wants to store once.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub room: usize,
    pub payload: Vec<u8>,
    pub publish: Publish,
}

impl Wish {
    /// A message whose payload begins with its message id.
    pub(crate) fn new(scene: &Scene, room: usize, who: &str, rng: &mut Rng) -> Self {
        let label = format!("{who}-{}", scene.number());
        // Most are small, some fill several packets.
        let padding = if rng.u8(..20) == 0 { rng.usize(..30_000) } else { rng.usize(..300) };
        let payload = format!("{label} {}", "x".repeat(padding)).into_bytes();
        let publish = Publish {
            label,
            digest: digest(&payload),
            has_id: true,
            expected: None,
            ttl: None,
            member: None,
            group: None,
            attempts: Vec::new(),
        };
        Self { room, payload, publish }
    }

    pub(crate) fn in_batch(mut self, group: Group) -> Self {
        self.publish.group = Some(group);
        self
    }

    pub(crate) fn request(&self, scene: &Scene) -> PublishRequest {
        PublishRequest {
            room_id: scene.room_id(self.room),
            payload: self.payload.clone().into(),
            headers: [("label".to_owned(), self.publish.label.clone())].into(),
            message_id: if self.publish.has_id { self.publish.label.clone() } else { String::new() },
            expected_last_sequence: self.publish.expected,
            ttl: self
                .publish
                .ttl
                .and_then(|ttl| Some(prost_types::Duration { seconds: i64::try_from(ttl).ok()?, nanos: 0 })),
        }
    }

    /// Records an attempt.
    pub(crate) fn tried(&mut self, scene: &Scene, attempt: Attempt) {
        if let Outcome::Stored { sequence, .. } = attempt.outcome {
            scene.record_acknowledged(self.room, sequence);
        }
        self.publish.attempts.push(attempt);
    }

    /// Records that a native client publishes the message now, without an acknowledgement.
    pub(crate) fn native(&self, scene: &Scene) {
        let (call, started) = (scene.number(), scene.now());
        let outcome = Outcome::Unanswered;
        let mut publish = self.publish.clone();
        publish.attempts.push(Attempt { call, place: 0, instance: 0, started, ended: started, outcome });
        scene.note(self.room, |room| room.publishes.push(publish));
    }

    /// Whether the docs say to retry.
    pub(crate) fn is_open(&self) -> bool {
        match self.publish.attempts.last().map(|attempt| &attempt.outcome) {
            // without a message id a second attempt could store it twice
            Some(Outcome::Failed(failure)) => failure.may_pass() && (self.publish.has_id || !failure.is_open()),
            Some(Outcome::Stored { .. } | Outcome::StoredBefore { .. }) => false,
            Some(Outcome::Unanswered) => self.publish.has_id,
            None => true,
        }
    }
}

/// Publishes one message until it is acknowledged, is definitely refused, or the episode is over. Adds it to the facts,
/// and returns its sequence.
pub(crate) async fn publish_surely(scene: &Scene, mut wish: Wish, mut instance: usize) -> Result<u64, Option<Failure>> {
    while wish.is_open() && !scene.is_over() {
        if !wish.publish.attempts.is_empty() {
            pause(scene).await;
            instance = (instance + 1) % scene.instances();
        }
        let Some(mut client) = scene.shared(instance) else { break };
        let started = scene.now();
        let answer = within(client.publish(scene.request(wish.request(scene)))).await;
        let outcome = match answer.map(tonic::Response::into_inner) {
            Ok(answer) => Outcome::Stored { sequence: answer.sequence, duplicate: answer.duplicate },
            Err(failure) => Outcome::Failed(failure),
        };
        wish.tried(scene, Attempt { call: scene.number(), place: 0, instance, started, ended: scene.now(), outcome });
    }
    let answer = match wish.publish.attempts.last().map(|attempt| &attempt.outcome) {
        Some(Outcome::Stored { sequence, .. }) => Ok(*sequence),
        Some(Outcome::Failed(failure)) => Err(Some(failure.clone())),
        _ => Err(None),
    };
    scene.note(wish.room, |room| room.publishes.push(wish.publish));
    answer
}

/// Publishes one message after the other. Sometimes publishes an acknowledged message again.
pub(crate) async fn unary(scene: &Scene, seed: u64) {
    let mut rng = Rng::with_seed(seed);
    while scene.runs() {
        let mut wish = Wish::new(scene, 0, "unary", &mut rng);
        if scene.ttl && rng.u8(..10) == 0 {
            wish.publish.ttl = Some(rng.u64(1..4));
        }
        let instance = rng.usize(..scene.instances());
        let _ = publish_surely(scene, wish, instance).await;
        sleep(Duration::from_millis(rng.u64(2..30))).await;
    }
}

/// Publishes messages that each expect the sequence of the one before, in a room with no other publisher.
pub(crate) async fn expecting(scene: &Scene, room: usize, seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let mut last = 0;
    while scene.runs() {
        let mut wish = Wish::new(scene, room, "step", &mut rng);
        wish.publish.expected = Some(last);
        let instance = rng.usize(..scene.instances());
        match publish_surely(scene, wish, instance).await {
            Ok(sequence) => last = sequence,
            // an earlier message whose outcome was open came late
            Err(Some(failure)) if failure.reason == "SEQUENCE_MISMATCH" => last = failure.sequence.unwrap_or(last),
            Err(_) => {}
        }
        sleep(Duration::from_millis(rng.u64(5..40))).await;
    }
}
