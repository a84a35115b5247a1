//! Readers over Subscribe.

use std::{pin::Pin, time::Duration};

use fastrand::Rng;
use tokio::time::{Instant, sleep, timeout};
use tonic::Streaming;
use unibus::v1::{AckMode, AcknowledgeRequest, SubscribeRequest, SubscribeResponse, start::At as StartAt};

use super::{ANSWER_WITHIN, Client, Scene, failure, pause};
use crate::{
    oracle::{Ack, At, End, Frame, Start, Subscription},
    plan::Reading,
    world::HEARTBEAT,
};

/// How long a reader waits for a frame before it treats the connection as lost.
const SILENCE_MAX: Duration = HEARTBEAT.saturating_mul(8);
/// Messages of a sample at most.
const SAMPLE_MAX: usize = 2000;

/// A reader of the room, with the state that it keeps between subscriptions.
struct Reader<'a> {
    scene: &'a Scene,
    room: usize,
    kind: Reading,
    durable: Option<String>,
    /// The last sequence that was delivered or named in a gap.
    covered: u64,
    /// The last sequence that was acknowledged, or is about to be.
    acknowledged: u64,
    /// That of the newest subscription that was opened.
    generation: Option<u64>,
    rng: Rng,
}

/// An acknowledgement under way.
type Acking<'a> = Pin<Box<dyn Future<Output = Ack> + Send + 'a>>;

/// How one subscription is read.
struct Manner {
    start: Start,
    until_caught_up: bool,
    /// The client leaves after this many messages.
    messages_max: usize,
    /// The client leaves at this time.
    leave: Option<Instant>,
    ack_every: u64,
}

/// Reads the room to the end of the episode: a durable reader, or one that remembers its own position.
pub(crate) async fn read(scene: &Scene, kind: Reading, room: usize, name: &str, seed: u64) {
    let durable = matches!(kind, Reading::Explicit | Reading::Auto).then(|| format!("admin/{name}"));
    let mut reader =
        Reader { scene, room, kind, durable, covered: 0, acknowledged: 0, generation: None, rng: Rng::with_seed(seed) };
    while !reader.is_done() && !scene.is_over() {
        let stays = reader.rng.u8(..4) > 0;
        let manner = Manner {
            start: if reader.durable.is_some() { Start::All } else { Start::After(reader.covered) },
            until_caught_up: reader.rng.u8(..8) == 0,
            messages_max: usize::MAX,
            leave: (!stays).then(|| Instant::now() + Duration::from_millis(reader.rng.u64(100..3000))),
            ack_every: reader.rng.u64(1..60),
        };
        reader.subscribe(manner).await;
        pause(scene).await;
    }
    if !reader.is_done() {
        let target = scene.target(room);
        let problem =
            format!("{name} {kind:?} stood at {} ({}), target {target:?}", reader.covered, reader.acknowledged);
        scene.note(room, |room| room.unfinished.push(problem));
    }
}

/// Subscribes repeatedly from random starts, each time up to the last stored message.
pub(crate) async fn sample(scene: &Scene, room: usize, name: &str, seed: u64) {
    let mut rng = Rng::with_seed(seed);
    while scene.target(room).is_none() {
        let latest = scene.latest(room);
        let start = match rng.u8(..10) {
            0 => Start::All,
            1 => Start::New,
            2 => Start::Last(rng.u64(1..200)),
            // up to two seconds ahead, where the service waits for the time to come
            3 => Start::Since((unix_micros() + 2_000_000).saturating_sub(rng.u64(..10_000_000))),
            4..=6 => Start::After(latest.saturating_sub(rng.u64(..60))),
            _ => Start::After(rng.u64(..=latest)),
        };
        sample_once(scene, room, name, start, SAMPLE_MAX, rng.u64(..)).await;
        sleep(Duration::from_millis(rng.u64(20..150))).await;
    }
}

