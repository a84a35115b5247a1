//! Pages before, after and between: the anchors of history.

use prost_types::Timestamp;
use unibus::v1::{HistoryResponse, Message, TimeRange, history_request::Anchor};

use crate::support::{Client, Lobby, Nats, create_room, history, page, publish_n, sequences};

async fn at(client: &Client, limit: i32, anchor: Anchor) -> HistoryResponse {
    page(client, "lobby", limit, anchor).await.unwrap()
}

/// A room `lobby` with the messages 1 to `count`.
async fn room_with(nats: &Nats, client: &Client, count: usize) {
    let room = create_room(client, "lobby").await;
    nats.publish_n(&room.subject, count).await;
}

/// The cursor of the message with this sequence.
async fn cursor(client: &Client, sequence: u64) -> String {
    let page = at(client, 1, Anchor::AfterSequence(sequence - 1)).await;
    assert_eq!(page.messages[0].sequence, sequence);
    page.messages[0].cursor.clone()
}

/// The sequences of a page, and whether there is more on either side.
fn seen(page: &HistoryResponse) -> (Vec<u64>, bool, bool) {
    (sequences(&page.messages), page.has_older, page.has_newer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_and_after_exclude_the_message_itself() {
    // Goal: both anchors are exclusive, for sequences and cursors alike. Method: 20 messages; pages of 3 around the 10th.
    let (lobby, client) = Lobby::without_room().await;
    room_with(&lobby.nats, &client, 20).await;
    let tenth = cursor(&client, 10).await;

    for anchor in [Anchor::BeforeSequence(10), Anchor::BeforeCursor(tenth.clone())] {
        let page = at(&client, 3, anchor).await;
        assert_eq!(seen(&page), (vec![7, 8, 9], true, true));
        assert_eq!((page.first_sequence, page.last_sequence), (1, 20));
    }
    for anchor in [Anchor::AfterSequence(10), Anchor::AfterCursor(tenth)] {
        let page = at(&client, 3, anchor).await;
        assert_eq!(seen(&page), (vec![11, 12, 13], true, true));
        assert_eq!((page.first_sequence, page.last_sequence), (1, 20));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn anchors_at_and_past_the_ends_are_no_error() {
    // Goal: any sequence is an anchor. Method: 20 messages; anchors at the ends of the room and of 64 bits.
    let (lobby, client) = Lobby::without_room().await;
    room_with(&lobby.nats, &client, 20).await;

    for (sequence, expected) in [
        (3, (vec![1, 2], false, true)),
        (2, (vec![1], false, true)),
        (20, (vec![17, 18, 19], true, true)),
        (21, (vec![18, 19, 20], true, false)),
        (22, (vec![18, 19, 20], true, false)),
        (u64::MAX, (vec![18, 19, 20], true, false)),
    ] {
        let page = at(&client, 3, Anchor::BeforeSequence(sequence)).await;
        assert_eq!(seen(&page), expected, "before {sequence}");
    }
    for (sequence, expected) in [
        (0, (vec![1, 2, 3], false, true)),
        (17, (vec![18, 19, 20], true, false)),
        (18, (vec![19, 20], true, false)),
        (19, (vec![20], true, false)),
    ] {
        let page = at(&client, 3, Anchor::AfterSequence(sequence)).await;
        assert_eq!(seen(&page), expected, "after {sequence}");
    }
    for sequence in [0, 1] {
        let page = at(&client, 3, Anchor::BeforeSequence(sequence)).await;
        assert_eq!(seen(&page), (vec![], false, true), "before {sequence}");
    }
    for sequence in [20, 21, u64::MAX] {
        let page = at(&client, 3, Anchor::AfterSequence(sequence)).await;
        assert_eq!(page.messages, [], "after {sequence}");
        assert!(!page.has_newer, "after {sequence}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paging_covers_the_room_once_in_either_direction() {
    // Goal: cursors lead through the whole room without a gap or a repetition. Method: 1,234 messages, some of them deleted;
    // read back from the newest and on from the oldest, with several page sizes.
    let (lobby, client) = Lobby::without_room().await;
    room_with(&lobby.nats, &client, 1234).await;
    let holes: Vec<u64> = (1..=1234).filter(|sequence| sequence % 7 == 0).collect();
    lobby.nats.delete_messages("lobby", holes.iter().copied()).await;
    let all: Vec<u64> = (1..=1234).filter(|sequence| sequence % 7 != 0).collect();

    for limit in [1000, 500, 97] {
        let mut back = Vec::new();
        let mut newest = history(&client, "lobby", limit).await;
        loop {
            let mut page = sequences(&newest.messages);
            assert!(!page.is_empty(), "has_older was wrong");
            page.append(&mut back);
            back = page;
            if !newest.has_older {
                break;
            }
            newest = at(&client, limit, Anchor::BeforeCursor(newest.older_cursor)).await;
            assert!(newest.has_newer);
        }
        assert_eq!(back, all, "back by {limit}");

        let mut on = Vec::new();
        let mut oldest = at(&client, limit, Anchor::AfterSequence(0)).await;
        loop {
            assert!(!oldest.messages.is_empty(), "has_newer was wrong");
            on.extend(sequences(&oldest.messages));
            if !oldest.has_newer {
                break;
            }
            oldest = at(&client, limit, Anchor::AfterCursor(oldest.newer_cursor)).await;
            assert!(oldest.has_older);
        }
        assert_eq!(on, all, "on by {limit}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newer_cursor_waits_for_what_comes() {
    // Goal: a reader follows a room by asking again. Method: the cursor of an empty room, and of one that is read through:
    // nothing newer at first, then exactly what was published since.
    let (_lobby, client) = Lobby::open().await;
    let mut cursor = history(&client, "lobby", 0).await.newer_cursor;
    for round in 0..3_u64 {
        let nothing = at(&client, 0, Anchor::AfterCursor(cursor)).await;
        assert_eq!(nothing.messages, []);
        assert!(!nothing.has_newer);
        assert_ne!(nothing.newer_cursor, "");
        publish_n(&client, "lobby", 2).await;
        let new = at(&client, 0, Anchor::AfterCursor(nothing.newer_cursor)).await;
        assert_eq!(sequences(&new.messages), [2 * round + 1, 2 * round + 2]);
        assert!(!new.has_newer);
        cursor = new.newer_cursor;
    }
}

/// A point in time so many nanoseconds from a message's.
fn shifted(message: &Message, nanos: i64) -> Timestamp {
    let time = message.published_at.expect("a time");
    let total = time.seconds * 1_000_000_000 + i64::from(time.nanos) + nanos;
    Timestamp {
        seconds: total / 1_000_000_000,
        nanos: i32::try_from(total % 1_000_000_000).expect("less than a second"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_time_range_takes_its_start_and_not_its_end() {
    // Goal: the bounds are exact to the nanosecond, and each may be left out. Method: 10 messages; ranges between their own
    // times, and next to them.
    let (_lobby, client) = Lobby::open().await;
    publish_n(&client, "lobby", 10).await;
    let all = history(&client, "lobby", 0).await.messages;
    let time = |sequence: usize, nanos: i64| Some(shifted(&all[sequence - 1], nanos));
    let second = |seconds| Some(Timestamp { seconds, nanos: 0 });
    // The years 1970, 2191 and 9999.
    let long_ago = second(0);
    let (far, last) = (second(7_000_000_000), second(253_402_300_799));

    let cases = [
        (time(3, 0), time(6, 0), vec![3, 4, 5]),
        (time(3, 1), time(6, 1), vec![4, 5, 6]),
        (time(3, -1), time(6, -1), vec![3, 4, 5]),
        (time(9, 0), None, vec![9, 10]),
        (time(9, 0), far, vec![9, 10]),
        (None, time(3, 0), vec![1, 2]),
        (long_ago, time(3, 0), vec![1, 2]),
        (None, None, (1..=10).collect()),
        (long_ago, far, (1..=10).collect()),
        (long_ago, last, (1..=10).collect()),
        (last, None, vec![]),
        (time(10, 1), None, vec![]),
        (far, None, vec![]),
        (None, time(1, 0), vec![]),
        (None, long_ago, vec![]),
        (time(5, 0), time(5, 1), vec![5]),
    ];
    for (start, end, expected) in cases {
        let range = Anchor::TimeRange(TimeRange { start, end });
        let page = at(&client, 0, range).await;
        assert_eq!(sequences(&page.messages), expected, "{start:?} to {end:?}");
        if let [first, .., last] = expected[..] {
            assert_eq!(page.has_older, first > 1, "{start:?} to {end:?}");
            assert_eq!(page.has_newer, last < 10, "{start:?} to {end:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_time_range_gives_its_oldest_messages_first() {
    // Goal: a long range is read page by page. Method: a range over most of 300 messages with holes; the page holds its
    // oldest, and the cursor goes on behind it.
    let (lobby, client) = Lobby::without_room().await;
    room_with(&lobby.nats, &client, 300).await;
    lobby.nats.delete_messages("lobby", 101..=110).await;
    let all = history(&client, "lobby", 1000).await.messages;
    let hundredth = all.iter().find(|message| message.sequence == 100);
    let start = hundredth.expect("message 100").published_at;
    let first = all.iter().find(|message| message.published_at == start);
    let first = first.expect("message 100 at the latest").sequence;

    let range = Anchor::TimeRange(TimeRange { start, end: None });
    let page = at(&client, 20, range).await;
    let expected: Vec<u64> = (first..=300).filter(|sequence| !(101..=110).contains(sequence)).take(20).collect();
    assert_eq!(seen(&page), (expected.clone(), true, true));
    let next = at(&client, 1, Anchor::AfterCursor(page.newer_cursor)).await;
    assert_eq!(sequences(&next.messages), [expected[19] + 1]);
}
