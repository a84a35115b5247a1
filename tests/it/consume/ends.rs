//! How rooms on a Consume stream end, and how the stream does.

use std::time::Duration;

use tonic::Code;
use unibus::v1::{
    ConsumeClose, ConsumeCommand, ConsumeOpen, DeleteRoomRequest, consume_request::Command, consume_response::Frame,
};

use crate::support::{
    CommandsBy, Consuming, Frames, Nats, Unibus, assert_status, create_room, eventually, explicit, fields, floor,
    floor_reaches, metadata, names_field, publish, publish_n, sequences, subscription,
};

/// A service with these rooms, of three messages each.
async fn with_rooms(nats: &Nats, rooms: &[&str]) -> Unibus {
    let unibus = Unibus::start(nats).await;
    let client = unibus.client().await;
    for room in rooms {
        create_room(&client, room).await;
        publish_n(&client, room, 3).await;
    }
    unibus
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_one_room_leaves_the_others() {
    // Goal: what befalls a room ends it alone, with Subscribe's status and details. Method: an unknown room, wrong fields, a
    // start after the end, a room that is deleted, one that is taken over by Subscribe; another room goes on all the while.
    for by in CommandsBy::ALL {
        one_room_ends(by).await;
    }
}

async fn one_room_ends(by: CommandsBy) {
    let nats = Nats::start().await;
    let unibus = with_rooms(&nats, &["steady", "doomed", "wanted"]).await;
    let client = unibus.client().await;
    let mut stream = Consuming::start_by(by, &client).await;
    stream.open(subscription("steady", "")).await;
    assert_eq!(stream.messages("steady", 3).await.len(), 3);

    stream.ask(subscription("nowhere", "ann")).await;
    assert_status::<()>(Err(stream.closed("nowhere").await), Code::NotFound, "ROOM_NOT_FOUND");
    let mut wrong = subscription("doomed", "two words");
    wrong.ack_mode = 99;
    stream.ask(wrong).await;
    let refused = assert_status::<()>(Err(stream.closed("doomed").await), Code::InvalidArgument, "INVALID_FIELD");
    assert_eq!(fields(&refused), ["open.subscribe.subscriber", "open.subscribe.ack_mode"]);
    stream.ask(crate::support::starting("doomed", unibus::v1::start::At::AfterSequence(9))).await;
    assert_status::<()>(Err(stream.closed("doomed").await), Code::OutOfRange, "POSITION_AFTER_END");

    stream.open(subscription("doomed", "ann")).await;
    stream.open(explicit("wanted", "ann")).await;
    assert_eq!(stream.messages("wanted", 3).await.len(), 3);
    stream.acknowledge("wanted", 2).await;
    assert_eq!(stream.acked("wanted").await, 2);
    client.clone().delete_room(DeleteRoomRequest { room_id: "doomed".into() }).await.unwrap();
    assert_status::<()>(Err(stream.closed("doomed").await), Code::NotFound, "ROOM_NOT_FOUND");
    let newer = Frames::open(&client, explicit("wanted", "ann")).await.unwrap();
    assert_eq!(newer.opened().position, 2);
    let over = assert_status::<()>(Err(stream.closed("wanted").await), Code::Aborted, "TAKEN_OVER");
    assert_eq!(metadata(&over, "position"), "3");

    publish(&client, "steady", "on").await.unwrap();
    assert_eq!(sequences(&stream.messages("steady", 1).await), [4]);
    // and the room can be opened again on the same stream, which takes over in turn
    assert_eq!(stream.open(explicit("wanted", "ann")).await.position, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_for_the_wrong_state_are_rejected_alone() {
    // Goal: a mistaken or late command changes nothing. Method: a second open, in the same and another mode; credit and close
    // for a room that was never open and for one that is closed; each is told, and the open room goes on as it was.
    let nats = Nats::start().await;
    let unibus = with_rooms(&nats, &["red", "blue"]).await;
    let client = unibus.client().await;
    let mut stream = Consuming::start(&client).await;
    stream.open_within(subscription("red", "ann"), 3, 0).await;
    assert_eq!(stream.messages("red", 3).await.len(), 3);
    for again in [subscription("red", "ann"), explicit("red", "bob"), subscription("red", "two words")] {
        stream.ask(again).await;
        let (command, sequence, error) = stream.rejected("red").await;
        assert_eq!((command, sequence), (ConsumeCommand::Open, 0));
        assert_status::<()>(Err(error), Code::AlreadyExists, "SUBSCRIPTION_OPEN");
    }
    stream.open(subscription("blue", "")).await;
    stream.close("blue").await;
    assert_eq!(stream.closed("blue").await.code(), Code::Ok);
    for room in ["blue", "nowhere"] {
        stream.credit(room, 5, 5).await;
        let (command, _, error) = stream.rejected(room).await;
        assert_eq!(command, ConsumeCommand::Credit);
        assert_status::<()>(Err(error), Code::FailedPrecondition, "SUBSCRIPTION_NOT_OPEN");
        stream.close(room).await;
        let (command, _, error) = stream.rejected(room).await;
        assert_eq!(command, ConsumeCommand::Close);
        assert_status::<()>(Err(error), Code::FailedPrecondition, "SUBSCRIPTION_NOT_OPEN");
    }
    publish_n(&client, "red", 2).await;
    stream.credit("red", 1, 0).await;
    assert_eq!(sequences(&stream.messages("red", 1).await), [4]);
    stream.close("red").await;
    assert_eq!(stream.closed("red").await.code(), Code::Ok);
    assert_eq!(stream.open(subscription("red", "ann")).await.position, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_no_frame_could_answer_ends_the_stream() {
    // Goal: what cannot be tagged with a room ends the stream with INVALID_ARGUMENT, after the acks before it. Method: no
    // command, an open without a request, rooms that are none; before each an ack, which is confirmed and durable.
    let nats = Nats::start().await;
    let unibus = with_rooms(&nats, &["red"]).await;
    let client = unibus.client().await;
    let close = |room_id: &str| Some(Command::Close(ConsumeClose { room_id: room_id.into() }));
    let open = ConsumeOpen::default();
    let cases =
        [(None, "command"), (Some(Command::Open(open)), "open.subscribe.room_id"), (close(""), "close.room_id")];
    for (acknowledged, (command, field)) in (1..).zip(cases) {
        let mut stream = Consuming::start(&client).await;
        stream.open(explicit("red", "ann")).await;
        stream.acknowledge("red", acknowledged).await;
        stream.send(command).await;
        let end = assert_status::<()>(Err(stream.end().await), Code::InvalidArgument, "INVALID_FIELD");
        assert!(names_field(&end, field), "{end:?}");
        assert_eq!(stream.acked("red").await, acknowledged);
        assert_eq!(floor(&nats, "red", "ann").await, acknowledged);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_close_confirms_acks_closes_every_room_and_ends_with_ok() {
    // Goal: a client leaves in order by half-closing. Method: an AUTO and an EXPLICIT room, the latter with an ack just sent;
    // half-close: the ack is confirmed, then both are closed with OK, then the stream; the positions are kept. A stream
    // with nothing open ends at once.
    let nats = Nats::start().await;
    let unibus = with_rooms(&nats, &["red", "blue"]).await;
    let client = unibus.client().await;
    let mut stream = Consuming::start(&client).await;
    stream.open(subscription("red", "ann")).await;
    stream.open(explicit("blue", "ann")).await;
    for room in ["red", "blue"] {
        assert_eq!(stream.messages(room, 3).await.len(), 3);
    }
    stream.acknowledge("blue", 2).await;
    stream.half_close();
    assert_eq!(stream.end().await.code(), Code::Ok);
    assert_eq!(stream.acked("blue").await, 2);
    for room in ["red", "blue"] {
        assert_eq!(stream.closed(room).await.code(), Code::Ok);
    }
    assert_eq!(floor_reaches(&nats, "red", "ann", 3).await, 3);
    assert_eq!(floor(&nats, "blue", "ann").await, 2);

    let mut nothing = Consuming::start(&client).await;
    nothing.half_close();
    assert_eq!(nothing.end().await.code(), Code::Ok);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_closes_every_room_with_its_position_and_then_the_stream() {
    // Goal: a client learns where to come back with, for each room. Method: an idle room, one that waits for credit, and a
    // stream with nothing open; the instance stops in order, without cutting anything off.
    let nats = Nats::start().await;
    let unibus = with_rooms(&nats, &["red", "blue"]).await;
    let client = unibus.client().await;
    let mut stream = Consuming::start(&client).await;
    let mut nothing = Consuming::start(&client).await;
    stream.open(subscription("red", "ann")).await;
    stream.open_within(explicit("blue", "ann"), 1, 0).await;
    assert_eq!(stream.messages("red", 3).await.len(), 3);
    assert_eq!(stream.messages("blue", 1).await.len(), 1);
    let stopping = tokio::spawn(unibus.shutdown());
    for (room, position) in [("red", "3"), ("blue", "1")] {
        let closed = assert_status::<()>(Err(stream.closed(room).await), Code::Unavailable, "DRAINING");
        assert_eq!(metadata(&closed, "position"), position);
    }
    assert_status::<()>(Err(stream.end().await), Code::Unavailable, "DRAINING");
    assert_status::<()>(Err(nothing.end().await), Code::Unavailable, "DRAINING");
    stopping.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rooms_of_a_stream_and_subscriptions_of_the_instance_are_bounded_and_given_back() {
    // Goal: both bounds refuse the open alone, and places come back however the stream ends. Method: an instance with 1005
    // places; 1001 opens of unknown rooms are no obstacle; 1000 rooms open, one more is told the limit, and on other streams
    // six more; a dropped stream gives all back.
    let nats = Nats::start().await;
    let url = nats.url();
    let unibus = Unibus::configured(|config| {
        config.nats.url = Some(url);
        config.rooms.max_subscriptions = 1005;
    })
    .await;
    let client = unibus.client().await;
    let mut stream = Consuming::start(&client).await;
    let rooms: Vec<String> = (0..1001).map(|number| format!("room{number}")).collect();
    for room in &rooms {
        stream.ask(subscription(room, "")).await;
        assert_eq!(stream.closed(room).await.code(), Code::NotFound);
        client.clone().create_room(crate::support::ephemeral(room)).await.unwrap();
    }
    for room in &rooms[..1000] {
        stream.open(subscription(room, "")).await;
    }
    stream.ask(subscription("room1000", "")).await;
    let refused = assert_status::<()>(Err(stream.closed("room1000").await), Code::ResourceExhausted, "LIMIT_REACHED");
    assert_eq!(metadata(&refused, "limit"), "consume_rooms");
    let mut other = Consuming::start(&client).await;
    for room in &rooms[..5] {
        other.open(subscription(room, "")).await;
    }
    other.ask(subscription("room1000", "")).await;
    let refused = assert_status::<()>(Err(other.closed("room1000").await), Code::ResourceExhausted, "LIMIT_REACHED");
    assert_eq!(metadata(&refused, "limit"), "--max-subscriptions");
    stream.close("room0").await;
    assert_eq!(stream.closed("room0").await.code(), Code::Ok);
    stream.open(subscription("room1000", "")).await;
    drop(stream);
    let other = &mut other;
    for room in &rooms[5..1000] {
        let mut tries = 0;
        loop {
            other.ask(subscription(room, "")).await;
            match other.next_of(room).await {
                Frame::Opened(_) => break,
                Frame::Closed(_) if tries < 500 => tries += 1,
                end => panic!("{end:?}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_leaves_nothing_open() {
    // Goal: dropping the call closes its rooms. Method: one place in the instance; a stream takes it and is dropped, with its
    // room idle, waiting for credit, or with an ack under way; each time there is a place again.
    let nats = Nats::start().await;
    let url = nats.url();
    let unibus = Unibus::configured(|config| {
        config.nats.url = Some(url);
        config.rooms.max_subscriptions = 1;
    })
    .await;
    let client = unibus.client().await;
    create_room(&client, "red").await;
    publish_n(&client, "red", 3).await;
    for (credit, acknowledged) in [(0, None), (1, None), (0, Some(1)), (0, Some(2))] {
        eventually(Duration::from_secs(10), async || {
            let mut stream = Consuming::start(&client).await;
            stream.ask_within(explicit("red", "ann"), credit, 0).await;
            match stream.next_of("red").await {
                Frame::Opened(_) => {}
                other => return Err(format!("{other:?}")),
            }
            assert_eq!(stream.messages("red", 1).await.len(), 1);
            if let Some(sequence) = acknowledged {
                stream.acknowledge("red", sequence).await;
            }
            Ok(())
        })
        .await;
    }
}