/// Subscribes once, up to the last stored message or for at most `messages_max` messages.
pub(crate) async fn sample_once(scene: &Scene, room: usize, name: &str, start: Start, messages_max: usize, seed: u64) {
    let manner = Manner {
        start,
        until_caught_up: start != Start::New,
        messages_max,
        leave: Some(Instant::now() + Duration::from_secs(if start == Start::New { 1 } else { 8 })),
        ack_every: 1,
    };
    let (kind, rng) = (Reading::Sampling, Rng::with_seed(seed));
    let mut reader = Reader { scene, room, kind, durable: None, covered: 0, acknowledged: 0, generation: None, rng };
    reader.subscribe_as(manner, name).await;
}

impl<'a> Reader<'a> {
    fn is_done(&self) -> bool {
        let acknowledged = self.kind != Reading::Explicit || self.scene.target(self.room) <= Some(self.acknowledged);
        self.scene.target(self.room).is_some_and(|target| self.covered >= target) && acknowledged
    }

    async fn subscribe(&mut self, manner: Manner) {
        let name = self.durable.clone().unwrap_or_else(|| "unnamed".to_owned());
        self.subscribe_as(manner, &name).await;
    }

    /// One subscription, from the call to its end.
    async fn subscribe_as(&mut self, manner: Manner, name: &str) {
        let scene = self.scene;
        let instance = self.rng.usize(..scene.instances());
        let Some(mut client) = scene.client(instance) else { return };
        let explicit = self.kind == Reading::Explicit;
        let request = SubscribeRequest {
            room_id: scene.room_id(self.room),
            subscriber: self.durable.clone().unwrap_or_default(),
            ack_mode: if explicit { AckMode::Explicit } else { AckMode::Auto }.into(),
            start: self.durable.is_none().then(|| start(manner.start)),
            until_caught_up: manner.until_caught_up,
        };
        let mut subscription = Subscription {
            reader: name.to_owned(),
            durable: self.durable.clone(),
            explicit,
            start: manner.start,
            until_caught_up: manner.until_caught_up,
            member: None,
            credit: None,
            instance,
            asked: scene.now(),
            frames: Vec::new(),
            end: End::ByClient,
            ended: 0,
        };
        subscription.end = match timeout(ANSWER_WITHIN, client.subscribe(scene.request(request))).await {
            Ok(Ok(frames)) => self.follow(&client, instance, frames.into_inner(), &manner, &mut subscription).await,
            Ok(Err(status)) => End::Failed(failure(&status)),
            Err(_) => End::Silent,
        };
        if subscription.ended == 0 {
            subscription.ended = scene.now();
        }
        scene.note(self.room, |room| room.subscriptions.push(subscription));
    }

    /// Reads to the end of the subscription, or until the client has enough; acknowledges beside.
    async fn follow(
        &mut self,
        client: &Client,
        instance: usize,
        frames: Streaming<SubscribeResponse>,
        manner: &Manner,
        subscription: &mut Subscription,
    ) -> End {
        let mut acking = None;
        let end = self.read_frames(client, instance, frames, manner, subscription, &mut acking).await;
        subscription.ended = self.scene.now();
        // An acknowledgement under way may take effect.
        if let Some(acking) = acking {
            self.acknowledged_by(acking.await);
        }
        end
    }

    fn acknowledged_by(&mut self, ack: Ack) {
        if ack.answer.is_ok() {
            self.acknowledged = self.acknowledged.max(ack.sequence);
        }
        self.scene.note(self.room, |room| room.acks.push(ack));
    }

