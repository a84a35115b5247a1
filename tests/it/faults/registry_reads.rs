//! What the registry says while a server of the cluster hangs, lags, or has lost its disk.

use std::{collections::HashMap, time::Duration};

use futures_util::{StreamExt, stream};
use prost_types::FieldMask;
use tokio::time::{Instant, timeout};
use tonic::{Code, Status};
use unibus::v1::{CreateRoomRequest, GetRoomRequest, Role, Room, UpdateRoomRequest};

use crate::support::{
    Client, Cluster, Frames, Nats, Unibus, acknowledge, create_room, ephemeral, eventually, explicit,
    membership::{add, remove},
    persisted, publish, publish_n, reason, sequences,
};

/// How long the others may take to elect leaders in the place of a server that hangs: nats-server waits for 4 to 9 seconds.
const ELECTED_WITHIN: Duration = Duration::from_secs(20);
/// How long all calls of a turn may take: while the leaders are elected, some meet a request of 5 s that nobody answers.
const ALL_WITHIN: Duration = Duration::from_secs(30);
/// No call takes longer, whatever hangs.
const CALL_MAX: Duration = Duration::from_secs(12);
const ROOMS: usize = 400;

/// An instance that knows one server of the cluster, so that it stays with it.
async fn instance(nats: &Nats) -> Unibus {
    let url = nats.url();
    Unibus::configured(|config| {
        config.nats.url = Some(url);
        config.registry_replicas = 3;
    })
    .await
}

fn is_passing(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded)
}

/// Calls until it succeeds; every attempt ends in bounded time, and fails only with what invites to try again.
async fn until_done<T>(what: &str, call: impl AsyncFn() -> Result<T, Status>) -> T {
    eventually(ELECTED_WITHIN, async || {
        match timeout(CALL_MAX, call()).await.unwrap_or_else(|_| panic!("{what} takes longer than {CALL_MAX:?}")) {
            Ok(done) => Ok(done),
            Err(status) if is_passing(&status) => Err(format!("{what}: {status}")),
            Err(status) => panic!("{what}: {status:?}"),
        }
    })
    .await
}

async fn set_label(client: &Client, room_id: &str, value: &str) -> Result<Room, Status> {
    let labels = HashMap::from([("note".to_owned(), value.to_owned())]);
    let room = Room { room_id: room_id.to_owned(), labels, ..Room::default() };
    let update_mask = Some(FieldMask { paths: vec!["labels".to_owned()] });
    let response = client.clone().update_room(UpdateRoomRequest { room: Some(room), update_mask }).await?;
    Ok(response.into_inner().room.expect("a room"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_holds_no_call_for_long() {
    // Goal: members can be removed, and readers subscribe and acknowledge, whichever one server hangs with its connections
    // open. Method: the instance is connected to one server; freeze each of the others in turn; every call ends in bounded
    // time, and all succeed once the others have their leaders.
    let cluster = Cluster::start().await;
    let unibus = instance(&cluster.nodes[0]).await;
    let client = unibus.client().await;
    client.clone().create_room(CreateRoomRequest { replicas: 3, ..persisted("lobby") }).await.unwrap();
    publish_n(&client, "lobby", 5).await;
    for place in [1, 2] {
        let (member, known, new) = (format!("member-{place}"), format!("known-{place}"), format!("new-{place}"));
        add(&client, "lobby", &member, Role::Reader).await.unwrap();
        drop(Frames::open(&client, explicit("lobby", &known)).await.unwrap());
        cluster.nodes[place].freeze().await;
        let begun = Instant::now();
        until_done("RemoveMember", async || match remove(&client, "lobby", &member).await {
            // an attempt before may have done it
            Err(status) if reason(&status) == "MEMBER_NOT_FOUND" => Ok(()),
            result => result,
        })
        .await;
        until_done("Acknowledge", async || acknowledge(&client, "lobby", &known, 3).await).await;
        for subscriber in [&known, &new] {
            let mut frames =
                until_done("Subscribe", async || Frames::open(&client, explicit("lobby", subscriber)).await).await;
            let first = if subscriber == &known { 4 } else { 1 };
            assert_eq!(sequences(&frames.messages(6 - first).await), Vec::from_iter(first as u64..=5));
        }
        until_done("UpdateRoom", async || set_label(&client, "lobby", &member).await).await;
        assert!(begun.elapsed() < ALL_WITHIN, "{:?}", begun.elapsed());
        cluster.nodes[place].thaw();
        for stream in ["KV_unibus_rooms", "KV_unibus_members", "KV_unibus_subscribers", "UNIBUS_lobby"] {
            cluster.catches_up(stream).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_lost_its_disk_hides_no_room() {
    // Goal: no room that exists is reported missing, and none ends, while a server gets its copies back. Method: many rooms,
    // a subscription in one; one instance at a server whose store is deleted, another one beside it; from the restart on
    // both are asked for the rooms, in ways that read the bucket itself.
    let mut cluster = Cluster::start().await;
    let (near, far) = (instance(&cluster.nodes[2]).await, instance(&cluster.nodes[0]).await);
    let clients = [near.client().await, far.client().await];
    create_room(&clients[1], "lobby").await;
    let creations = (0..ROOMS).map(|number| {
        let labels = HashMap::from([("note".to_owned(), "x".repeat(4000))]);
        let request = CreateRoomRequest { labels, ..ephemeral(&format!("room-{number}")) };
        let client = clients[1].clone();
        async move { client.clone().create_room(request).await.map(drop) }
    });
    stream::iter(creations).buffer_unordered(16).for_each(async |created| created.unwrap()).await;
    let mut open = Frames::transient(&clients[0], "room-7").await;
    open.until_caught_up().await;

    cluster.nodes[2].wipe();
    cluster.nodes[2].restart().await;
    let end = Instant::now() + Duration::from_secs(8);
    let mut done = 0;
    while Instant::now() < end {
        for (client, number) in clients.iter().zip([done % ROOMS, (done + 7) % ROOMS]) {
            let room_id = format!("room-{number}");
            match set_label(client, &room_id, &done.to_string()).await {
                Ok(_) => {}
                Err(status) if is_passing(&status) || status.code() == Code::Aborted => {}
                Err(status) => panic!("{room_id} after {done} rounds: {status:?}"),
            }
            let found = client.clone().get_room(GetRoomRequest { room_id }).await;
            assert!(found.is_ok(), "{found:?}");
        }
        done += 1;
    }
    publish(&clients[0], "room-7", "still there").await.unwrap();
    assert_eq!(open.messages(1).await[0].payload, "still there");
}
