//! Subscribing to rooms that store nothing.

use std::time::Duration;

use tonic::Code;
use unibus::v1::{GapReason, SubscribeRequest, start::At, subscribe_response::Frame};

use crate::support::{
    Frames, Lobby, Nats, Unibus, assert_status, client_with_window, create_ephemeral, payloads, publish, starting,
    subscription,
};

const FRAME_WITHIN: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_messages_come_in_order_from_the_first_frame_on() {
    // Goal: what is published after `opened` is delivered. Method: two subscribers, then messages at once; each gets all of
    // them in order.
    let (lobby, client) = Lobby::without_room().await;
    create_ephemeral(&client, "live").await;
    let mut readers = vec![
        Frames::transient(&client, "live").await,
        Frames::open(&lobby.unibus.client().await, starting("live", At::New(()))).await.unwrap(),
    ];
    for number in 0..200 {
        publish(&client, "live", number.to_string()).await.unwrap();
    }
    let expected: Vec<String> = (0..200).map(|number| number.to_string()).collect();
    for reader in &mut readers {
        let opened = reader.opened();
        assert_eq!((opened.position, opened.first_sequence, opened.last_sequence), (0, 0, 0));
        assert!(!opened.resumed && opened.cursor.is_empty());
        assert_eq!(payloads(&reader.messages(200).await), expected);
        assert_eq!(reader.gaps, []);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_needs_a_log_is_refused() {
    // Goal: nothing is promised that an ephemeral room cannot keep. Method: a durable; every start but `new`.
    let (_lobby, client) = Lobby::without_room().await;
    create_ephemeral(&client, "live").await;
    let long_ago = prost_types::Timestamp { seconds: 1, nanos: 0 };
    let requests = [
        subscription("live", "ann"),
        SubscribeRequest { subscriber: "ann".into(), ..starting("live", At::New(())) },
        starting("live", At::All(())),
        starting("live", At::AfterSequence(0)),
        starting("live", At::Last(1)),
        starting("live", At::Since(long_ago)),
    ];
    for request in requests {
        let case = format!("{request:?}");
        let refused = Frames::open(&client, request).await.map(|_| ());
        assert!(refused.is_err(), "{case}");
        assert_status(refused, Code::FailedPrecondition, "ROOM_NOT_PERSISTED");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_is_told_exactly_how_much_it_lost_and_slows_nobody() {
    // Goal: loss is counted, and stays with the one who is slow. Method: a reader with a small window that does not read
    // while megabytes are published; one that reads gets everything; then the slow one reads: what it gets and what it is
    // told of as dropped add up, in order, and the last message is among it.
    const COUNT: u64 = 4000;
    const PAYLOAD_BYTES: usize = 4096;
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let client = unibus.client().await;
    create_ephemeral(&client, "live").await;
    let narrow = client_with_window(unibus.address(), 32 * 1024).await;
    let mut slow = Frames::transient(&narrow, "live").await;
    let mut quick = Frames::transient(&unibus.client().await, "live").await;
    let reading = tokio::spawn(async move {
        let messages = quick.messages(usize::try_from(COUNT).unwrap()).await;
        (messages.len(), quick.gaps)
    });
    for number in 1..=COUNT {
        let mut payload = vec![0; PAYLOAD_BYTES];
        payload[..8].copy_from_slice(&number.to_be_bytes());
        publish(&client, "live", payload).await.unwrap();
    }
    let (read, gaps) = reading.await.unwrap();
    assert_eq!((read as u64, gaps), (COUNT, vec![]));

    let (mut accounted, mut dropped, mut last) = (0, 0, 0);
    while accounted < COUNT {
        match slow.next_frame(FRAME_WITHIN).await.unwrap().expect("open") {
            Frame::Message(message) => {
                let number = u64::from_be_bytes(message.payload[..8].try_into().unwrap());
                assert!(number > last, "{number} after {last}");
                last = number;
                accounted += 1;
                assert_eq!(number, accounted, "the loss is told before what follows it");
            }
            Frame::Gap(gap) => {
                assert_eq!(gap.reason(), GapReason::SlowReader);
                assert_eq!((gap.from_sequence, gap.to_sequence), (0, 0));
                assert!(gap.dropped > 0);
                dropped += gap.dropped;
                accounted += gap.dropped;
            }
            Frame::CaughtUp(_) | Frame::Heartbeat(_) => {}
            other @ Frame::Opened(_) => panic!("{other:?}"),
        }
    }
    assert_eq!(last, COUNT, "the newest are kept");
    assert!(dropped > 0, "the test was not fast enough to drop anything");
    publish(&client, "live", "after").await.unwrap();
    assert_eq!(payloads(&slow.messages(1).await), ["after"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_nats_connection_is_told() {
    // Goal: silence while NATS was away is not taken for peace. Method: kill and restart the NATS server under an open
    // subscription; it stays open, tells of the loss, and delivers what is published afterwards.
    let (mut lobby, client) = Lobby::without_room().await;
    create_ephemeral(&client, "live").await;
    let mut frames = Frames::transient(&client, "live").await;
    frames.until_caught_up().await;
    lobby.nats.restart().await;
    loop {
        match frames.next_frame(FRAME_WITHIN).await.unwrap().expect("open") {
            Frame::Gap(gap) => {
                assert_eq!((gap.reason(), gap.dropped), (GapReason::Disconnected, 0));
                break;
            }
            Frame::Heartbeat(_) => {}
            other => panic!("{other:?}"),
        }
    }
    crate::support::eventually(FRAME_WITHIN, async || {
        let sent = publish(&client, "live", "after").await;
        sent.map_err(|status| status.to_string())
    })
    .await;
    assert_eq!(payloads(&frames.messages(1).await), ["after"]);
}
