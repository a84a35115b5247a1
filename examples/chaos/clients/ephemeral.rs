//! A publisher and readers of an ephemeral room.

use std::time::Duration;

use fastrand::Rng;
use tokio::time::{Instant, sleep, timeout_at};
use unibus::v1::{PublishRequest, SubscribeRequest};

use super::{Scene, failure, pause, seen, within};
use crate::oracle::{AirMessage, AirSubscription, End, Frame};

/// The room's id.
pub(crate) const AIR: &str = "air";

/// Publishes numbers, each once, through one instance.
pub(crate) async fn speak(scene: &Scene, seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let instance = rng.usize(..scene.instances());
    for number in 1_u64.. {
        let Some(mut client) = scene.shared(instance) else { return };
        if !scene.runs() {
            return;
        }
        let payload = number.to_string().into_bytes().into();
        let request = PublishRequest { room_id: AIR.into(), payload, ..PublishRequest::default() };
        let started = scene.now();
        let answer = within(client.publish(scene.request(request))).await;
        let message = AirMessage { number, instance, started, ended: scene.now(), failure: answer.err() };
        scene.facts().air.messages.push(message);
        sleep(Duration::from_millis(rng.u64(5..30))).await;
    }
}

/// Reads the messages that are published while it is subscribed.
pub(crate) async fn listen(scene: &Scene, seed: u64) {
    let mut rng = Rng::with_seed(seed);
    while scene.runs() {
        let instance = rng.usize(..scene.instances());
        let Some(mut client) = scene.client(instance) else { return };
        let until = Instant::now() + Duration::from_millis(rng.u64(1000..6000));
        let mut subscription =
            AirSubscription { instance, asked: scene.now(), frames: Vec::new(), end: End::ByClient, ended: 0 };
        let request = SubscribeRequest { room_id: AIR.into(), ..SubscribeRequest::default() };
        subscription.end = match within(client.subscribe(scene.request(request))).await {
            Err(failure) => End::Failed(failure),
            Ok(frames) => {
                let mut frames = frames.into_inner();
                loop {
                    let response = match timeout_at(until, frames.message()).await {
                        Err(_) => break End::ByClient,
                        Ok(Err(status)) => break End::Failed(failure(&status)),
                        Ok(Ok(None)) => break End::Ok,
                        Ok(Ok(Some(response))) => response,
                    };
                    let frame = response.frame.map(|frame| match frame {
                        unibus::v1::subscribe_response::Frame::Message(message) => {
                            let number = String::from_utf8_lossy(&message.payload).parse().unwrap_or(0);
                            Frame::Message { sequence: number, digest: message.sequence }
                        }
                        other => seen(other),
                    });
                    subscription.frames.extend(frame.map(|frame| (scene.now(), frame)));
                }
            }
        };
        subscription.ended = scene.now();
        scene.facts().air.subscriptions.push(subscription);
        pause(scene).await;
    }
}
