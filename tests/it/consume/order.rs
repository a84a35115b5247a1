//! Commands of a Consume stream take effect in their order.

use tonic::Code;
use unibus::v1::{ConsumeCommand, consume_response::Frame};

use crate::support::{Consuming, Lobby, assert_status, create_room, explicit, floor, publish_n};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_close_no_later_credit_or_ack_of_the_room_counts() {
    // Goal: `close` ends what its room is sent, whatever is under way. Method: a room of 6,000 messages, opened with credit
    // for 100; an ack and credit for 5 after every 5 messages, on beyond the close at message 200. No more come than there was
    // credit for at the close; the position is that of the last ack before it; what came later is rejected.
    let (lobby, client) = Lobby::without_room().await;
    let room = create_room(&client, "red").await;
    for _ in 0..2 {
        lobby.nats.publish_n(&room.subject, 3000).await;
    }
    let mut stream = Consuming::start(&client).await;
    stream.open_within(explicit("red", "ann"), 100, 0).await;
    let (mut messages, mut acked, mut rejected) = (0, 0, 0);
    let closed = loop {
        match stream.next_of("red").await {
            Frame::Message(message) => {
                messages += 1;
                if message.sequence.is_multiple_of(5) {
                    stream.acknowledge("red", message.sequence).await;
                    stream.credit("red", 5, 0).await;
                }
                if message.sequence == 200 {
                    stream.close("red").await;
                }
            }
            Frame::Acked(position) => acked = position.position,
            Frame::Rejected(refused) => {
                rejected += 1;
                assert!([ConsumeCommand::Ack, ConsumeCommand::Credit].contains(&refused.command()), "{refused:?}");
            }
            Frame::Closed(status) => break status,
            _ => {}
        }
    };
    assert_eq!(closed.code, 0, "{closed:?}");
    assert!((200..=300).contains(&messages), "{messages} messages");
    assert_eq!((acked, floor(&lobby.nats, "red", "ann").await), (200, 200));
    assert!(rejected > 0 || messages == 200, "{messages} messages");
    let resumed = stream.open(explicit("red", "ann")).await;
    assert_eq!(resumed.position, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_with_a_close_is_carried_out_before_it_and_rejected_after_it() {
    // Goal: the order is that of the stream, not that of the answers. Method: many rounds of an ack, a close, and further commands,
    // all sent at once; the ack is confirmed, each later command is rejected by its kind, and the position stays.
    let (lobby, client) = Lobby::without_room().await;
    create_room(&client, "red").await;
    publish_n(&client, "red", 60).await;
    let mut stream = Consuming::start(&client).await;
    for round in 1..=20 {
        stream.open_within(explicit("red", "ann"), 3, 0).await;
        assert_eq!(stream.messages("red", 3).await.len(), 3);
        let position = round * 2;
        stream.acknowledge("red", position).await;
        stream.close("red").await;
        stream.credit("red", 50, 0).await;
        stream.acknowledge("red", position + 1).await;
        let (mut kinds, mut confirmed, mut closed) = (Vec::new(), 0, false);
        while !closed || kinds.len() < 2 {
            match stream.next_of("red").await {
                Frame::Acked(position) => {
                    assert!(!closed, "{round}: confirmed after `closed`");
                    confirmed = position.position;
                }
                Frame::Rejected(refused) => kinds.push(refused.command()),
                Frame::Closed(_) => closed = true,
                other => panic!("{round}: {other:?}"),
            }
        }
        assert_eq!(confirmed, position);
        assert_eq!(kinds, [ConsumeCommand::Credit, ConsumeCommand::Ack]);
        assert_eq!(floor(&lobby.nats, "red", "ann").await, position);
    }
    // when it is closed, a subscriber that is named is acknowledged as by a call
    stream.acknowledge_as("red", "ann", 50).await;
    assert_eq!(stream.acked("red").await, 50);
    stream.credit("red", 1, 0).await;
    let (_, _, error) = stream.rejected("red").await;
    assert_status::<()>(Err(error), Code::FailedPrecondition, "SUBSCRIPTION_NOT_OPEN");
}
