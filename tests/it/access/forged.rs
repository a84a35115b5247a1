//! What the instances tell each other nobody else can say.

use std::time::Duration;

use async_nats::{HeaderMap, Message};
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use tonic::Code;
use unibus::v1::{GetRoomRequest, Role};

use crate::support::{
    Client, Issuer, Nats, assert_status, create_room, eventually,
    membership::{add, remove},
    publish,
};

const SOON: Duration = Duration::from_secs(5);
/// Where the instances tell each other what changes.
const NOTICES: &str = "unibus.sys.all";

/// What `client` may do in the room.
async fn may_publish(client: &Client) -> bool {
    match publish(client, "lobby", "x").await {
        Ok(_) => true,
        Err(status) => {
            assert_eq!(status.code(), Code::PermissionDenied);
            false
        }
    }
}

/// The next notice of a change whose text has this in it.
async fn next_change(notices: &mut async_nats::Subscriber, text: &str) -> Message {
    let next = async {
        loop {
            let message = notices.next().await.unwrap();
            if String::from_utf8_lossy(&message.payload).contains(text) {
                return message;
            }
        }
    };
    timeout(SOON, next).await.expect("a notice in time")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_notice_that_is_forged_or_repeated_grants_nothing_and_takes_nothing() {
    // Goal: whoever may publish to the subjects of the instances has no say over members and rooms. Method: another program
    // listens while members are added and one is removed. It repeats what it heard, sends it with other revisions, with another
    // signature and with none, and forges a removal of the other member and of the room: on both instances all is as it was.
    let nats = Nats::start().await;
    let issuer = Issuer::new();
    let (first, second) = (issuer.guard(&nats, |_| {}).await, issuer.guard(&nats, |_| {}).await);
    let eve = nats.client().await;
    let mut notices = eve.subscribe(NOTICES).await.unwrap();
    eve.flush().await.unwrap();
    let ann = issuer.client(&first, "ann").await;
    create_room(&ann, "lobby").await;
    let room = next_change(&mut notices, "\"room\":").await;
    add(&ann, "lobby", "cat", Role::Writer).await.unwrap();
    let cat = next_change(&mut notices, "\"cat\"").await;
    add(&ann, "lobby", "bob", Role::Writer).await.unwrap();
    let granted = next_change(&mut notices, "\"bob\"").await;
    let clients = [
        (issuer.client(&first, "bob").await, issuer.client(&first, "cat").await),
        (issuer.client(&second, "bob").await, issuer.client(&second, "cat").await),
    ];
    for (bob, _) in &clients {
        eventually(SOON, async || may_publish(bob).await.then_some(()).ok_or_else(|| "refused".to_owned())).await;
    }
    remove(&ann, "lobby", "bob").await.unwrap();
    let removed = next_change(&mut notices, "\"bob\"").await;
    assert!(removed.headers.is_some());
    for (bob, _) in &clients {
        assert!(!may_publish(bob).await);
    }
    // by then the watches have told it too, and nothing is left to compare an old notice with
    sleep(Duration::from_millis(500)).await;

    // a grant and a removal, as they were and with other revisions, with the signature and without
    let json = |message: &Message| serde_json::from_slice::<Value>(&message.payload).unwrap();
    let mut cats = json(&removed);
    cats["notice"]["change"]["change"]["member"]["deleted"]["member_id"] = "cat".into();
    let mut rooms = json(&removed);
    rooms["notice"]["change"]["change"] = json!({ "room": { "deleted": { "room_id": "lobby", "revision": 0 } } });
    for honest in [json(&granted), cats, rooms, json(&room), json(&cat)] {
        for revision in [None, Some(3), Some(1000), Some(u64::MAX)] {
            let mut forged = honest.clone();
            if let Some(revision) = revision {
                set_revision(&mut forged, revision);
            }
            for headers in [granted.headers.clone().unwrap(), removed.headers.clone().unwrap(), HeaderMap::new()] {
                eve.publish_with_headers(NOTICES, headers, forged.to_string().into()).await.unwrap();
            }
        }
        // what it heard, to the byte
        for message in [&room, &cat, &granted] {
            let (headers, payload) = (message.headers.clone().unwrap(), message.payload.clone());
            eve.publish_with_headers(NOTICES, headers, payload).await.unwrap();
        }
        eve.flush().await.unwrap();
        for _ in 0..20 {
            for (bob, cat) in &clients {
                assert!(!may_publish(bob).await, "{honest}");
                assert!(may_publish(cat).await, "{honest}");
            }
            sleep(Duration::from_millis(10)).await;
        }
    }
    for unibus in [&first, &second] {
        let request = GetRoomRequest { room_id: "lobby".into() };
        issuer.client(unibus, "ann").await.get_room(request).await.unwrap();
    }
    assert_status(remove(&ann, "lobby", "bob").await, Code::NotFound, "MEMBER_NOT_FOUND");
}

/// Sets every `revision` in it.
fn set_revision(value: &mut Value, revision: u64) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if name == "revision" {
                    *value = revision.into();
                }
                set_revision(value, revision);
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| set_revision(value, revision)),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_is_gone_costs_no_second() {
    // Goal: what is waited for is there. Method: of three instances one is stopped and one dropped without a word; a removal is
    // answered long before the wait for a silent instance would end.
    let nats = Nats::start().await;
    let issuer = Issuer::new();
    let (first, second, third) =
        (issuer.guard(&nats, |_| {}).await, issuer.guard(&nats, |_| {}).await, issuer.guard(&nats, |_| {}).await);
    let ann = issuer.client(&first, "ann").await;
    create_room(&ann, "lobby").await;
    second.shutdown().await.unwrap();
    drop(third);
    for round in 0..5 {
        add(&ann, "lobby", "bob", Role::Writer).await.unwrap();
        let begun = std::time::Instant::now();
        remove(&ann, "lobby", "bob").await.unwrap();
        assert!(begun.elapsed() < Duration::from_millis(900), "{round}: {:?}", begun.elapsed());
    }
}
