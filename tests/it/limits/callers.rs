//! What one caller may take: rates of publishing, open subscriptions, rooms. Without authorisation all callers are one.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tonic::{Code, Status};
use tonic_types::StatusExt;
use unibus::{
    Config,
    v1::{
        AddMemberRequest, DeleteRoomRequest, DeleteSubscriberRequest, OpenSessionRequest, PublishRequest,
        PurgeRoomRequest, Role,
    },
};

use crate::support::{
    Frames, Issuer, Nats, Unibus, assert_status, create_ephemeral, create_room, ephemeral, eventually, history,
    list_rooms,
    membership::{add, remove},
    metadata, persisted, publish,
    publishing::{batch, by_batch, by_calls, by_stream, plain, together},
    reason, subscription,
};

const SOON: Duration = Duration::from_secs(10);

async fn limited(nats: &Nats, change: impl FnOnce(&mut Config)) -> Unibus {
    let url = nats.url();
    Unibus::configured(|config| {
        config.nats.url = Some(url);
        change(config);
    })
    .await
}

fn numbered(count: usize) -> Vec<PublishRequest> {
    (1..=count).map(|number| plain("lobby", number.to_string())).collect()
}

/// When the caller is told to come back.
#[track_caller]
fn delay(refused: &Status, flag: &str) -> Duration {
    assert_eq!((refused.code(), &*reason(refused)), (Code::ResourceExhausted, "RATE_LIMITED"), "{refused:?}");
    assert_eq!(metadata(refused, "limit"), flag);
    refused.get_details_retry_info().and_then(|info| info.retry_delay).expect("a delay")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_publishes_too_fast_is_told_when_to_go_on() {
    // Goal: the rate holds by every way to publish, and the delay that is told is enough. Method: ten at once by each way, of
    // five in a second: those that are refused store nothing and tell a delay, after which the same message is stored.
    let nats = Nats::start().await;
    for way in 0..2 {
        let unibus = limited(&nats, |config| config.rooms.limits.publishes = Some(5)).await;
        let client = unibus.client().await;
        create_room(&client, "lobby").await;
        let before = history(&client, "lobby", 1).await.last_sequence;
        let begun = Instant::now();
        let outcomes = match way {
            0 => by_calls(&client, numbered(10)).await,
            _ => by_stream(&client, numbered(10)).await,
        };
        let stored = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        let allowed = 5.0 + 5.0 * begun.elapsed().as_secs_f64();
        #[allow(clippy::cast_precision_loss, reason = "few")]
        let exceeded = stored as f64 > allowed;
        assert!(stored >= 5 && !exceeded, "{stored} of {allowed}");
        assert!(stored < 10, "the machine is too slow for this test: {:?}", begun.elapsed());
        assert_eq!(history(&client, "lobby", 1).await.last_sequence, before + stored as u64);
        let refused = outcomes.iter().find_map(|outcome| outcome.as_ref().err()).expect("one that is refused");
        let delay = delay(refused, "--limit-publishes");
        assert!(delay <= Duration::from_millis(201), "{delay:?}");
        sleep(delay + Duration::from_millis(200)).await;
        publish(&client, "lobby", "again").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_counts_each_message_and_is_admitted_as_a_whole() {
    // Goal: batches are no way around a rate. Method: batches of both kinds that use a whole second's rate; the next is refused
    // as a whole, and stored after the delay that is told; one that is larger than the rate is told that it never will be.
    let nats = Nats::start().await;
    let unibus = limited(&nats, |config| config.rooms.limits.publishes = Some(20)).await;
    let mut client = unibus.client().await;
    create_room(&client, "lobby").await;
    for outcome in by_batch(&client, numbered(20)).await {
        outcome.unwrap();
    }
    for atomic in [false, true] {
        let refused = client.publish_batch(batch(numbered(20), atomic)).await.expect_err("too fast");
        let before = history(&client, "lobby", 1).await.last_sequence;
        let delay = delay(&refused, "--limit-publishes");
        assert!(delay > Duration::from_millis(500) && delay <= Duration::from_secs(1), "{delay:?}");
        sleep(delay).await;
        if atomic {
            together(&client, numbered(20)).await.unwrap();
        } else {
            client.publish_batch(batch(numbered(20), atomic)).await.unwrap();
        }
        assert_eq!(history(&client, "lobby", 1).await.last_sequence, before + 20);
    }
    for atomic in [false, true] {
        let never = client.publish_batch(batch(numbered(21), atomic)).await;
        let never = assert_status(never, Code::ResourceExhausted, "LIMIT_REACHED");
        assert_eq!(metadata(&never, "limit"), "--limit-publishes");
        assert!(never.get_details_retry_info().is_none());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_have_a_rate_of_their_own() {
    // Goal: few large messages are bounded as many small ones are. Method: a message of nearly a second's bytes is stored, the
    // next is refused with a delay, in a stream too, a small one in between is stored; one that is larger never will be.
    let nats = Nats::start().await;
    let unibus = limited(&nats, |config| config.rooms.limits.publish_bytes = Some(10_000)).await;
    let client = unibus.client().await;
    create_room(&client, "lobby").await;
    let large = |bytes: usize| plain("lobby", "x".repeat(bytes));
    let outcomes = by_stream(&client, vec![large(9_000), large(9_000), plain("lobby", "small")]).await;
    assert!(outcomes[0].is_ok() && outcomes[2].is_ok(), "{outcomes:?}");
    let delay = delay(outcomes[1].as_ref().unwrap_err(), "--limit-publish-bytes");
    assert!(delay > Duration::from_millis(500) && delay < Duration::from_secs(1), "{delay:?}");
    sleep(delay + Duration::from_millis(50)).await;
    assert!(by_calls(&client, vec![large(9_000)]).await[0].is_ok());
    let never = by_calls(&client, vec![large(10_001)]).await.remove(0);
    let never = assert_status(never, Code::ResourceExhausted, "LIMIT_REACHED");
    assert_eq!(metadata(&never, "limit"), "--limit-publish-bytes");
    // empty messages have no bytes
    for outcome in by_batch(&client, vec![plain("lobby", ""); 100]).await {
        outcome.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_has_so_many_open_subscriptions_and_no_more() {
    // Goal: the bound is exact over connections, and places are given back. Method: two are open, on two connections; a third is
    // refused with the flag; one ends, and it is opened.
    let nats = Nats::start().await;
    let unibus = limited(&nats, |config| config.rooms.limits.subscriptions = Some(2)).await;
    let (client, other) = (unibus.client().await, unibus.client().await);
    create_room(&client, "lobby").await;
    create_ephemeral(&client, "live").await;
    let first = Frames::durable(&client, "lobby", "ann").await;
    let _second = Frames::transient(&other, "live").await;
    for (client, room) in [(&client, "lobby"), (&other, "live")] {
        let refused = Frames::open(client, subscription(room, "")).await.map(|_| ());
        let refused = assert_status(refused, Code::ResourceExhausted, "LIMIT_REACHED");
        assert_eq!(metadata(&refused, "limit"), "--limit-subscriptions");
    }
    drop(first);
    eventually(SOON, async || {
        let opened = Frames::open(&other, subscription("lobby", "ann")).await;
        opened.map_err(|status| status.to_string())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_creates_so_many_rooms_and_no_more() {
    // Goal: the bound is exact, also for calls at once. Method: thirty creations at once, of three rooms that are allowed: three
    // exist; the same request for one of these is answered; one is deleted, and another is created; of both kinds.
    let nats = Nats::start().await;
    let unibus = limited(&nats, |config| config.rooms.limits.rooms = Some(3)).await;
    let client = unibus.client().await;
    let request = |number: usize| {
        let id = format!("room{number}");
        if number.is_multiple_of(2) { persisted(&id) } else { ephemeral(&id) }
    };
    let create = async |number: usize| client.clone().create_room(request(number)).await;
    let created = futures_util::future::join_all((0..30).map(create)).await;
    assert_eq!(created.iter().filter(|created| created.is_ok()).count(), 3);
    for refused in created.into_iter().filter(Result::is_err) {
        let refused = assert_status(refused, Code::ResourceExhausted, "LIMIT_REACHED");
        assert_eq!(metadata(&refused, "limit"), "--limit-rooms");
    }
    let rooms = list_rooms(&client, 0, "").await.unwrap().rooms;
    assert_eq!(rooms.len(), 3);
    let number: usize = rooms[0].room_id.trim_start_matches("room").parse().unwrap();
    create(number).await.unwrap();
    let delete = unibus::v1::DeleteRoomRequest { room_id: rooms[0].room_id.clone() };
    client.clone().delete_room(delete).await.unwrap();
    create(100).await.unwrap();
    assert_status(create(101).await, Code::ResourceExhausted, "LIMIT_REACHED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_that_was_given_away_counts_no_more_for_its_creator() {
    // Goal: nobody is held to rooms that it cannot delete, and nobody is held to rooms that others made it an owner of. Method:
    // two rooms are allowed; ann makes bob an owner of one, and leaves it.
    let (nats, issuer) = (Nats::start().await, Issuer::new());
    let unibus = issuer.guard(&nats, |config| config.rooms.limits.rooms = Some(2)).await;
    let (ann, bob) = (issuer.client(&unibus, "ann").await, issuer.client(&unibus, "bob").await);
    create_room(&ann, "one").await;
    create_room(&ann, "two").await;
    assert_status(ann.clone().create_room(persisted("three")).await, Code::ResourceExhausted, "LIMIT_REACHED");
    add(&ann, "one", "bob", Role::Owner).await.unwrap();
    assert_status(ann.clone().create_room(persisted("three")).await, Code::ResourceExhausted, "LIMIT_REACHED");
    remove(&ann, "one", "ann").await.unwrap();
    create_room(&ann, "three").await;
    assert_status(ann.clone().create_room(persisted("four")).await, Code::ResourceExhausted, "LIMIT_REACHED");
    create_room(&bob, "bobs").await;
    create_room(&bob, "bobs2").await;
    unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_caller_with_a_name_has_bounds_of_its_own() {
    // Goal: nobody uses up what is another's, administrators included. Method: with authentication on, one room and one message
    // in a second: ann uses up both, the administrator can still do the same, and then no more either.
    let (nats, issuer) = (Nats::start().await, Issuer::new());
    let unibus = issuer
        .guard(&nats, |config| {
            config.rooms.limits.rooms = Some(1);
            config.rooms.limits.publishes = Some(1);
            config.auth.admins = vec!["root".into()];
        })
        .await;
    for caller in ["ann", "root"] {
        let client = issuer.client(&unibus, caller).await;
        create_room(&client, caller).await;
        let refused = client.clone().create_room(persisted(&format!("{caller}2"))).await;
        let refused = assert_status(refused, Code::ResourceExhausted, "LIMIT_REACHED");
        assert_eq!(metadata(&refused, "limit"), "--limit-rooms");
        let outcomes = by_stream(&client, vec![plain(caller, "1"), plain(caller, "2")]).await;
        outcomes[0].as_ref().unwrap();
        delay(outcomes[1].as_ref().unwrap_err(), "--limit-publishes");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_creators_rooms_hold_no_more_bytes_than_they_may() {
    // Goal: the bound on stored bytes holds over all rooms of a creator, by every way to publish and whoever publishes; a purge
    // makes place at once, and other creators are not touched. Method: with the bound at 100 kB ann's two rooms are filled up
    // by herself and by bob, who writes there; then one is purged.
    let (nats, issuer) = (Nats::start().await, Issuer::new());
    let unibus = issuer.guard(&nats, |config| config.rooms.limits.stored_bytes = Some(100_000)).await;
    let [ann, bob] = [issuer.client(&unibus, "ann").await, issuer.client(&unibus, "bob").await];
    let rooms = ["lobby", "hall"];
    for room in rooms {
        create_room(&ann, room).await;
    }
    create_room(&bob, "own").await;
    let member = AddMemberRequest { room_id: "hall".into(), member_id: "bob".into(), ..AddMemberRequest::default() };
    ann.clone().add_member(AddMemberRequest { role: Role::Writer.into(), ..member }).await.unwrap();
    let large = |room: &str| plain(room, "x".repeat(9_000));
    let mut stored = 0;
    let refused = loop {
        let room = rooms[stored % 2];
        let client = if stored % 2 == 1 { &bob } else { &ann };
        match by_calls(client, vec![large(room)]).await.remove(0) {
            Ok(_) => stored += 1,
            Err(refused) => break refused,
        }
        assert!(stored < 20, "no bound");
    };
    assert!((9..=11).contains(&stored), "{stored}");
    let refused = assert_status::<()>(Err(refused), Code::ResourceExhausted, "LIMIT_REACHED");
    assert_eq!(metadata(&refused, "limit"), "--limit-stored-bytes");
    for refused in by_stream(&ann, vec![large("lobby")]).await {
        assert_status(refused, Code::ResourceExhausted, "LIMIT_REACHED");
    }
    for atomic in [false, true] {
        let refused = ann.clone().publish_batch(batch(vec![large("hall")], atomic)).await;
        assert_status(refused, Code::ResourceExhausted, "LIMIT_REACHED");
    }
    publish(&bob, "own", "x".repeat(9_000)).await.unwrap();
    let purge = PurgeRoomRequest { room_id: "lobby".into(), ..PurgeRoomRequest::default() };
    ann.clone().purge_room(purge).await.unwrap();
    eventually(SOON, async || {
        let again = by_calls(&bob, vec![large("hall")]).await.remove(0);
        again.map_err(|status| status.to_string())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_leaves_no_more_durable_subscribers_behind_than_it_may() {
    // Goal: durable subscribers count for the endpoint that bound them, in all rooms and on all instances, open or not; deleting
    // one or its room makes place. Method: with a bound of 3 ann binds two in one room and one in another, on two instances; the
    // fourth is refused, an old one is opened again; bob has his own.
    let (nats, issuer) = (Nats::start().await, Issuer::new());
    let start = async || issuer.guard(&nats, |config| config.rooms.limits.durable_subscribers = Some(3)).await;
    let (first, second) = (start().await, start().await);
    let [ann, ann_too] = [issuer.client(&first, "ann").await, issuer.client(&second, "ann").await];
    let bob = issuer.client(&first, "bob").await;
    for room in ["lobby", "hall"] {
        create_room(&ann, room).await;
    }
    drop(Frames::durable(&ann, "lobby", "ann/1").await);
    drop(Frames::durable(&ann_too, "lobby", "ann/2").await);
    drop(Frames::durable(&ann, "hall", "ann/1").await);
    for client in [&ann, &ann_too] {
        eventually(SOON, async || match Frames::open(client, subscription("hall", "ann/9")).await {
            Ok(_) => {
                let request = DeleteSubscriberRequest { room_id: "hall".into(), subscriber: "ann/9".into() };
                client.clone().delete_subscriber(request).await.unwrap();
                Err(String::from("no bound"))
            }
            Err(refused) => {
                let refused = assert_status::<()>(Err(refused), Code::ResourceExhausted, "LIMIT_REACHED");
                assert_eq!(metadata(&refused, "limit"), "--limit-durable-subscribers");
                Ok(())
            }
        })
        .await;
    }
    Frames::durable(&ann_too, "lobby", "ann/1").await;
    create_room(&bob, "own").await;
    Frames::durable(&bob, "own", "bob").await;
    let request = DeleteSubscriberRequest { room_id: "lobby".into(), subscriber: "ann/2".into() };
    ann.clone().delete_subscriber(request).await.unwrap();
    ann.clone().delete_room(DeleteRoomRequest { room_id: "hall".into() }).await.unwrap();
    for subscriber in ["ann/3", "ann/4"] {
        eventually(SOON, async || {
            let opened = Frames::open(&ann_too, subscription("lobby", subscriber)).await;
            opened.map(drop).map_err(|status| status.to_string())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_has_no_more_open_calls_than_it_may_on_all_its_connections() {
    // Goal: connections are no way around the bound on open calls, and calls with a stream of requests have one of their own.
    // Method: with a bound of 3 ann opens one subscription on each of three connections; the next call of hers is refused, bob's
    // is not, and hers again when one has ended. With a bound of 1000: 128 Consume streams, and no other; other calls go on.
    let (nats, issuer) = (Nats::start().await, Issuer::new());
    let unibus = issuer.guard(&nats, |config| config.rooms.limits.calls = Some(3)).await;
    let ann = issuer.client(&unibus, "ann").await;
    create_room(&ann, "lobby").await;
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(Frames::transient(&issuer.client(&unibus, "ann").await, "lobby").await);
    }
    let refused = publish(&ann, "lobby", "x").await;
    let refused = assert_status(refused, Code::ResourceExhausted, "LIMIT_REACHED");
    assert_eq!(metadata(&refused, "limit"), "--limit-calls");
    create_room(&issuer.client(&unibus, "bob").await, "own").await;
    open.pop();
    eventually(SOON, async || publish(&ann, "lobby", "x").await.map_err(|status| status.to_string())).await;

    let unibus = issuer.guard(&nats, |config| config.rooms.limits.calls = Some(1000)).await;
    let mut streams = Vec::new();
    for _ in 0..2 {
        let ann = issuer.client(&unibus, "ann").await;
        for _ in 0..64 {
            let (commands, requests) = tokio::sync::mpsc::channel(1);
            let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
            streams.push((commands, ann.clone().consume(requests).await.unwrap()));
        }
    }
    let ann = issuer.client(&unibus, "ann").await;
    let refused = ann.clone().consume(tokio_stream::empty()).await;
    let refused = assert_status(refused, Code::ResourceExhausted, "LIMIT_REACHED");
    assert_eq!(metadata(&refused, "limit"), "request_streams");
    let refused = ann.clone().open_session(OpenSessionRequest::default()).await;
    assert_status(refused, Code::ResourceExhausted, "LIMIT_REACHED");
    publish(&ann, "lobby", "x").await.unwrap();
    drop(streams);
    eventually(SOON, async || {
        ann.clone().consume(tokio_stream::empty()).await.map(drop).map_err(|status| status.to_string())
    })
    .await;
}
