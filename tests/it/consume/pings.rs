//! Pings on a Consume stream: answered whatever the rooms do, and never piled up.

use std::time::Duration;

use tokio::time::{sleep, timeout};
use tonic::{Code, Status};
use unibus::v1::{
    ConsumePing, ConsumeRequest, SeekSubscriberRequest, SessionCommandRequest, Start, consume_request::Command,
    consume_response::Frame, start::At,
};

use crate::support::{
    Client, CommandsBy, Consuming, Lobby, Nats, Unibus, assert_status, client_that_may_leave_small_frames,
    client_with_window, create_room, explicit, listed, publish, publish_n, sequences, subscription,
};

/// How long a pong may take.
const AT_ONCE: Duration = Duration::from_secs(2);

/// Asserts that the stream answers.
async fn assert_answers(stream: &mut Consuming, nonce: u64) {
    stream.ping(nonce).await;
    assert_eq!(timeout(AT_ONCE, stream.pong()).await.expect("a pong in time"), nonce);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ping_is_answered_without_a_room_and_without_credit() {
    // Goal: a pong says that the stream works, whatever its rooms may send. Method: pings before a room is open, while one
    // has no credit, and after it was closed; the waiting messages come later, all of them.
    for by in CommandsBy::ALL {
        let (_lobby, client) = Lobby::open().await;
        publish_n(&client, "lobby", 10).await;
        let mut stream = Consuming::start_by(by, &client).await;
        for nonce in [7, 0, u64::MAX] {
            assert_answers(&mut stream, nonce).await;
        }
        stream.open_within(explicit("lobby", "ann"), 2, 0).await;
        assert_eq!(sequences(&stream.messages("lobby", 2).await), [1, 2]);
        assert_answers(&mut stream, 8).await;
        stream.credit("lobby", 8, 0).await;
        assert_eq!(sequences(&stream.messages("lobby", 8).await), listed(3..=10));
        stream.close("lobby").await;
        assert_eq!(stream.closed("lobby").await.code(), Code::Ok);
        assert_answers(&mut stream, 9).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ping_is_answered_while_nats_does_not_answer() {
    // Goal: a pong does not wait for an open, an acknowledgement or a seek. Method: NATS is frozen; all three wait, and a ping
    // is answered; then NATS goes on, and so do they.
    for by in CommandsBy::ALL {
        let nats = Nats::start().await;
        let unibus = Unibus::start(&nats).await;
        let client = unibus.client().await;
        for room in ["red", "blue"] {
            create_room(&client, room).await;
            publish_n(&client, room, 3).await;
        }
        let mut stream = Consuming::start_by(by, &client).await;
        stream.open(explicit("red", "ann")).await;
        assert_eq!(stream.messages("red", 3).await.len(), 3);
        nats.freeze().await;
        stream.ask(explicit("blue", "ann")).await;
        stream.acknowledge("red", 2).await;
        let seeking = tokio::spawn({
            let mut client = client.clone();
            let position = Some(Start { at: Some(At::AfterSequence(1)) });
            async move {
                let (room_id, subscriber) = ("red".into(), "ann".into());
                client.seek_subscriber(SeekSubscriberRequest { room_id, subscriber, position }).await
            }
        });
        for nonce in 1..=20 {
            assert_answers(&mut stream, nonce).await;
        }
        assert!(!seeking.is_finished());
        nats.thaw();
        assert!(matches!(stream.next_told("blue").await, Frame::Opened(_)));
        assert_eq!(seeking.await.unwrap().unwrap().into_inner().position, 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pong_comes_before_the_messages_that_wait() {
    // Goal: a client learns soon whether its stream works, however much it is behind. Method: a client with a small window in
    // front of a large backlog; the pong comes after what was already on its way, which is a small part of the backlog.
    for by in CommandsBy::ALL {
        let nats = Nats::start().await;
        let unibus = Unibus::start(&nats).await;
        let client = client_with_window(unibus.address(), 64 * 1024).await;
        create_room(&client, "large").await;
        for _ in 0..200 {
            publish(&client, "large", vec![1; 16 * 1024]).await.unwrap();
        }
        let mut stream = match by {
            CommandsBy::Stream => Consuming::start(&client).await,
            CommandsBy::Session => Consuming::session(&client, &unibus.client().await).await,
        };
        stream.open(subscription("large", "")).await;
        assert_eq!(stream.messages("large", 1).await.len(), 1);
        stream.ping(1).await;
        let mut before = 0;
        loop {
            match stream.next().await.unwrap().expect("an open stream").1 {
                Frame::Message(_) => before += 1,
                Frame::Pong(pong) => break assert_eq!(pong.nonce, 1),
                Frame::Heartbeat(_) => {}
                other => panic!("{other:?}"),
            }
        }
        assert!(before < 50, "{before} messages came before the pong");
        assert_eq!(stream.messages("large", 199 - before).await.len(), 199 - before);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_pings_waits_for_a_client_that_does_not_read() {
    // Goal: pongs do not pile up. Method: a client with a small window sends pings and reads nothing, until no further ping is
    // taken; after that it reads, and each ping that was taken is answered, in order.
    const MANY: u64 = 200_000;
    let (lobby, _) = Lobby::without_room().await;
    let client = client_that_may_leave_small_frames(lobby.unibus.address(), 64 * 1024).await;
    let mut stream = Consuming::start(&client).await;
    let mut sent = 0;
    while sent < MANY && timeout(Duration::from_secs(1), stream.ping(sent)).await.is_ok() {
        sent += 1;
    }
    assert!(sent < MANY, "every ping was taken");
    for nonce in 0..sent {
        assert_eq!(stream.pong().await, nonce);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_pings_in_a_session_is_refused_while_its_client_does_not_read() {
    // Goal: as on a stream, with the bound on the commands of a session. Method: calls with 256 pings each for a session whose
    // frames nobody reads; soon a call is refused; when the client reads again, a ping is answered.
    const CALLS: u64 = 100;
    async fn pings(client: &Client, session_id: &str, from: u64) -> Result<(), Status> {
        let ping = |nonce| ConsumeRequest { command: Some(Command::Ping(ConsumePing { nonce })) };
        let commands = (from..from + 256).map(ping).collect();
        let request = SessionCommandRequest { session_id: session_id.into(), commands, number: 0 };
        client.clone().session_command(request).await.map(drop)
    }
    let (lobby, commander) = Lobby::without_room().await;
    let client = client_that_may_leave_small_frames(lobby.unibus.address(), 64 * 1024).await;
    let mut session = Consuming::session(&client, &commander).await;
    let id = session.session_id().to_owned();
    let mut taken = 0;
    let refused = loop {
        assert!(taken < CALLS, "every call was taken");
        match pings(&commander, &id, taken * 256).await {
            Ok(()) => taken += 1,
            Err(refused) => break refused,
        }
    };
    assert_status::<()>(Err(refused), Code::ResourceExhausted, "RATE_LIMITED");
    for nonce in 0..taken * 256 {
        assert_eq!(session.pong().await, nonce);
    }
    sleep(Duration::from_millis(50)).await;
    assert_answers(&mut session, u64::MAX).await;
}
