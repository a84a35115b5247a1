//! Publishers over `PublishStream`, with a response for each message and with cumulative acknowledgements.

use std::{collections::VecDeque, ops::Range, time::Duration};

use fastrand::Rng;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use unibus::v1::{PublishAcks, PublishStreamRequest, PublishStreamResponse, PublishedThrough, publish_stream_response};

use super::{ANSWER_WITHIN, Scene, Wish, failure, pause};
use crate::oracle::{At, Attempt, Failure, Outcome};

/// Messages of one stream at most; then the next one is opened.
const STREAM_MAX: usize = 400;
/// Bytes of a message when there are many.
const SIZES: Range<usize> = 100..1500;
/// Of the messages of a cumulative stream, one in this many has a message id. The service stores the others in runs.
const ID_EACH: u8 = 16;

/// Publishes at a steady pace. The next stream first publishes the unacknowledged messages of the last one, in their
/// order.
pub(crate) async fn stream(scene: &Scene, seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let mut open = VecDeque::new();
    while scene.runs() || !open.is_empty() && !scene.is_over() {
        let pace = Duration::from_micros(rng.u64(500..10_000));
        let acks = any_acks(&mut rng);
        let mut session = Session::new(scene, acks, open, &mut rng);
        session.run(Some(pace), &mut rng).await;
        open = session.end();
        pause(scene).await;
    }
    give_up(scene, open);
}

/// Publishes `count` messages as fast as the service accepts them.
pub(crate) async fn flood(scene: &Scene, count: u64, seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let size = rng.usize(SIZES);
    let acks = any_acks(&mut rng);
    let small = |_| {
        let mut wish = wish(scene, "flood", acks, &mut rng);
        wish.payload.resize(size, b'x');
        wish.publish.digest = super::digest(&wish.payload);
        wish
    };
    let mut open: VecDeque<Wish> = (0..count).map(small).collect();
    while !open.is_empty() && !scene.is_over() {
        let mut session = Session::new(scene, acks, open, &mut rng);
        session.run(None, &mut rng).await;
        open = session.end();
        if !open.is_empty() {
            pause(scene).await;
        }
    }
    give_up(scene, open);
}

fn any_acks(rng: &mut Rng) -> PublishAcks {
    if rng.bool() { PublishAcks::Cumulative } else { PublishAcks::Each }
}

/// A new message for a stream that answers like this.
fn wish(scene: &Scene, who: &str, acks: PublishAcks, rng: &mut Rng) -> Wish {
    let mut wish = Wish::new(scene, 0, who, rng);
    wish.publish.has_id = acks != PublishAcks::Cumulative || rng.u8(..ID_EACH) == 0;
    wish
}

/// Records, at the end of the episode, that the outcome of these messages is unknown.
fn give_up(scene: &Scene, open: VecDeque<Wish>) {
    for wish in open {
        scene.note(0, |room| room.publishes.push(wish.publish));
    }
}

/// One `PublishStream`.
struct Session<'a> {
    scene: &'a Scene,
    acks: PublishAcks,
    call: u64,
    instance: usize,
    /// Sent, in order, with the time of it; no response yet.
    sent: VecDeque<(At, Wish)>,
    /// Messages sent so far.
    count: u64,
    /// To be published again by the next stream.
    again: VecDeque<Wish>,
    requests: Option<mpsc::Sender<PublishStreamRequest>>,
    receiver: Option<mpsc::Receiver<PublishStreamRequest>>,
    /// The outcome of the messages without a response.
    rest: Outcome,
}

impl<'a> Session<'a> {
    /// A session that sends these messages first.
    fn new(scene: &'a Scene, acks: PublishAcks, first: VecDeque<Wish>, rng: &mut Rng) -> Self {
        // Room for all of them: sending never waits, so that responses are read all the time.
        let (requests, receiver) = mpsc::channel(STREAM_MAX + first.len());
        let mut session = Self {
            scene,
            acks,
            call: scene.number(),
            instance: rng.usize(..scene.instances()),
            sent: VecDeque::new(),
            count: 0,
            again: VecDeque::new(),
            requests: Some(requests),
            receiver: Some(receiver),
            rest: Outcome::Unanswered,
        };
        for wish in first {
            session.send(wish);
        }
        session
    }

    fn send(&mut self, wish: Wish) {
        let request = PublishStreamRequest {
            correlation_id: self.count,
            publish: Some(wish.request(self.scene)),
            acks: self.acks.into(),
        };
        if self.requests.as_ref().is_some_and(|requests| requests.try_send(request).is_ok()) {
            self.sent.push_back((self.scene.now(), wish));
            self.count += 1;
        }
    }

