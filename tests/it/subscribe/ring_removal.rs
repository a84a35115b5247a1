//! What is gone from a room's log does not come from memory either, while the room is busy.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;
use unibus::v1::{
    CreateRoomRequest, DeleteMessageRequest, Gap, GapReason, PublishRequest, PurgeRoomRequest, Retention, Room,
    UpdateRoomRequest, consume_response, start::At,
};

use crate::support::{
    Client, Consuming, Frames, Lobby, Nats, Unibus, create_room, eventually, history, listed, persisted, publish,
    publish_n, sequences, starting, subscription,
};

/// One message each, so that the room is never idle for as long as would empty its memory.
const PAUSE: Duration = Duration::from_millis(300);
/// Within this, removals by other programs are noticed.
const NOTICED_WITHIN: Duration = Duration::from_secs(5);
/// What a busy machine may take on top.
const SLACK: Duration = Duration::from_secs(3);

/// Publishes to the room until it is dropped.
fn keep_busy(client: &Client, room_id: &'static str) -> AbortOnDropHandle<()> {
    let client = client.clone();
    AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            publish(&client, room_id, "more").await.unwrap();
            sleep(PAUSE).await;
        }
    }))
}

/// What a new subscription from the beginning gets up to where the room ends at that moment.
async fn read_all(client: &Client, room_id: &str) -> (Vec<u64>, Vec<Gap>) {
    let mut frames = Frames::open(client, starting(room_id, At::AfterSequence(0))).await.unwrap();
    let messages = frames.until_caught_up().await;
    (sequences(&messages), frames.gaps)
}

fn gap(from_sequence: u64, to_sequence: u64, reason: GapReason) -> Gap {
    Gap { from_sequence, to_sequence, reason: reason.into(), dropped: 0 }
}

/// The sequences and gaps of the room `lobby` up to this message.
async fn read_to(consuming: &mut Consuming, last: u64) -> (Vec<u64>, Vec<Gap>) {
    let (mut read, mut gaps) = (Vec::new(), Vec::new());
    while read.last() != Some(&last) {
        match consuming.next_told("lobby").await {
            consume_response::Frame::Message(message) => read.push(message.sequence),
            consume_response::Frame::Gap(gap) => gaps.push(gap),
            consume_response::Frame::CaughtUp(_) => {}
            other => panic!("{other:?}"),
        }
    }
    (read, gaps)
}

