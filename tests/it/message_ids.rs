//! For how long a message id is known.

use unibus::v1::{DeleteMessageRequest, PublishRequest, PurgeRoomRequest};

use crate::support::{Client, Nats, NatsOptions, Unibus, create_room, eventually, publishing::named};

/// Publishes a message with its id; whether it was known.
async fn is_known(client: &Client, room_id: &str, id: &str) -> bool {
    let stored = eventually(std::time::Duration::from_secs(20), async || {
        client.clone().publish(named(room_id, id)).await.map_err(|status| status.to_string())
    });
    stored.await.into_inner().duplicate
}

/// Rooms with messages of which some were erased, purged, or have expired.
async fn prepared(nats: &Nats, client: &mut Client) {
    for room_id in ["lobby", "purged", "short"] {
        let request = unibus::v1::CreateRoomRequest {
            allow_message_ttl: room_id == "short",
            ..crate::support::persisted(room_id)
        };
        client.create_room(request).await.unwrap();
        let ids = if room_id == "short" { vec![] } else { vec!["first", "second", "third"] };
        for id in ids {
            client.publish(named(room_id, id)).await.unwrap();
        }
    }
    let erased = DeleteMessageRequest { room_id: "lobby".into(), sequence: 2 };
    client.delete_message(erased).await.unwrap();
    client.purge_room(PurgeRoomRequest { room_id: "purged".into(), ..PurgeRoomRequest::default() }).await.unwrap();
    let ttl = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    client.publish(PublishRequest { ttl, ..named("short", "first") }).await.unwrap();
    eventually(std::time::Duration::from_secs(10), async || {
        let messages = nats.stream("short").await.cached_info().state.messages;
        (messages == 0).then_some(()).ok_or_else(|| format!("{messages} messages"))
    })
    .await;
}

/// The ids of messages that are gone, with their rooms.
const GONE: [(&str, &str); 5] =
    [("lobby", "second"), ("purged", "first"), ("purged", "second"), ("purged", "third"), ("short", "first")];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_outlives_its_message_while_nats_runs() {
    // Goal: within the window a retry is no new message, also when the message is gone. Method: erase, purge, let expire; then
    // publish again with each id.
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let mut client = unibus.client().await;
    prepared(&nats, &mut client).await;
    for (room_id, id) in GONE {
        assert!(is_known(&client, room_id, id).await, "{id} in {room_id}");
    }
    for id in ["first", "third"] {
        assert!(is_known(&client, "lobby", id).await, "{id}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_of_nats_the_ids_of_stored_messages_are_known() {
    // Goal: the exact promise: a restarted server knows the ids of the messages that it still stores, and no others. Method: the
    // same after a clean stop and after SIGKILL, with and without synced writes.
    for (clean, synced) in [(true, false), (false, false), (false, true)] {
        let options = if synced { NatsOptions::new().sync_always() } else { NatsOptions::new() };
        let mut nats = options.start().await;
        let unibus = Unibus::start(&nats).await;
        let mut client = unibus.client().await;
        prepared(&nats, &mut client).await;
        create_room(&client, "late").await;
        if clean {
            nats.stop().await;
        }
        nats.restart().await;
        for id in ["first", "third"] {
            assert!(is_known(&client, "lobby", id).await, "{id}, {clean}");
        }
        for (room_id, id) in GONE {
            assert!(!is_known(&client, room_id, id).await, "{id} in {room_id}, {clean}");
            assert!(is_known(&client, room_id, id).await, "{id} in {room_id}, {clean}");
        }
    }
}
