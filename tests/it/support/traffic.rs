//! Publishers and subscribers under way in one room while something happens to them, and what must hold at the end.
//!
//! Every acknowledged message is in history once, under the sequence that was answered. Within a subscription sequences
//! ascend without a hole but those that a gap frame names. A subscription never falls silent: it goes on, or it ends with a
//! status that says where it stood; the next one leaves nothing out. No call waits beyond its bound.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use unibus::v1::{GetRoomRequest, PublishRequest, SubscribeRequest, start::At, subscribe_response::Frame};

use super::{
    Client, Frames, acknowledge, eventually, everything, explicit, list_rooms, listed, metadata, page, sequences,
    starting, subscription, unibus::connect,
};

/// No call to the service takes longer, whatever befalls NATS.
const ANSWER_WITHIN: Duration = Duration::from_secs(7);
/// A subscription is never silent for longer; the tests have a heartbeat each second.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// How long everybody may need to come to an end.
const FINISH_WITHIN: Duration = Duration::from_secs(60);
/// The last message of the room.
const LAST: &str = "last";

/// What may happen to those under way.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Circumstances {
    /// The clients' own connections may break, and calls on them hang. What is on its way is then lost to automatic acks.
    pub(crate) client_network: bool,
    /// Messages may be removed by somebody.
    pub(crate) removals: bool,
}

/// How a subscriber reads.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// Durable, acknowledged by the service.
    Auto,
    /// Durable, acknowledged by the client.
    Explicit,
    /// Not kept: goes on from where it stood.
    Transient,
    /// Likewise, with calls that end when everything is read.
    UntilCaughtUp,
}

/// Traffic in the room `lobby`. Ends when dropped.
pub(crate) struct Traffic {
    acknowledged: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    publishers: Vec<AbortOnDropHandle<BTreeMap<String, u64>>>,
    subscribers: Vec<AbortOnDropHandle<Read>>,
    prober: AbortOnDropHandle<()>,
}

/// What a subscriber has read.
#[derive(Default)]
struct Read {
    messages: BTreeMap<u64, Bytes>,
    gaps: Vec<(u64, u64)>,
    /// What was on its way to a client whose connection broke, and counts as taken with automatic acks.
    lost: Vec<(u64, u64)>,
    /// Everything up to here was read, told as a gap, or lost.
    covered: u64,
}

