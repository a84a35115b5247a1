//! Listing durable subscribers: who they are, where they stand, what they lag, whether one listens.

use std::time::{Duration, SystemTime};

use async_nats::jetstream::consumer::{AckPolicy, pull};
use futures_util::{StreamExt, stream};
use tonic::{Code, Status};
use unibus::v1::{ListSubscribersRequest, ListSubscribersResponse, Subscriber};

use crate::support::{
    Client, Frames, Lobby, Nats, Process, Unibus, acknowledge, assert_field, assert_status, create_ephemeral,
    create_room, eventually, explicit, fields, floor_reaches, listed, publish_n,
};

const SOON: Duration = Duration::from_secs(10);

async fn page(
    client: &Client,
    room_id: &str,
    page_size: i32,
    page_token: &str,
) -> Result<ListSubscribersResponse, Status> {
    let request = ListSubscribersRequest { room_id: room_id.into(), page_size, page_token: page_token.into() };
    Ok(client.clone().list_subscribers(request).await?.into_inner())
}

async fn all(client: &Client) -> Vec<Subscriber> {
    let page = page(client, "lobby", 0, "").await.unwrap();
    assert_eq!(page.next_page_token, "");
    page.subscribers
}

/// Name, position, lag, open.
fn seen(subscribers: &[Subscriber]) -> Vec<(&str, u64, u64, bool)> {
    let seen = |found: &Subscriber| (found.position, found.lag, found.open);
    subscribers
        .iter()
        .map(|found| (found.subscriber.as_str(), seen(found)))
        .map(|(name, (p, l, o))| (name, p, l, o))
        .collect()
}

fn names(subscribers: &[Subscriber]) -> Vec<&str> {
    subscribers.iter().map(|found| found.subscriber.as_str()).collect()
}

