//! Pages of an active room, which come from the memory of the instance.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;
use unibus::v1::{
    CreateRoomRequest, DeleteMessageRequest, HistoryResponse, PublishRequest, PurgeRoomRequest, Retention, Role,
    history_request::Anchor,
};

use crate::support::{
    Client, Frames, Issuer, Lobby, Nats, Random, Spy, Unibus, create_room, eventually, history, membership::add_from,
    note, page, persisted, publish, publish_n, sequences,
};

const SOON: Duration = Duration::from_secs(10);

/// The requests since the last call about the log of the room, without those that ask for no messages.
async fn read(spy: &mut Spy) -> Vec<String> {
    let mut seen = spy.seen_of_lobby().await;
    seen.retain(|subject| !subject.contains("STREAM.INFO"));
    seen
}

/// Waits until pages of the room come from memory.
async fn comes_from_memory(spy: &mut Spy, client: &Client, limit: i32) {
    eventually(SOON, async || {
        read(spy).await;
        history(client, "lobby", limit).await;
        let seen = read(spy).await;
        if seen.is_empty() { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_an_active_room_takes_no_request_for_messages() {
    // Goal: while a room is active, its log is not read for pages, and pages are complete. Method: a native spy on the
    // requests to JetStream; pages by every anchor; the controls are an instance without a subscription, a page that begins
    // before the memory, and the same page when the room has been idle.
    let (lobby, here) = Lobby::without_room().await;
    let room = create_room(&here, "lobby").await;
    lobby.nats.publish_n(&room.subject, 10).await;
    let other = Unibus::start(&lobby.nats).await;
    let there = other.client().await;
    let mut open = Frames::transient(&here, "lobby").await;
    open.until_caught_up().await;
    lobby.nats.publish_n(&room.subject, 150).await;
    publish_n(&there, "lobby", 150).await;
    open.messages(300).await;

    let mut spy = Spy::start(&lobby.nats).await;
    comes_from_memory(&mut spy, &here, 200).await;
    for (anchor, limit, expected) in [
        (None, 200, 111..=310),
        (None, 300, 11..=310),
        (Some(Anchor::BeforeSequence(200)), 100, 100..=199),
        (Some(Anchor::AfterSequence(10)), 7, 11..=17),
        (Some(Anchor::AfterSequence(300)), 200, 301..=310),
    ] {
        let found = page(&here, "lobby", limit, anchor.clone()).await.unwrap();
        assert_eq!(sequences(&found.messages), expected.collect::<Vec<_>>());
        assert_eq!(read(&mut spy).await, [""; 0], "{anchor:?}");
        assert_eq!(found, page(&there, "lobby", limit, anchor.clone()).await.unwrap(), "{anchor:?}");
        assert_ne!(read(&mut spy).await, [""; 0], "{anchor:?}");
    }
    assert_eq!(history(&here, "lobby", 301).await, history(&there, "lobby", 301).await);
    read(&mut spy).await;
    history(&here, "lobby", 301).await;
    assert_ne!(read(&mut spy).await, [""; 0]);
    let from_memory = history(&here, "lobby", 200).await;
    eventually(SOON, async || {
        read(&mut spy).await;
        let found = history(&here, "lobby", 200).await;
        assert_eq!(found, from_memory);
        if read(&mut spy).await.is_empty() { Err("the memory is not empty yet".to_owned()) } else { Ok(()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hole_leaves_later_pages_in_memory() {
    // Goal: one deleted message does not send every later page of an active room to the log. Method: delete a message; pages
    // that hold its place lack it; when the instance has noticed and enough messages follow, the spy sees no request.
    let (lobby, here) = Lobby::open().await;
    let mut open = Frames::transient(&here, "lobby").await;
    open.until_caught_up().await;
    publish_n(&here, "lobby", 20).await;
    let request = DeleteMessageRequest { room_id: "lobby".into(), sequence: 15 };
    here.clone().delete_message(request).await.unwrap();
    let found = sequences(&history(&here, "lobby", 10).await.messages);
    assert_eq!(found, [10, 11, 12, 13, 14, 16, 17, 18, 19, 20]);
    let mut spy = Spy::start(&lobby.nats).await;
    eventually(SOON, async || {
        publish_n(&here, "lobby", 2).await;
        read(&mut spy).await;
        let found = history(&here, "lobby", 5).await;
        let newest: Vec<u64> = (found.last_sequence - 4..=found.last_sequence).collect();
        assert_eq!(sequences(&found.messages), newest);
        assert!(found.has_older && !found.has_newer);
        if read(&mut spy).await.is_empty() { Ok(()) } else { Err("the log is read".to_owned()) }
    })
    .await;
}

/// Two instances with the room `lobby`, which is active in the first alone.
struct Two {
    nats: Nats,
    _unibus: [Unibus; 2],
    subject: String,
    /// The owner at both instances.
    ann: [Client; 2],
    /// A member at both instances, who sees a part.
    bob: [Client; 2],
    _open: Frames,
}

impl Two {
    async fn start(visible_from: u64, settings: CreateRoomRequest) -> Self {
        let (nats, issuer) = (Nats::start().await, Issuer::new());
        let unibus = [issuer.guard(&nats, |_| {}).await, issuer.guard(&nats, |_| {}).await];
        let ann = [issuer.client(&unibus[0], "ann").await, issuer.client(&unibus[1], "ann").await];
        let bob = [issuer.client(&unibus[0], "bob").await, issuer.client(&unibus[1], "bob").await];
        let room = ann[0].clone().create_room(settings).await.unwrap().into_inner().room.unwrap();
        publish_n(&ann[0], "lobby", 20).await;
        add_from(&ann[0], "lobby", "bob", Role::Writer, visible_from).await.unwrap();
        eventually(SOON, async || page(&bob[1], "lobby", 1, None).await.map_err(|status| status.to_string())).await;
        let mut open = Frames::transient(&ann[0], "lobby").await;
        open.until_caught_up().await;
        Self { nats, _unibus: unibus, subject: room.subject, ann, bob, _open: open }
    }

    /// Compares a page of the active room with the same page from the log, unless the log changes meanwhile.
    async fn compare(&self, who: &[Client; 2], limit: i32, anchor: Option<&Anchor>) {
        for _ in 0..20 {
            let before = page(&who[1], "lobby", limit, anchor.cloned()).await.unwrap();
            let found = page(&who[0], "lobby", limit, anchor.cloned()).await.unwrap();
            let after = page(&who[1], "lobby", limit, anchor.cloned()).await.unwrap();
            if before == after {
                assert_eq!(found, before, "limit {limit}, {anchor:?}");
                return;
            }
        }
        panic!("the log changes all the time");
    }
}

/// Does something to the room, by an instance or natively.
async fn change(random: &mut Random, two: &Two, last: u64) {
    let client = [&two.ann[0], &two.ann[1], &two.bob[0], &two.bob[1]][random.count(0..4)];
    let sequence = last.saturating_sub(random.within(0..12)).max(1);
    let what = random.within(0..20);
    note(format_args!("{what} at {sequence}"));
    match what {
        0..8 => {
            for _ in 0..random.count(1..6) {
                let size = *random.choice(&[0, 1, 100, 130, 20_000, 400_000]);
                let headers: HashMap<_, _> =
                    (0..random.count(0..3)).map(|number| (format!("h{number}"), "v".repeat(number))).collect();
                let message_id =
                    if random.within(0..2) == 0 { String::new() } else { uuid::Uuid::new_v4().to_string() };
                let ttl = (random.within(0..6) == 0).then_some(prost_types::Duration { seconds: 1, nanos: 0 });
                let payload = vec![7; size].into();
                let request =
                    PublishRequest { room_id: "lobby".into(), payload, headers, message_id, ttl, ..Default::default() };
                client.clone().publish(request).await.unwrap();
            }
        }
        8..12 => two.nats.publish_n(&two.subject, random.count(1..6)).await,
        12..14 => {
            let request = DeleteMessageRequest { room_id: "lobby".into(), sequence };
            let _ = two.ann[random.count(0..2)].clone().delete_message(request).await;
        }
        14 | 15 => {
            let _ = two.nats.stream("lobby").await.delete_message(sequence).await;
        }
        16 => {
            let request = PurgeRoomRequest { room_id: "lobby".into(), up_to_sequence: Some(sequence) };
            two.ann[random.count(0..2)].clone().purge_room(request).await.unwrap();
        }
        17 => {
            two.nats.stream("lobby").await.purge().sequence(sequence).await.unwrap();
        }
        _ => sleep(Duration::from_millis(random.within(0..400))).await,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_from_memory_is_the_page_of_the_log_after_any_change() {
    // Goal: a client cannot tell where a page comes from. Method: random publishes of several callers, natively too,
    // deletions, purges and lifetimes, by both instances and natively; after each, pages by every anchor and limit, for a
    // member who sees all and one who sees a part, are the same at the active instance and at one that reads the log.
    let mut random = Random::seeded();
    for retention in [Retention::default(), Retention { max_messages: 40, ..Retention::default() }] {
        let settings = CreateRoomRequest { allow_message_ttl: true, retention: Some(retention), ..persisted("lobby") };
        let two = Two::start(20, settings).await;
        let until = Instant::now() + Duration::from_secs(15);
        while Instant::now() < until {
            let last = history(&two.ann[1], "lobby", 1).await.last_sequence;
            change(&mut random, &two, last).await;
            let newest = history(&two.ann[1], "lobby", 50).await;
            for _ in 0..6 {
                let who = if random.within(0..2) == 0 { &two.ann } else { &two.bob };
                let limit = *random.choice(&[1, 2, 7, 20, 100, 1000]);
                let at = newest.last_sequence.saturating_sub(random.within(0..30)) + random.within(0..3);
                let cursor = (!newest.messages.is_empty()).then(|| random.choice(&newest.messages).cursor.clone());
                let anchor = match (random.within(0..6), cursor) {
                    (0..2, _) => None,
                    (2, _) => Some(Anchor::BeforeSequence(at)),
                    (3, _) => Some(Anchor::AfterSequence(at)),
                    (4, Some(cursor)) => Some(Anchor::BeforeCursor(cursor)),
                    (_, Some(cursor)) => Some(Anchor::AfterCursor(cursor)),
                    (_, None) => None,
                };
                two.compare(who, limit, anchor.as_ref()).await;
            }
        }
    }
}

/// What the other tasks of a test have done.
#[derive(Default)]
struct Done {
    /// The last sequence that was acknowledged.
    acknowledged: AtomicU64,
    deleted: Mutex<BTreeSet<u64>>,
    /// Also those whose deletion is under way.
    deleting: Mutex<BTreeSet<u64>>,
}

fn check(found: &HistoryResponse, acknowledged: u64, deleted: &BTreeSet<u64>, deleting: &BTreeSet<u64>) {
    let read: BTreeSet<u64> = sequences(&found.messages).into_iter().collect();
    assert_eq!(read.len(), found.messages.len());
    let first = *read.first().unwrap();
    for sequence in first..=acknowledged {
        assert!(read.contains(&sequence) || deleting.contains(&sequence), "{sequence} of {first} to {acknowledged}");
    }
    let gone: Vec<_> = read.intersection(deleted).collect();
    assert!(gone.is_empty(), "{gone:?} was deleted before");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_active_room_shows_what_others_stored_and_never_what_they_removed() {
    // Goal: what any instance or NATS has acknowledged before the request is in the page, and what was removed is not.
    // Method: publishes by the other instance and natively, and deletions by both ways, as fast as they go; every page of the
    // active instance is checked against what had been acknowledged when it was asked for.
    let two = Arc::new(Two::start(0, persisted("lobby")).await);
    let done = Arc::new(Done { acknowledged: AtomicU64::new(20), ..Done::default() });
    let publishing = [0, 1].map(|way| {
        let (two, done) = (Arc::clone(&two), Arc::clone(&done));
        AbortOnDropHandle::new(tokio::spawn(async move {
            let jetstream = two.nats.jetstream().await;
            loop {
                let sequence = if way == 0 {
                    publish(&two.ann[1], "lobby", "m").await.unwrap().sequence
                } else {
                    jetstream.publish(two.subject.clone(), "n".into()).await.unwrap().await.unwrap().sequence
                };
                done.acknowledged.fetch_max(sequence, Ordering::SeqCst);
            }
        }))
    });
    let removing = AbortOnDropHandle::new(tokio::spawn({
        let (two, done) = (Arc::clone(&two), Arc::clone(&done));
        async move {
            let stream = two.nats.stream("lobby").await;
            let mut native = false;
            loop {
                sleep(Duration::from_millis(200)).await;
                let sequence = done.acknowledged.load(Ordering::SeqCst) - 3;
                done.deleting.lock().unwrap().insert(sequence);
                if native {
                    stream.delete_message(sequence).await.unwrap();
                } else {
                    let request = DeleteMessageRequest { room_id: "lobby".into(), sequence };
                    two.ann[1].clone().delete_message(request).await.unwrap();
                }
                done.deleted.lock().unwrap().insert(sequence);
                native = !native;
            }
        }
    }));
    let until = Instant::now() + Duration::from_secs(8);
    while Instant::now() < until {
        let acknowledged = done.acknowledged.load(Ordering::SeqCst);
        let deleted = done.deleted.lock().unwrap().clone();
        let found = history(&two.ann[0], "lobby", 50).await;
        let deleting = done.deleting.lock().unwrap().clone();
        check(&found, acknowledged, &deleted, &deleting);
    }
    assert!(publishing.iter().all(|task| !task.is_finished()) && !removing.is_finished());
}
