//! A durable consumer that another program deletes while its subscription is open.

use std::time::Duration;

use tonic::{Code, Status};
use unibus::v1::{
    DeleteSubscriberRequest, ListSubscribersRequest, SeekSubscriberRequest, Start, SubscribeRequest, start::At,
};

use crate::support::{
    Client, Frames, Nats, Unibus, acknowledge, assert_status, create_room, eventually, explicit, floor, floor_reaches,
    listed, metadata, publish_n, sequences, subscription,
};

const SOON: Duration = Duration::from_secs(10);

/// Deletes ann's consumer, as an operator's tool would.
async fn delete_natively(nats: &Nats) {
    nats.stream("lobby").await.delete_consumer("lobby_ann").await.unwrap();
}

async fn exists(nats: &Nats) -> bool {
    nats.stream("lobby").await.consumer_info("lobby_ann").await.is_ok()
}

async fn seek(client: &Client, position: u64) -> Result<u64, Status> {
    let request = SeekSubscriberRequest {
        room_id: "lobby".into(),
        subscriber: "ann".into(),
        position: Some(Start { at: Some(At::AfterSequence(position)) }),
    };
    Ok(client.clone().seek_subscriber(request).await?.into_inner().position)
}

async fn delete(client: &Client) -> Result<(), Status> {
    let request = DeleteSubscriberRequest { room_id: "lobby".into(), subscriber: "ann".into() };
    client.clone().delete_subscriber(request).await.map(drop)
}

