//! Operations of several steps that stop between two of them: nobody reads a lie, and the same call does the rest.

use std::time::Duration;

use async_nats::ConnectOptions;
use tonic::{Code, Status};
use unibus::v1::{
    CreateRoomRequest, DeleteRoomRequest, GapReason, GetRoomRequest, PurgeRoomRequest, PurgeRoomResponse, Retention,
    Start, SubscribeRequest, start::At,
};

use crate::support::{
    Client, Frames, Nats, NatsOptions, Unibus, assert_status, create_room, everything, explicit, floor, payloads,
    persisted, publish, publish_n, sequences,
};

/// A server, an instance whose user is denied `subject`, so that NATS never answers that step, and one that may do anything.
async fn denied(subject: &str) -> (Nats, Unibus, Unibus) {
    let extra = format!(
        "authorization {{\n  users: [\n    {{ user: denied, password: secret, permissions {{ publish {{ deny: [{subject}] }} }} }}\n    \
         {{ user: admin, password: secret }}\n  ]\n}}\n"
    );
    let login = ConnectOptions::with_user_and_password("admin".into(), "secret".into());
    let nats = NatsOptions::new().extra(&extra).login(login).start().await;
    let stopped = instance(&nats, "denied").await;
    let whole = instance(&nats, "admin").await;
    (nats, stopped, whole)
}

async fn instance(nats: &Nats, user: &str) -> Unibus {
    let (url, user) = (nats.url(), user.to_owned());
    Unibus::configured(|config| {
        config.nats.url = Some(url);
        config.nats.user = Some(user);
        config.nats.password = Some("secret".into());
    })
    .await
}

/// A room that says EXPIRED of what is missing, unless it knows better.
async fn create_expiring(client: &Client) {
    let max_age = Some(prost_types::Duration { seconds: 3600, nanos: 0 });
    let retention = Some(Retention { max_age, ..Retention::default() });
    client.clone().create_room(CreateRoomRequest { retention, ..persisted("lobby") }).await.unwrap();
}

async fn purge(client: &Client) -> Result<PurgeRoomResponse, Status> {
    let request = PurgeRoomRequest { room_id: "lobby".into(), up_to_sequence: None };
    client.clone().purge_room(request).await.map(tonic::Response::into_inner)
}