impl Traffic {
    /// Starts three publishers and a subscriber of each kind, as clients of the service at this address; the room exists.
    pub(crate) async fn start(address: SocketAddr, circumstances: Circumstances) -> Self {
        let (acknowledged, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let mut publishers = Vec::new();
        for number in 0..3 {
            let publisher =
                publisher(connect(address).await, number, circumstances, Arc::clone(&acknowledged), Arc::clone(&stop));
            publishers.push(AbortOnDropHandle::new(tokio::spawn(publisher)));
        }
        let mut subscribers = Vec::new();
        for kind in [Kind::Auto, Kind::Explicit, Kind::Transient, Kind::UntilCaughtUp] {
            let subscriber = subscriber(connect(address).await, kind, circumstances);
            subscribers.push(AbortOnDropHandle::new(tokio::spawn(subscriber)));
        }
        let prober = prober(connect(address).await, circumstances, Arc::clone(&stop));
        let prober = AbortOnDropHandle::new(tokio::spawn(prober));
        Self { acknowledged, stop, publishers, subscribers, prober }
    }

    /// Waits until so many more messages are acknowledged: publishing works.
    pub(crate) async fn goes_on(&self, count: u64, within: Duration) {
        let before = self.acknowledged.load(Ordering::Relaxed);
        eventually(within, async || {
            let ended = self.subscribers.iter().position(AbortOnDropHandle::is_finished);
            assert_eq!(ended, None, "a subscriber gave up");
            assert!(!self.publishers.iter().any(AbortOnDropHandle::is_finished), "a publisher gave up");
            assert!(!self.prober.is_finished(), "the prober gave up");
            let more = self.acknowledged.load(Ordering::Relaxed) - before;
            (more >= count).then_some(()).ok_or_else(|| format!("{more} of {count}"))
        })
        .await;
    }

    /// Ends the traffic and checks everything that must hold, by a client whom nothing befalls.
    pub(crate) async fn finish(self, client: &Client) {
        self.stop.store(true, Ordering::Relaxed);
        let answered = timeout(FINISH_WITHIN, join_all(self.publishers)).await.expect("the publishers end");
        let answered: BTreeMap<String, u64> = answered.into_iter().flat_map(Result::unwrap).collect();
        timeout(FINISH_WITHIN, self.prober).await.expect("the prober ends").unwrap();
        eventually(FINISH_WITHIN, async || {
            client.clone().publish(request(LAST, LAST)).await.map_err(|status| status.to_string())
        })
        .await;

        let kept = everything(client, "lobby").await;
        let last = kept.last().expect("a message").sequence;
        let by_id: BTreeMap<&str, u64> =
            kept.iter().map(|message| (message.message_id.as_str(), message.sequence)).collect();
        assert_eq!(by_id.len(), kept.len(), "a message was stored twice");
        let read = timeout(FINISH_WITHIN, join_all(self.subscribers)).await.expect("the subscribers end");
        let read: Vec<Read> = read.into_iter().map(Result::unwrap).collect();
        for (id, sequence) in &answered {
            let found = by_id.get(id.as_str());
            assert!(found == Some(sequence) || found.is_none() && sequence < &last, "{id} at {sequence}: {found:?}");
        }
        if read.iter().all(|read| read.gaps.is_empty()) {
            assert_eq!(sequences(&kept), listed(1..=last));
            assert!(answered.iter().all(|(id, sequence)| by_id.get(id.as_str()) == Some(sequence)));
        }
        for read in &read {
            assert_eq!(read.covered, last);
            assert!(kept.iter().all(|kept| !read.told(kept.sequence)), "a gap names what is there");
            for kept in kept.iter().filter(|kept| !holds(&read.lost, kept.sequence)) {
                assert_eq!(read.messages.get(&kept.sequence), Some(&kept.payload), "{}", kept.sequence);
            }
            let missing = |sequence: u64| !read.messages.contains_key(&sequence) && !holds(&read.lost, sequence);
            let untold = (1..=last).find(|sequence| missing(*sequence) && !read.told(*sequence));
            assert_eq!(untold, None, "neither read nor told");
        }
    }
}

impl Read {
    /// Whether a gap was told that holds this sequence.
    fn told(&self, sequence: u64) -> bool {
        holds(&self.gaps, sequence)
    }
}

fn holds(ranges: &[(u64, u64)], sequence: u64) -> bool {
    ranges.iter().any(|(from, to)| (*from..=*to).contains(&sequence))
}

fn request(id: &str, payload: impl Into<Bytes>) -> PublishRequest {
    PublishRequest {
        room_id: "lobby".into(),
        payload: payload.into(),
        message_id: id.into(),
        ..PublishRequest::default()
    }
}

/// The result of a call, which must come in time: `None` if it may be lost, as on a broken connection.
async fn call<T>(what: &str, circumstances: Circumstances, call: impl Future<Output = Result<T, Status>>) -> Option<T> {
    let begun = Instant::now();
    match timeout(ANSWER_WITHIN, call).await {
        Ok(Ok(answer)) => Some(answer),
        Ok(Err(status)) => {
            assert_passes(what, &status, circumstances);
            None
        }
        Err(_) => {
            assert!(circumstances.client_network, "{what}: no answer after {:?}", begun.elapsed());
            None
        }
    }
}

/// Asserts that a call may succeed when it is made again.
fn assert_passes(what: &str, status: &Status, circumstances: Circumstances) {
    if status.get_details_error_info().is_none() {
        assert!(circumstances.client_network, "{what}: {status:?}");
        return;
    }
    let passes = matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Aborted);
    assert!(passes, "{what}: {status:?}");
}

/// Publishes one message after the other; each again, with the same id, until it is acknowledged. Gives the sequences
/// that were answered, by message id.
async fn publisher(
    client: Client,
    number: usize,
    circumstances: Circumstances,
    acknowledged: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
) -> BTreeMap<String, u64> {
    let mut answered = BTreeMap::new();
    for count in 0_usize.. {
        let id = format!("{number}.{count}");
        // Most are small, some fill several packets.
        let padding = if count % 16 == 0 { 40_000 } else { count % 7 * 100 };
        let request = request(&id, format!("{id}{}", " ".repeat(padding)));
        let sequence = loop {
            let answer = call("publish", circumstances, client.clone().publish(request.clone())).await;
            // As the answers advise; at once would be a storm.
            sleep(Duration::from_millis(10)).await;
            if let Some(answer) = answer {
                break answer.into_inner().sequence;
            }
        };
        answered.insert(id, sequence);
        acknowledged.fetch_add(1, Ordering::Relaxed);
        if stop.load(Ordering::Relaxed) {
            break;
        }
    }
    answered
}

