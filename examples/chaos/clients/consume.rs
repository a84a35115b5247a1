//! A reader of all rooms on one Consume stream, with credit.

use std::{collections::BTreeMap, time::Duration};

use fastrand::Rng;
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use unibus::v1::{
    AckMode, AcknowledgeRequest, ConsumeClose, ConsumeCredit, ConsumeOpen, ConsumeRequest, ConsumeResponse,
    SubscribeRequest, consume_request::Command, consume_response,
};

use super::{ANSWER_WITHIN, Scene, failure, pause};
use crate::{
    oracle::{Ack, End, Failure, Frame, Start, Subscription},
    world::HEARTBEAT,
};

const SILENCE_MAX: Duration = HEARTBEAT.saturating_mul(8);
/// Credit in messages at the beginning.
const CREDIT: u32 = 50;
/// Number of messages after which the client acknowledges them and grants new credit.
const STEP: u64 = 10;

/// One room on the stream.
struct Open {
    subscription: Subscription,
    since_step: u64,
    /// Acks that were not answered yet, with the time at which they were sent.
    acks: Vec<(u64, u64)>,
    generation: Option<u64>,
}

/// Reads all rooms to the end of the episode.
pub(crate) async fn consume(scene: &Scene, name: &str, seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let durable = format!("admin/{name}");
    let mut acknowledged = vec![0; scene.rooms.len()];
    let done = |acknowledged: &[u64]| {
        (0..scene.rooms.len())
            .all(|room| scene.target(room).is_some() && scene.target(room) <= acknowledged.get(room).copied())
    };
    while !done(&acknowledged) && !scene.is_over() {
        let instance = rng.usize(..scene.instances());
        let leaves = (rng.u8(..4) == 0).then(|| Duration::from_millis(rng.u64(500..4000)));
        let mut stream = Stream { scene, instance, durable: durable.clone(), open: BTreeMap::new() };
        let reading = stream.run(&mut acknowledged, done);
        let end = match leaves {
            Some(leaves) => timeout(leaves, reading).await.unwrap_or(End::ByClient),
            None => reading.await,
        };
        stream.finish(&end);
        pause(scene).await;
    }
    if !done(&acknowledged) {
        let problem = format!("{name} has acknowledged {acknowledged:?}");
        scene.note(0, |room| room.unfinished.push(problem));
    }
}

struct Stream<'a> {
    scene: &'a Scene,
    instance: usize,
    durable: String,
    open: BTreeMap<usize, Open>,
}