/// All that a subscription from the beginning gets: the messages, and the gaps with their reasons.
async fn from_the_beginning(client: &Client) -> (Vec<u64>, Vec<(u64, u64, GapReason)>) {
    let start = Some(Start { at: Some(At::AfterSequence(0)) });
    let request = SubscribeRequest { room_id: "lobby".into(), start, ..SubscribeRequest::default() };
    let mut frames = Frames::open(client, request).await.unwrap();
    let messages = sequences(&frames.until_caught_up().await);
    let gaps = frames.gaps.iter().map(|gap| (gap.from_sequence, gap.to_sequence, gap.reason()));
    (messages, gaps.collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_that_stops_half_way_hides_nothing() {
    // Goal: the messages that a purge was to remove are read until they are gone, and called purged once they are. Method: an
    // instance that may not purge; after it failed, both instances read everything, also with an open subscription; the same
    // call by the other instance removes all.
    let (_nats, stopped, whole) = denied("\"$JS.API.STREAM.PURGE.UNIBUS_lobby\"").await;
    let (stopped, whole) = (stopped.client().await, whole.client().await);
    create_expiring(&whole).await;
    publish_n(&whole, "lobby", 8).await;
    assert_status(purge(&stopped).await, Code::DeadlineExceeded, "TIMEOUT");
    for client in [&stopped, &whole] {
        assert_eq!(from_the_beginning(client).await, (Vec::from_iter(1..=8), vec![]));
        assert_eq!(everything(client, "lobby").await.len(), 8);
    }
    assert_eq!(purge(&whole).await.unwrap().purged, 8);
    publish(&whole, "lobby", "9").await.unwrap();
    for client in [&stopped, &whole] {
        assert_eq!(from_the_beginning(client).await, (vec![9], vec![(1, 8, GapReason::Purged)]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_that_is_not_concluded_counts_all_the_same() {
    // Goal: what an announced purge removed is called purged, though whoever made it stopped before it said so; and the same
    // call concludes it. Method: an instance that may not purge announces it, and the messages are purged natively.
    let (nats, stopped, whole) = denied("\"$JS.API.STREAM.PURGE.UNIBUS_lobby\"").await;
    let (stopped, whole) = (stopped.client().await, whole.client().await);
    create_expiring(&whole).await;
    publish_n(&whole, "lobby", 8).await;
    assert_status(purge(&stopped).await, Code::DeadlineExceeded, "TIMEOUT");
    nats.stream("lobby").await.purge().await.unwrap();
    publish(&whole, "lobby", "9").await.unwrap();
    for client in [&stopped, &whole] {
        assert_eq!(from_the_beginning(client).await, (vec![9], vec![(1, 8, GapReason::Purged)]));
    }
    let request = PurgeRoomRequest { room_id: "lobby".into(), up_to_sequence: Some(8) };
    let concluded = stopped.clone().purge_room(request).await.unwrap().into_inner();
    assert_eq!(concluded.purged, 0);
    assert_eq!(from_the_beginning(&whole).await, (vec![9], vec![(1, 8, GapReason::Purged)]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_that_stops_half_way_is_finished_by_the_same_call() {
    // Goal: nothing of a room stays behind that nobody can delete. Method: an instance that may not delete the stream; then
    // the other one, which also creates the room again.
    let (nats, stopped, whole) = denied("\"$JS.API.STREAM.DELETE.UNIBUS_lobby\"").await;
    let (mut stopped, mut whole) = (stopped.client().await, whole.client().await);
    create_room(&whole, "lobby").await;
    publish_n(&whole, "lobby", 3).await;
    let request = DeleteRoomRequest { room_id: "lobby".into() };
    assert_status(stopped.delete_room(request.clone()).await, Code::DeadlineExceeded, "TIMEOUT");
    let get = stopped.get_room(GetRoomRequest { room_id: "lobby".into() }).await;
    assert_status(get, Code::NotFound, "ROOM_NOT_FOUND");
    whole.delete_room(request.clone()).await.unwrap();
    assert!(nats.jetstream().await.get_stream("UNIBUS_lobby").await.is_err(), "the stream is there");
    assert_status(whole.delete_room(request).await, Code::NotFound, "ROOM_NOT_FOUND");
    create_room(&stopped, "lobby").await;
    assert_eq!(publish(&whole, "lobby", "new").await.unwrap().sequence, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_creation_that_stops_half_way_takes_no_room_from_others() {
    // Goal: a room that somebody was told of is there. Method: an instance that may not create the stream registers the room;
    // meanwhile the other one creates the very same, and publishes; then the first one gives up.
    let (_nats, stopped, whole) = denied("\"$JS.API.STREAM.CREATE.UNIBUS_lobby\"").await;
    let (mut stopped, mut whole) = (stopped.client().await, whole.client().await);
    let creating = stopped.create_room(persisted("lobby"));
    let using = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        whole.create_room(persisted("lobby")).await.unwrap();
        publish(&whole, "lobby", "kept").await.unwrap();
    };
    let (created, ()) = tokio::join!(creating, using);
    assert_status(created, Code::DeadlineExceeded, "TIMEOUT");
    assert_eq!(payloads(&everything(&whole, "lobby").await), ["kept"]);
    stopped.create_room(persisted("lobby")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_that_does_not_give_the_name_back_keeps_nobody_from_a_room() {
    // Goal: what is left of a room's names stands in nobody's way. Method: an instance that may not write the names deletes
    // `a-b`; the other one creates `a_b`, which maps to the same name, and `a-b` again.
    let (_nats, stopped, whole) = denied("\"$KV.unibus_names.unibus.room.a_b\"").await;
    let (mut stopped, whole) = (stopped.client().await, whole.client().await);
    create_room(&whole, "a-b").await;
    publish_n(&whole, "a-b", 3).await;
    let request = DeleteRoomRequest { room_id: "a-b".into() };
    assert_status(stopped.delete_room(request.clone()).await, Code::DeadlineExceeded, "TIMEOUT");
    assert_status(stopped.delete_room(request).await, Code::NotFound, "ROOM_NOT_FOUND");
    let streams = [create_room(&whole, "a_b").await.stream, create_room(&whole, "a-b").await.stream];
    assert_ne!(streams[0], streams[1]);
    for id in ["a_b", "a-b"] {
        assert_eq!(publish(&whole, id, "new").await.unwrap().sequence, 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_that_stops_half_way_begins_where_it_asked() {
    // Goal: no subscriber begins elsewhere than it asked for. Method: an instance that makes the consumer, and may neither
    // move nor delete it; then the other one subscribes by the same name. It has its position for good: a seek to the
    // beginning stays one.
    let denials = "\"$JS.API.CONSUMER.RESET.UNIBUS_lobby.*\", \"$JS.API.CONSUMER.DELETE.UNIBUS_lobby.*\"";
    let (nats, stopped, whole) = denied(denials).await;
    let (stopped, whole) = (stopped.client().await, whole.client().await);
    create_room(&whole, "lobby").await;
    publish_n(&whole, "lobby", 8).await;
    let start = Some(Start { at: Some(At::AfterSequence(6)) });
    let request = SubscribeRequest { start, ..explicit("lobby", "ann") };
    assert_status(Frames::open(&stopped, request.clone()).await.map(drop), Code::DeadlineExceeded, "TIMEOUT");
    assert_eq!(floor(&nats, "lobby", "ann").await, 0);
    let mut frames = Frames::open(&whole, request.clone()).await.unwrap();
    assert_eq!(frames.opened().position, 6);
    assert_eq!(sequences(&frames.until_caught_up().await), [7, 8]);
    drop(frames);
    let position = Some(Start { at: Some(At::AfterSequence(0)) });
    let seek = unibus::v1::SeekSubscriberRequest { room_id: "lobby".into(), subscriber: "ann".into(), position };
    whole.clone().seek_subscriber(seek).await.unwrap();
    let frames = Frames::open(&whole, request).await.unwrap();
    assert_eq!(frames.opened().position, 0);
}
