//! Publishers over PublishStream.

use std::{collections::VecDeque, time::Duration};

use fastrand::Rng;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use unibus::v1::{PublishStreamRequest, publish_stream_response};

use super::{ANSWER_WITHIN, Scene, Wish, failure, pause};
use crate::oracle::{At, Attempt, Failure, Outcome};

/// Messages of one stream at most; then the next one is opened.
const STREAM_MAX: u64 = 400;

/// Publishes at a steady pace; what a stream did not get acknowledged goes first into the next one, in its order.
pub(crate) async fn stream(scene: &Scene, seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let mut pending = VecDeque::new();
    while scene.runs() || !pending.is_empty() && !scene.is_over() {
        let pace = Duration::from_micros(rng.u64(500..10_000));
        let more = |rng: &mut Rng| scene.runs().then(|| Wish::new(scene, 0, "stream", rng));
        pending = one_stream(scene, pending, pace, &mut rng, more).await;
        pause(scene).await;
    }
    for wish in pending {
        scene.note(0, |room| room.publishes.push(wish.publish));
    }
}

/// Publishes this many messages as fast as they are taken.
pub(crate) async fn flood(scene: &Scene, count: u64, seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let mut pending: VecDeque<Wish> = (0..count).map(|_| small(scene, &mut rng)).collect();
    while !pending.is_empty() && !scene.is_over() {
        pending = one_stream(scene, pending, Duration::ZERO, &mut rng, |_| None).await;
        if !pending.is_empty() {
            pause(scene).await;
        }
    }
    for wish in pending {
        scene.note(0, |room| room.publishes.push(wish.publish));
    }
}

fn small(scene: &Scene, rng: &mut Rng) -> Wish {
    let mut wish = Wish::new(scene, 0, "flood", rng);
    wish.payload.truncate(100);
    wish.publish.digest = super::digest(&wish.payload);
    wish
}

/// One PublishStream, to its end; gives back what is still to be published.
async fn one_stream(
    scene: &Scene,
    mut waiting: VecDeque<Wish>,
    pace: Duration,
    rng: &mut Rng,
    mut more: impl FnMut(&mut Rng) -> Option<Wish>,
) -> VecDeque<Wish> {
    let (call, instance) = (scene.number(), rng.usize(..scene.instances()));
    let Some(mut client) = scene.client(instance) else { return waiting };
    // Room for all of them: sending never waits, so that responses are read all the time.
    let (requests, receiver) = mpsc::channel(usize::try_from(STREAM_MAX).unwrap_or(0) + waiting.len() + 1);
    let opened = timeout(ANSWER_WITHIN, client.publish_stream(scene.request(ReceiverStream::new(receiver))));
    // The service answers when it has something to say: what waits goes first.
    let mut requests = Some(requests);
    let mut sent: VecDeque<(u64, At, Wish)> = VecDeque::new();
    let mut again = VecDeque::new();
    let mut place = 0;
    let mut send = |scene: &Scene, requests: &Option<mpsc::Sender<_>>, sent: &mut VecDeque<_>, wish: Wish| {
        let request = PublishStreamRequest { correlation_id: place, publish: Some(wish.request(scene)) };
        if requests.as_ref().is_some_and(|requests| requests.try_send(request).is_ok()) {
            sent.push_back((place, scene.now(), wish));
        }
        place += 1;
        place
    };
    if waiting.is_empty() {
        let Some(wish) = more(rng) else { return waiting };
        waiting.push_back(wish);
    }
    for wish in waiting.drain(..) {
        send(scene, &requests, &mut sent, wish);
    }
    let mut responses = match opened.await {
        Ok(Ok(responses)) => Ok(responses.into_inner()),
        Ok(Err(status)) => Err(Outcome::Failed(failure(&status))),
        Err(_) => Err(Outcome::Unanswered),
    };
    let mut next = Instant::now() + pace;
    if pace.is_zero() {
        requests = None;
    }
    let rest = loop {
        let stream = match &mut responses {
            Ok(stream) => stream,
            Err(outcome) => break outcome.clone(),
        };
        if sent.is_empty() && requests.is_none() {
            break Outcome::Unanswered;
        }
        let response = tokio::select! {
            response = timeout(ANSWER_WITHIN, stream.message()) => response,
            () = sleep_until(next), if requests.is_some() => {
                next = Instant::now() + pace;
                let places = more(rng).map(|wish| send(scene, &requests, &mut sent, wish));
                if places.is_none_or(|places| places >= STREAM_MAX) {
                    requests = None;
                }
                continue;
            }
        };
        match response {
            Ok(Ok(Some(response))) => {
                let Some((place, started, mut wish)) = sent.pop_front() else { break Outcome::Unanswered };
                if place != response.correlation_id {
                    scene.note(0, |room| {
                        let told =
                            format!("response {} of a PublishStream in place of {place}", response.correlation_id);
                        room.unfinished.push(told);
                    });
                }
                let outcome = match response.outcome {
                    Some(publish_stream_response::Outcome::Result(result)) => {
                        Outcome::Stored { sequence: result.sequence, duplicate: result.duplicate }
                    }
                    Some(publish_stream_response::Outcome::Error(error)) => {
                        Outcome::Failed(failure(&super::status(&error)))
                    }
                    None => Outcome::Unanswered,
                };
                wish.tried(scene, Attempt { call, place, instance, started, ended: scene.now(), outcome });
                if wish.is_open() {
                    again.push_back(wish);
                } else {
                    scene.note(0, |room| room.publishes.push(wish.publish));
                }
            }
            Ok(Ok(None)) => {
                let lacking = sent.len();
                if lacking > 0 {
                    let told = format!("a PublishStream ended with OK and {lacking} responses missing");
                    scene.note(0, |room| room.unfinished.push(told));
                }
                break Outcome::Unanswered;
            }
            // What has no response was not published when the instance drains; anything else leaves it open.
            Ok(Err(status)) => break Outcome::Failed(failure(&status)),
            Err(_) => break Outcome::Failed(Failure { code: "no response in time".into(), ..Failure::default() }),
        }
    };
    for (place, started, mut wish) in sent {
        wish.tried(scene, Attempt { call, place, instance, started, ended: scene.now(), outcome: rest.clone() });
        again.push_back(wish);
    }
    if !again.is_empty() {
        sleep(super::PAUSE).await;
    }
    again
}