/// Makes unary calls of all kinds, which are answered in time.
async fn prober(client: Client, circumstances: Circumstances, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        let mut rooms = client.clone();
        call("history", circumstances, page(&client, "lobby", 50, None)).await;
        call("get", circumstances, rooms.get_room(GetRoomRequest { room_id: "lobby".into() })).await;
        call("list", circumstances, list_rooms(&client, 0, "")).await;
        sleep(Duration::from_millis(50)).await;
    }
}

/// Subscribes again and again until the last message has come.
async fn subscriber(client: Client, kind: Kind, circumstances: Circumstances) -> Read {
    let mut read = Read::default();
    loop {
        let request = match kind {
            Kind::Auto => subscription("lobby", "auto"),
            Kind::Explicit => explicit("lobby", "explicit"),
            Kind::Transient => starting("lobby", At::AfterSequence(read.covered)),
            Kind::UntilCaughtUp => {
                SubscribeRequest { until_caught_up: true, ..starting("lobby", At::AfterSequence(read.covered)) }
            }
        };
        if let Some(mut frames) = call("subscribe", circumstances, Frames::open(&client, request)).await
            && follow(&client, kind, circumstances, &mut frames, &mut read).await
        {
            return read;
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Reads one subscription to its end; true if the last message has come.
async fn follow(
    client: &Client,
    kind: Kind,
    circumstances: Circumstances,
    frames: &mut Frames,
    read: &mut Read,
) -> bool {
    let mut position = frames.opened().position;
    if position > read.covered && kind == Kind::Auto && circumstances.client_network {
        read.lost.push((read.covered + 1, position));
        read.covered = position;
    }
    assert!(position <= read.covered, "{kind:?} begins after {position}, read was up to {}", read.covered);
    let mut caught_up = false;
    loop {
        let frame = match frames.next_frame(SILENCE_MAX).await {
            Ok(Some(frame)) => frame,
            Ok(None) => {
                assert!(caught_up && kind == Kind::UntilCaughtUp, "{kind:?} ended with OK");
                return false;
            }
            Err(status) => {
                assert_passes("subscription", &status, circumstances);
                if status.get_details_error_info().is_some() {
                    assert_eq!(metadata(&status, "position"), position.to_string(), "{kind:?}: {status:?}");
                }
                return false;
            }
        };
        match frame {
            Frame::Message(message) => {
                assert_eq!(message.sequence, position + 1, "{kind:?}");
                position = message.sequence;
                let is_last = message.payload == LAST;
                if let Some(before) = read.messages.insert(position, message.payload.clone()) {
                    assert_eq!(before, message.payload, "{kind:?}: another message came under {position}");
                }
                read.covered = read.covered.max(position);
                if is_last {
                    return true;
                }
                if kind == Kind::Explicit && position.is_multiple_of(20) {
                    // It may fail; the messages then come again.
                    call("acknowledge", circumstances, acknowledge(client, "lobby", "explicit", position)).await;
                }
            }
            Frame::Gap(gap) => {
                assert!(circumstances.removals, "{kind:?}: {gap:?}");
                assert_eq!(gap.from_sequence, position + 1, "{kind:?}: {gap:?}");
                assert!(gap.to_sequence >= gap.from_sequence, "{gap:?}");
                position = gap.to_sequence;
                read.gaps.push((gap.from_sequence, gap.to_sequence));
                read.covered = read.covered.max(position);
            }
            Frame::CaughtUp(at) => {
                assert!(!caught_up, "{kind:?} caught up twice");
                assert_eq!(at.position, position, "{kind:?}");
                caught_up = true;
            }
            Frame::Heartbeat(at) => assert_eq!(at.position, position, "{kind:?}"),
            other @ Frame::Opened(_) => panic!("{other:?}"),
        }
    }
}