/// A durable as a native client makes it.
async fn native(nats: &Nats, name: &str) -> async_nats::jetstream::consumer::PullConsumer {
    let config = pull::Config {
        durable_name: Some(name.to_owned()),
        ack_policy: AckPolicy::Explicit,
        ..pull::Config::default()
    };
    nats.stream("lobby").await.create_consumer(config).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn position_lag_and_openness_are_told_on_every_instance() {
    // Goal: read receipts. Method: subscribers that are open on this and on the other instance, closed, and acknowledged
    // without one; messages deleted before and after their positions; the same list from both instances.
    let nats = Nats::start().await;
    let (first, second) = (Unibus::start(&nats).await, Unibus::start(&nats).await);
    let (client, other) = (first.client().await, second.client().await);
    create_room(&client, "lobby").await;
    assert_eq!(all(&client).await, []);
    publish_n(&client, "lobby", 10).await;
    let before = SystemTime::now();
    let _ann = Frames::open(&client, explicit("lobby", "ann")).await.unwrap();
    let _bob = Frames::open(&other, explicit("lobby", "b-o.b")).await.unwrap();
    acknowledge(&client, "lobby", "b-o.b", 4).await.unwrap();
    let mut cid = Frames::durable(&other, "lobby", "cid").await;
    cid.until_caught_up().await;
    floor_reaches(&nats, "lobby", "cid", 10).await;
    drop(cid);
    nats.delete_messages("lobby", [2, 6, 7]).await;
    let expected = [("ann", 0, 7, true), ("b-o.b", 4, 4, true), ("cid", 10, 0, false)];
    for client in [&client, &other] {
        eventually(SOON, async || {
            let found = all(client).await;
            (seen(&found) == expected).then_some(()).ok_or_else(|| format!("{found:?}"))
        })
        .await;
        for found in all(client).await {
            let at = SystemTime::try_from(found.last_active_at.expect("known")).unwrap();
            assert!(at + Duration::from_millis(1) >= before && at <= SystemTime::now(), "{found:?}");
        }
    }
    publish_n(&client, "lobby", 2).await;
    let found = all(&client).await;
    assert_eq!(seen(&found), [("ann", 0, 9, true), ("b-o.b", 4, 6, true), ("cid", 10, 2, false)]);
    // a purge moves positions that lay before its end
    nats.stream("lobby").await.purge().sequence(12).await.unwrap();
    assert_eq!(seen(&all(&other).await), [("ann", 11, 1, true), ("b-o.b", 11, 1, true), ("cid", 11, 1, false)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_instance_leaves_nothing_open() {
    // Goal: `open` means that somebody listens. Method: a subscription on a process, SIGKILL, the list from another one.
    let nats = Nats::start().await;
    let mut killed = Process::start(&nats).await;
    let left = Unibus::start(&nats).await;
    let (client, other) = (killed.client().await, left.client().await);
    create_room(&client, "lobby").await;
    let _ann = Frames::open(&client, explicit("lobby", "ann")).await.unwrap();
    assert_eq!(seen(&all(&other).await), [("ann", 0, 0, true)]);
    killed.kill9();
    eventually(SOON, async || {
        let found = all(&other).await;
        (seen(&found) == [("ann", 0, 0, false)]).then_some(()).ok_or_else(|| format!("{found:?}"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn native_subscribers_are_listed_and_other_consumers_are_not() {
    // Goal: whoever has a position is there, by the best name that is known. Method: a native durable, which takes messages
    // and acknowledges some; one of the service's that a native client has stripped; consumers of other kinds and names.
    let (lobby, client) = Lobby::open().await;
    publish_n(&client, "lobby", 10).await;
    drop(Frames::open(&client, explicit("lobby", "a-b")).await.unwrap());
    native(&lobby.nats, "lobby_a_b").await;
    let peer = native(&lobby.nats, "lobby_peer").await;
    let mut taken = peer.fetch().max_messages(5).messages().await.unwrap();
    for number in 1..=5 {
        let message = taken.next().await.unwrap().unwrap();
        if number <= 3 {
            message.double_ack().await.unwrap();
        }
    }
    native(&lobby.nats, "elsewhere").await;
    native(&lobby.nats, "lobbyx_y").await;
    let stream = lobby.nats.stream("lobby").await;
    let unlike = pull::Config {
        durable_name: Some("lobby_none".into()),
        ack_policy: AckPolicy::None,
        ..pull::Config::default()
    };
    stream.create_consumer(unlike).await.unwrap();
    stream.create_consumer(pull::Config { name: Some("lobby_short".into()), ..pull::Config::default() }).await.unwrap();
    let _reader = Frames::transient(&client, "lobby").await;

    let found = all(&client).await;
    let expected = |of: &[Subscriber]| seen(of) == [("a-b", 0, 10, false), ("peer", 3, 7, false)];
    assert!(expected(&found), "{found:?}");
    assert!(found[1].last_active_at.is_some(), "{found:?}");
    // ahead of others, in a room with a hole
    lobby.nats.delete_messages("lobby", [9]).await;
    let found = all(&client).await;
    assert_eq!(seen(&found), [("a-b", 0, 9, false), ("peer", 3, 6, false)]);
}

/// Many durables with these numbers.
async fn natives(nats: &Nats, numbers: impl Iterator<Item = usize>) {
    let stream = &nats.stream("lobby").await;
    let creations = numbers.map(async |number| {
        let config = pull::Config {
            durable_name: Some(format!("lobby_s{number:04}")),
            ack_policy: AckPolicy::Explicit,
            ..pull::Config::default()
        };
        stream.create_consumer(config).await.unwrap();
    });
    stream::iter(creations).buffer_unordered(32).collect::<()>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_list_every_subscriber_once_by_ascending_name() {
    // Goal: paging is complete, ordered and stable. Method: 700 subscribers, which NATS tells in three parts; pages of many
    // sizes; then with subscribers deleted and made before, at and after the place between two pages.
    const COUNT: usize = 700;
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let client = unibus.client().await;
    create_room(&client, "lobby").await;
    // even numbers first
    natives(&nats, (0..COUNT).map(|number| 2 * number)).await;
    let name = |number: usize| format!("s{number:04}");
    let expected: Vec<String> = (0..COUNT).map(|number| name(2 * number)).collect();
    for page_size in [1000, 700, 699, 256, 255, 90] {
        let (mut found, mut token) = (Vec::new(), String::new());
        loop {
            let page = page(&client, "lobby", page_size, &token).await.unwrap();
            assert!(page.subscribers.len() <= usize::try_from(page_size).unwrap());
            found.extend(names(&page.subscribers).into_iter().map(String::from));
            token = page.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(found, expected, "pages of {page_size}");
    }
    assert_eq!(page(&client, "lobby", 0, "").await.unwrap().subscribers.len(), 100);

    let first = page(&client, "lobby", 600, "").await.unwrap();
    assert_eq!(names(&first.subscribers).last(), Some(&"s1198"));
    let rest = || listed((600..COUNT).map(|number| name(2 * number)));
    let stream = &nats.stream("lobby").await;
    let gone =
        (0..=599).map(async |number| stream.delete_consumer(&format!("lobby_{}", name(2 * number))).await.unwrap());
    stream::iter(gone).buffer_unordered(32).collect::<Vec<_>>().await;
    let next = page(&client, "lobby", 600, &first.next_page_token).await.unwrap();
    assert_eq!(names(&next.subscribers), rest());
    natives(&nats, (0..COUNT).map(|number| 2 * number + 1).filter(|number| *number < 1199)).await;
    natives(&nats, 2000..2300).await;
    let next = page(&client, "lobby", 100, &first.next_page_token).await.unwrap();
    assert_eq!(names(&next.subscribers), rest());
    let last = page(&client, "lobby", 1000, &next.next_page_token).await.unwrap();
    assert_eq!(names(&last.subscribers), listed((2000..2300).map(name)));
    assert_eq!(last.next_page_token, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_that_makes_no_sense_is_refused() {
    // Goal: bad input is the caller's error, by field. Method: every wrong field alone and at once; no such room; an
    // ephemeral one, which has no durable subscribers; tokens with numbers and names that never were.
    let (_lobby, client) = Lobby::open().await;
    assert_field(page(&client, "lobby", -1, "").await, "page_size", "negative");
    for token in ["*", "not a token", "\u{fc}", "YQ", &"x".repeat(5000)] {
        assert_field(page(&client, "lobby", 0, token).await, "page_token", token);
    }
    let refused = assert_status(page(&client, "a b", -1, "*").await, Code::InvalidArgument, "INVALID_FIELD");
    assert_eq!(fields(&refused), ["room_id", "page_size", "page_token"]);
    assert_status(page(&client, "nowhere", 0, "").await, Code::NotFound, "ROOM_NOT_FOUND");
    create_ephemeral(&client, "live").await;
    assert_eq!(page(&client, "live", 0, "").await.unwrap(), ListSubscribersResponse::default());
    drop(Frames::open(&client, explicit("lobby", "ann")).await.unwrap());
    // base64 of "18446744073709551615 aaa", "300 aaa" and "0 "
    for token in ["MTg0NDY3NDQwNzM3MDk1NTE2MTUgYWFh", "MzAwIGFhYQ", "MCA"] {
        assert_eq!(names(&page(&client, "lobby", 0, token).await.unwrap().subscribers), ["ann"], "{token}");
    }
}