    /// Sends at this pace, or only the given messages. Reads all responses.
    async fn run(&mut self, pace: Option<Duration>, rng: &mut Rng) {
        let scene = self.scene;
        let (Some(mut client), Some(receiver)) = (scene.client(self.instance), self.receiver.take()) else { return };
        let opened = client.publish_stream(scene.request(ReceiverStream::new(receiver)));
        let mut responses = match timeout(ANSWER_WITHIN, opened).await {
            Ok(Ok(responses)) => responses.into_inner(),
            Ok(Err(status)) => return self.rest = Outcome::Failed(failure(&status)),
            Err(_) => return self.rest = late(),
        };
        if pace.is_none() {
            self.requests = None;
        }
        let pace = pace.unwrap_or_default();
        let mut next = Instant::now();
        while self.requests.is_some() || !self.sent.is_empty() {
            tokio::select! {
                response = timeout(ANSWER_WITHIN, responses.message()), if !self.sent.is_empty() => {
                    let Ok(response) = response else { return self.rest = late() };
                    if !self.take(response) {
                        return;
                    }
                }
                () = sleep_until(next), if self.requests.is_some() => {
                    next = Instant::now() + pace;
                    if scene.runs() && self.count < STREAM_MAX as u64 {
                        self.send(wish(scene, "stream", self.acks, rng));
                    } else {
                        self.requests = None;
                    }
                }
            }
        }
    }

    /// One response; false when the stream has ended.
    fn take(&mut self, response: Result<Option<PublishStreamResponse>, Status>) -> bool {
        let response = match response {
            Ok(Some(response)) => response,
            Ok(None) => {
                self.record_broken_promise(&format!("it ended with OK and without {} responses", self.sent.len()));
                return false;
            }
            Err(status) => {
                self.rest = Outcome::Failed(failure(&status));
                return false;
            }
        };
        let answered = match response.outcome {
            Some(publish_stream_response::Outcome::Through(through)) => self.take_through(&through),
            Some(publish_stream_response::Outcome::Result(result)) => {
                self.take_next(Outcome::Stored { sequence: result.sequence, duplicate: result.duplicate })
            }
            Some(publish_stream_response::Outcome::Error(error)) => {
                self.take_next(Outcome::Failed(failure(&super::status(&error))))
            }
            None => self.take_next(Outcome::Unanswered),
        };
        let number = self.count - self.sent.len() as u64;
        if answered && number != response.correlation_id + 1 {
            self.record_broken_promise(&format!("response {} came after {number} answers", response.correlation_id));
        }
        answered
    }

    /// A response for several messages; false if fewer were sent.
    fn take_through(&mut self, through: &PublishedThrough) -> bool {
        if self.acks != PublishAcks::Cumulative {
            self.record_broken_promise("a cumulative acknowledgement that was not asked for");
        }
        let last = Some(through.last_sequence).filter(|last| *last > 0);
        let covered = (1..through.messages).all(|_| self.take_next(Outcome::StoredBefore { last }));
        covered
            && self.take_next(match last {
                Some(sequence) => Outcome::Stored { sequence, duplicate: false },
                None => Outcome::StoredBefore { last },
            })
    }

    /// The outcome of the oldest message without one; false if there is none.
    fn take_next(&mut self, outcome: Outcome) -> bool {
        let number = self.count - self.sent.len() as u64;
        let Some((started, wish)) = self.sent.pop_front() else {
            self.record_broken_promise("a response for a message that was not sent");
            return false;
        };
        self.tried(number, started, wish, outcome);
        true
    }

    fn tried(&mut self, place: u64, started: At, mut wish: Wish, outcome: Outcome) {
        let (call, instance, ended) = (self.call, self.instance, self.scene.now());
        wish.tried(self.scene, Attempt { call, place, instance, started, ended, outcome });
        if wish.is_open() {
            self.again.push_back(wish);
        } else {
            self.scene.note(0, |room| room.publishes.push(wish.publish));
        }
    }

    /// The messages to publish again, in their order.
    fn end(mut self) -> VecDeque<Wish> {
        let answered = self.count - self.sent.len() as u64;
        let rest = self.rest.clone();
        for (place, (started, wish)) in (answered..).zip(std::mem::take(&mut self.sent)) {
            self.tried(place, started, wish, rest.clone());
        }
        self.again
    }

    fn record_broken_promise(&self, problem: &str) {
        self.scene.note(0, |room| room.unfinished.push(format!("a PublishStream: {problem}")));
    }
}

/// No response came although the service had long enough.
fn late() -> Outcome {
    Outcome::Failed(Failure { code: "no response in time".into(), ..Failure::default() })
}
