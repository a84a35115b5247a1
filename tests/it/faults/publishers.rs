//! Many publishers and subscribers while NATS is killed and restarted.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Status};
use unibus::v1::{Message, PublishRequest, SubscribeRequest, subscribe_response::Frame};

use crate::support::{
    Client, Frames, Nats, Unibus, acknowledge, create_room, eventually, everything, explicit, grows_by, listed, page,
    sequences, subscription,
};

const PUBLISHERS: usize = 8;
/// How long publishers and subscribers may need to come to an end.
const FINISH_WITHIN: Duration = Duration::from_secs(60);

/// Whether a call may succeed when it is made again.
fn passes(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Aborted)
}

/// Publishes one message after the other until told to stop; each again, with the same id, until it is acknowledged.
/// Gives the sequences that were answered, by message id.
async fn publisher(
    client: Client,
    number: usize,
    acknowledged: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
) -> BTreeMap<String, u64> {
    let mut answered = BTreeMap::new();
    for count in 0.. {
        let id = format!("{number}.{count}");
        let request = PublishRequest {
            room_id: "lobby".into(),
            payload: id.clone().into(),
            message_id: id.clone(),
            ..PublishRequest::default()
        };
        let sequence = loop {
            match client.clone().publish(request.clone()).await {
                Ok(response) => break response.into_inner().sequence,
                Err(status) => assert!(passes(&status), "{status:?}"),
            }
            // As the answers advise; at once would be a storm.
            sleep(Duration::from_millis(20)).await;
        };
        assert_eq!(answered.insert(id, sequence), None);
        acknowledged.fetch_add(1, Ordering::Relaxed);
        if stop.load(Ordering::Relaxed) {
            break;
        }
    }
    answered
}

/// Subscribes again and again under one durable, until the message with this payload has come. Asserts that within a
/// subscription each message comes once and in order, and that none begins after what is still missing. Gives all.
async fn subscriber(client: Client, request: SubscribeRequest) -> Vec<Message> {
    let is_explicit = request.ack_mode == i32::from(unibus::v1::AckMode::Explicit);
    let mut all: Vec<Message> = Vec::new();
    loop {
        let mut frames = match Frames::open(&client, request.clone()).await {
            Ok(frames) => frames,
            Err(status) => {
                assert!(passes(&status), "{status:?}");
                sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let mut position = frames.opened().position;
        assert!(position <= all.len() as u64, "begins after {position}, read were {}", all.len());
        loop {
            let message = match frames.next_frame(Duration::from_secs(30)).await {
                Ok(Some(Frame::Message(message))) => message,
                Ok(Some(Frame::Gap(gap))) => panic!("{gap:?}"),
                Ok(Some(_)) => continue,
                Ok(None) => panic!("ended with OK"),
                Err(status) => {
                    assert!(passes(&status), "{status:?}");
                    break;
                }
            };
            assert_eq!(message.sequence, position + 1);
            position = message.sequence;
            if is_explicit && position % 50 == 0 {
                // It may fail while NATS is away; the messages then come again.
                let _ = acknowledge(&client, "lobby", &request.subscriber, position).await;
            }
            if position > all.len() as u64 {
                let is_last = message.payload == "last";
                all.push(message);
                if is_last {
                    return all;
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_message_is_kept_once_and_delivered_in_order_whatever_happens_to_nats() {
    // Goal: an acknowledgement is a promise. Method: eight clients publish through two instances, three durables read, while
    // NATS is killed and restarted twice; then every acknowledged message is in history once, under the sequence that was
    // answered, and each subscriber got exactly the history, in order.
    let mut nats = Nats::start().await;
    let instances = [Unibus::start(&nats).await, Unibus::start(&nats).await];
    let clients = [instances[0].client().await, instances[1].client().await];
    create_room(&clients[0], "lobby").await;
    eventually(Duration::from_secs(5), async || {
        let found = page(&clients[1], "lobby", 1, None).await;
        found.map(|_| ()).map_err(|status| status.to_string())
    })
    .await;

    let (acknowledged, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let mut publishers = Vec::new();
    for number in 0..PUBLISHERS {
        let client = instances[number % 2].client().await;
        let publisher = publisher(client, number, Arc::clone(&acknowledged), Arc::clone(&stop));
        publishers.push(AbortOnDropHandle::new(tokio::spawn(publisher)));
    }
    let requests = [subscription("lobby", "ann"), explicit("lobby", "bob"), subscription("lobby", "cem")];
    let subscribers = requests.into_iter().enumerate();
    let subscribers = subscribers.map(|(number, request)| subscriber(clients[number % 2].clone(), request));
    let subscribers: Vec<_> = subscribers.map(|task| AbortOnDropHandle::new(tokio::spawn(task))).collect();

    // Once shorter and once longer than calls wait for a lost connection.
    for outage in [Duration::ZERO, Duration::from_secs(3)] {
        grows_by(FINISH_WITHIN, &acknowledged, 400).await;
        nats.kill9();
        sleep(outage).await;
        nats.restart().await;
    }
    grows_by(FINISH_WITHIN, &acknowledged, 400).await;
    stop.store(true, Ordering::Relaxed);
    let answered = timeout(FINISH_WITHIN, join_all(publishers)).await.expect("the publishers end");
    let answered: BTreeMap<String, u64> = answered.into_iter().flat_map(Result::unwrap).collect();
    crate::support::publish(&clients[0], "lobby", "last").await.unwrap();

    let kept = everything(&clients[0], "lobby").await;
    assert_eq!(sequences(&kept), listed(1..=kept.len() as u64));
    let ids = kept.iter().filter(|message| !message.message_id.is_empty());
    let by_id: BTreeMap<String, u64> = ids.map(|message| (message.message_id.clone(), message.sequence)).collect();
    assert_eq!(by_id, answered);
    assert_eq!(by_id.len() + 1, kept.len(), "a message was stored twice");
    let read = timeout(FINISH_WITHIN, join_all(subscribers)).await.expect("the subscribers end");
    for messages in read {
        let messages = messages.unwrap();
        assert_eq!(sequences(&messages), sequences(&kept));
        assert!(messages.iter().zip(&kept).all(|(read, kept)| read.payload == kept.payload));
    }
}
