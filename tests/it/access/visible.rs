//! What lies before a member's first visible sequence, no call of its own tells.

use std::time::{Duration, SystemTime};

use base64::{Engine, engine::general_purpose::STANDARD};
use prost_types::Timestamp;
use tokio::time::sleep;
use unibus::v1::{GetRoomRequest, Role, SeekSubscriberRequest, Start, TimeRange, history_request::Anchor, start::At};

use crate::support::{
    Frames, Issuer, Nats, create_room, everything, history, listed,
    membership::{add, add_from},
    page, publish, publish_n, sequences, starting, subscription,
};

/// The first sequence that bob sees of the ten.
const FROM: u64 = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_begins_at_the_first_visible_message() {
    // Goal: neither a page nor what is said about it tells of earlier messages. Method: every anchor, by sequence, cursor and
    // time, before, at and after the limit, with holes on both sides of it, over gRPC and HTTP.
    let nats = Nats::start().await;
    let issuer = Issuer::new();
    let unibus = issuer.guard(&nats, |_| {}).await;
    let (ann, mut bob) = (issuer.client(&unibus, "ann").await, issuer.client(&unibus, "bob").await);
    for holes in [&[][..], &[2, 4, 7], &[6, 8]] {
        let room = format!("holes-{}", holes.len());
        create_room(&ann, &room).await;
        let begin = SystemTime::now();
        publish_n(&ann, &room, 5).await;
        sleep(Duration::from_millis(20)).await;
        let middle = SystemTime::now();
        publish_n(&ann, &room, 5).await;
        nats.delete_messages(&room.replace('-', "_"), holes.iter().copied()).await;
        add_from(&ann, &room, "bob", Role::Reader, FROM).await.unwrap();
        let cursors: Vec<_> = everything(&ann, &room).await.into_iter().map(|message| message.cursor).collect();
        let visible: Vec<_> = (FROM..=10).filter(|sequence| !holes.contains(sequence)).collect();
        let range = |start, end: Option<SystemTime>| {
            Anchor::TimeRange(TimeRange { start: Some(Timestamp::from(start)), end: end.map(Timestamp::from) })
        };
        let anchors = [
            (None, visible.clone()),
            (Some(Anchor::AfterSequence(0)), visible.clone()),
            (Some(Anchor::AfterSequence(2)), visible.clone()),
            (Some(Anchor::AfterSequence(FROM - 1)), visible.clone()),
            (Some(Anchor::AfterSequence(8)), listed([9, 10])),
            (Some(Anchor::BeforeSequence(3)), Vec::new()),
            (Some(Anchor::BeforeSequence(FROM)), Vec::new()),
            (Some(Anchor::BeforeSequence(u64::MAX)), visible.clone()),
            (Some(Anchor::AfterCursor(cursors[0].clone())), visible.clone()),
            (Some(Anchor::BeforeCursor(cursors[1].clone())), Vec::new()),
            (Some(range(begin, None)), visible.clone()),
            (Some(range(begin, Some(middle))), Vec::new()),
            (Some(range(middle, None)), visible.clone()),
        ];
        for (anchor, expected) in anchors {
            let found = page(&bob, &room, 100, anchor.clone()).await.unwrap();
            assert_eq!(sequences(&found.messages), expected, "{holes:?} {anchor:?}");
            let older = expected.first().is_some_and(|first| *first > visible[0]);
            assert_eq!(found.has_older, older, "{holes:?} {anchor:?}");
            assert_eq!(found.older_cursor.is_empty(), !older, "{anchor:?}");
            assert_eq!((found.first_sequence, found.last_sequence), (visible[0], 10), "{anchor:?}");
        }
        // towards the beginning, page by page
        let newest = page(&bob, &room, 2, None).await.unwrap();
        assert!(newest.has_older);
        let before = page(&bob, &room, 2, Anchor::BeforeCursor(newest.older_cursor)).await.unwrap();
        assert!(before.messages.iter().all(|message| message.sequence >= FROM));
        let shown = bob.get_room(GetRoomRequest { room_id: room.clone() }).await.unwrap().into_inner();
        let state = shown.room.and_then(|room| room.state).unwrap();
        assert_eq!((state.first_sequence, state.last_sequence), (visible[0], 10));
        assert!(state.messages <= 5);
        let url = format!("http://{}/rooms/{room}/history?limit=100", unibus.address());
        let answer = reqwest::Client::new().get(url).bearer_auth(issuer.token("bob")).send().await.unwrap();
        let answer: serde_json::Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        let expected: Vec<_> = visible.iter().map(|sequence| STANDARD.encode((sequence - 5).to_string())).collect();
        assert_eq!(answer["messages"], serde_json::json!(expected));
        assert_eq!(history(&ann, &room, 100).await.messages.len(), 10 - holes.len());
    }
    // nothing is visible yet
    create_room(&ann, "new").await;
    publish_n(&ann, "new", 3).await;
    add_from(&ann, "new", "bob", Role::Reader, 4).await.unwrap();
    for anchor in [None, Some(Anchor::AfterSequence(0)), Some(Anchor::BeforeSequence(3))] {
        let found = page(&bob, "new", 100, anchor).await.unwrap();
        assert!(found.messages.is_empty() && !found.has_older && !found.has_newer);
        assert_eq!((found.first_sequence, found.last_sequence), (4, 3));
    }
    publish(&ann, "new", "4").await.unwrap();
    assert_eq!(sequences(&history(&bob, "new", 100).await.messages), [4]);
    unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscriptions_begin_at_the_first_visible_message_and_name_no_gap_before_it() {
    // Goal: nothing earlier comes, however it is asked for. Method: every start, durable and not, holes on both sides of the
    // limit; a durable that was there before; seeks by the member and by the owner, also while it is open.
    let nats = Nats::start().await;
    let issuer = Issuer::new();
    let unibus = issuer.guard(&nats, |_| {}).await;
    let (mut ann, mut bob) = (issuer.client(&unibus, "ann").await, issuer.client(&unibus, "bob").await);
    create_room(&ann, "lobby").await;
    let begin = SystemTime::now();
    publish_n(&ann, "lobby", 10).await;
    nats.delete_messages("lobby", [2, 4, 8]).await;
    add(&ann, "lobby", "bob", Role::Reader).await.unwrap();
    let mut early = Frames::durable(&bob, "lobby", "bob/early").await;
    assert_eq!(early.messages(1).await[0].sequence, 1);
    drop(early);
    let cursor = everything(&ann, "lobby").await[0].cursor.clone();
    add_from(&ann, "lobby", "bob", Role::Reader, FROM).await.unwrap();
    let visible = [6, 7, 9, 10];
    for at in [
        At::All(()),
        At::AfterSequence(0),
        At::AfterSequence(3),
        At::AfterCursor(cursor),
        At::Since(begin.into()),
        At::Last(9),
    ] {
        let mut frames = Frames::open(&bob, starting("lobby", at.clone())).await.unwrap();
        assert_eq!((frames.opened().position, frames.opened().first_sequence), (FROM - 1, FROM), "{at:?}");
        assert_eq!(sequences(&frames.until_caught_up().await), visible, "{at:?}");
        assert!(frames.gaps.iter().all(|gap| gap.from_sequence >= FROM), "{at:?}: {:?}", frames.gaps);
    }
    let mut durable = Frames::open(&bob, subscription("lobby", "bob")).await.unwrap();
    assert_eq!(sequences(&durable.until_caught_up().await), visible);
    let seek = |to| SeekSubscriberRequest {
        room_id: "lobby".into(),
        subscriber: "bob".into(),
        position: Some(Start { at: Some(At::AfterSequence(to)) }),
    };
    assert_eq!(bob.seek_subscriber(seek(1)).await.unwrap().into_inner().position, FROM - 1);
    assert_eq!(sequences(&durable.messages(4).await), visible);
    ann.seek_subscriber(seek(1)).await.unwrap();
    assert_eq!(sequences(&durable.messages(4).await), visible);
    assert!(durable.gaps.iter().all(|gap| gap.from_sequence >= FROM));
    unibus.shutdown().await.unwrap();
}
