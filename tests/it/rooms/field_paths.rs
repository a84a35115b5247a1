//! Where the client finds a wrong field in the message that it sent.

use tokio_stream::iter;
use tonic::Code;
use unibus::v1::{
    AcknowledgeRequest, ConsumeClose, ConsumeCredit, ConsumeOpen, PublishRequest, PublishStreamRequest,
    consume_request::Command, publish_outcome, publish_stream_response::Outcome,
};

use crate::support::{
    Consuming, Lobby, assert_status, fields,
    publishing::{batch, plain},
    status, subscription,
};

fn wrong_id(room_id: &str) -> PublishRequest {
    PublishRequest { message_id: "a b".into(), ..plain(room_id, "x") }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_field_of_a_published_message_has_its_path_in_the_request() {
    // Goal: a client finds the field in what it sent. Method: PublishStream with each kind of wrong field, and a batch whose
    // messages are independent; the service checks some fields when it converts the request, and others in the room.
    let (_lobby, mut client) = Lobby::open().await;
    let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    let reserved = [("Nats-X".to_owned(), "x".to_owned())].into();
    let cases: [(Option<PublishRequest>, &[&str]); 6] = [
        (None, &["publish"]),
        (Some(plain("a b", "x")), &["publish.room_id"]),
        (Some(wrong_id("lobby")), &["publish.message_id"]),
        (Some(PublishRequest { headers: reserved, ..plain("lobby", "x") }), &["publish.headers[\"Nats-X\"]"]),
        (
            Some(PublishRequest { ttl: seconds(-1), ..wrong_id("") }),
            &["publish.room_id", "publish.ttl", "publish.message_id"],
        ),
        (Some(PublishRequest { payload: vec![0; 1024 * 1024].into(), ..plain("lobby", "") }), &["publish.payload"]),
    ];
    let requests = cases.clone().map(|(publish, _)| PublishStreamRequest {
        correlation_id: 0,
        publish,
        ..PublishStreamRequest::default()
    });
    let mut responses = client.publish_stream(iter(requests)).await.unwrap().into_inner();
    for (publish, expected) in cases {
        let response = responses.message().await.unwrap().expect("a response");
        let Some(Outcome::Error(error)) = response.outcome else { panic!("accepted: {publish:?}") };
        assert_eq!(fields(&status(&error)), expected);
    }

    let requests = batch(vec![plain("lobby", "x"), wrong_id("lobby")], false);
    let outcomes = client.publish_batch(requests).await.unwrap().into_inner().results;
    let Some(publish_outcome::Outcome::Error(error)) = &outcomes[1].outcome else { panic!("{outcomes:?}") };
    assert_eq!(fields(&status(error)), ["messages[1].message_id"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_field_of_a_consume_command_has_its_path_in_the_request() {
    // Goal: a client finds the field in what it sent, whatever answers the command. Method: every command with a room id that
    // none can have, which ends the stream; an open that is answered by `closed`; an ack that is answered by `rejected`.
    let (_lobby, client) = Lobby::open().await;
    let room_id = || "a b".to_owned();
    let open = ConsumeOpen { subscribe: Some(subscription("a b", "")), ..ConsumeOpen::default() };
    let ack = AcknowledgeRequest { room_id: room_id(), ..AcknowledgeRequest::default() };
    let credit = ConsumeCredit { room_id: room_id(), ..ConsumeCredit::default() };
    let close = ConsumeClose { room_id: room_id() };
    for (command, field) in [
        (None, "command"),
        (Some(Command::Open(open)), "open.subscribe.room_id"),
        (Some(Command::Ack(ack)), "ack.room_id"),
        (Some(Command::Credit(credit)), "credit.room_id"),
        (Some(Command::Close(close)), "close.room_id"),
    ] {
        let mut stream = Consuming::start(&client).await;
        stream.send(command).await;
        let end = assert_status::<()>(Err(stream.end().await), Code::InvalidArgument, "INVALID_FIELD");
        assert_eq!(fields(&end), [field]);
    }

    let mut stream = Consuming::start(&client).await;
    let mut wrong = subscription("lobby", "two words");
    wrong.ack_mode = 99;
    stream.ask(wrong).await;
    let closed = stream.closed("lobby").await;
    assert_eq!(fields(&closed), ["open.subscribe.subscriber", "open.subscribe.ack_mode"]);
    stream.acknowledge_as("lobby", "two words", 1).await;
    let (_, _, rejected) = stream.rejected("lobby").await;
    assert_eq!(fields(&rejected), ["ack.subscriber"]);
}