async fn delete(client: &Client, room_id: &str, sequence: u64) {
    let request = DeleteMessageRequest { room_id: room_id.into(), sequence };
    client.clone().delete_message(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_message_is_gone_at_once_also_where_others_read_along() {
    // Goal: an erased message is not delivered again. Method: a subscription keeps the room's messages in memory, and the room
    // stays busy; erase one; every subscription that opens after the answer is told a gap in its place.
    let (_lobby, client) = Lobby::open().await;
    let mut open = Frames::transient(&client, "lobby").await;
    publish_n(&client, "lobby", 10).await;
    open.messages(10).await;
    let _busy = keep_busy(&client, "lobby");
    delete(&client, "lobby", 5).await;
    for _ in 0..20 {
        let (read, gaps) = read_all(&client, "lobby").await;
        assert_eq!(read[..9], [1, 2, 3, 4, 6, 7, 8, 9, 10]);
        assert_eq!(gaps, [gap(5, 5, GapReason::Deleted)]);
        sleep(PAUSE).await;
    }
    assert_eq!(open.gaps, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_at_the_end_of_its_lifetime_is_gone_from_memory_too() {
    // Goal: the same for `ttl`. Method: among ten messages one with two seconds to live; when it is gone from history, no new
    // subscription gets it.
    let (_lobby, client) = Lobby::without_room().await;
    let request = CreateRoomRequest { allow_message_ttl: true, ..persisted("lobby") };
    client.clone().create_room(request).await.unwrap();
    let mut open = Frames::transient(&client, "lobby").await;
    publish_n(&client, "lobby", 4).await;
    let ttl = Some(prost_types::Duration { seconds: 2, nanos: 0 });
    let brief = PublishRequest { room_id: "lobby".into(), ttl, ..PublishRequest::default() };
    client.clone().publish(brief).await.unwrap();
    publish_n(&client, "lobby", 5).await;
    open.messages(10).await;
    let _busy = keep_busy(&client, "lobby");
    eventually(Duration::from_secs(10), async || {
        let held = sequences(&history(&client, "lobby", 0).await.messages);
        (!held.contains(&5)).then_some(()).ok_or_else(|| format!("{held:?}"))
    })
    .await;
    for _ in 0..5 {
        let (read, gaps) = read_all(&client, "lobby").await;
        assert_eq!(read[..9], [1, 2, 3, 4, 6, 7, 8, 9, 10]);
        assert_eq!(gaps.len(), 1);
        sleep(PAUSE).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shorter_max_age_counts_for_memory_too() {
    // Goal: retention holds for what is in memory, also when it is changed later. Method: ten messages that others have in
    // memory; the room's age bound is tightened to less than their age; new subscriptions are told that they expired.
    let (_lobby, client) = Lobby::open().await;
    let mut open = Frames::transient(&client, "lobby").await;
    open.until_caught_up().await;
    publish_n(&client, "lobby", 10).await;
    open.messages(10).await;
    let _busy = keep_busy(&client, "lobby");
    sleep(Duration::from_millis(1500)).await;
    let max_age = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    let room = Room {
        room_id: "lobby".into(),
        retention: Some(Retention { max_age, ..Retention::default() }),
        ..Room::default()
    };
    let update_mask = Some(prost_types::FieldMask { paths: vec!["retention.max_age".into()] });
    client.clone().update_room(UpdateRoomRequest { room: Some(room), update_mask }).await.unwrap();
    for _ in 0..10 {
        let kept = history(&client, "lobby", 0).await.first_sequence;
        let (read, gaps) = read_all(&client, "lobby").await;
        assert!(read[0] >= kept, "{read:?}, and {kept} is the first that is kept");
        assert_eq!(gaps[0].reason(), GapReason::Expired);
        assert_eq!(gaps[0].from_sequence, 1);
        sleep(PAUSE).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_program_deletes_is_noticed_in_a_busy_room() {
    // Goal: native deletions count too. Method: delete two messages natively that are in memory, while the room is busy: a
    // subscription that opens afterwards does not get them.
    let (lobby, client) = Lobby::open().await;
    let mut open = Frames::transient(&client, "lobby").await;
    publish_n(&client, "lobby", 10).await;
    open.messages(10).await;
    let _busy = keep_busy(&client, "lobby");
    for (deleted, gaps) in [(5, 1), (7, 2)] {
        lobby.nats.delete_messages("lobby", [deleted]).await;
        let begun = Instant::now();
        while begun.elapsed() < NOTICED_WITHIN + SLACK {
            let (read, told) = read_all(&client, "lobby").await;
            assert!(!read.contains(&deleted), "{:?}", begun.elapsed());
            assert_eq!(told.len(), gaps);
            sleep(PAUSE).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_waits_for_credit_is_not_delivered_once_it_is_deleted() {
    // Goal: what waits for the client in the service is looked at again. Method: a Consume stream with credit for two of ten
    // messages; meanwhile erase three of the others, one after the other and apart; with credit the rest comes without them,
    // and gaps name them.
    let (_lobby, client) = Lobby::open().await;
    publish_n(&client, "lobby", 10).await;
    let mut consuming = Consuming::start(&client).await;
    consuming.open_within(subscription("lobby", ""), 2, 0).await;
    assert_eq!(sequences(&consuming.messages("lobby", 2).await), [1, 2]);
    for sequence in [3, 6, 7] {
        delete(&client, "lobby", sequence).await;
    }
    consuming.credit("lobby", 100, 0).await;
    let (read, gaps) = read_to(&mut consuming, 10).await;
    assert_eq!(read, [4, 5, 8, 9, 10]);
    assert_eq!(gaps, [gap(3, 3, GapReason::Deleted), gap(6, 7, GapReason::Deleted)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_instance_deletes_no_other_delivers_from_memory() {
    // Goal: the same over instances, for what waits there already. Method: a Consume stream of the second instance has credit
    // for two of ten messages; erase three through the first, one of them the last; with credit none of them comes.
    let nats = Nats::start().await;
    let (first, second) = (Unibus::start(&nats).await, Unibus::start(&nats).await);
    let (client, other) = (first.client().await, second.client().await);
    create_room(&client, "lobby").await;
    publish_n(&client, "lobby", 10).await;
    let mut consuming = Consuming::start(&other).await;
    consuming.open_within(subscription("lobby", ""), 2, 0).await;
    assert_eq!(sequences(&consuming.messages("lobby", 2).await), [1, 2]);
    for sequence in [4, 5, 10] {
        delete(&client, "lobby", sequence).await;
    }
    consuming.credit("lobby", 100, 0).await;
    publish(&client, "lobby", "end").await.unwrap();
    let (read, gaps) = read_to(&mut consuming, 11).await;
    assert_eq!(read, [3, 6, 7, 8, 9, 11]);
    assert_eq!(gaps, [gap(4, 5, GapReason::Deleted), gap(10, 10, GapReason::Deleted)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_that_keeps_one_message_still_delivers_every_one_live() {
    // Goal: what memory gives beyond the log is not lost by all this. Method: a room that keeps one message. One subscription
    // takes each message before the next is published; another has no credit meanwhile, and then gets the same ones. Again and
    // again for longer than several checks take, without a gap.
    const ROUNDS: u64 = 30;
    const LAG: u64 = 10;
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let client = unibus.client().await;
    let retention = Some(Retention { max_messages: 1, ..Retention::default() });
    client.clone().create_room(CreateRoomRequest { retention, ..persisted("lobby") }).await.unwrap();
    let mut quick = Frames::transient(&client, "lobby").await;
    quick.until_caught_up().await;
    let mut slow = Consuming::start(&client).await;
    slow.open_within(subscription("lobby", ""), 1, 0).await;
    for round in 0..ROUNDS {
        let sent = round * LAG + 1..=(round + 1) * LAG;
        for sequence in sent.clone() {
            publish(&client, "lobby", "x").await.unwrap();
            assert_eq!(sequences(&quick.messages(1).await), [sequence]);
        }
        slow.credit("lobby", u32::try_from(LAG).unwrap(), 0).await;
        let next = slow.messages("lobby", usize::try_from(LAG).unwrap()).await;
        assert_eq!(sequences(&next), listed(sent));
        sleep(PAUSE).await;
    }
    assert_eq!(quick.gaps, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_empties_memory_for_those_who_come_later() {
    // Goal: the same for PurgeRoom, of a part of what is in memory. Method: purge up to the fifth of ten in a busy room.
    let (_lobby, client) = Lobby::open().await;
    let mut open = Frames::transient(&client, "lobby").await;
    publish_n(&client, "lobby", 10).await;
    open.messages(10).await;
    let _busy = keep_busy(&client, "lobby");
    let request = PurgeRoomRequest { room_id: "lobby".into(), up_to_sequence: Some(5) };
    client.clone().purge_room(request).await.unwrap();
    for _ in 0..10 {
        let (read, gaps) = read_all(&client, "lobby").await;
        assert_eq!(read[..5], [6, 7, 8, 9, 10]);
        assert_eq!(gaps, [gap(1, 5, GapReason::Purged)]);
        sleep(PAUSE).await;
    }
}