/// Two instances, and a room of ten messages.
async fn two(nats: &Nats) -> (Unibus, Unibus, [Client; 2]) {
    let (first, second) = (Unibus::start(nats).await, Unibus::start(nats).await);
    let clients = [first.client().await, second.client().await];
    create_room(&clients[0], "lobby").await;
    publish_n(&clients[0], "lobby", 10).await;
    (first, second, clients)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_automatic_position_is_written_all_the_same() {
    // Goal: what is taken counts, whatever others delete. Method: an automatic subscription; delete its consumer before and
    // after its position was written; the position is written after the next messages, and the next subscription resumes there.
    let nats = Nats::start().await;
    let (_first, _second, [client, other]) = two(&nats).await;
    let mut frames = Frames::open(&client, subscription("lobby", "ann")).await.unwrap();
    assert_eq!(sequences(&frames.messages(10).await), listed(1..=10));
    delete_natively(&nats).await;
    floor_reaches_again(&nats, 10).await;
    delete_natively(&nats).await;
    publish_n(&client, "lobby", 5).await;
    assert_eq!(sequences(&frames.messages(5).await), listed(11..=15));
    floor_reaches_again(&nats, 15).await;
    let resumed = Frames::open(&other, subscription("lobby", "ann")).await.unwrap();
    assert_eq!((resumed.opened().position, resumed.opened().resumed), (15, true));
}

/// Waits until the consumer is there again with at least this position.
async fn floor_reaches_again(nats: &Nats, sequence: u64) {
    eventually(SOON, async || exists(nats).await.then_some(()).ok_or_else(|| String::from("there is no consumer")))
        .await;
    floor_reaches(nats, "lobby", "ann", sequence).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledgement_brings_the_subscriber_back() {
    // Goal: acks of an open subscription do not fail, through whatever instance, and never move back. Method: acknowledge,
    // delete the consumer, acknowledge through the same and the other instance, more and less than before.
    let nats = Nats::start().await;
    let (_first, _second, [client, other]) = two(&nats).await;
    let mut frames = Frames::open(&client, explicit("lobby", "ann")).await.unwrap();
    assert_eq!(sequences(&frames.messages(10).await), listed(1..=10));
    acknowledge(&client, "lobby", "ann", 3).await.unwrap();
    for (through, sequence, expected) in [(&client, 5, 5), (&other, 7, 7), (&client, 4, 7), (&other, 2, 7)] {
        delete_natively(&nats).await;
        assert_eq!(acknowledge(through, "lobby", "ann", sequence).await.unwrap(), expected, "{sequence}");
        assert_eq!(floor(&nats, "lobby", "ann").await, expected);
    }
    delete_natively(&nats).await;
    assert_eq!(seek(&other, 2).await.unwrap(), 2);
    assert_eq!(floor(&nats, "lobby", "ann").await, 2);
    assert_eq!(sequences(&frames.messages(8).await), listed(3..=10));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_does_not_come_again() {
    // Goal: an ack that was answered is durable. Method: acknowledge, delete the consumer; close the subscription, and take it
    // over on each instance; the next one resumes at the ack, not at a start of its own.
    let nats = Nats::start().await;
    let (_first, _second, [client, other]) = two(&nats).await;
    let from_end = || SubscribeRequest { start: Some(Start { at: Some(At::New(())) }), ..explicit("lobby", "ann") };
    let mut open = Frames::open(&client, explicit("lobby", "ann")).await.unwrap();
    assert_eq!(sequences(&open.messages(10).await), listed(1..=10));
    acknowledge(&client, "lobby", "ann", 3).await.unwrap();
    delete_natively(&nats).await;
    drop(open);
    floor_reaches_again(&nats, 3).await;
    let mut open = Frames::open(&client, from_end()).await.unwrap();
    for (taker, position) in [(&client, 3), (&other, 4), (&client, 5)] {
        acknowledge(&client, "lobby", "ann", position).await.unwrap();
        delete_natively(&nats).await;
        let taken = Frames::open(taker, from_end()).await.unwrap();
        assert_eq!((taken.opened().position, taken.opened().resumed), (position, true));
        assert_status::<()>(Err(open.end(SOON).await), Code::Aborted, "TAKEN_OVER");
        open = taken;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_that_is_deleted_through_the_service_stays_deleted() {
    // Goal: only deletions from outside are mended. Method: delete the consumer of an open subscription, then the subscriber
    // through each instance; the subscription ends, no consumer comes back, and the next subscription begins anew.
    let nats = Nats::start().await;
    let (_first, _second, [client, other]) = two(&nats).await;
    for round in 0..8 {
        let request = if round % 4 < 2 { explicit("lobby", "ann") } else { subscription("lobby", "ann") };
        let mut frames = Frames::open(&client, request).await.unwrap();
        assert!(!frames.opened().resumed, "{round}");
        assert_eq!(sequences(&frames.messages(10).await), listed(1..=10));
        delete_natively(&nats).await;
        delete(if round % 2 == 0 { &client } else { &other }).await.unwrap();
        let ended = assert_status::<()>(Err(frames.end(SOON).await), Code::NotFound, "SUBSCRIBER_NOT_FOUND");
        assert_eq!(metadata(&ended, "position"), "10");
        drop(frames);
        if round < 4 {
            // longer than a position waits to be written
            tokio::time::sleep(Duration::from_millis(1300)).await;
        }
        assert!(!exists(&nats).await, "{round}");
        assert_status(acknowledge(&client, "lobby", "ann", 5).await, Code::NotFound, "SUBSCRIBER_NOT_FOUND");
        assert_status(delete(&client).await, Code::NotFound, "SUBSCRIBER_NOT_FOUND");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_subscriber_without_a_consumer_begins_where_the_next_call_says() {
    // Goal: the entry of a subscriber whose consumer is gone neither hides a wrong start nor replaces a right one. Method: open,
    // close and delete natively; then a start after the end, which leaves no consumer, and one after seven messages.
    let nats = Nats::start().await;
    let (_first, _second, [client, other]) = two(&nats).await;
    for (round, client) in [&client, &other, &client].into_iter().enumerate() {
        let frames = Frames::open(client, explicit("lobby", "ann")).await.unwrap();
        assert_eq!(frames.opened().resumed, round > 0, "{round}");
        drop(frames);
        eventually(SOON, async || {
            let request = ListSubscribersRequest { room_id: "lobby".into(), ..Default::default() };
            let listed = client.clone().list_subscribers(request).await.unwrap().into_inner().subscribers;
            if listed.iter().any(|found| found.open) { Err(String::from("it is open")) } else { Ok(()) }
        })
        .await;
        delete_natively(&nats).await;
        let after = |sequence| SubscribeRequest {
            start: Some(Start { at: Some(At::AfterSequence(sequence)) }),
            ..explicit("lobby", "ann")
        };
        let refused = Frames::open(client, after(999)).await.map(drop);
        assert_status(refused, Code::OutOfRange, "POSITION_AFTER_END");
        assert!(!exists(&nats).await, "{round}");
        let mut frames = Frames::open(client, after(7)).await.unwrap();
        assert_eq!((frames.opened().position, frames.opened().resumed), (7, false), "{round}");
        assert_eq!(sequences(&frames.messages(3).await), listed(8..=10));
        assert_eq!(floor(&nats, "lobby", "ann").await, 7, "{round}");
    }
}
