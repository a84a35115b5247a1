//! Deleting a durable subscriber: it ends, is forgotten everywhere, and begins anew if it comes back.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, pull};
use tonic::{Code, Status};
use unibus::v1::{DeleteSubscriberRequest, ListSubscribersRequest, Start, SubscribeRequest, start::At};

use crate::support::{
    Client, Frames, Lobby, Nats, Process, Unibus, acknowledge, assert_field, assert_status, create_ephemeral,
    create_room, explicit, fields, floor, listed, metadata, publish_n, sequences,
};

const SOON: Duration = Duration::from_secs(10);

async fn delete(client: &Client, room_id: &str, subscriber: &str) -> Result<(), Status> {
    let request = DeleteSubscriberRequest { room_id: room_id.into(), subscriber: subscriber.into() };
    client.clone().delete_subscriber(request).await.map(drop)
}

async fn names(client: &Client) -> Vec<String> {
    let request = ListSubscribersRequest { room_id: "lobby".into(), ..ListSubscribersRequest::default() };
    let page = client.clone().list_subscribers(request).await.unwrap().into_inner();
    page.subscribers.into_iter().map(|found| found.subscriber).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_subscription_ends_and_the_next_one_begins_anew() {
    // Goal: deleted is deleted, on whatever instance, and nobody brings the old position back. Method: an automatic
    // subscription that has read everything, and whose position may not be written yet; delete it through its own and
    // through the other instance; open it again at once at a start of its own; the position stays there.
    let nats = Nats::start().await;
    let (first, second) = (Unibus::start(&nats).await, Unibus::start(&nats).await);
    let (client, other) = (first.client().await, second.client().await);
    create_room(&client, "lobby").await;
    publish_n(&client, "lobby", 10).await;
    let mut bystander = Frames::open(&client, explicit("lobby", "bob")).await.unwrap();
    for round in 0..6 {
        let (reader, deleter) = if round % 2 == 0 { (&client, &other) } else { (&client, &client) };
        let again = if round % 3 == 0 { &other } else { &client };
        let mut old = Frames::durable(reader, "lobby", "ann").await;
        assert!(!old.opened().resumed, "{round}");
        assert_eq!(sequences(&old.until_caught_up().await), listed(1..=10));
        delete(deleter, "lobby", "ann").await.unwrap();
        let ended = assert_status::<()>(Err(old.end(SOON).await), Code::NotFound, "SUBSCRIBER_NOT_FOUND");
        assert_eq!(metadata(&ended, "position"), "10");

        let start = Some(Start { at: Some(At::AfterSequence(6)) });
        let request = SubscribeRequest { start, ..explicit("lobby", "ann") };
        let mut new = Frames::open(again, request).await.unwrap();
        assert!(!new.opened().resumed, "{round}");
        assert_eq!(sequences(&new.until_caught_up().await), listed(7..=10));
        // an ack of the new one, through the instance that had the old one, is the only thing that moves it
        assert_eq!(floor(&nats, "lobby", "ann").await, 6, "{round}");
        assert_eq!(acknowledge(reader, "lobby", "ann", 7).await.unwrap(), 7);
        assert_eq!(floor(&nats, "lobby", "ann").await, 7, "{round}");
        delete(deleter, "lobby", "ann").await.unwrap();
        assert_status::<()>(Err(new.end(SOON).await), Code::NotFound, "SUBSCRIBER_NOT_FOUND");
        assert_status(delete(&client, "lobby", "ann").await, Code::NotFound, "SUBSCRIBER_NOT_FOUND");
        assert_eq!(names(&other).await, ["bob"]);
    }
    publish_n(&client, "lobby", 1).await;
    assert_eq!(sequences(&bystander.messages(11).await), listed(1..=11));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closed_native_and_orphaned_subscribers_are_deleted_too() {
    // Goal: no open subscription and no living owner is needed. Method: one that is closed, through the other instance; a
    // native one; one whose instance was killed; then the names that they stood in the way of are free.
    let nats = Nats::start().await;
    let mut killed = Process::start(&nats).await;
    let (first, second) = (Unibus::start(&nats).await, Unibus::start(&nats).await);
    let (client, other, doomed) = (first.client().await, second.client().await, killed.client().await);
    create_room(&client, "lobby").await;
    publish_n(&client, "lobby", 3).await;
    drop(Frames::open(&client, explicit("lobby", "a-b")).await.unwrap());
    let native = pull::Config {
        durable_name: Some("lobby_native".into()),
        ack_policy: AckPolicy::Explicit,
        ..pull::Config::default()
    };
    nats.stream("lobby").await.create_consumer(native).await.unwrap();
    let _lost = Frames::open(&doomed, explicit("lobby", "lo-st")).await.unwrap();
    killed.kill9();
    assert_eq!(names(&other).await, ["a-b", "lo-st", "native"]);
    // another name than that of the subscriber that has the durable
    assert_status(delete(&other, "lobby", "a_b").await, Code::NotFound, "SUBSCRIBER_NOT_FOUND");
    for subscriber in ["a-b", "native", "lo-st"] {
        delete(&other, "lobby", subscriber).await.unwrap();
        assert_status(delete(&client, "lobby", subscriber).await, Code::NotFound, "SUBSCRIBER_NOT_FOUND");
    }
    assert!(names(&client).await.is_empty());
    for subscriber in ["a_b", "nat_ive", "lo_st"] {
        let frames = Frames::open(&client, explicit("lobby", subscriber)).await.unwrap();
        assert!(!frames.opened().resumed, "{subscriber}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_there_cannot_be_deleted() {
    // Goal: a mistaken deletion is told apart and harms nobody. Method: unknown subscribers and rooms, an ephemeral room,
    // every wrong field at once; a durable consumer of another kind stays.
    let (lobby, client) = Lobby::open().await;
    create_ephemeral(&client, "live").await;
    assert_status(delete(&client, "lobby", "ann").await, Code::NotFound, "SUBSCRIBER_NOT_FOUND");
    assert_status(delete(&client, "nowhere", "ann").await, Code::NotFound, "ROOM_NOT_FOUND");
    assert_status(delete(&client, "live", "ann").await, Code::FailedPrecondition, "ROOM_NOT_PERSISTED");
    assert_field(delete(&client, "lobby", "").await, "subscriber", "no subscriber");
    let refused = assert_status(delete(&client, "a b", "c d").await, Code::InvalidArgument, "INVALID_FIELD");
    assert_eq!(fields(&refused), ["room_id", "subscriber"]);
    let foreign = pull::Config {
        durable_name: Some("lobby_foreign".into()),
        ack_policy: AckPolicy::None,
        ..pull::Config::default()
    };
    let stream = lobby.nats.stream("lobby").await;
    stream.create_consumer(foreign).await.unwrap();
    assert_status(delete(&client, "lobby", "foreign").await, Code::NotFound, "SUBSCRIBER_NOT_FOUND");
    stream.consumer_info("lobby_foreign").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deletions_and_subscriptions_at_once_leave_one_or_none() {
    // Goal: no race leaves a subscription that nobody can find. Method: many rounds of a deletion on one instance and a
    // subscription on the other at the same moment; afterwards the subscription is open and listed as such, or it ended
    // with a reason, and the subscriber can be opened.
    let nats = Nats::start().await;
    let (first, second) = (Unibus::start(&nats).await, Unibus::start(&nats).await);
    let (client, other) = (first.client().await, second.client().await);
    create_room(&client, "lobby").await;
    publish_n(&client, "lobby", 3).await;
    for round in 0..20 {
        drop(Frames::open(&client, explicit("lobby", "ann")).await.unwrap());
        let (deleted, opened) =
            tokio::join!(delete(&client, "lobby", "ann"), Frames::open(&other, explicit("lobby", "ann")));
        if let Err(status) = deleted {
            assert!([Code::NotFound, Code::Aborted].contains(&status.code()), "{round}: {status:?}");
        }
        let mut frames = opened.unwrap();
        match acknowledge(&client, "lobby", "ann", 3).await {
            Ok(position) => {
                assert_eq!(position, 3, "{round}");
                assert_eq!(names(&other).await, ["ann"], "{round}");
                delete(&client, "lobby", "ann").await.unwrap();
            }
            Err(status) => drop(assert_status::<()>(Err(status), Code::NotFound, "SUBSCRIBER_NOT_FOUND")),
        }
        assert_status::<()>(Err(frames.end(SOON).await), Code::NotFound, "SUBSCRIBER_NOT_FOUND");
        assert!(names(&other).await.is_empty(), "{round}");
    }
}
