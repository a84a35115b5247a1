//! Where a new durable subscriber begins.

use async_nats::jetstream::consumer::pull;
use unibus::v1::{PurgeRoomRequest, Start, SubscribeRequest, start::At};

use crate::support::{Client, Frames, Nats, Unibus, acknowledge, create_room, explicit, publish_n, sequences};

/// A room whose first five of twelve messages were removed.
async fn purged(client: &Client) {
    create_room(client, "lobby").await;
    publish_n(client, "lobby", 12).await;
    let request = PurgeRoomRequest { room_id: "lobby".into(), up_to_sequence: Some(5) };
    client.clone().purge_room(request).await.unwrap();
}

fn from(subscriber: &str, at: At) -> SubscribeRequest {
    SubscribeRequest { start: Some(Start { at: Some(at) }), ..explicit("lobby", subscriber) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_subscriber_begins_at_its_start_also_where_messages_were_removed() {
    // Goal: `start` counts for every new subscriber, and `resumed` says that it is new. Method: a room without its first messages;
    // a subscriber for each start; then the same again after an acknowledgement, where `start` is ignored.
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let client = unibus.client().await;
    purged(&client).await;
    for (name, at, position) in [
        ("all", At::All(()), 5),
        ("new", At::New(()), 12),
        ("after", At::AfterSequence(8), 8),
        ("last", At::Last(2), 10),
        ("before", At::AfterSequence(2), 2),
    ] {
        let mut frames = Frames::open(&client, from(name, at.clone())).await.unwrap();
        let opened = (frames.opened().position, frames.opened().resumed);
        assert_eq!(opened, (position, false), "{name}");
        let messages = sequences(&frames.until_caught_up().await);
        assert_eq!(messages, (position.max(5) + 1..=12).collect::<Vec<_>>(), "{name}");
        drop(frames);
        acknowledge(&client, "lobby", name, 12).await.unwrap();
        let again = Frames::open(&client, from(name, at)).await.unwrap();
        assert_eq!((again.opened().position, again.opened().resumed), (12, true), "{name}");
    }
    unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_whose_messages_were_removed_resumes() {
    // Goal: a subscriber of before is never taken for a new one. Method: it subscribes, its next messages are removed, and it
    // subscribes again with another start, also through a consumer that a native program made.
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let client = unibus.client().await;
    create_room(&client, "lobby").await;
    publish_n(&client, "lobby", 12).await;
    drop(Frames::open(&client, from("ann", At::AfterSequence(2))).await.unwrap());
    let native = pull::Config { durable_name: Some("lobby_bob".into()), ..pull::Config::default() };
    nats.stream("lobby").await.create_consumer(native).await.unwrap();
    let request = PurgeRoomRequest { room_id: "lobby".into(), up_to_sequence: Some(5) };
    client.clone().purge_room(request).await.unwrap();
    for name in ["ann", "bob"] {
        let mut frames = Frames::open(&client, from(name, At::New(()))).await.unwrap();
        assert!(frames.opened().resumed, "{name}");
        assert_eq!(sequences(&frames.messages(7).await), (6..=12).collect::<Vec<_>>(), "{name}");
    }
    unibus.shutdown().await.unwrap();
}