    async fn read_frames(
        &mut self,
        client: &Client,
        instance: usize,
        mut frames: Streaming<SubscribeResponse>,
        manner: &Manner,
        subscription: &mut Subscription,
        acking: &mut Option<Acking<'a>>,
    ) -> End {
        let scene = self.scene;
        let mut phase = scene.phase();
        let mut messages = 0;
        let mut wanted = None;
        let leave = manner.leave.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
        loop {
            if acking.is_none()
                && let (Some(sequence), Some(durable)) = (wanted.take(), &self.durable)
            {
                let (durable, generation) = (durable.clone(), self.generation);
                let command = AckCommand { durable, sequence, generation };
                *acking = Some(Box::pin(acknowledge(scene, client.clone(), self.room, instance, command)));
            }
            if acking.is_none() && wanted.is_none() && (self.is_done() || messages >= manner.messages_max) {
                return End::ByClient;
            }
            let frame = tokio::select! {
                frame = timeout(SILENCE_MAX, frames.message()) => frame,
                ack = async { match acking.as_mut() { Some(acking) => acking.await, None => std::future::pending().await } } => {
                    *acking = None;
                    if ack.answer.is_err() {
                        // the docs: it may have been done, and asking again is safe
                        wanted = wanted.or(Some(ack.sequence));
                        sleep(super::PAUSE).await;
                    }
                    self.acknowledged_by(ack);
                    continue;
                }
                () = tokio::time::sleep_until(leave) => return End::ByClient,
                _ = phase.changed() => {
                    if scene.is_over() {
                        return End::ByClient;
                    }
                    if self.kind == Reading::Explicit && scene.target(self.room).is_some() {
                        wanted = Some(self.covered.max(1));
                    }
                    continue;
                }
            };
            let at = scene.now();
            let frame = match frame {
                Err(_) => return End::Silent,
                Ok(Ok(None)) => return End::Ok,
                Ok(Err(status)) => return End::Failed(failure(&status)),
                Ok(Ok(Some(response))) => response.frame,
            };
            let Some(frame) = frame.map(super::seen) else { continue };
            match &frame {
                Frame::Message { sequence, .. } => {
                    messages += 1;
                    self.covered = self.covered.max(*sequence);
                    let last = scene.target(self.room).is_some_and(|target| *sequence >= target);
                    if self.kind == Reading::Explicit && (sequence.is_multiple_of(manner.ack_every) || last) {
                        wanted = Some(*sequence);
                    }
                }
                Frame::Gap { to, .. } => {
                    self.covered = self.covered.max(*to);
                    if self.kind == Reading::Explicit {
                        wanted = Some(*to);
                    }
                }
                Frame::CaughtUp(_) | Frame::Heartbeat(_) if self.kind == Reading::Explicit => {
                    wanted = wanted.or(Some(self.covered)).filter(|sequence| *sequence > self.acknowledged);
                }
                Frame::Opened { generation, .. } => self.generation = Some(*generation),
                Frame::CaughtUp(_) | Frame::Heartbeat(_) => {}
            }
            subscription.frames.push((at, frame));
        }
    }
}

/// What an acknowledgement says.
struct AckCommand {
    durable: String,
    sequence: u64,
    generation: Option<u64>,
}

/// Acknowledges, and records the outcome.
async fn acknowledge(
    scene: &Scene,
    mut client: Client,
    room: usize,
    instance: usize,
    AckCommand { durable, sequence, generation }: AckCommand,
) -> Ack {
    let request =
        AcknowledgeRequest { room_id: scene.room_id(room), subscriber: durable.clone(), sequence, generation };
    let started = scene.now();
    let answer = scene.call("Acknowledge", room, instance, client.acknowledge(scene.request(request))).await;
    Ack { durable, sequence, generation, started, ended: scene.now(), answer: answer.map(|answer| answer.position) }
}

/// A start as the service knows it.
fn start(start: Start) -> unibus::v1::Start {
    let at = match start {
        Start::All => StartAt::All(()),
        Start::New => StartAt::New(()),
        Start::After(sequence) => StartAt::AfterSequence(sequence),
        Start::Last(count) => StartAt::Last(count),
        Start::Since(micros) => StartAt::Since(prost_types::Timestamp {
            seconds: i64::try_from(micros / 1_000_000).unwrap_or(0),
            nanos: i32::try_from(micros % 1_000_000 * 1000).unwrap_or(0),
        }),
    };
    unibus::v1::Start { at: Some(at) }
}

/// Now, in microseconds since 1970.
fn unix_micros() -> At {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(0))
}
