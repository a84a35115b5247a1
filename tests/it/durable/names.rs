//! Durable subscribers whose ids map to one name in NATS: each is one of its own, and its endpoint's alone.

use std::{collections::BTreeSet, time::Duration};

use async_nats::jetstream::consumer::{AckPolicy, pull};
use futures_util::future::join_all;
use tokio::time::sleep;
use tonic::Code;
use unibus::v1::{
    DeleteSubscriberRequest, ListSubscribersRequest, Role, SeekSubscriberRequest, Start, Subscriber, start::At,
};

use crate::support::{
    Client, Frames, Issuer, Mode, Nats, Proxy, Unibus, acknowledge, assert_status, create_room, explicit, floor,
    membership::add, publish, publish_n, sequences,
};

async fn listed(client: &Client) -> Vec<Subscriber> {
    let request = ListSubscribersRequest { room_id: "lobby".into(), ..ListSubscribersRequest::default() };
    client.clone().list_subscribers(request).await.unwrap().into_inner().subscribers
}

/// The consumers of the subscribers of this name, by ascending name.
async fn consumers(client: &Client, subscriber: &str) -> Vec<String> {
    listed(client)
        .await
        .into_iter()
        .filter(|found| found.subscriber == subscriber)
        .map(|found| found.consumer)
        .collect()
}

async fn delete(client: &Client, subscriber: &str) {
    let request = DeleteSubscriberRequest { room_id: "lobby".into(), subscriber: subscriber.into() };
    client.clone().delete_subscriber(request).await.unwrap();
}

/// What the subscriber gets until it has caught up.
async fn backlog(client: &Client, subscriber: &str) -> Vec<u64> {
    let mut frames = Frames::open(client, explicit("lobby", subscriber)).await.unwrap();
    sequences(&frames.until_caught_up().await)
}

/// What the native bus sends with every subscription.
fn bare_durable(name: &str) -> pull::Config {
    pull::Config { durable_name: Some(name.to_owned()), ack_policy: AckPolicy::Explicit, ..pull::Config::default() }
}

/// Two readers of ann's room whose ids map to one name in NATS.
struct Neighbours {
    nats: Nats,
    unibus: Unibus,
    ann: Client,
    eve: Client,
    other: Client,
}

