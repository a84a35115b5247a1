//! Erasing one message: it is gone for everybody, and everything else is as it was.

use async_nats::jetstream::stream;
use tonic::{Code, Status};
use unibus::v1::{CreateRoomRequest, DeleteMessageRequest, PublishRequest, history_request::Anchor};

use crate::support::{
    Client, Frames, Lobby, Nats, Unibus, assert_field, assert_status, create_ephemeral, create_room, fields, history,
    page, payloads, persisted, publish, publish_n, sequences,
};

async fn delete(client: &Client, room_id: &str, sequence: u64) -> Result<(), Status> {
    let request = DeleteMessageRequest { room_id: room_id.into(), sequence };
    client.clone().delete_message(request).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_erased_message_is_gone_and_the_others_stay() {
    // Goal: one message goes, on every way of reading. Method: erase one in the middle, the oldest and the newest, through
    // two instances; history, anchors in the holes, a subscription, and the next sequence; again after a restart of NATS.
    let mut nats = Nats::start().await;
    let (first, second) = (Unibus::start(&nats).await, Unibus::start(&nats).await);
    let (client, other) = (first.client().await, second.client().await);
    create_room(&client, "lobby").await;
    publish_n(&client, "lobby", 6).await;
    for (client, sequence) in [(&client, 3), (&other, 1), (&client, 6)] {
        delete(client, "lobby", sequence).await.unwrap();
        // erased is erased: a second call says that it is not there
        for client in [client, &other] {
            assert_status(delete(client, "lobby", sequence).await, Code::NotFound, "MESSAGE_NOT_FOUND");
        }
    }
    for restarted in [false, true] {
        if restarted {
            nats.restart().await;
        }
        let newest = history(&client, "lobby", 0).await;
        assert_eq!(payloads(&newest.messages), ["2", "4", "5"]);
        assert_eq!((newest.first_sequence, newest.last_sequence), (2, 6));
        let after = page(&other, "lobby", 2, Anchor::AfterSequence(3)).await.unwrap();
        assert_eq!(sequences(&after.messages), [4, 5]);
        let mut frames = Frames::transient(&client, "lobby").await;
        assert_eq!(sequences(&frames.until_caught_up().await), [2, 4, 5]);
    }
    assert_eq!(publish(&client, "lobby", "7").await.unwrap().sequence, 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_there_cannot_be_erased() {
    // Goal: a mistaken erasure is told apart. Method: sequences never stored, purged and expired ones; an ephemeral room;
    // no such room; every wrong field at once; a stream whose maker denied it.
    let (lobby, client) = Lobby::open().await;
    assert_status(delete(&client, "lobby", 1).await, Code::NotFound, "MESSAGE_NOT_FOUND");
    publish_n(&client, "lobby", 3).await;
    lobby.nats.stream("lobby").await.purge().sequence(3).await.unwrap();
    for sequence in [1, 2, 4, u64::MAX] {
        assert_status(delete(&client, "lobby", sequence).await, Code::NotFound, "MESSAGE_NOT_FOUND");
    }
    create_ephemeral(&client, "live").await;
    assert_status(delete(&client, "live", 1).await, Code::FailedPrecondition, "ROOM_NOT_PERSISTED");
    assert_status(delete(&client, "nowhere", 1).await, Code::NotFound, "ROOM_NOT_FOUND");
    assert_field(delete(&client, "lobby", 0).await, "sequence", "0");
    let refused = assert_status(delete(&client, "a b", 0).await, Code::InvalidArgument, "INVALID_FIELD");
    assert_eq!(fields(&refused), ["room_id", "sequence"]);

    let denied = stream::Config {
        name: "UNIBUS_kept".into(),
        subjects: vec!["kept".into()],
        deny_delete: true,
        ..stream::Config::default()
    };
    lobby.nats.jetstream().await.create_stream(denied).await.unwrap();
    let adopted = CreateRoomRequest { subject: "kept".into(), ..persisted("kept") };
    client.clone().create_room(adopted).await.unwrap();
    publish_n(&client, "kept", 3).await;
    assert_status(delete(&client, "kept", 2).await, Code::FailedPrecondition, "REMOVAL_DENIED");
    assert_status(delete(&client, "kept", 4).await, Code::NotFound, "MESSAGE_NOT_FOUND");
    assert_eq!(history(&client, "kept", 0).await.messages.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_erased_message_keeps_its_id_for_the_window() {
    // Goal: the contract's word on it. Method: publish with an id, erase, publish again with the id: a duplicate of the
    // first, and nothing is stored.
    let (_lobby, mut client) = Lobby::open().await;
    let request = PublishRequest {
        room_id: "lobby".into(),
        message_id: "id".into(),
        payload: "x".into(),
        ..PublishRequest::default()
    };
    client.publish(request.clone()).await.unwrap();
    delete(&client, "lobby", 1).await.unwrap();
    let again = client.publish(request).await.unwrap().into_inner();
    assert_eq!((again.sequence, again.duplicate), (1, true));
    assert_eq!(history(&client, "lobby", 0).await.messages, []);
}