impl Stream<'_> {
    /// One Consume stream, to its end.
    async fn run(&mut self, acknowledged: &mut [u64], done: impl Fn(&[u64]) -> bool) -> End {
        let scene = self.scene;
        let Some(mut client) = scene.client(self.instance) else { return End::ByClient };
        let (commands, receiver) = mpsc::channel(4096);
        for room in 0..scene.rooms.len() {
            self.ask(&commands, room);
        }
        let opened = client.consume(scene.request(ReceiverStream::new(receiver)));
        let mut frames = match timeout(ANSWER_WITHIN, opened).await {
            Ok(Ok(frames)) => frames.into_inner(),
            Ok(Err(status)) => return End::Failed(failure(&status)),
            Err(_) => return End::Silent,
        };
        loop {
            if done(acknowledged) || scene.is_over() {
                return End::ByClient;
            }
            match timeout(SILENCE_MAX, frames.message()).await {
                Ok(Ok(Some(response))) => self.take(&commands, response, acknowledged).await,
                Ok(Ok(None)) => {
                    return End::Failed(Failure { code: "Ok".into(), reason: "ENDED".into(), ..Failure::default() });
                }
                Ok(Err(status)) => return End::Failed(failure(&status)),
                Err(_) => return End::Silent,
            }
        }
    }

    /// Opens a room.
    fn ask(&mut self, commands: &mpsc::Sender<ConsumeRequest>, room: usize) {
        let subscribe = SubscribeRequest {
            room_id: self.scene.room_id(room),
            subscriber: self.durable.clone(),
            ack_mode: AckMode::Explicit.into(),
            ..SubscribeRequest::default()
        };
        let open = ConsumeOpen { subscribe: Some(subscribe), credit_messages: CREDIT, credit_bytes: 0 };
        let subscription = Subscription {
            reader: format!("{} by Consume", self.durable),
            durable: Some(self.durable.clone()),
            explicit: true,
            start: Start::All,
            until_caught_up: false,
            member: None,
            credit: Some(u64::from(CREDIT)),
            instance: self.instance,
            asked: self.scene.now(),
            frames: Vec::new(),
            end: End::ByClient,
            ended: 0,
        };
        self.open.insert(room, Open { subscription, since_step: 0, acks: Vec::new(), generation: None });
        send(commands, Command::Open(open));
    }

    /// One frame.
    async fn take(
        &mut self,
        commands: &mpsc::Sender<ConsumeRequest>,
        response: ConsumeResponse,
        acknowledged: &mut [u64],
    ) {
        use consume_response::Frame as Wire;
        let scene = self.scene;
        let Some(room) = scene.rooms.iter().position(|room| *room == response.room_id) else { return };
        let at = scene.now();
        let Some(open) = self.open.get_mut(&room) else { return };
        let generation = open.generation;
        let frame = match response.frame {
            Some(Wire::Opened(opened)) => super::opened(&opened),
            Some(Wire::Message(message)) => super::message(&message),
            Some(Wire::Gap(gap)) => super::gap(&gap),
            Some(Wire::CaughtUp(at)) => Frame::CaughtUp(at.position),
            Some(Wire::Heartbeat(at)) => Frame::Heartbeat(at.position),
            Some(Wire::Acked(acked)) => {
                open.acks.retain(|(sequence, started)| {
                    if *sequence > acked.position {
                        return true;
                    }
                    let (sequence, started, durable) = (*sequence, *started, self.durable.clone());
                    let answer = Ok(acked.position);
                    scene.note(room, |room| {
                        room.acks.push(Ack { durable, sequence, generation, started, ended: at, answer });
                    });
                    false
                });
                if let Some(place) = acknowledged.get_mut(room) {
                    *place = acked.position.max(*place);
                }
                return;
            }
            Some(Wire::Rejected(rejected)) => {
                let failure = failure(&super::status(&rejected.error.unwrap_or_default()));
                let (sequence, durable) = (rejected.sequence, self.durable.clone());
                if failure.reason != "SUBSCRIPTION_NOT_OPEN" {
                    let ack = Ack { durable, sequence, generation, started: at, ended: at, answer: Err(failure) };
                    scene.note(room, |room| room.acks.push(ack));
                }
                sleep(super::PAUSE).await;
                return;
            }
            Some(Wire::Closed(status)) => {
                let failure = failure(&super::status(&status));
                self.close(room, &End::Failed(failure));
                sleep(super::PAUSE).await;
                self.ask(commands, room);
                return;
            }
            Some(Wire::Pong(_)) | None => return,
        };
        let (mut ack, mut credit) = (None, false);
        match &frame {
            Frame::Message { sequence, .. } => {
                open.since_step += 1;
                if open.since_step.is_multiple_of(STEP) {
                    (ack, credit) = (Some(*sequence), true);
                }
            }
            Frame::Gap { to, .. } => ack = Some(*to),
            Frame::CaughtUp(position) | Frame::Heartbeat(position) => {
                let known = acknowledged.get(room).copied().unwrap_or(0);
                ack = (*position > known).then_some(*position);
            }
            Frame::Opened { generation, .. } => open.generation = Some(*generation),
        }
        open.subscription.frames.push((at, frame));
        if let Some(sequence) = ack {
            open.acks.push((sequence, at));
            let command = AcknowledgeRequest {
                room_id: response.room_id.clone(),
                subscriber: String::new(),
                sequence,
                generation,
            };
            send(commands, Command::Ack(command));
        }
        if credit {
            let messages = u32::try_from(STEP).unwrap_or(1);
            open.subscription.credit = open.subscription.credit.map(|credit| credit + STEP);
            send(commands, Command::Credit(ConsumeCredit { room_id: response.room_id.clone(), messages, bytes: 0 }));
            if open.since_step.is_multiple_of(50 * STEP) {
                send(commands, Command::Close(ConsumeClose { room_id: response.room_id }));
            }
        }
    }

    /// One room has ended.
    fn close(&mut self, room: usize, end: &End) {
        let Some(mut open) = self.open.remove(&room) else { return };
        open.subscription.ended = self.scene.now();
        open.subscription.end = match end {
            // the client has closed it
            End::Failed(failure) if failure.code == "Ok" => End::ByClient,
            end => end.clone(),
        };
        // Unanswered commands may have taken effect.
        for (sequence, started) in open.acks {
            let ack = Ack {
                durable: self.durable.clone(),
                sequence,
                generation: open.generation,
                started,
                ended: open.subscription.ended,
                answer: Err(Failure::default()),
            };
            self.scene.note(room, |room| room.acks.push(ack));
        }
        self.scene.note(room, |room| room.subscriptions.push(open.subscription));
    }

    /// The stream has ended.
    fn finish(&mut self, end: &End) {
        for room in self.open.keys().copied().collect::<Vec<_>>() {
            self.close(room, end);
        }
    }
}

fn send(commands: &mpsc::Sender<ConsumeRequest>, command: Command) {
    // The channel is far larger than the commands that the credit of the rooms allows, so it fails only after the
    // stream has ended.
    let _ = commands.try_send(ConsumeRequest { command: Some(command) });
}