impl Neighbours {
    /// The readers `eve` and `eve-x` of a room with this many messages.
    async fn reading(messages: usize) -> Self {
        let nats = Nats::start().await;
        let issuer = Issuer::new();
        let unibus = issuer.guard(&nats, |_| {}).await;
        let ann = issuer.client(&unibus, "ann").await;
        create_room(&ann, "lobby").await;
        publish_n(&ann, "lobby", messages).await;
        for id in ["eve", "eve-x"] {
            add(&ann, "lobby", id, Role::Reader).await.unwrap();
        }
        let (eve, other) = (issuer.client(&unibus, "eve").await, issuer.client(&unibus, "eve-x").await);
        Self { nats, unibus, ann, eve, other }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_and_another_member_never_block_each_other() {
    // Goal: ids that map to one name have positions of their own. Method: `eve/x` and `eve-x` subscribe, acknowledge different
    // positions, and come back; one is deleted and the other stays, also under the name that it has.
    let Neighbours { nats, unibus, ann, eve, other } = Neighbours::reading(5).await;
    assert_eq!(backlog(&eve, "eve/x").await, [1, 2, 3, 4, 5]);
    assert_eq!(backlog(&other, "eve-x").await, [1, 2, 3, 4, 5]);
    assert_eq!(acknowledge(&eve, "lobby", "eve/x", 2).await.unwrap(), 2);
    assert_eq!(acknowledge(&other, "lobby", "eve-x", 4).await.unwrap(), 4);
    assert_eq!(floor(&nats, "lobby", "eve_x").await, 2);
    assert_eq!(consumers(&ann, "eve/x").await, ["lobby_eve_x"]);
    let hashed = consumers(&ann, "eve-x").await;
    assert!(hashed.len() == 1 && hashed[0].len() == "lobby_eve_x_0123456789".len(), "{hashed:?}");
    assert_eq!((backlog(&eve, "eve/x").await, backlog(&other, "eve-x").await), (vec![3, 4, 5], vec![5]));
    let own: Vec<_> = listed(&other).await.into_iter().map(|found| found.subscriber).collect();
    assert_eq!(own, ["eve-x"]);

    delete(&eve, "eve/x").await;
    assert_eq!(backlog(&other, "eve-x").await, [5]);
    assert_eq!(consumers(&ann, "eve-x").await, hashed);
    assert_eq!(backlog(&eve, "eve/x").await, [1, 2, 3, 4, 5]);
    assert_eq!(consumers(&ann, "eve/x").await, ["lobby_eve_x"]);
    unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_keeps_a_subscriber_from_its_names() {
    // Goal: nobody squats on another's durable. Method: `eve` binds devices that are called like all the names that `eve-x`
    // would get; `eve-x` has its backlog all the same.
    let Neighbours { nats: _nats, unibus, ann, eve, other } = Neighbours::reading(3).await;
    assert_eq!(backlog(&eve, "eve/x").await.len(), 3);
    assert_eq!(backlog(&other, "eve-x").await.len(), 3);
    let hashed = consumers(&ann, "eve-x").await.remove(0);
    delete(&other, "eve-x").await;
    let device = hashed.strip_prefix("lobby_eve_").unwrap();
    assert_eq!(backlog(&eve, &format!("eve/{device}")).await.len(), 3);
    acknowledge(&eve, "lobby", &format!("eve/{device}"), 3).await.unwrap();
    assert_eq!(consumers(&ann, &format!("eve/{device}")).await, std::slice::from_ref(&hashed));
    assert_eq!(backlog(&other, "eve-x").await.len(), 3);
    let reserved = consumers(&ann, "eve-x").await.remove(0);
    assert!(reserved.starts_with("lobby_eve_x-"), "{reserved}");
    unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_is_free_when_its_subscriber_was_deleted_at_the_end_of_its_subscription() {
    // Goal: a deletion leaves nothing of a subscriber, whatever else happens to it at that time. Method: a slow NATS; the
    // subscription of `a-x` ends, and sooner or later in its end the subscriber is deleted; `a_x` then has the name that `a-x` had.
    let nats = Nats::start().await;
    let proxy = Proxy::start(nats.address()).await;
    let url = proxy.nats_url();
    let unibus = Unibus::configured(|config| config.nats.url = Some(url)).await;
    let client = unibus.client().await;
    create_room(&client, "lobby").await;
    publish_n(&client, "lobby", 2).await;
    proxy.set(Mode::Delay(Duration::from_millis(20)));
    for number in 0..5 {
        let (first, second) = (format!("a-{number}"), format!("a_{number}"));
        let frames = Frames::open(&client, explicit("lobby", &first)).await.unwrap();
        drop(frames);
        sleep(Duration::from_millis(20 * number)).await;
        delete(&client, &first).await;
        assert_eq!(backlog(&client, &second).await, [1, 2]);
        assert_eq!(consumers(&client, &second).await, [format!("lobby_a_{number}")], "{number}");
    }
    unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_belongs_to_the_endpoint_that_bound_it() {
    // Goal: a parent cannot take a later member's backlog. Method: `team` binds `team/eve` and acknowledges everything; a native
    // client strips what the durable says of its owner; then `team/eve` becomes a member, and gets the whole backlog. The
    // owner of the room sees both. `team/eve` as an owner deletes its own first, another owner the one that was bound first.
    let nats = Nats::start().await;
    let issuer = Issuer::new();
    let unibus = issuer.guard(&nats, |_| {}).await;
    let ann = issuer.client(&unibus, "ann").await;
    create_room(&ann, "lobby").await;
    publish_n(&ann, "lobby", 3).await;
    add(&ann, "lobby", "team", Role::Reader).await.unwrap();
    let (team, eve) = (issuer.client(&unibus, "team").await, issuer.client(&unibus, "team/eve").await);
    assert_eq!(backlog(&team, "team/eve").await, [1, 2, 3]);
    acknowledge(&team, "lobby", "team/eve", 3).await.unwrap();
    let stream = nats.stream("lobby").await;
    stream.create_consumer(bare_durable("lobby_team_eve")).await.unwrap();
    assert!(!stream.consumer_info("lobby_team_eve").await.unwrap().config.metadata.contains_key("unibus.endpoint"));

    add(&ann, "lobby", "team/eve", Role::Reader).await.unwrap();
    assert_status(acknowledge(&eve, "lobby", "team/eve", 3).await, Code::NotFound, "SUBSCRIBER_NOT_FOUND");
    assert_eq!(backlog(&eve, "team/eve").await, [1, 2, 3]);
    assert_eq!(acknowledge(&eve, "lobby", "team/eve", 1).await.unwrap(), 1);
    publish(&ann, "lobby", "4").await.unwrap();
    assert_eq!(backlog(&eve, "team/eve").await, [2, 3, 4]);
    let (first, second) = (floor(&nats, "lobby", "team_eve").await, listed(&eve).await.remove(0));
    assert_eq!((first, second.position, second.subscriber.as_str()), (3, 1, "team/eve"));
    assert!(second.consumer.starts_with("lobby_team_eve_"), "{}", second.consumer);
    let info = stream.consumer_info(&second.consumer).await.unwrap();
    assert_eq!(info.config.metadata.get("unibus.endpoint").map(String::as_str), Some("team/eve"));
    assert_eq!(consumers(&ann, "team/eve").await.len(), 2);
    add(&ann, "lobby", "team/eve", Role::Owner).await.unwrap();
    delete(&eve, "team/eve").await;
    assert_eq!(consumers(&ann, "team/eve").await, ["lobby_team_eve"]);
    assert_eq!(backlog(&eve, "team/eve").await, [1, 2, 3, 4]);
    let all = consumers(&ann, "team/eve").await;
    let second: Vec<_> = all.into_iter().filter(|consumer| consumer != "lobby_team_eve").collect();
    assert_eq!(second.len(), 1);
    for left in [second, Vec::new()] {
        delete(&ann, "team/eve").await;
        assert_eq!(consumers(&ann, "team/eve").await, left);
    }
    unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_native_durable_is_its_endpoints_and_no_parents() {
    // Goal: a durable of the native bus is taken up by the endpoint that has its name, not by another one that calls a device
    // so. Method: a native durable of `team/eve` with a position; `team` subscribes as `team/eve` before that is a member.
    let nats = Nats::start().await;
    let issuer = Issuer::new();
    let unibus = issuer.guard(&nats, |_| {}).await;
    let ann = issuer.client(&unibus, "ann").await;
    create_room(&ann, "lobby").await;
    publish_n(&ann, "lobby", 3).await;
    add(&ann, "lobby", "team", Role::Reader).await.unwrap();
    let stream = nats.stream("lobby").await;
    stream.create_consumer(bare_durable("lobby_team_eve")).await.unwrap();
    let seek = SeekSubscriberRequest {
        room_id: "lobby".into(),
        subscriber: "team/eve".into(),
        position: Some(Start { at: Some(At::AfterSequence(1)) }),
    };
    let team = issuer.client(&unibus, "team").await;
    assert_eq!(backlog(&team, "team/eve").await, [1, 2, 3]);
    assert_eq!(acknowledge(&team, "lobby", "team/eve", 3).await.unwrap(), 3);
    assert_eq!(floor(&nats, "lobby", "team_eve").await, 0);
    delete(&team, "team/eve").await;
    // the owner of the room may move it before anybody has bound it
    assert_eq!(ann.clone().seek_subscriber(seek).await.unwrap().into_inner().position, 1);
    add(&ann, "lobby", "team/eve", Role::Reader).await.unwrap();
    assert_eq!(backlog(&issuer.client(&unibus, "team/eve").await, "team/eve").await, [2, 3]);
    assert_eq!(consumers(&ann, "team/eve").await, ["lobby_team_eve"]);
    unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscribers_that_collide_and_are_bound_at_once_have_names_of_their_own() {
    // Goal: names are settled under concurrency and across instances. Method: ids that map to one name, each bound through two
    // instances at the same moment, many times; each id is one durable with the whole backlog.
    let nats = Nats::start().await;
    let (first, second) = (Unibus::start(&nats).await, Unibus::start(&nats).await);
    let clients = [first.client().await, second.client().await];
    create_room(&clients[0], "lobby").await;
    publish_n(&clients[0], "lobby", 2).await;
    for number in 0..8 {
        let ids = ["-", "_", ".", "/"].map(|infix| format!("a{infix}{number}"));
        let attempts = ids.iter().flat_map(|id| clients.iter().map(move |client| (id, client)));
        let opened =
            join_all(attempts.map(async |(id, client)| Frames::open(client, explicit("lobby", id)).await)).await;
        for frames in opened {
            frames.unwrap();
        }
        let mut names = BTreeSet::new();
        for id in &ids {
            let found = consumers(&clients[0], id).await;
            assert_eq!(found.len(), 1, "{id}: {found:?}");
            names.extend(found);
            assert_eq!(backlog(&clients[number % 2], id).await, [1, 2], "{id}");
        }
        assert_eq!(names.len(), ids.len(), "{names:?}");
        assert!(names.contains(&format!("lobby_a_{number}")), "{names:?}");
    }
}
