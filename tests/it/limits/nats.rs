//! Limits of JetStream are told as such: which one it is, and that the rest goes on.

use std::time::Duration;

use async_nats::jetstream::{self, consumer::pull};
use tonic::{Code, Status};
use unibus::v1::{Room, SubscribeRequest, UpdateRoomRequest, subscribe_response::Frame};

use crate::support::{
    Frames, Nats, NatsOptions, Unibus, acknowledge, assert_status, create_room, eventually, explicit, metadata,
    publish, publish_n, sequences, subscription,
};

/// Consumers that each stream of the account may have.
const CONSUMERS: usize = 16;

/// A nats-server whose one account may have only so many consumers.
async fn with_consumers() -> Nats {
    let account = format!(
        "accounts {{ bus: {{ jetstream: {{ max_consumers: {CONSUMERS} }}, users: [{{ user: bus, password: bus }}] }} }}\n\
         no_auth_user: bus\n"
    );
    NatsOptions::new().extra(&account).start().await
}

/// Consumers of another program in the room: as many as there may still be. JetStream counts them for each stream, the
/// account's limit included. Gives their names.
async fn take_the_rest(nats: &Nats) -> Vec<String> {
    let stream = nats.stream("lobby").await;
    let mut taken = Vec::new();
    loop {
        let name = format!("c{}", taken.len());
        let config = pull::Config { durable_name: Some(name.clone()), ..pull::Config::default() };
        match stream.create_consumer(config).await {
            Ok(_) => taken.push(name),
            Err(_) => break,
        }
        assert!(taken.len() <= CONSUMERS, "nothing is refused");
    }
    assert!(!taken.is_empty(), "there was no room for one");
    taken
}

