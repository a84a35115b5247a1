//! A durable subscriber belongs to its endpoint.

use tonic::{Code, Status};
use unibus::v1::{
    AckMode, DeleteSubscriberRequest, ListSubscribersRequest, Role, SeekSubscriberRequest, Start, consume_response,
    start::At,
};

use crate::support::{
    Client, Consuming, Frames, Issuer, Nats, acknowledge, assert_status, create_room, explicit,
    membership::{add, remove},
    publish_n, reason, subscription,
};

async fn names(client: &Client, page_size: i32) -> Vec<String> {
    let (mut found, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListSubscribersRequest { room_id: "lobby".into(), page_size, page_token };
        let page = client.clone().list_subscribers(request).await.unwrap().into_inner();
        found.extend(page.subscribers.into_iter().map(|subscriber| subscriber.subscriber));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return found;
        }
    }
}

async fn seek(client: &Client, subscriber: &str) -> Result<u64, Status> {
    let position = Some(Start { at: Some(At::AfterSequence(1)) });
    let request = SeekSubscriberRequest { room_id: "lobby".into(), subscriber: subscriber.into(), position };
    Ok(client.clone().seek_subscriber(request).await?.into_inner().position)
}

async fn delete(client: &Client, subscriber: &str) -> Result<(), Status> {
    let request = DeleteSubscriberRequest { room_id: "lobby".into(), subscriber: subscriber.into() };
    client.clone().delete_subscriber(request).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_reads_or_acknowledges_as_another() {
    // Goal: a position is its endpoint's own. Method: readers, the owner and an administrator subscribe and acknowledge, by
    // call and on Consume, as themselves, as devices of theirs, and as others, under names that look alike.
    let nats = Nats::start().await;
    let issuer = Issuer::new();
    let unibus = issuer.guard(&nats, |config| config.auth.admins = vec![String::from("root")]).await;
    let ann = issuer.client(&unibus, "ann").await;
    create_room(&ann, "lobby").await;
    publish_n(&ann, "lobby", 3).await;
    for id in ["bob", "bob/tv", "eve"] {
        add(&ann, "lobby", id, Role::Reader).await.unwrap();
    }
    for (me, own, foreign) in [
        (
            "bob",
            &["bob", "bob/phone", "bob/a.b"][..],
            &["eve", "bob/tv", "bob/", "bob/a/b", "bobby", "Bob", "ann", "bob.phone"][..],
        ),
        ("bob/tv", &["bob/tv", "bob/tv/x"], &["bob", "bob/phone", "eve"]),
        ("ann", &["ann", "ann/laptop"], &["bob", "bob/phone", "ann2"]),
        ("root", &["root"], &["ann", "bob", "bob/phone"]),
    ] {
        let client = issuer.client(&unibus, me).await;
        for subscriber in own {
            let frames = Frames::open(&client, explicit("lobby", subscriber)).await;
            let frames = frames.unwrap_or_else(|status| panic!("{me} as {subscriber}: {status}"));
            assert_eq!(acknowledge(&client, "lobby", subscriber, 2).await.unwrap(), 2);
            drop(frames);
        }
        for subscriber in foreign {
            let case = format!("{me} as {subscriber}");
            let opened = Frames::open(&client, explicit("lobby", subscriber)).await.map(drop);
            assert_eq!(reason(&opened.expect_err(&case)), "SUBSCRIBER_FOREIGN", "{case}");
            let acknowledged = acknowledge(&client, "lobby", subscriber, 3).await;
            assert_status(acknowledged, Code::PermissionDenied, "SUBSCRIBER_FOREIGN");
            let mut consuming = Consuming::start(&client).await;
            consuming.acknowledge_as("lobby", subscriber, 3).await;
            match consuming.next_told("lobby").await {
                consume_response::Frame::Rejected(rejected) => {
                    assert_eq!(Code::from(rejected.error.expect("an error").code), Code::PermissionDenied, "{case}");
                }
                other => panic!("{case}: {other:?}"),
            }
            consuming.ask(subscription("lobby", subscriber)).await;
            match consuming.next_told("lobby").await {
                consume_response::Frame::Closed(status) => assert_eq!(Code::from(status.code), Code::PermissionDenied),
                other => panic!("{case}: {other:?}"),
            }
        }
    }
    // a durable of the removed one is nobody's to read, and a new member of its name has it again
    remove(&ann, "lobby", "bob").await.unwrap();
    let opened = Frames::open(&issuer.client(&unibus, "bob").await, explicit("lobby", "bob")).await.map(drop);
    assert_status(opened, Code::PermissionDenied, "PERMISSION_DENIED");
    assert_eq!(explicit("lobby", "bob").ack_mode(), AckMode::Explicit);
    unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_list_move_and_delete_their_own_and_owners_all() {
    // Goal: owners look after the room's durables, the others after their own. Method: devices of two readers with names
    // that map alike, listed in pages of one and of many; seeks and deletions by each.
    let nats = Nats::start().await;
    let issuer = Issuer::new();
    let unibus = issuer.guard(&nats, |config| config.auth.admins = vec![String::from("root")]).await;
    let ann = issuer.client(&unibus, "ann").await;
    create_room(&ann, "lobby").await;
    publish_n(&ann, "lobby", 3).await;
    let all = ["bob", "bob-x", "bob-x/1", "bob/1", "bob/2", "eve"];
    for (id, subscribers) in
        [("bob", &["bob/1", "bob/2", "bob"][..]), ("bob-x", &["bob-x", "bob-x/1"]), ("eve", &["eve"])]
    {
        add(&ann, "lobby", id, Role::Reader).await.unwrap();
        let client = issuer.client(&unibus, id).await;
        for subscriber in subscribers {
            drop(Frames::open(&client, explicit("lobby", subscriber)).await.unwrap());
        }
    }
    let (bob, root) = (issuer.client(&unibus, "bob").await, issuer.client(&unibus, "root").await);
    for size in [1, 2, 0] {
        let mut found = names(&bob, size).await;
        found.sort();
        assert_eq!(found, ["bob", "bob/1", "bob/2"], "pages of {size}");
        for client in [&ann, &root] {
            let mut found = names(client, size).await;
            found.sort();
            assert_eq!(found, all, "pages of {size}");
        }
    }
    for foreign in ["eve", "bob-x", "bob-x/1"] {
        assert_status(seek(&bob, foreign).await, Code::PermissionDenied, "SUBSCRIBER_FOREIGN");
        assert_status(delete(&bob, foreign).await, Code::PermissionDenied, "SUBSCRIBER_FOREIGN");
    }
    assert_eq!(seek(&bob, "bob/1").await.unwrap(), 1);
    assert_eq!(seek(&ann, "eve").await.unwrap(), 1);
    delete(&bob, "bob/1").await.unwrap();
    delete(&ann, "bob/2").await.unwrap();
    delete(&root, "bob").await.unwrap();
    assert_eq!(names(&bob, 0).await, Vec::<String>::new());
    unibus.shutdown().await.unwrap();
}
