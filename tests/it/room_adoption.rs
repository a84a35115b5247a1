//! Streams that were there before the room, and native clients that set them up again.

use std::time::Duration;

use async_nats::jetstream::stream::{self, RetentionPolicy};
use tonic::Code;
use unibus::v1::{CreateRoomRequest, GetRoomRequest, Retention};

use crate::support::{
    Frames, Nats, Unibus, assert_status, bare_stream, create_room, eventually, history, payloads, persisted, publish,
    settled,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_existing_stream_is_adopted_with_its_messages() {
    // Goal: rooms of the former bus live on. Method: a native stream with messages under the room's names; create the
    // room; history, a new durable and the next sequence go on from there.
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let client = unibus.client().await;
    nats.jetstream().await.create_stream(bare_stream("legacy")).await.unwrap();
    nats.publish_n("unibus.room.legacy", 3).await;

    let room = create_room(&client, "legacy").await;
    let state = room.state.expect("a state");
    assert_eq!((state.first_sequence, state.last_sequence), (1, 3));
    assert_eq!(publish(&client, "legacy", "4").await.unwrap().sequence, 4);
    let expected = ["1", "2", "3", "4"];
    assert_eq!(payloads(&history(&client, "legacy", 0).await.messages), expected);
    let mut ann = Frames::durable(&client, "legacy", "ann").await;
    assert_eq!(payloads(&ann.until_caught_up().await), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_cannot_be_the_rooms_is_left_alone() {
    // Goal: adoption never changes what a stream is for. Method: streams of the room's name with another subject, one
    // more subject, or another retention policy; each is refused, untouched, and no room is left.
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let mut client = unibus.client().await;
    let jetstream = nats.jetstream().await;
    let incompatible = [
        stream::Config { subjects: vec!["elsewhere".into()], ..bare_stream("legacy") },
        stream::Config { subjects: vec!["unibus.room.legacy".into(), "more".into()], ..bare_stream("legacy") },
        stream::Config { retention: RetentionPolicy::WorkQueue, ..bare_stream("legacy") },
    ];
    for config in incompatible {
        let before = jetstream.create_stream(config).await.unwrap();
        let before = before.cached_info().config.clone();

        let refused = client.create_room(persisted("legacy")).await;
        assert_status(refused, Code::AlreadyExists, "STREAM_INCOMPATIBLE");

        let after = jetstream.get_stream("UNIBUS_legacy").await.unwrap();
        let after = &after.cached_info().config;
        assert_eq!(after.subjects, before.subjects);
        assert_eq!(after.retention, before.retention);
        let request = GetRoomRequest { room_id: "legacy".into() };
        let missing = client.get_room(request).await;
        assert_status(missing, Code::NotFound, "ROOM_NOT_FOUND");
        jetstream.delete_stream("UNIBUS_legacy").await.unwrap();
    }
    create_room(&client, "legacy").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_native_client_may_set_up_the_stream_again_and_it_is_repaired() {
    // Goal: the create-or-update that native clients send on every call works, and what it strips comes back. Method: a
    // room with retention; the bare configuration from outside; the room's use brings the retention back.
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let mut client = unibus.client().await;
    let request = CreateRoomRequest {
        retention: Some(Retention { max_messages: 3, ..Retention::default() }),
        ..persisted("legacy")
    };
    client.create_room(request).await.unwrap();
    publish(&client, "legacy", "1").await.unwrap();

    let jetstream = nats.jetstream().await;
    let stripped = jetstream.create_or_update_stream(bare_stream("legacy")).await.unwrap();
    assert!(stripped.config.max_messages <= 0, "the test strips nothing");

    eventually(Duration::from_secs(10), async || {
        let stored = publish(&client, "legacy", "more").await;
        stored.map_err(|status| status.to_string())?;
        let kept = nats.stream("legacy").await.cached_info().config.max_messages;
        (kept == 3).then_some(()).ok_or(format!("max_messages is {kept}"))
    })
    .await;
    let stored = publish(&client, "legacy", "last").await.unwrap();
    let page = history(&client, "legacy", 0).await;
    assert_eq!(page.messages.len(), 3);
    assert_eq!(page.last_sequence, stored.sequence);
    assert_eq!(page.first_sequence, stored.sequence - 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn capture_begins_with_the_room() {
    // Goal: who publishes natively is captured from the room's creation on, before anybody used the service's publish.
    // Method: create the room, publish with core NATS only, read.
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let client = unibus.client().await;
    let room = create_room(&client, "lobby").await;

    let native = nats.client().await;
    for payload in ["1", "2", "3"] {
        let subject = room.subject.clone();
        native.publish(subject, payload.into()).await.unwrap();
    }
    settled(&native).await;

    let messages = eventually(Duration::from_secs(5), async || {
        let page = history(&client, "lobby", 0).await;
        let count = page.messages.len();
        (count == 3).then_some(page.messages).ok_or(format!("{count} messages"))
    })
    .await;
    assert_eq!(payloads(&messages), ["1", "2", "3"]);
    assert!(messages.iter().all(|message| message.sender.is_empty()));
}
