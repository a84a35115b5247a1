//! Generations: what a subscription delivered can be acknowledged until a newer subscription takes over, and not later.

use std::time::Duration;

use tokio::{sync::watch, time::sleep};
use tonic::{Code, Status};
use unibus::v1::{
    DeleteRoomRequest, DeleteSubscriberRequest, SeekSubscriberRequest, Start, consume_response, start::At,
    subscribe_response::Frame,
};

use crate::support::{
    Client, CommandsBy, Consuming, Frames, Nats, Process, Unibus, acknowledge, acknowledge_of, assert_status,
    create_room, eventually, explicit, floor, publish_n, status, subscription,
};

/// How long something may take that follows by itself.
const SOON: Duration = Duration::from_secs(10);

/// Opens a subscription that acknowledges nothing by itself.
async fn open(client: &Client) -> (Frames, u64) {
    let frames = Frames::open(client, explicit("lobby", "ann")).await.unwrap();
    let generation = frames.opened().generation;
    (frames, generation)
}

fn assert_taken_over<T: std::fmt::Debug>(outcome: Result<T, Status>) {
    assert_status(outcome, Code::Aborted, "TAKEN_OVER");
}

/// Asserts that every instance refuses the generation, in every kind of call, and that the position stays.
async fn assert_refused(nats: &Nats, clients: [&Client; 2], generation: u64, sequence: u64) {
    let position = floor(nats, "lobby", "ann").await;
    for (client, other) in [(clients[0], clients[1]), (clients[1], clients[0])] {
        assert_taken_over(acknowledge_of(client, "lobby", "ann", sequence, generation).await);
        for mut stream in [Consuming::start(client).await, Consuming::session(client, other).await] {
            stream.acknowledge_of("lobby", "ann", sequence, Some(generation)).await;
            let (_, rejected, error) = stream.rejected("lobby").await;
            assert_eq!(rejected, sequence);
            assert_taken_over::<()>(Err(error));
        }
    }
    assert_eq!(floor(nats, "lobby", "ann").await, position);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledgement_of_an_older_subscription_is_refused_by_every_instance() {
    // Goal: a client that was frozen cannot move the position of its successor. Method: subscriptions that take over on one
    // instance and on another, in turn; after each, the generation before it is refused by both instances, in Acknowledge,
    // on a Consume stream and in a session; the newest one counts through both, also after its subscription has ended.
    let nats = Nats::start().await;
    let (first, second) = (Unibus::start(&nats).await, Unibus::start(&nats).await);
    let clients = [&first.client().await, &second.client().await];
    create_room(clients[0], "lobby").await;
    publish_n(clients[0], "lobby", 100).await;
    let (mut older, mut before) = open(clients[0]).await;
    assert!(before > 0);
    assert_eq!(acknowledge_of(clients[0], "lobby", "ann", 1, before).await.unwrap(), 1);
    for (round, holder) in (1..).zip([1, 0, 0, 1, 1]) {
        let (newer, generation) = open(clients[holder]).await;
        assert!(generation > before, "{generation} after {before}");
        assert_taken_over::<()>(Err(older.end(SOON).await));
        assert_refused(&nats, clients, before, 99).await;
        for (place, client) in (1..).zip(clients) {
            let sequence = 10 * round + place;
            assert_eq!(acknowledge_of(client, "lobby", "ann", sequence, generation).await.unwrap(), sequence);
        }
        // without a generation every acknowledgement counts
        assert_eq!(acknowledge(clients[1 - holder], "lobby", "ann", 10 * round + 5).await.unwrap(), 10 * round + 5);
        (older, before) = (newer, generation);
    }
    drop(older);
    for client in clients {
        assert_eq!(acknowledge_of(client, "lobby", "ann", 70, before).await.unwrap(), 70);
    }
    assert_refused(&nats, clients, before - 1, 99).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_older_subscription_acknowledges_during_a_take_over_is_before_the_newer_one_begins() {
    // Goal: an acknowledgement either counts before the newer subscription reads its position, or not at all. Method: an older
    // subscription acknowledges one sequence after the other through both instances while a newer one opens on either; none
    // that was accepted lies after the newer one's start, and after it nothing moves the position.
    const ROUNDS: usize = 12;
    let nats = Nats::start().await;
    let (first, second) = (Unibus::start(&nats).await, Unibus::start(&nats).await);
    let clients = [&first.client().await, &second.client().await];
    create_room(clients[0], "lobby").await;
    publish_n(clients[0], "lobby", 4000).await;
    let (mut older, mut generation) = open(clients[0]).await;
    for round in 0..ROUNDS {
        let start = older.opened().position;
        let (stop, stopped) = watch::channel(false);
        let acknowledging = clients.map(|client| {
            let (client, stopped) = (client.clone(), stopped.clone());
            tokio::spawn(async move {
                let mut accepted = 0;
                for sequence in start + 1..4000 {
                    match acknowledge_of(&client, "lobby", "ann", sequence, generation).await {
                        Ok(position) => accepted = position,
                        Err(refused) => assert_taken_over::<()>(Err(refused)),
                    }
                    if *stopped.borrow() {
                        break;
                    }
                }
                accepted
            })
        });
        sleep(Duration::from_millis(30)).await;
        let (newer, next) = open(clients[round % 2]).await;
        let begins_at = newer.opened().position;
        sleep(Duration::from_millis(30)).await;
        stop.send_replace(true);
        for accepted in acknowledging {
            let accepted = accepted.await.unwrap();
            assert!(accepted <= begins_at, "round {round}: {accepted} was accepted, and {begins_at} is the start");
        }
        assert_eq!(floor(&nats, "lobby", "ann").await, begins_at, "round {round}");
        (older, generation) = (newer, next);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_generation_outlives_its_instance_nats_and_the_subscriber() {
    // Goal: nothing makes an old generation the newest again. Method: the instance of the newest subscription is killed, and
    // another one carries out its acknowledgements; NATS restarts; the subscriber is deleted and created again, and so is the
    // room; the older generation stays refused, and each new one is greater.
    let mut nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let mut doomed = Process::start(&nats).await;
    let client = unibus.client().await;
    create_room(&client, "lobby").await;
    publish_n(&client, "lobby", 10).await;
    let (_frozen, first) = open(&client).await;
    let (_open, second) = open(&doomed.client().await).await;
    assert!(second > first);
    doomed.kill9();
    assert_eq!(acknowledge_of(&client, "lobby", "ann", 2, second).await.unwrap(), 2);
    assert_taken_over(acknowledge_of(&client, "lobby", "ann", 9, first).await);

    nats.stop().await;
    nats.restart().await;
    eventually(Duration::from_secs(20), async || {
        let refused = acknowledge_of(&client, "lobby", "ann", 9, first).await.expect_err("refused");
        if refused.code() == Code::Aborted { Ok(()) } else { Err(refused.to_string()) }
    })
    .await;
    assert_eq!(acknowledge_of(&client, "lobby", "ann", 3, second).await.unwrap(), 3);
    drop(unibus);
    let unibus = Unibus::start(&nats).await;
    let client = unibus.client().await;
    assert_taken_over(acknowledge_of(&client, "lobby", "ann", 9, first).await);

    let subscriber = DeleteSubscriberRequest { room_id: "lobby".into(), subscriber: "ann".into() };
    client.clone().delete_subscriber(subscriber).await.unwrap();
    let gone = acknowledge_of(&client, "lobby", "ann", 9, second).await;
    assert_status(gone, Code::NotFound, "SUBSCRIBER_NOT_FOUND");
    let (_open, third) = open(&client).await;
    assert!(third > second);
    assert_taken_over(acknowledge_of(&client, "lobby", "ann", 9, second).await);

    client.clone().delete_room(DeleteRoomRequest { room_id: "lobby".into() }).await.unwrap();
    create_room(&client, "lobby").await;
    publish_n(&client, "lobby", 3).await;
    let (_open, fourth) = open(&client).await;
    assert!(fourth > third);
    assert_taken_over(acknowledge_of(&client, "lobby", "ann", 3, third).await);
    assert_eq!(acknowledge_of(&client, "lobby", "ann", 3, fourth).await.unwrap(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledgements_of_two_generations_do_not_mix() {
    // Goal: acknowledgements that wait together are judged each by its own generation. Method: a client with the newest
    // subscription and a leftover of the one before sends both kinds in turn, as fast as it can, on one stream; each of the
    // old ones is refused, and the position is that of the last new one.
    const EACH: u64 = 200;
    for by in CommandsBy::ALL {
        let nats = Nats::start().await;
        let unibus = Unibus::start(&nats).await;
        let client = unibus.client().await;
        create_room(&client, "lobby").await;
        publish_n(&client, "lobby", 500).await;
        let (_frozen, old) = open(&client).await;
        let mut stream = Consuming::start_by(by, &client).await;
        let new = stream.open(explicit("lobby", "ann")).await.generation;
        assert_eq!(stream.messages("lobby", 500).await.len(), 500);
        for sequence in 1..=EACH {
            stream.acknowledge_of("lobby", "ann", sequence, Some(new)).await;
            stream.acknowledge_of("lobby", "", 300 + sequence, Some(old)).await;
        }
        let (mut position, mut refused) = (0, 0);
        // the answers to acknowledgements come before it
        stream.close("lobby").await;
        loop {
            match stream.next_told("lobby").await {
                consume_response::Frame::Acked(acked) => position = acked.position,
                consume_response::Frame::Rejected(rejected) => {
                    refused += 1;
                    assert_eq!(rejected.sequence, 300 + refused);
                    assert_taken_over::<()>(Err(status(&rejected.error.expect("an error"))));
                }
                consume_response::Frame::CaughtUp(_) => {}
                consume_response::Frame::Closed(_) => break,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((position, refused, floor(&nats, "lobby", "ann").await), (EACH, EACH, EACH));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seek_is_no_take_over() {
    // Goal: an open subscription that is moved goes on acknowledging. Method: seek through both instances, also a subscriber
    // that has not been opened since; `opened` repeats the generation, and acknowledgements with it count.
    let nats = Nats::start().await;
    let (first, second) = (Unibus::start(&nats).await, Unibus::start(&nats).await);
    let clients = [&first.client().await, &second.client().await];
    create_room(clients[0], "lobby").await;
    publish_n(clients[0], "lobby", 10).await;
    let (mut frames, generation) = open(clients[0]).await;
    frames.messages(10).await;
    for (position, client) in [(2, clients[0]), (4, clients[1])] {
        let at = Some(Start { at: Some(At::AfterSequence(position)) });
        let seek = SeekSubscriberRequest { room_id: "lobby".into(), subscriber: "ann".into(), position: at };
        client.clone().seek_subscriber(seek).await.unwrap();
        let opened = loop {
            match frames.next_frame(SOON).await.unwrap() {
                Some(Frame::Opened(opened)) => break opened,
                Some(_) => {}
                None => panic!("the subscription ended"),
            }
        };
        assert_eq!((opened.position, opened.generation), (position, generation));
        let acknowledged = acknowledge_of(client, "lobby", "ann", position + 1, generation).await;
        assert_eq!(acknowledged.unwrap(), position + 1);
    }
    drop(frames);
    let at = Some(Start { at: Some(At::All(())) });
    let seek = SeekSubscriberRequest { room_id: "lobby".into(), subscriber: "ann".into(), position: at };
    clients[1].clone().seek_subscriber(seek).await.unwrap();
    assert_eq!(acknowledge_of(clients[1], "lobby", "ann", 1, generation).await.unwrap(), 1);
    assert_taken_over(acknowledge_of(clients[1], "lobby", "ann", 9, generation - 1).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_durable_subscription_has_a_generation() {
    // Goal: 0 means that there is nothing to acknowledge. Method: `opened` with and without a subscriber, in each kind of
    // stream.
    let nats = Nats::start().await;
    let client = Unibus::start(&nats).await;
    let client = client.client().await;
    create_room(&client, "lobby").await;
    assert_eq!(Frames::transient(&client, "lobby").await.opened().generation, 0);
    let mut newest = 0;
    for by in CommandsBy::ALL {
        let mut stream = Consuming::start_by(by, &client).await;
        assert_eq!(stream.open(subscription("lobby", "")).await.generation, 0);
        let mut stream = Consuming::start_by(by, &client).await;
        let generation = stream.open(subscription("lobby", "ann")).await.generation;
        assert!(generation > newest);
        newest = generation;
    }
}
