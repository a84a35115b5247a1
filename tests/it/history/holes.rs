//! Deleted and purged messages never shorten a page while others exist.

use unibus::v1::{HistoryResponse, history_request::Anchor};

use crate::support::{Client, Lobby, Nats, create_room, history, page, publish, publish_n, sequences};

async fn at(client: &Client, limit: i32, anchor: Anchor) -> HistoryResponse {
    page(client, "lobby", limit, anchor).await.unwrap()
}

async fn room_with(nats: &Nats, client: &Client, count: usize) {
    let room = create_room(client, "lobby").await;
    nats.publish_n(&room.subject, count).await;
}

fn seen(page: &HistoryResponse) -> (Vec<u64>, bool, bool) {
    (sequences(&page.messages), page.has_older, page.has_newer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holes_do_not_shorten_a_page() {
    // Goal: a page is full whenever enough messages exist. Method: 30 messages, holes among the newest, in the middle and at
    // the old end; pages across each of them.
    let (lobby, client) = Lobby::without_room().await;
    room_with(&lobby.nats, &client, 30).await;
    lobby.nats.delete_messages("lobby", [1, 2, 12, 14, 15, 27, 28, 30]).await;

    let newest = history(&client, "lobby", 5).await;
    assert_eq!(seen(&newest), (vec![23, 24, 25, 26, 29], true, false));
    assert_eq!((newest.first_sequence, newest.last_sequence), (3, 30));
    let across = at(&client, 5, Anchor::BeforeSequence(18)).await;
    assert_eq!(seen(&across), (vec![10, 11, 13, 16, 17], true, true));
    let across = at(&client, 5, Anchor::AfterSequence(10)).await;
    assert_eq!(seen(&across), (vec![11, 13, 16, 17, 18], true, true));
    let oldest = at(&client, 2, Anchor::AfterSequence(0)).await;
    assert_eq!(seen(&oldest), (vec![3, 4], false, true));
    let oldest = at(&client, 5, Anchor::BeforeSequence(5)).await;
    assert_eq!(seen(&oldest), (vec![3, 4], false, true));
    let newest = at(&client, 5, Anchor::AfterSequence(25)).await;
    assert_eq!(seen(&newest), (vec![26, 29], true, false));
    let all = history(&client, "lobby", 0).await;
    assert_eq!(all.messages.len(), 22);
    assert!(!all.has_older && !all.has_newer);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_anchor_may_lie_in_a_hole() {
    // Goal: a cursor stays good when its message goes. Method: delete the message of a cursor and its neighbours, then read
    // on from it either way.
    let (lobby, client) = Lobby::without_room().await;
    room_with(&lobby.nats, &client, 20).await;
    let tenth = at(&client, 1, Anchor::AfterSequence(9)).await;
    let cursor = tenth.messages[0].cursor.clone();
    lobby.nats.delete_messages("lobby", 9..=11).await;

    for anchor in [Anchor::BeforeCursor(cursor.clone()), Anchor::BeforeSequence(10)] {
        let page = at(&client, 2, anchor).await;
        assert_eq!(seen(&page), (vec![7, 8], true, true));
    }
    for anchor in [Anchor::AfterCursor(cursor), Anchor::AfterSequence(10)] {
        let page = at(&client, 2, anchor).await;
        assert_eq!(seen(&page), (vec![12, 13], true, true));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_run_of_deleted_messages_is_stepped_over() {
    // Goal: a hole longer than any page is no end. Method: 2,600 messages of which only the first and the last 50 are left;
    // pages across the run in both directions, and one of exactly what is left.
    let (lobby, client) = Lobby::without_room().await;
    room_with(&lobby.nats, &client, 2600).await;
    lobby.nats.delete_messages("lobby", 51..=2550).await;
    let left: Vec<u64> = (1..=50).chain(2551..=2600).collect();

    for limit in [100, 200, 1000] {
        let newest = history(&client, "lobby", limit).await;
        assert_eq!(seen(&newest), (left.clone(), false, false), "limit {limit}");
        let oldest = at(&client, limit, Anchor::AfterSequence(0)).await;
        assert_eq!(seen(&oldest), (left.clone(), false, false), "limit {limit}");
    }
    let newest = history(&client, "lobby", 60).await;
    assert_eq!(seen(&newest), (left[40..].to_vec(), true, false));
    let older = at(&client, 60, Anchor::BeforeCursor(newest.older_cursor)).await;
    assert_eq!(seen(&older), (left[..40].to_vec(), false, true));
    let newest = history(&client, "lobby", 50).await;
    assert_eq!(seen(&newest), (left[50..].to_vec(), true, false));
    let older = at(&client, 10, Anchor::BeforeCursor(newest.older_cursor)).await;
    assert_eq!(seen(&older), (left[40..50].to_vec(), true, true));
    let middle = at(&client, 10, Anchor::AfterSequence(1000)).await;
    assert_eq!(seen(&middle), (left[50..60].to_vec(), true, true));
    let middle = at(&client, 10, Anchor::BeforeSequence(1000)).await;
    assert_eq!(seen(&middle), (left[40..50].to_vec(), true, true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_newest_messages_are_deleted_the_newest_left_are_given() {
    // Goal: the newest page never comes empty while anything is left. Method: delete the newest 1,500 of 1,510 messages; then
    // all but one; then the last.
    let (lobby, client) = Lobby::without_room().await;
    room_with(&lobby.nats, &client, 1510).await;
    lobby.nats.delete_messages("lobby", 11..=1510).await;
    let page = history(&client, "lobby", 4).await;
    assert_eq!(seen(&page), (vec![7, 8, 9, 10], true, false));
    assert_eq!((page.first_sequence, page.last_sequence), (1, 1510));

    lobby.nats.delete_messages("lobby", 2..=10).await;
    let page = history(&client, "lobby", 4).await;
    assert_eq!(seen(&page), (vec![1], false, false));
    lobby.nats.delete_messages("lobby", [1]).await;
    let page = history(&client, "lobby", 4).await;
    assert_eq!(seen(&page), (vec![], false, false));
    assert_eq!(page.last_sequence, 1510);
    publish(&client, "lobby", "x").await.unwrap();
    let page = history(&client, "lobby", 4).await;
    assert_eq!(seen(&page), (vec![1511], false, false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purged_room_goes_on_where_it_was() {
    // Goal: a purge is no gap in what is left, and no error. Method: purge natively up to a message, then all; pages say what
    // is left, and later messages follow on.
    let (lobby, client) = Lobby::open().await;
    publish_n(&client, "lobby", 10).await;
    let stream = lobby.nats.stream("lobby").await;

    stream.purge().sequence(8).await.unwrap();
    let page = history(&client, "lobby", 0).await;
    assert_eq!(seen(&page), (vec![8, 9, 10], false, false));
    assert_eq!((page.first_sequence, page.last_sequence), (8, 10));
    let before = at(&client, 0, Anchor::BeforeSequence(8)).await;
    assert_eq!(seen(&before), (vec![], false, true));
    let after = at(&client, 0, Anchor::AfterSequence(3)).await;
    assert_eq!(seen(&after), (vec![8, 9, 10], false, false));

    stream.purge().await.unwrap();
    let page = history(&client, "lobby", 0).await;
    assert_eq!(seen(&page), (vec![], false, false));
    assert_eq!((page.first_sequence, page.last_sequence), (11, 10));
    assert_eq!(page.older_cursor, "");
    assert_eq!(publish(&client, "lobby", "x").await.unwrap().sequence, 11);
    let newer = at(&client, 0, Anchor::AfterCursor(page.newer_cursor)).await;
    assert_eq!(seen(&newer), (vec![11], false, false));
}
