//! A NATS server whose storage is full: publishers are refused, and whoever makes room, or removes a member, is not.

use std::time::Duration;

use bytes::Bytes;
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use unibus::v1::{DeleteMessageRequest, DeleteRoomRequest, DeleteSubscriberRequest, PurgeRoomRequest, Role};

use crate::support::{
    Client, Frames, Nats, NatsOptions, Unibus, acknowledge, assert_status, create_room, eventually, explicit, history,
    membership::{add, remove, roles},
    persisted, publish, reason, sequences,
};

const SOON: Duration = Duration::from_secs(20);
/// Within this a publish is refused that cannot be stored.
const REFUSED_WITHIN: Duration = Duration::from_secs(1);
/// What the registry keeps for itself, in messages.
const PIECES: u64 = 16;

async fn reserve_is_full(nats: &Nats) {
    eventually(SOON, async || {
        let jetstream = nats.jetstream().await;
        let found = jetstream.get_stream("unibus_reserve").await.map_err(|error| error.to_string())?;
        let pieces = found.cached_info().state.messages;
        (pieces == PIECES).then_some(()).ok_or_else(|| format!("{pieces} pieces"))
    })
    .await;
}

/// Publishes until nothing more is stored.
async fn fill(client: &Client, room_id: &str) -> u64 {
    let mut last = 0;
    for size in [100_000, 100] {
        loop {
            let begun = Instant::now();
            match publish(client, room_id, vec![7; size]).await {
                Ok(stored) => last = stored.sequence,
                Err(status) => {
                    assert_eq!((status.code(), reason(&status)), (Code::ResourceExhausted, "STORAGE_FULL".into()));
                    assert!(begun.elapsed() < REFUSED_WITHIN, "{:?}", begun.elapsed());
                    break;
                }
            }
        }
    }
    last
}

/// Publishers that take what is free at once: of these instances, and a native one.
async fn hammer(nats: &Nats, clients: &[Client], room_id: &'static str, stop: &CancellationToken) -> JoinSet<()> {
    let mut publishers = JoinSet::new();
    for client in clients {
        let (client, stop) = (client.clone(), stop.clone());
        publishers.spawn(async move {
            while !stop.is_cancelled() {
                if let Err(status) = publish(&client, room_id, vec![8; 10_000]).await {
                    assert_eq!(reason(&status), "STORAGE_FULL", "{status:?}");
                }
            }
        });
    }
    let (native, stop) = (nats.client().await, stop.clone());
    publishers.spawn(async move {
        while !stop.is_cancelled() {
            // stored or refused: either is an answer
            let subject = format!("unibus.room.{room_id}");
            native.request(subject, Bytes::from(vec![9; 1000])).await.unwrap();
        }
    });
    publishers
}

async fn delete_subscriber(client: &Client, subscriber: &str) -> Result<(), Status> {
    let request = DeleteSubscriberRequest { room_id: "lobby".into(), subscriber: subscriber.into() };
    client.clone().delete_subscriber(request).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_removes_needs_no_storage() {
    // Goal: in a full store members and subscribers are removed, readers go on, and rooms are emptied and deleted, while
    // publishers are refused at once. Method: fill the server through the service; with publishers of two instances and a
    // native one that take whatever is freed, every such call succeeds at its first try. Then there is room again.
    let nats = NatsOptions::new().max_file("20MB").start().await;
    let (unibus, other) = (Unibus::start(&nats).await, Unibus::start(&nats).await);
    let (client, second) = (unibus.client().await, other.client().await);
    for room_id in ["lobby", "hall", "attic"] {
        create_room(&client, room_id).await;
    }
    for (member, role) in [("ann", Role::Writer), ("bob", Role::Owner), ("eve", Role::Owner)] {
        add(&client, "lobby", member, role).await.unwrap();
    }
    publish(&client, "attic", "x").await.unwrap();
    for subscriber in ["old", "gone"] {
        drop(Frames::open(&client, explicit("lobby", subscriber)).await.unwrap());
    }
    reserve_is_full(&nats).await;
    let last = fill(&client, "lobby").await;
    assert!(last > 100, "{last}");
    assert_status(client.clone().create_room(persisted("new")).await, Code::ResourceExhausted, "STORAGE_FULL");
    let stop = CancellationToken::new();
    let publishers = hammer(&nats, &[client.clone(), second.clone()], "hall", &stop).await;

    for round in 0..3 {
        assert_eq!(history(&client, "lobby", 10).await.messages.len(), 10);
        if round == 0 {
            remove(&client, "lobby", "ann").await.unwrap();
            remove(&client, "lobby", "bob").await.unwrap();
            assert_eq!(roles(&client, "lobby").await, [("eve".to_owned(), Role::Owner)]);
            delete_subscriber(&client, "gone").await.unwrap();
        }
        for (client, subscriber) in [(&client, "old"), (&second, "old"), (&client, &*format!("new-{round}"))] {
            let mut frames = Frames::open(client, explicit("lobby", subscriber)).await.unwrap();
            let first = sequences(&frames.messages(1).await)[0];
            assert_eq!(acknowledge(client, "lobby", subscriber, first).await.unwrap(), first);
        }
        let request = DeleteMessageRequest { room_id: "lobby".into(), sequence: last - round };
        client.clone().delete_message(request).await.unwrap();
    }
    client.clone().delete_room(DeleteRoomRequest { room_id: "attic".into() }).await.unwrap();
    let request = PurgeRoomRequest { room_id: "lobby".into(), up_to_sequence: Some(10) };
    assert!(client.clone().purge_room(request).await.unwrap().into_inner().purged > 0);
    stop.cancel();
    publishers.join_all().await;

    let request = PurgeRoomRequest { room_id: "lobby".into(), up_to_sequence: None };
    client.clone().purge_room(request).await.unwrap();
    for client in [&client, &second] {
        eventually(SOON, async || {
            publish(client, "lobby", "again").await.map(drop).map_err(|status| status.to_string())
        })
        .await;
    }
    reserve_is_full(&nats).await;
    create_room(&client, "new").await;
}
