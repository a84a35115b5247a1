//! From any page the cursors lead through the whole room.

use prost_types::Timestamp;
use unibus::v1::{HistoryResponse, Message, Role, TimeRange, history_request::Anchor};

use crate::support::{
    Client, Issuer, Nats, Random, create_room, everything, membership::add_from, note, page, publish_n, sequences,
};

const ROOMS: usize = 10;
const ANCHORS: usize = 40;

/// A room with holes, as one of its readers sees it.
struct Seen<'a> {
    client: &'a Client,
    room_id: &'a str,
    sequences: Vec<u64>,
}

impl Seen<'_> {
    async fn page(&self, limit: i32, anchor: Option<Anchor>) -> HistoryResponse {
        let found = page(self.client, self.room_id, limit, anchor).await.unwrap();
        assert_eq!(found.older_cursor.is_empty(), !found.has_older, "{found:?}");
        assert!(!found.newer_cursor.is_empty(), "{found:?}");
        found
    }

    /// Follows the cursors from the page with this anchor to both ends; the cursor at the newest one.
    async fn walk(&self, limit: i32, anchor: Option<Anchor>) -> String {
        let case = format!("{:?} by {limit} from {anchor:?}", self.room_id);
        let start = self.page(limit, anchor).await;
        let mut read = sequences(&start.messages);
        let (mut is_older, mut cursor) = (start.has_older, start.older_cursor);
        while is_older {
            let older = self.page(limit, Some(Anchor::BeforeCursor(cursor))).await;
            assert!(!older.messages.is_empty(), "{case}: nothing is older");
            read.splice(0..0, sequences(&older.messages));
            (is_older, cursor) = (older.has_older, older.older_cursor);
        }
        let (mut is_newer, mut cursor) = (start.has_newer, start.newer_cursor);
        while is_newer {
            let newer = self.page(limit, Some(Anchor::AfterCursor(cursor))).await;
            assert!(!newer.messages.is_empty(), "{case}: nothing is newer");
            read.extend(sequences(&newer.messages));
            (is_newer, cursor) = (newer.has_newer, newer.newer_cursor);
        }
        assert_eq!(read, self.sequences, "{case}");
        cursor
    }
}

/// A point in time so many nanoseconds from a message's.
fn shifted(message: &Message, nanos: i64) -> Timestamp {
    let time = message.published_at.expect("a time");
    let total = time.seconds * 1_000_000_000 + i64::from(time.nanos) + nanos;
    let (seconds, nanos) = (total / 1_000_000_000, total % 1_000_000_000);
    Timestamp { seconds, nanos: i32::try_from(nanos).expect("less than a second") }
}

/// A span of time that may begin and end at a message, between two, or outside the room.
fn range(random: &mut Random, all: &[Message]) -> Anchor {
    let mut bound = || match random.within(0..8) {
        0 => None,
        1 => Some(Timestamp { seconds: 1, nanos: 0 }),
        2 => Some(Timestamp { seconds: 7_000_000_000, nanos: 0 }),
        _ => Some(shifted(random.choice(all), *random.choice(&[-1, 0, 1]))),
    };
    let (start, end) = (bound(), bound());
    let nanos = |time: &Option<Timestamp>| time.map(|time| (time.seconds, time.nanos));
    match (nanos(&start), nanos(&end)) {
        (Some(first), Some(second)) if first > second => Anchor::TimeRange(TimeRange { start: end, end: start }),
        (Some(first), Some(second)) if first == second => Anchor::TimeRange(TimeRange { start, end: None }),
        _ => Anchor::TimeRange(TimeRange { start, end }),
    }
}

fn anchor(random: &mut Random, all: &[Message]) -> Option<Anchor> {
    let sequence = random.within(0..all.len() as u64 + 4);
    let cursor = random.choice(all).cursor.clone();
    Some(match random.within(0..10) {
        0 => return None,
        1 => Anchor::BeforeSequence(sequence),
        2 => Anchor::AfterSequence(sequence),
        3 => Anchor::BeforeCursor(cursor),
        4 => Anchor::AfterCursor(cursor),
        _ => range(random, all),
    })
}

/// Removes runs of messages, and sometimes the beginning or everything; what is left.
async fn remove_some(random: &mut Random, nats: &Nats, name: &str, count: u64) -> Vec<u64> {
    let mut left: Vec<u64> = (1..=count).collect();
    for _ in 0..random.within(0..5) {
        let first = random.within(1..count + 1);
        let run = first..first + random.within(1..9);
        let gone: Vec<u64> = left.extract_if(.., |sequence| run.contains(sequence)).collect();
        nats.delete_messages(name, gone).await;
    }
    if random.within(0..3) == 0 {
        let first = random.within(1..count + 2);
        nats.stream(name).await.purge().sequence(first).await.unwrap();
        left.retain(|sequence| *sequence >= first);
    }
    left
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cursors_lead_from_any_page_through_the_whole_room() {
    // Goal: from any page, also one without messages, the cursors lead to every other message once, and to what is published
    // later. Method: random rooms with holes, as an owner and as a member with a first visible sequence see them; random
    // anchors of every kind and page sizes; follow the cursors to both ends, then publish two more.
    let nats = Nats::start().await;
    let issuer = Issuer::new();
    let unibus = issuer.guard(&nats, |_| {}).await;
    let (ann, bob) = (issuer.client(&unibus, "ann").await, issuer.client(&unibus, "bob").await);
    let mut random = Random::seeded();
    for number in 0..ROOMS {
        let room_id = format!("room_{number}");
        create_room(&ann, &room_id).await;
        let count = random.count(1..50);
        publish_n(&ann, &room_id, count).await;
        let count = count as u64;
        let all = everything(&ann, &room_id).await;
        let left = remove_some(&mut random, &nats, &room_id, count).await;
        let from = random.within(1..count + 2);
        add_from(&ann, &room_id, "bob", Role::Reader, from).await.unwrap();
        note(format_args!("{room_id}: {left:?} of {count}, visible from {from}"));
        let visible = left.iter().copied().filter(|sequence| *sequence >= from).collect();
        let as_ann = Seen { client: &ann, room_id: &room_id, sequences: left };
        let as_bob = Seen { client: &bob, room_id: &room_id, sequences: visible };
        let mut ends = Vec::new();
        for seen in [&as_ann, &as_bob] {
            for _ in 0..ANCHORS {
                let limit = *random.choice(&[1, 2, 3, 7, 100]);
                ends.push((seen.client, seen.walk(limit, anchor(&mut random, &all)).await));
            }
        }
        publish_n(&ann, &room_id, 2).await;
        for (client, end) in ends {
            let later = page(client, &room_id, 0, Anchor::AfterCursor(end)).await.unwrap();
            assert_eq!(sequences(&later.messages), [count + 1, count + 2]);
        }
    }
}
