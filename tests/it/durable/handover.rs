//! Whatever happens to a room, its subscriptions are exact: at random, with the seed printed, on real servers.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;
use unibus::v1::{AckMode, SubscribeRequest, subscribe_response::Frame};

use crate::support::{
    Client, Frames, Nats, Random, Unibus, acknowledge, client_with_window, create_room, eventually, publish,
};

const ROUNDS: usize = 2;
const STEPS: usize = 40;
const WITHIN: Duration = Duration::from_secs(120);
/// Far larger than what is kept for all subscribers of a room, in a burst of a few hundred.
const LARGE_BYTES: usize = 48 * 1024;

/// One subscriber of the room, on whichever instance it happens to be.
struct Follower {
    instances: Vec<Client>,
    /// Acknowledges over another connection: what is not read yet can fill the window of the one that it came by.
    acknowledging: Client,
    subscriber: String,
    /// Acknowledges itself.
    explicit: bool,
    rng: Random,
    /// The last sequence to wait for, once it is known.
    target: watch::Receiver<Option<u64>>,
    /// Sequences that any subscription said were missing.
    missing: Arc<Mutex<HashSet<u64>>>,
    /// Where it stands, for whoever waits for it.
    place: watch::Sender<String>,
}

impl Follower {
    /// Follows the room up to the target, leaving and coming back at random. Within each subscription every sequence comes
    /// once, in order, as a message or in a gap; one that acknowledges itself comes back to where it said.
    async fn follow(mut self) {
        let mut acknowledged = 0..=0;
        loop {
            let client = self.rng.choice(&self.instances).clone();
            let request = SubscribeRequest {
                room_id: "lobby".into(),
                subscriber: self.subscriber.clone(),
                ack_mode: if self.explicit { AckMode::Explicit.into() } else { AckMode::Auto.into() },
                ..SubscribeRequest::default()
            };
            let Ok(mut frames) = Frames::open(&client, request).await else {
                self.place.send_replace("it cannot subscribe".into());
                sleep(Duration::from_millis(50)).await;
                continue;
            };
            let mut position = frames.opened().position;
            if self.explicit {
                assert!(position >= *acknowledged.start(), "{}: {position}, not {acknowledged:?}", self.subscriber);
                // a purge moves the positions of all that it takes messages from
                self.missing.lock().unwrap().extend(acknowledged.end() + 1..=position);
            }
            let mut leave_after = self.rng.count(1..400);
            let mut pause_at = self.rng.count(1..60);
            while leave_after > 0 {
                if let Some(target) = *self.target.borrow() {
                    if position >= target {
                        return;
                    }
                    leave_after = usize::MAX;
                }
                let next = frames.next_frame(WITHIN).await;
                self.place.send_replace(format!("after {position} it got {:?}", next.as_ref().map(Option::is_some)));
                match next {
                    Ok(Some(Frame::Message(message))) => {
                        assert_eq!(message.sequence, position + 1, "{}", self.subscriber);
                        assert_eq!(message.payload.get(..8), Some(&message.sequence.to_be_bytes()[..]));
                        position = message.sequence;
                        leave_after -= 1;
                        pause_at = pause_at.saturating_sub(1);
                        if pause_at == 0 {
                            pause_at = self.rng.count(1..200);
                            sleep(Duration::from_millis(self.rng.within(0..300))).await;
                            if self.explicit {
                                let answer =
                                    acknowledge(&self.acknowledging, "lobby", &self.subscriber, position).await;
                                let from = if answer.is_ok() { position } else { *acknowledged.start() };
                                acknowledged = from..=position;
                            }
                        }
                    }
                    Ok(Some(Frame::Gap(gap))) => {
                        assert_eq!(gap.from_sequence, position + 1, "{}", self.subscriber);
                        assert!(gap.to_sequence >= gap.from_sequence);
                        self.missing.lock().unwrap().extend(gap.from_sequence..=gap.to_sequence);
                        position = gap.to_sequence;
                    }
                    Ok(Some(Frame::CaughtUp(frame))) => assert_eq!(frame.position, position),
                    Ok(Some(Frame::Heartbeat(frame))) => assert_eq!(frame.position, position),
                    Ok(other) => panic!("{other:?}"),
                    Err(_) => break,
                }
            }
        }
    }
}

/// What was done to the room.
#[derive(Default)]
struct Done {
    last: u64,
    removed: HashSet<u64>,
}

