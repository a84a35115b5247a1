//! Several instances of the service on one NATS are one service.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use async_nats::jetstream::stream::Config;
use futures_util::future::{join, join_all};
use tokio_util::task::AbortOnDropHandle;
use tonic::Code;
use unibus::v1::{CreateRoomRequest, DeleteRoomRequest, GetRoomRequest, Retention, Room, UpdateRoomRequest};

use crate::support::{
    Client, Frames, Nats, Proxy, Unibus, assert_status, create_room, ephemeral, eventually, history, payloads,
    persisted, publish, reason,
};

/// Within this, what one instance did is known to the others.
const KNOWN_WITHIN: Duration = Duration::from_secs(1);

async fn knows(client: &Client, room_id: &str) -> Result<(), String> {
    let request = GetRoomRequest { room_id: room_id.into() };
    let got = client.clone().get_room(request).await;
    got.map(|_| ()).map_err(|status| reason(&status))
}

async fn delete(client: &Client, room_id: &str) {
    let request = DeleteRoomRequest { room_id: room_id.into() };
    client.clone().delete_room(request).await.unwrap();
}

/// Two instances on one NATS.
async fn two(nats: &Nats) -> (Unibus, Unibus) {
    (Unibus::start(nats).await, Unibus::start(nats).await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_know_each_others_rooms_within_a_second() {
    // Goal: it does not matter which instance a client talks to. Method: create on one, find on the other, delete there,
    // miss it on the first; persisted and ephemeral.
    let nats = Nats::start().await;
    let (first, second) = two(&nats).await;
    let (mut first, second) = (first.client().await, second.client().await);

    for request in [persisted("stored"), ephemeral("live")] {
        let id = request.room_id.clone();
        first.create_room(request).await.unwrap();
        eventually(KNOWN_WITHIN, async || knows(&second, &id).await).await;
        delete(&second, &id).await;
        eventually(KNOWN_WITHIN, async || match knows(&first, &id).await {
            Ok(()) => Err(String::from("the room is still known")),
            Err(reason) if reason == "ROOM_NOT_FOUND" => Ok(()),
            Err(other) => panic!("{other}"),
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn creating_a_room_again_on_another_instance_changes_nothing() {
    // Goal: idempotency does not end at the instance. Method: the same and a different creation on the other instance at
    // once, without waiting for it to have heard of the room.
    let nats = Nats::start().await;
    let (first, second) = two(&nats).await;
    let (mut first, mut second) = (first.client().await, second.client().await);

    for number in 0..10 {
        let request = persisted(&format!("room{number}"));
        let created = first.create_room(request.clone()).await.unwrap();
        let different = CreateRoomRequest {
            retention: Some(Retention { max_messages: 7, ..Retention::default() }),
            ..request.clone()
        };
        let refused = second.create_room(different).await;
        assert_status(refused, Code::AlreadyExists, "ROOM_EXISTS");
        let again = second.create_room(request).await.unwrap();
        let created_at = |room: unibus::v1::CreateRoomResponse| room.room.unwrap().created_at;
        assert_eq!(created_at(again.into_inner()), created_at(created.into_inner()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_created_on_two_instances_at_once_is_one_room() {
    // Goal: no race creates two rooms, or fails a creation that could succeed. Method: both instances create the same room
    // at the same time, many times over.
    let nats = Nats::start().await;
    let (first, second) = two(&nats).await;
    let (first, second) = (first.client().await, second.client().await);
    for number in 0..20 {
        let id = format!("room{number}");
        let (one, other) = join(create_room(&first, &id), create_room(&second, &id)).await;
        assert_eq!(one.created_at, other.created_at);
        assert_eq!(publish(&first, &id, "x").await.unwrap().sequence, 1);
        assert_eq!(publish(&second, &id, "x").await.unwrap().sequence, 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rooms_that_collide_and_are_created_at_once_block_each_other_in_nothing_but_a_subject() {
    // Goal: collisions are settled under concurrency and across instances. Method: ids that map to one name, and rooms on
    // one chosen subject, created on both instances together, many times. All of the first exist with names of their own, of
    // which one is the mapped name; of the second one exists.
    let nats = Nats::start().await;
    let (first, second) = two(&nats).await;
    let clients = [first.client().await, second.client().await];

    for number in 0..10 {
        let ids = ["-", "_", ".", "/"].map(|infix| format!("a{infix}{number}"));
        let attempts = ids.iter().zip(clients.iter().cycle());
        let rooms = join_all(attempts.map(async |(id, client)| create_room(client, id).await)).await;
        let names: BTreeSet<_> = rooms.iter().flat_map(|room| [room.stream.clone(), room.subject.clone()]).collect();
        assert_eq!(names.len(), 2 * ids.len(), "{names:?}");
        assert!(names.contains(&format!("UNIBUS_a_{number}")), "{names:?}");
        for (id, client) in ids.iter().zip(clients.iter().rev().cycle()) {
            assert_eq!(publish(client, id, id.clone()).await.unwrap().sequence, 1);
        }

        let attempts = (0..4).zip(clients.iter().cycle());
        let results = join_all(attempts.map(async |(other, client)| {
            let request = CreateRoomRequest {
                subject: format!("shared.{number}"),
                ..ephemeral(&format!("subject{number}x{other}"))
            };
            let created = client.clone().create_room(request).await;
            created.map_err(|status| reason(&status))
        }))
        .await;
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
        for refused in results.into_iter().filter_map(Result::err) {
            assert_eq!(refused, "SUBJECT_TAKEN");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_instance_stores_the_other_delivers() {
    // Goal: messages pass between instances. Method: subscribe on one, publish on both, read history on each.
    let nats = Nats::start().await;
    let (first, second) = two(&nats).await;
    let (first, second) = (first.client().await, second.client().await);
    create_room(&first, "lobby").await;
    eventually(KNOWN_WITHIN, async || knows(&second, "lobby").await).await;

    let mut subscription = Frames::transient(&second, "lobby").await;
    publish(&first, "lobby", "1").await.unwrap();
    publish(&second, "lobby", "2").await.unwrap();
    assert_eq!(payloads(&subscription.messages(2).await), ["1", "2"]);
    for client in [&first, &second] {
        let page = history(client, "lobby", 0).await;
        assert_eq!(payloads(&page.messages), ["1", "2"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_follows_a_room_into_its_next_life() {
    // Goal: nothing that an instance remembers of a room outlives the room. Method: use a room on both, delete and
    // re-create it on one as another kind of room, use it on the other.
    let nats = Nats::start().await;
    let (first, second) = two(&nats).await;
    let (first, mut second) = (first.client().await, second.client().await);
    create_room(&first, "lobby").await;
    eventually(KNOWN_WITHIN, async || knows(&second, "lobby").await).await;
    for _ in 0..3 {
        publish(&first, "lobby", "old").await.unwrap();
        publish(&second, "lobby", "old").await.unwrap();
    }

    delete(&second, "lobby").await;
    let request = CreateRoomRequest { subject: "other.subject".into(), ..persisted("lobby") };
    let created = second.create_room(request).await.unwrap();
    let created = created.into_inner().room.expect("a room");

    eventually(KNOWN_WITHIN, async || {
        let request = GetRoomRequest { room_id: "lobby".into() };
        let room = first.clone().get_room(request).await;
        let room = room.map_err(|status| reason(&status))?.into_inner().room;
        let subject = room.expect("a room").subject;
        (subject == created.subject).then_some(()).ok_or(subject)
    })
    .await;
    assert_eq!(publish(&first, "lobby", "new").await.unwrap().sequence, 1);
    assert_eq!(payloads(&history(&first, "lobby", 0).await.messages), ["new"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rooms_outlive_the_instances() {
    // Goal: the service keeps nothing to itself. Method: rooms with messages, the only instance stopped, a new one started
    // with an empty data directory.
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let mut client = unibus.client().await;
    let created = create_room(&client, "a-b").await;
    client.create_room(ephemeral("live")).await.unwrap();
    publish(&client, "a-b", "kept").await.unwrap();
    drop(client);
    unibus.shutdown().await.unwrap();

    let unibus = Unibus::start(&nats).await;
    let client = unibus.client().await;
    assert_eq!(payloads(&history(&client, "a-b", 0).await.messages), ["kept"]);
    assert_eq!(create_room(&client, "a-b").await.created_at, created.created_at);
    assert_ne!(create_room(&client, "a_b").await.stream, created.stream);
    knows(&client, "live").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subject_is_given_back_by_one_instance_alone() {
    // Goal: instances that repair a stream at the same time do not make NATS store each message more than once, as updates
    // at the same time do. Method: another program takes the subject away, again and again, and each time a message is
    // published through each of four instances at once; each is stored once.
    const ROUNDS: usize = 60;
    const INSTANCES: usize = 4;
    let nats = Nats::start().await;
    let instances = join_all((0..INSTANCES).map(|_| Unibus::start(&nats))).await;
    let clients = join_all(instances.iter().map(Unibus::client)).await;
    create_room(&clients[0], "lobby").await;
    for client in &clients {
        eventually(KNOWN_WITHIN, async || knows(client, "lobby").await).await;
    }
    let jetstream = nats.jetstream().await;
    let config = nats.stream("lobby").await.cached_info().config.clone();
    let away = Config { subjects: vec!["elsewhere".into()], ..config };
    for round in 1..=ROUNDS {
        jetstream.update_stream(&away).await.unwrap();
        for stored in join_all(clients.iter().map(|client| publish(client, "lobby", "once"))).await {
            stored.unwrap();
        }
        let kept = nats.stream("lobby").await.cached_info().state.messages;
        assert_eq!(kept, (round * INSTANCES) as u64, "after {round} rounds");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_begins_again_while_rooms_change_forgets_none() {
    // Goal: a room that changes while an instance reads the registry anew is not taken for deleted. Method: one instance changes
    // the labels of three rooms without a pause; the other one's links to NATS are cut again and again; its subscriptions stay.
    let nats = Nats::start().await;
    let proxy = Proxy::start(nats.address()).await;
    let url = proxy.nats_url();
    let cut = Unibus::configured(|config| config.nats.url = Some(url)).await;
    let other = Unibus::start(&nats).await;
    let (reader, writer) = (cut.client().await, other.client().await);
    let rooms = ["one", "three", "two"];
    let mut open = Vec::new();
    for room in rooms {
        create_room(&writer, room).await;
        eventually(KNOWN_WITHIN, async || knows(&reader, room).await).await;
        open.push(Frames::transient(&reader, room).await);
    }
    let changing = AbortOnDropHandle::new(tokio::spawn(async move {
        for number in 0_u64.. {
            let room_id = rooms[usize::try_from(number % 3).unwrap()];
            let labels = HashMap::from([("number".to_owned(), number.to_string())]);
            let room = Some(Room { room_id: room_id.into(), labels, ..Room::default() });
            let update_mask = Some(prost_types::FieldMask { paths: vec!["labels".into()] });
            writer.clone().update_room(UpdateRoomRequest { room, update_mask }).await.unwrap();
        }
    }));
    for _ in 0..40 {
        proxy.cut();
        tokio::time::sleep(Duration::from_millis(150)).await;
        for room in rooms {
            eventually(Duration::from_secs(5), async || match knows(&reader, room).await {
                Err(reason) if reason == "ROOM_NOT_FOUND" => panic!("{room} is taken for deleted"),
                known => known,
            })
            .await;
        }
    }
    drop(changing);
    let publisher = other.client().await;
    for (room, frames) in rooms.iter().zip(&mut open) {
        publish(&publisher, room, "last").await.unwrap();
        assert_eq!(payloads(&frames.messages(1).await), ["last"], "{room}");
    }
}
