//! Cursors that are not the room's.

use std::time::Duration;

use tonic::Code;
use unibus::v1::{DeleteRoomRequest, history_request::Anchor};

use crate::support::{
    Lobby, Nats, Unibus, assert_status, bare_stream, create_room, eventually, history, page, publish, publish_n,
    sequences,
};

/// The two ways to give a cursor.
fn anchors(cursor: &str) -> [Anchor; 2] {
    [Anchor::BeforeCursor(cursor.into()), Anchor::AfterCursor(cursor.into())]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_cursor_is_refused() {
    // Goal: nothing is read into garbage. Method: strings that the service never gave, and one that it gave, damaged at each
    // of its characters, shortened and lengthened.
    let (_lobby, client) = Lobby::open().await;
    publish_n(&client, "lobby", 3).await;
    let cursor = history(&client, "lobby", 0).await.messages[1].cursor.clone();
    assert!(cursor.chars().all(|char| char.is_ascii_alphanumeric() || "-_".contains(char)));

    let mut garbage: Vec<String> =
        ["", "x", "!", "AAAA", "a b", "\u{fc}", "1", "////", "===="].map(String::from).into();
    garbage.push("A".repeat(10_000));
    garbage.push(cursor[..cursor.len() - 1].into());
    garbage.push(cursor[1..].into());
    garbage.push(format!("{cursor}A"));
    garbage.push(format!("{cursor}="));
    garbage.push(cursor.repeat(2));
    for case in garbage {
        for anchor in anchors(&case) {
            let refused = page(&client, "lobby", 0, anchor).await;
            assert_status(refused, Code::InvalidArgument, "CURSOR_INVALID");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cursor_of_another_room_is_refused() {
    // Goal: a cursor means its own room only. Method: two rooms with as many messages; the cursors of each in the other.
    let (_lobby, client) = Lobby::without_room().await;
    for room_id in ["lobby", "hall"] {
        create_room(&client, room_id).await;
        publish_n(&client, room_id, 3).await;
    }
    for (from, to) in [("lobby", "hall"), ("hall", "lobby")] {
        let given = history(&client, from, 2).await;
        let message = given.messages[0].cursor.clone();
        for cursor in [message, given.older_cursor, given.newer_cursor] {
            for anchor in anchors(&cursor) {
                let refused = page(&client, to, 0, anchor.clone()).await;
                assert_status(refused, Code::InvalidArgument, "CURSOR_INVALID");
                page(&client, from, 0, anchor).await.unwrap();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cursor_of_a_former_life_is_refused() {
    // Goal: a cursor is never read as a place in another log. Method: a room deleted and created again with as many messages;
    // then its stream deleted and set up again natively.
    let (lobby, mut client) = Lobby::open().await;
    publish_n(&client, "lobby", 3).await;
    let first = history(&client, "lobby", 0).await.messages[1].cursor.clone();

    let request = DeleteRoomRequest { room_id: "lobby".into() };
    client.delete_room(request).await.unwrap();
    create_room(&client, "lobby").await;
    publish_n(&client, "lobby", 3).await;
    for anchor in anchors(&first) {
        let refused = page(&client, "lobby", 0, anchor).await;
        assert_status(refused, Code::FailedPrecondition, "CURSOR_EXPIRED");
    }
    let second = history(&client, "lobby", 0).await.messages[1].cursor.clone();
    assert_ne!(first, second);

    let jetstream = lobby.nats.jetstream().await;
    jetstream.delete_stream("UNIBUS_lobby").await.unwrap();
    let bare = bare_stream("lobby");
    jetstream.create_stream(bare).await.unwrap();
    for cursor in [first, second] {
        for anchor in anchors(&cursor) {
            // Told within a moment: the change came from outside.
            let status =
                eventually(Duration::from_secs(5), async || match page(&client, "lobby", 0, anchor.clone()).await {
                    Ok(page) => Err(format!("{} messages", page.messages.len())),
                    Err(status) => Ok(status),
                })
                .await;
            assert_status::<()>(Err(status), Code::FailedPrecondition, "CURSOR_EXPIRED");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cursor_serves_on_every_instance_and_after_a_restart() {
    // Goal: a cursor is kept by the client alone. Method: take one, restart NATS and the service, use it on two new instances.
    let mut nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let client = unibus.client().await;
    create_room(&client, "lobby").await;
    publish_n(&client, "lobby", 5).await;
    let cursor = history(&client, "lobby", 0).await.messages[2].cursor.clone();
    drop(client);
    unibus.shutdown().await.unwrap();
    nats.stop().await;
    nats.restart().await;

    for _ in 0..2 {
        let unibus = Unibus::start(&nats).await;
        let client = unibus.client().await;
        let [before, after] = anchors(&cursor);
        let before = page(&client, "lobby", 0, before).await.unwrap();
        assert_eq!(sequences(&before.messages), [1, 2]);
        let after = page(&client, "lobby", 0, after).await.unwrap();
        assert_eq!(sequences(&after.messages), [4, 5]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cursors_of_messages_and_pages_are_the_same_thing() {
    // Goal: a message's own cursor pages like a page's. Method: a page in the middle; its cursors and those of its first and
    // last message lead to the same neighbours; a cursor of a subscription's message too.
    let (_lobby, client) = Lobby::open().await;
    publish_n(&client, "lobby", 9).await;
    let middle = page(&client, "lobby", 3, Anchor::AfterSequence(3)).await.unwrap();
    let mut frames = crate::support::Frames::transient(&client, "lobby").await;
    let read = frames.until_caught_up().await;

    let older = [&middle.older_cursor, &middle.messages[0].cursor, &read[3].cursor];
    for cursor in older {
        let anchor = Anchor::BeforeCursor(cursor.clone());
        let before = page(&client, "lobby", 0, anchor).await.unwrap();
        assert_eq!(sequences(&before.messages), [1, 2, 3]);
    }
    let newer = [&middle.newer_cursor, &middle.messages[2].cursor, &read[5].cursor];
    for cursor in newer {
        let anchor = Anchor::AfterCursor(cursor.clone());
        let after = page(&client, "lobby", 0, anchor).await.unwrap();
        assert_eq!(sequences(&after.messages), [7, 8, 9]);
    }
    publish(&client, "lobby", "10").await.unwrap();
    let anchor = Anchor::AfterCursor(read[8].cursor.clone());
    let after = page(&client, "lobby", 0, anchor).await.unwrap();
    assert_eq!(sequences(&after.messages), [10]);
}
