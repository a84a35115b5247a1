//! Acks on a Consume stream: confirmed when durable, each answered, and none lost while the client does not read.

use std::time::Duration;

use tonic::Code;
use unibus::v1::ConsumeCommand;

use crate::support::{
    CommandsBy, Consuming, Frames, Lobby, Nats, Unibus, acknowledge, assert_status, client_with_window,
    create_ephemeral, create_room, explicit, fields, floor, floor_reaches, listed, metadata, publish, publish_n,
    sequences, subscription,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_confirmed_ack_is_durable_and_the_next_subscription_resumes_there() {
    // Goal: `acked` means what Acknowledge's answer means. Method: acks in two rooms; at each confirmation the durable's
    // floor as a native client sees it; lower acks are answered with the position; then subscriptions resume there.
    for by in CommandsBy::ALL {
        confirmed_acks(by).await;
    }
}

async fn confirmed_acks(by: CommandsBy) {
    let (lobby, client) = Lobby::without_room().await;
    for room in ["red", "blue"] {
        create_room(&client, room).await;
        publish_n(&client, room, 20).await;
    }
    let mut stream = Consuming::start_by(by, &client).await;
    for room in ["red", "blue"] {
        stream.open(explicit(room, "ann")).await;
        assert_eq!(stream.messages(room, 20).await.len(), 20);
    }
    for (room, sequence, position) in [("red", 5, 5), ("blue", 7, 7), ("red", 3, 5), ("red", 12, 12), ("red", 0, 12)] {
        stream.acknowledge(room, sequence).await;
        assert_eq!(stream.acked(room).await, position);
        assert_eq!(floor(&lobby.nats, room, "ann").await, position);
    }
    stream.acknowledge_as("blue", "ann", 9).await;
    assert_eq!(stream.acked("blue").await, 9);
    drop(stream);
    for (room, position) in [("red", 12), ("blue", 9)] {
        let mut frames = Frames::open(&client, explicit(room, "ann")).await.unwrap();
        assert_eq!(frames.opened().position, position);
        let rest = frames.until_caught_up().await;
        assert_eq!(sequences(&rest), listed(position + 1..=20));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_acks_is_confirmed_up_to_the_last() {
    // Goal: acks for each message, as fast as they can be sent, are confirmed in order up to the last, before `closed`.
    // Method: 2000 acks without a wait, then close; positions ascend, the last is confirmed, and durable.
    let (lobby, client) = Lobby::without_room().await;
    create_room(&client, "red").await;
    publish_n(&client, "red", 2000).await;
    let mut stream = Consuming::start(&client).await;
    stream.open(explicit("red", "ann")).await;
    assert_eq!(stream.messages("red", 2000).await.len(), 2000);
    for sequence in 1..=2000 {
        stream.acknowledge("red", sequence).await;
    }
    stream.close("red").await;
    let mut position = 0;
    while position < 2000 {
        let confirmed = stream.acked("red").await;
        assert!(confirmed > position, "{confirmed} after {position}");
        position = confirmed;
    }
    assert_eq!(stream.closed("red").await.code(), Code::Ok);
    assert_eq!(floor(&lobby.nats, "red", "ann").await, 2000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acks_are_carried_out_while_the_client_does_not_read() {
    // Goal: an ack that was sent is not lost because the client's window is full. Method: a client with a small window that
    // reads ten of many large messages and then no more; it acknowledges five in that room and all in another; the positions
    // become durable though nothing is read.
    for by in CommandsBy::ALL {
        acks_of_a_silent_client(by).await;
    }
}

async fn acks_of_a_silent_client(by: CommandsBy) {
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let client = client_with_window(unibus.address(), 64 * 1024).await;
    create_room(&client, "large").await;
    create_room(&client, "small").await;
    publish_n(&client, "small", 3).await;
    for _ in 0..200 {
        publish(&client, "large", vec![1; 16 * 1024]).await.unwrap();
    }
    let mut stream = match by {
        CommandsBy::Stream => Consuming::start(&client).await,
        // the connection whose window is full carries no answers of other calls
        CommandsBy::Session => Consuming::session(&client, &unibus.client().await).await,
    };
    stream.open(explicit("small", "ann")).await;
    assert_eq!(stream.messages("small", 3).await.len(), 3);
    stream.open(explicit("large", "ann")).await;
    assert_eq!(stream.messages("large", 10).await.len(), 10);
    // by now the window is full, or soon
    tokio::time::sleep(Duration::from_millis(500)).await;
    for sequence in 1..=5 {
        stream.acknowledge("large", sequence).await;
        assert_eq!(floor_reaches(&nats, "large", "ann", sequence).await, sequence);
    }
    stream.acknowledge("small", 3).await;
    assert_eq!(floor_reaches(&nats, "small", "ann", 3).await, 3);
    assert_eq!(stream.acked("small").await, 3);
    let rest = stream.messages_and_acks("large", 190).await;
    assert_eq!(rest, listed(11..=200));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_ack_is_rejected_and_the_room_goes_on() {
    // Goal: an ack that fails harms nothing. Method: after the end, amid good ones; another subscriber; no durable; an
    // ephemeral room; a room that is not open, with and without a subscriber; each told with its sequence, and messages flow.
    let (lobby, client) = Lobby::without_room().await;
    for room in ["red", "blue", "closed"] {
        create_room(&client, room).await;
        publish_n(&client, room, 3).await;
    }
    create_ephemeral(&client, "live").await;
    drop(Frames::open(&client, explicit("closed", "ann")).await.unwrap());
    let mut stream = Consuming::start(&client).await;
    stream.open(explicit("red", "ann")).await;
    stream.open(subscription("blue", "")).await;
    stream.open(subscription("live", "")).await;
    assert_eq!(stream.messages("red", 3).await.len(), 3);

    for sequence in [1, 99, 2] {
        stream.acknowledge("red", sequence).await;
    }
    assert_eq!(stream.acked("red").await, 1);
    let (command, sequence, error) = stream.rejected("red").await;
    assert_eq!((command, sequence), (ConsumeCommand::Ack, 99));
    let error = assert_status::<()>(Err(error), Code::OutOfRange, "POSITION_AFTER_END");
    assert_eq!(metadata(&error, "last_sequence"), "3");
    assert_eq!(stream.acked("red").await, 2);

    for (room, subscriber) in [("red", "bob"), ("red", "two words"), ("blue", ""), ("blue", "ann"), ("live", "ann")] {
        stream.acknowledge_as(room, subscriber, 1).await;
        let (command, sequence, error) = stream.rejected(room).await;
        assert_eq!((command, sequence), (ConsumeCommand::Ack, 1), "{room} {subscriber}");
        let error = assert_status::<()>(Err(error), Code::InvalidArgument, "INVALID_FIELD");
        assert_eq!(fields(&error), ["ack.subscriber"], "{room} {subscriber}");
    }
    stream.acknowledge("closed", 2).await;
    let (_, _, error) = stream.rejected("closed").await;
    assert_status::<()>(Err(error), Code::FailedPrecondition, "SUBSCRIPTION_NOT_OPEN");
    stream.acknowledge_as("closed", "ann", 2).await;
    assert_eq!(stream.acked("closed").await, 2);
    stream.acknowledge_as("nowhere", "ann", 2).await;
    let (_, _, error) = stream.rejected("nowhere").await;
    assert_status::<()>(Err(error), Code::NotFound, "ROOM_NOT_FOUND");
    assert_eq!(acknowledge(&client, "closed", "ann", 0).await.unwrap(), 2);

    publish(&client, "red", "on").await.unwrap();
    assert_eq!(sequences(&stream.messages("red", 1).await), [4]);
    assert_eq!(floor(&lobby.nats, "red", "ann").await, 2);
}