fn assert_consumers_limit(status: Status) {
    let status = assert_status::<()>(Err(status), Code::ResourceExhausted, "LIMIT_REACHED");
    assert_eq!(metadata(&status, "limit"), "max_consumers");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_subscribers_than_the_account_allows_are_told_which_limit_it_is() {
    // Goal: an account's limit on consumers is an answer that an operator can act on, and harms nobody else. Method: an
    // account that allows few; durable subscribers until one is refused; those that there are and the publisher go on;
    // another program's consumers go, and the refused one is let in.
    let nats = with_consumers().await;
    let unibus = Unibus::start(&nats).await;
    let client = unibus.client().await;
    create_room(&client, "lobby").await;
    publish_n(&client, "lobby", 3).await;
    let mut open = Vec::new();
    for subscriber in ["ann", "bob"] {
        let mut frames = Frames::open(&client, explicit("lobby", subscriber)).await.unwrap();
        assert_eq!(sequences(&frames.until_caught_up().await), [1, 2, 3]);
        open.push(frames);
    }
    let other = take_the_rest(&nats).await;
    for subscriber in ["cem", "dora"] {
        let refused = Frames::open(&client, explicit("lobby", subscriber)).await;
        assert_consumers_limit(refused.map(|_| ()).unwrap_err());
    }
    publish(&client, "lobby", "4").await.unwrap();
    for frames in &mut open {
        assert_eq!(sequences(&frames.messages(1).await), [4]);
    }
    acknowledge(&client, "lobby", "ann", 2).await.unwrap();

    for consumer in other {
        nats.stream("lobby").await.delete_consumer(&consumer).await.unwrap();
    }
    let mut frames = Frames::open(&client, explicit("lobby", "cem")).await.unwrap();
    assert_eq!(sequences(&frames.until_caught_up().await), [1, 2, 3, 4]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_the_account_does_not_allow_ends_with_the_limit_and_never_in_silence() {
    // Goal: also who binds no durable learns of the limit. Method: the account's consumers are used up; a subscription of
    // which nothing is kept either gets the whole backlog, or is refused or ended with the limit.
    let nats = with_consumers().await;
    let unibus = Unibus::start(&nats).await;
    let client = unibus.client().await;
    create_room(&client, "lobby").await;
    publish_n(&client, "lobby", 3).await;
    take_the_rest(&nats).await;
    let request = SubscribeRequest { until_caught_up: true, ..subscription("lobby", "") };
    let read = async {
        let mut frames = Frames::open(&client, request).await?;
        let mut messages = Vec::new();
        while let Some(frame) = frames.next_frame(Duration::from_secs(10)).await? {
            if let Frame::Message(message) = frame {
                messages.push(message);
            }
        }
        Ok(messages)
    };
    match read.await {
        Ok(messages) => assert_eq!(sequences(&messages), [1, 2, 3]),
        Err(status) => assert_consumers_limit(status),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_has_as_many_consumers_as_its_account_and_keeps_what_an_operator_sets() {
    // Goal: an account with a limit can have rooms. Method: create one, and look at its stream natively; set another limit as
    // an operator would, use the room, and it stays; a bare update takes the rest away and is repaired,
    // by a change of the room too.
    let nats = with_consumers().await;
    let unibus = Unibus::start(&nats).await;
    let client = unibus.client().await;
    create_room(&client, "lobby").await;
    let allowed = async || nats.stream("lobby").await.cached_info().config.max_consumers;
    assert_eq!(allowed().await, i32::try_from(CONSUMERS).unwrap());

    let config = nats.stream("lobby").await.cached_info().config.clone();
    let lowered = jetstream::stream::Config { max_consumers: 5, ..config.clone() };
    nats.jetstream().await.update_stream(lowered).await.unwrap();
    Frames::durable(&client, "lobby", "ann").await.until_caught_up().await;
    assert_eq!(allowed().await, 5);

    let jetstream::stream::Config { name, subjects, .. } = config;
    let bare = jetstream::stream::Config { name, subjects, ..Default::default() };
    nats.jetstream().await.update_stream(bare).await.unwrap();
    // a change at this moment finds the stream as the bare update left it
    let room = Room { room_id: "lobby".into(), labels: [("a".into(), "1".into())].into(), ..Room::default() };
    let request = UpdateRoomRequest { room: Some(room), update_mask: None };
    client.clone().update_room(request).await.unwrap();
    eventually(Duration::from_secs(10), async || {
        let allowed = allowed().await;
        (allowed == i32::try_from(CONSUMERS).unwrap()).then_some(()).ok_or_else(|| allowed.to_string())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publish_that_needs_a_stream_too_many_names_the_limit() {
    // Goal: LIMIT_REACHED says which limit, also when a publish meets it. Method: the stream of a room is deleted natively, and
    // another program takes its place in an account that is full.
    let limits =
        "accounts { A: { jetstream { max_streams: 7 }, users: [{ user: a, password: a }] } }\nno_auth_user: a\n";
    let nats = NatsOptions::new().extra(limits).start().await;
    let unibus = Unibus::start(&nats).await;
    let client = unibus.client().await;
    create_room(&client, "lobby").await;
    let jetstream = nats.jetstream().await;
    let streams = async || {
        use futures_util::StreamExt;
        jetstream.stream_names().count().await
    };
    for number in streams().await..7 {
        let name = format!("OTHER{number}");
        let other = jetstream::stream::Config { subjects: vec![name.clone()], name, ..Default::default() };
        jetstream.create_stream(other).await.unwrap();
    }
    eventually(Duration::from_secs(20), async || {
        // the service makes the stream again as soon as it can
        jetstream.delete_stream("UNIBUS_lobby").await.map_err(|error| error.to_string())?;
        let last = jetstream::stream::Config {
            name: "LAST".into(),
            subjects: vec!["last".into()],
            ..jetstream::stream::Config::default()
        };
        jetstream.create_stream(last).await.map(drop).map_err(|error| error.to_string())
    })
    .await;
    let refused = publish(&client, "lobby", "x").await;
    let refused = assert_status(refused, Code::ResourceExhausted, "LIMIT_REACHED");
    assert_eq!(metadata(&refused, "limit"), "max_streams");
}
