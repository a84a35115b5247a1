//! What a program sees of a service that accepts connections and never answers, and of one that does not exist.

#![allow(clippy::unwrap_used, clippy::panic)]
#![allow(clippy::disallowed_methods, clippy::large_futures, reason = "a task ends with the runtime of its test")]

use std::{convert::Infallible, future, time::Duration};

use futures_util::StreamExt;
use tokio::{
    net::TcpListener,
    sync::mpsc,
    time::{self, Instant},
};
use unibus_client::{Class, Client, Code, Event, NewMessage, Room};

const SECOND: Duration = Duration::from_secs(1);
/// Nobody listens there.
const CLOSED: &str = "http://127.0.0.1:1";

/// The address of a service that says nothing.
async fn silent() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut connections = Vec::new();
        while let Ok((connection, _)) = listener.accept().await {
            connections.push(connection);
        }
    });
    address
}

/// The outcome, and whether it came in this time.
async fn within<T>(limit: Duration, step: impl Future<Output = T>) -> T {
    time::timeout(limit, step).await.unwrap_or_else(|_| panic!("it takes longer than {limit:?}"))
}

/// Waits until a subscription reports that it subscribes again, then closes it.
async fn is_disconnected(room: &Room) {
    let (report, mut reports) = mpsc::unbounded_channel();
    let mut messages = room.subscribe().on_event(move |event| report.send(event).unwrap()).messages();
    tokio::select! {
        ended = messages.next() => panic!("it has ended: {ended:?}"),
        event = reports.recv() => assert!(matches!(event, Some(Event::Disconnected { .. }))),
    }
    messages.close().await.unwrap();
}

#[tokio::test]
async fn the_programs_deadline_ends_a_message_of_a_publisher_that_cannot_connect() {
    for address in [silent().await, CLOSED.to_owned()] {
        let room = Client::new(address).unwrap().room("room");
        let publisher = room.publisher().start();
        let receipt = publisher.send(NewMessage::new("text").within(SECOND)).await.unwrap();
        let error = within(2 * SECOND, receipt).await.unwrap_err();
        assert!(!error.is_outcome_unknown() && error.code() == Code::DeadlineExceeded, "{error}");
    }
}

#[tokio::test]
async fn a_message_that_no_stream_can_carry_is_refused_before_it_is_sent() {
    let publisher = Client::new(CLOSED).unwrap().room("room").publisher().start();
    let large = "x".repeat(64 * 1024 * 1024);
    for message in [NewMessage::new(large.clone()), NewMessage::new("text").header("name", large)] {
        let error = within(2 * SECOND, publisher.send(message)).await.unwrap_err();
        assert!(error.code() == Code::InvalidArgument && !error.is_outcome_unknown(), "{error}");
    }
}

#[tokio::test]
async fn a_token_function_that_hangs_takes_no_longer_than_a_call_may() {
    let hangs = || future::pending::<Result<String, Infallible>>();
    let client = Client::builder(silent().await).allow_plaintext_token().token_from(hangs).build().unwrap();
    let room = client.with_times(SECOND / 5, SECOND).room("room");
    let error = within(2 * SECOND, room.get()).await.unwrap_err();
    assert!(!error.is_outcome_unknown(), "nothing was sent: {error}");
    let message = NewMessage::new("text").within(SECOND);
    within(2 * SECOND, client.room("room").publish(message)).await.unwrap_err();
    within(SECOND, is_disconnected(&room)).await;
}

#[tokio::test]
async fn a_token_function_that_panics_counts_as_one_that_fails() {
    let panics = || -> future::Ready<Result<String, Infallible>> { panic!("no token") };
    let client = Client::builder(silent().await).allow_plaintext_token().token_from(panics).build().unwrap();
    let room = client.with_times(SECOND / 5, SECOND / 2).room("room");
    let error = within(SECOND, room.get()).await.unwrap_err();
    assert!(error.class() == Class::Again && !error.is_outcome_unknown(), "{error}");
    within(SECOND, is_disconnected(&room)).await;
    let publisher = room.publisher().start();
    let receipt = publisher.send("text").await.unwrap();
    assert!(!within(SECOND, receipt).await.unwrap_err().is_outcome_unknown());
    within(SECOND, publisher.close()).await;
    within(SECOND, client.close()).await;
}

#[tokio::test]
async fn times_without_end_are_allowed() {
    let forever = Duration::MAX;
    let client = Client::builder(silent().await).attempt_time(forever).total_time(forever).build().unwrap();
    let room = client.room("room");
    let publisher = room.publisher().close_time(forever).start();
    let receipt = publisher.send(NewMessage::new("text").within(forever)).await.unwrap();
    let messages = room.subscribe().flush_time(forever).ack_batch(1, forever).messages();
    let waits = async { tokio::join!(room.get(), room.publish(NewMessage::new("text").within(forever)), receipt) };
    assert!(time::timeout(SECOND / 2, waits).await.is_err());
    within(SECOND, messages.close()).await.unwrap();
}

#[tokio::test]
async fn a_closed_client_ends_calls_in_their_pause() {
    let client = Client::new(CLOSED).unwrap();
    let room = client.room("room");
    let call = tokio::spawn(async move { (room.get().await, Instant::now()) });
    time::sleep(2 * SECOND).await;
    client.close().await;
    let closed_at = Instant::now();
    let (outcome, ended_at) = call.await.unwrap();
    assert!(outcome.unwrap_err().is_cancelled() && ended_at - closed_at < SECOND / 5);
    let error = client.room("room").get().await.unwrap_err();
    assert!(error.is_cancelled() && !error.is_outcome_unknown());
    let error = client.room("room").publisher().start().send("text").await.unwrap_err();
    assert!(error.is_cancelled());
}

#[tokio::test]
async fn subscriptions_and_publishers_start_outside_of_the_runtime_too() {
    let room = Client::new(CLOSED).unwrap().room("room");
    let started = std::thread::spawn(move || (room.subscribe().messages(), room.publisher().start()));
    let (messages, publisher) = started.join().unwrap();
    within(SECOND, messages.close()).await.unwrap();
    within(SECOND, publisher.close()).await;
}

#[tokio::test]
async fn a_service_that_speaks_another_protocol_may_be_replaced() {
    use tokio::io::AsyncWriteExt;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let _ = connection.write_all(b"SSH-2.0-other\r\n").await;
        }
    });
    let client = Client::builder(address).total_time(SECOND / 2).build().unwrap();
    let error = client.room("room").get().await.unwrap_err();
    assert_eq!(error.class(), Class::Again, "{error}");
}
