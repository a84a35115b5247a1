//! Credit on a Consume stream: never a message more, none lost, and no other frame held back without need.

use std::time::Duration;

use tokio::time::timeout;
use tonic::Code;
use unibus::v1::{GapReason, PurgeRoomRequest, SubscribeRequest, consume_response::Frame};

use crate::support::{
    Client, CommandsBy, Consuming, Lobby, Random, assert_status, create_ephemeral, create_room, floor_reaches, listed,
    metadata, publish, publish_n, sequences, subscription,
};

/// Long enough for a message that should not come.
const QUIET: Duration = Duration::from_millis(300);

/// Asserts that nothing comes for a while.
async fn assert_quiet(stream: &mut Consuming) {
    let frame = timeout(QUIET, async {
        loop {
            match stream.next().await {
                // a sign of life is no message
                Ok(Some((_, Frame::Heartbeat(_)))) => {}
                other => return other,
            }
        }
    });
    if let Ok(frame) = frame.await {
        panic!("without credit: {frame:?}");
    }
}

async fn room_of(client: &Client, count: usize, payload_bytes: usize) {
    create_room(client, "red").await;
    for _ in 0..count {
        publish(client, "red", vec![1; payload_bytes]).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_come_to_the_number_and_no_further() {
    // Goal: message credit is exact, from the backlog and live. Method: various credits in a room of 1000 small messages,
    // which are sent many at a time; after each exactly so many, then quiet; caught_up waits behind the last; then live ones.
    let (_lobby, client) = Lobby::without_room().await;
    room_of(&client, 1000, 10).await;
    let mut stream = Consuming::start(&client).await;
    stream.open_within(subscription("red", ""), 1, 0).await;
    let mut position = 0;
    for credit in [1, 1, 7, 300, 1, 690, 0] {
        if position > 0 {
            stream.credit("red", credit, 0).await;
        }
        let expected = listed(position + 1..=position + u64::from(credit));
        assert_eq!(sequences(&stream.messages("red", credit as usize).await), expected);
        position += u64::from(credit);
        if position < 1000 {
            assert_quiet(&mut stream).await;
        }
    }
    assert_eq!(position, 1000);
    assert!(matches!(stream.next_of("red").await, Frame::CaughtUp(_)));
    publish_n(&client, "red", 3).await;
    assert_quiet(&mut stream).await;
    stream.credit("red", 2, 999).await;
    assert_eq!(sequences(&stream.messages("red", 2).await), [1001, 1002]);
    assert_quiet(&mut stream).await;
    stream.credit("red", 1, 0).await;
    assert_eq!(sequences(&stream.messages("red", 1).await), [1003]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payload_bytes_come_to_the_number_and_the_next_credit_pays_what_exceeded_it() {
    // Goal: byte credit counts payloads alone; one message may exceed it, and is paid for. Method: messages of 100 bytes:
    // credit for exactly three; for three and a byte, which lets a fourth go; what that exceeded is taken from the next.
    let (_lobby, client) = Lobby::without_room().await;
    room_of(&client, 20, 100).await;
    let mut stream = Consuming::start(&client).await;
    stream.open_within(subscription("red", ""), 0, 300).await;
    assert_eq!(sequences(&stream.messages("red", 3).await), [1, 2, 3]);
    assert_quiet(&mut stream).await;
    stream.credit("red", 0, 301).await;
    assert_eq!(sequences(&stream.messages("red", 4).await), [4, 5, 6, 7]);
    assert_quiet(&mut stream).await;
    stream.credit("red", 1000, 99).await;
    assert_quiet(&mut stream).await;
    stream.credit("red", 0, 1).await;
    assert_eq!(sequences(&stream.messages("red", 1).await), [8]);
    assert_quiet(&mut stream).await;
    stream.credit("red", 0, u64::MAX).await;
    stream.credit("red", 0, u64::MAX).await;
    assert_eq!(sequences(&stream.messages("red", 12).await), listed(9..=20));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_credit_is_never_exceeded_and_loses_nothing() {
    // Goal: both bounds hold together, whatever the sizes and the grants. Method: messages of random sizes; random grants of
    // messages and bytes; after each, what came is compared with a model of both; at the end everything came once, in order.
    for by in CommandsBy::ALL {
        random_credit(by).await;
    }
}

async fn random_credit(by: CommandsBy) {
    let (_lobby, client) = Lobby::without_room().await;
    create_room(&client, "red").await;
    let mut random = Random::seeded();
    let sizes: Vec<usize> = (0..300).map(|_| random.count(0..40_000) * usize::from(random.count(0..4) > 0)).collect();
    for size in &sizes {
        publish(&client, "red", vec![2; *size]).await.unwrap();
    }
    let mut stream = Consuming::start_by(by, &client).await;
    let (mut messages, mut bytes) = (5_i64, 50_000_i64);
    stream.open_within(subscription("red", ""), 5, 50_000).await;
    let mut position = 0;
    loop {
        while messages > 0 && bytes > 0 && position < sizes.len() {
            let [message] = stream.messages("red", 1).await.try_into().unwrap();
            assert_eq!(message.sequence, position as u64 + 1);
            assert_eq!(message.payload.len(), sizes[position]);
            messages -= 1;
            bytes -= i64::try_from(sizes[position]).unwrap();
            position += 1;
        }
        if position == sizes.len() {
            break;
        }
        if random.count(0..4) == 0 {
            assert_quiet(&mut stream).await;
        }
        let (more_messages, more_bytes) = (random.within(0..20), random.within(0..200_000));
        stream.credit("red", u32::try_from(more_messages).unwrap(), more_bytes).await;
        messages += i64::try_from(more_messages).unwrap();
        bytes += i64::try_from(more_bytes).unwrap();
    }
    assert!(matches!(stream.next_told("red").await, Frame::CaughtUp(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_without_credit_holds_back_no_other_and_still_ends() {
    // Goal: waiting for credit is one room's matter, and does not hide its end. Method: of four rooms three wait; the fourth
    // gets everything; one that waits is closed, one deleted, one taken over, each told at once with the position sent.
    let (lobby, client) = Lobby::without_room().await;
    for room in ["one", "two", "three", "free"] {
        create_room(&client, room).await;
        publish_n(&client, room, 10).await;
    }
    let mut stream = Consuming::start(&client).await;
    for room in ["one", "two", "three"] {
        stream.open_within(subscription(room, "ann"), 2, 0).await;
        assert_eq!(stream.messages(room, 2).await.len(), 2);
    }
    stream.open(subscription("free", "")).await;
    assert_eq!(stream.messages("free", 10).await.len(), 10);
    stream.close("one").await;
    assert_eq!(stream.closed("one").await.code(), Code::Ok);
    client.clone().delete_room(unibus::v1::DeleteRoomRequest { room_id: "two".into() }).await.unwrap();
    assert_status::<()>(Err(stream.closed("two").await), Code::NotFound, "ROOM_NOT_FOUND");
    // what was taken is written about once a second
    assert_eq!(floor_reaches(&lobby.nats, "three", "ann", 2).await, 2);
    let mut other = Consuming::start(&client).await;
    assert_eq!(other.open(subscription("three", "ann")).await.position, 2);
    let over = assert_status::<()>(Err(stream.closed("three").await), Code::Aborted, "TAKEN_OVER");
    assert_eq!(metadata(&over, "position"), "2");
    publish_n(&client, "free", 1).await;
    assert_eq!(sequences(&stream.messages("free", 1).await), [11]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_purged_while_it_waited_for_credit_does_not_come() {
    // Goal: a purge counts for what waits in the service. Method: credit for two of ten small messages, which wait together;
    // a purge up to the sixth; then credit: a gap for those that are gone, then the others; the same for a purge of all.
    let (_lobby, client) = Lobby::without_room().await;
    room_of(&client, 10, 10).await;
    let mut stream = Consuming::start(&client).await;
    stream.open_within(subscription("red", ""), 2, 0).await;
    assert_eq!(sequences(&stream.messages("red", 2).await), [1, 2]);
    let mut position = 2;
    for (up_to_sequence, purged, then) in [(Some(6), 6, 7..=8), (None, 11, 12..=12)] {
        let purge = PurgeRoomRequest { room_id: "red".into(), up_to_sequence };
        client.clone().purge_room(purge).await.unwrap();
        publish(&client, "red", "on").await.unwrap();
        let then = listed(then);
        stream.credit("red", u32::try_from(then.len()).unwrap(), 0).await;
        while position < purged {
            match stream.next_told("red").await {
                Frame::Gap(gap) => {
                    assert_eq!((gap.from_sequence, gap.reason()), (position + 1, GapReason::Purged));
                    position = gap.to_sequence;
                }
                Frame::CaughtUp(_) => {}
                other => panic!("after {position}: {other:?}"),
            }
        }
        assert_eq!(position, purged);
        assert_eq!(sequences(&stream.messages("red", then.len()).await), then);
        position = then[then.len() - 1];
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ephemeral_room_tells_what_passed_while_there_was_no_credit() {
    // Goal: what an ephemeral room drops for want of credit is counted. Method: credit for one of more messages than the
    // service keeps; then credit for all: those that come and those that the gap counts are all of them.
    let (_lobby, client) = Lobby::without_room().await;
    create_ephemeral(&client, "live").await;
    let mut stream = Consuming::start(&client).await;
    stream.open_within(subscription("live", ""), 1, 0).await;
    let count = 600_u64;
    for _ in 0..count {
        publish(&client, "live", vec![3; 32 * 1024]).await.unwrap();
    }
    assert_eq!(stream.messages("live", 1).await.len(), 1);
    stream.credit("live", 100_000, 0).await;
    let (mut came, mut dropped) = (1, 0);
    while came + dropped < count {
        match stream.next_told("live").await {
            Frame::Message(_) => came += 1,
            Frame::Gap(gap) => dropped += gap.dropped,
            other => panic!("{came} came, {dropped} dropped, then {other:?}"),
        }
    }
    assert_eq!(came + dropped, count);
    assert!(dropped > 0, "the room keeps less than that");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn until_caught_up_without_credit_ends_when_no_more_can_come() {
    // Goal: a half-closed stream does not wait for credit that nobody can give. Method: two rooms with until_caught_up, one
    // with credit for some of its messages; half-close; both are closed with OK, and the stream ends.
    let (_lobby, client) = Lobby::without_room().await;
    create_room(&client, "all").await;
    create_room(&client, "some").await;
    publish_n(&client, "all", 500).await;
    publish_n(&client, "some", 10).await;
    let mut stream = Consuming::start(&client).await;
    let ended = |room| SubscribeRequest { until_caught_up: true, ..subscription(room, "") };
    stream.ask(ended("all")).await;
    stream.ask_within(ended("some"), 4, 0).await;
    stream.half_close();
    assert!(matches!(stream.next_of("some").await, Frame::Opened(_)));
    assert_eq!(sequences(&stream.messages("some", 4).await), [1, 2, 3, 4]);
    assert_eq!(stream.closed("some").await.code(), Code::Ok);
    assert!(matches!(stream.next_of("all").await, Frame::Opened(_)));
    assert_eq!(stream.messages("all", 500).await.len(), 500);
    assert_eq!(stream.closed("all").await.code(), Code::Ok);
    assert_eq!(stream.end().await.code(), Code::Ok);
}