async fn burst(client: &Client, done: &mut Done, count: usize, bytes: usize) {
    for _ in 0..count {
        let mut payload = vec![7; bytes];
        payload[..8].copy_from_slice(&(done.last + 1).to_be_bytes());
        // one publisher, so the sequence is known before
        eventually(WITHIN, async || {
            let request = unibus::v1::PublishRequest {
                room_id: "lobby".into(),
                payload: payload.clone().into(),
                message_id: format!("m{}", done.last + 1),
                ..unibus::v1::PublishRequest::default()
            };
            let stored = client.clone().publish(request).await.map_err(|status| status.to_string())?;
            assert_eq!(stored.into_inner().sequence, done.last + 1);
            Ok(())
        })
        .await;
        done.last += 1;
    }
}

async fn remove(nats: &Nats, rng: &mut Random, done: &mut Done) {
    let stream = nats.stream("lobby").await;
    if rng.count(0..5) < 4 {
        for _ in 0..rng.count(1..10) {
            let sequence = rng.within(1..done.last + 1);
            if done.removed.insert(sequence) {
                assert!(stream.delete_message(sequence).await.unwrap());
            }
        }
    } else {
        let up_to = rng.within(1..done.last + 1);
        stream.purge().sequence(up_to + 1).await.unwrap();
        done.removed.extend(1..=up_to);
    }
}

async fn round(rng: &mut Random) {
    let mut nats = Nats::start().await;
    let instances = [Unibus::start(&nats).await, Unibus::start(&nats).await];
    let publisher = instances[0].client().await;
    create_room(&publisher, "lobby").await;
    let mut done = Done::default();
    burst(&publisher, &mut done, rng.count(1..50), 16).await;

    let (target, known) = watch::channel(None);
    let missing = Arc::new(Mutex::new(HashSet::new()));
    let mut followers = Vec::new();
    for number in 0..6 {
        let mut clients = Vec::new();
        for instance in &instances {
            let window = if number < 2 { 64 * 1024 } else { 1024 * 1024 };
            clients.push(client_with_window(instance.address(), window).await);
        }
        let follower = Follower {
            instances: clients,
            acknowledging: publisher.clone(),
            // two of them keep nothing, and begin anew each time
            subscriber: if number % 3 == 0 { String::new() } else { format!("subscriber{number}") },
            explicit: number % 3 == 2,
            rng: rng.fork(),
            target: known.clone(),
            missing: Arc::clone(&missing),
            place: watch::Sender::default(),
        };
        let place = follower.place.subscribe();
        followers.push((place, AbortOnDropHandle::new(tokio::spawn(follower.follow()))));
    }

    let restarts = [rng.count(0..STEPS), rng.count(0..STEPS)];
    for step in 0..STEPS {
        if restarts.contains(&step) {
            nats.restart().await;
        }
        match rng.count(0..20) {
            0..10 => burst(&publisher, &mut done, rng.count(1..40), 16).await,
            10..12 => burst(&publisher, &mut done, rng.count(50..150), LARGE_BYTES).await,
            12..15 => remove(&nats, rng, &mut done).await,
            15..19 => sleep(Duration::from_millis(rng.within(0..100))).await,
            _ => sleep(Duration::from_secs(1)).await,
        }
    }
    // the last one is not removed, so that everybody gets there
    burst(&publisher, &mut done, 1, 16).await;
    target.send_replace(Some(done.last));
    for (number, (place, follower)) in followers.into_iter().enumerate() {
        let ended = timeout(WITHIN, follower).await;
        ended
            .unwrap_or_else(|_| panic!("follower {number} does not reach {}: {}", done.last, *place.borrow()))
            .unwrap();
    }
    let missing = missing.lock().unwrap().clone();
    let lies: Vec<_> = missing.difference(&done.removed).collect();
    assert!(lies.is_empty(), "said to be missing, but never removed: {lies:?}");
    publish(&publisher, "lobby", "after").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscriptions_are_exact_whatever_happens_to_their_room() {
    // Goal: exactly once within a subscription, in order, nothing missing but what a gap names, and never resumed after
    // what was read. Method: two instances, six subscribers of all paces that leave, come back and move; bursts of small
    // and large messages, deletions, purges and restarts of NATS at random.
    let mut rng = Random::seeded();
    for _ in 0..ROUNDS {
        Box::pin(round(&mut rng)).await;
    }
}
