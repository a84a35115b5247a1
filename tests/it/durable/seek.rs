//! Moving a durable subscriber: forwards and back, to every kind of place, through any instance.

use std::{pin::pin, time::Duration};

use tonic::{Code, Status};
use unibus::v1::{
    DeleteRoomRequest, SeekSubscriberRequest, Start, SubscribeRequest, history_request::Anchor, start::At,
    subscribe_response::Frame,
};

use crate::support::{
    Client, Frames, Lobby, Mode, Nats, Process, Proxy, Unibus, acknowledge, assert_field, assert_status,
    create_ephemeral, create_room, explicit, fields, floor, history, listed, metadata, page, publish, publish_n,
    sequences, subscription,
};

/// The longest wait for a frame.
const FRAME_WAIT: Duration = Duration::from_secs(20);

async fn seek(client: &Client, room_id: &str, subscriber: &str, at: impl Into<Option<At>>) -> Result<u64, Status> {
    let position = at.into().map(|at| Start { at: Some(at) });
    let request = SeekSubscriberRequest { room_id: room_id.into(), subscriber: subscriber.into(), position };
    Ok(client.clone().seek_subscriber(request).await?.into_inner().position)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_place_can_be_sought_either_way() {
    // Goal: a subscriber goes on wherever it is told to. Method: each kind of place, forwards and back, through two
    // instances in turn, in a room with expired and deleted messages; the answer, the native ack floor, and what the next
    // subscription gets.
    let nats = Nats::start().await;
    let (first, second) = (Unibus::start(&nats).await, Unibus::start(&nats).await);
    let (client, other) = (first.client().await, second.client().await);
    create_room(&client, "lobby").await;
    publish_n(&client, "lobby", 10).await;
    drop(Frames::open(&client, explicit("lobby", "ann")).await.unwrap());
    nats.stream("lobby").await.purge().sequence(3).await.unwrap();
    nats.delete_messages("lobby", [6, 7]).await;
    let fifth = page(&client, "lobby", 1, Anchor::AfterSequence(4)).await.unwrap().messages.remove(0);
    let cases = [
        (At::New(()), 10, vec![]),
        (At::AfterSequence(5), 5, vec![8, 9, 10]),
        (At::All(()), 2, vec![3, 4, 5, 8, 9, 10]),
        (At::AfterSequence(10), 10, vec![]),
        (At::Last(4), 4, vec![5, 8, 9, 10]),
        (At::AfterCursor(fifth.cursor), 5, vec![8, 9, 10]),
        (At::AfterSequence(0), 0, vec![3, 4, 5, 8, 9, 10]),
        (At::Since(fifth.published_at.unwrap()), 4, vec![5, 8, 9, 10]),
        (At::Last(1), 9, vec![10]),
        (At::AfterSequence(6), 6, vec![8, 9, 10]),
    ];
    for (number, (at, position, follow)) in cases.into_iter().enumerate() {
        let case = format!("{at:?}");
        let (seeker, reader) = if number % 2 == 0 { (&other, &client) } else { (&client, &other) };
        assert_eq!(seek(seeker, "lobby", "ann", at).await.unwrap(), position, "{case}");
        assert_eq!(floor(&nats, "lobby", "ann").await, position, "{case}");
        if number % 3 == 0 {
            continue;
        }
        let mut frames = Frames::open(reader, explicit("lobby", "ann")).await.unwrap();
        assert_eq!((frames.opened().position, frames.opened().resumed), (position, true), "{case}");
        assert_eq!(sequences(&frames.until_caught_up().await), follow, "{case}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_with_an_open_subscription_is_moved_by_its_owner() {
    // Goal: position and acks agree while somebody listens. Method: an explicit subscription on one instance; seek back
    // through both; acks go on from there, and only what is acknowledged counts; the next subscription starts there.
    let nats = Nats::start().await;
    let (first, second) = (Unibus::start(&nats).await, Unibus::start(&nats).await);
    let (client, other) = (first.client().await, second.client().await);
    create_room(&client, "lobby").await;
    publish_n(&client, "lobby", 10).await;
    let mut frames = Frames::open(&client, explicit("lobby", "ann")).await.unwrap();
    assert_eq!(sequences(&frames.messages(10).await), listed(1..=10));
    for seeker in [&other, &client] {
        assert_eq!(acknowledge(seeker, "lobby", "ann", 9).await.unwrap(), 9);
        assert_eq!(seek(seeker, "lobby", "ann", At::AfterSequence(3)).await.unwrap(), 3);
        assert_eq!(floor(&nats, "lobby", "ann").await, 3);
        // not moved back by what lies before, and forwards from there
        assert_eq!(acknowledge(&client, "lobby", "ann", 2).await.unwrap(), 3);
        assert_eq!(acknowledge(&other, "lobby", "ann", 5).await.unwrap(), 5);
        assert_eq!(floor(&nats, "lobby", "ann").await, 5);
    }
    assert_eq!(seek(&other, "lobby", "ann", At::Last(2)).await.unwrap(), 8);
    drop(frames);
    let mut frames = Frames::open(&other, explicit("lobby", "ann")).await.unwrap();
    assert_eq!(frames.opened().position, 8);
    assert_eq!(sequences(&frames.until_caught_up().await), [9, 10]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_owner_holds_no_seek_up() {
    // Goal: any living instance moves a subscriber. Method: a subscription on a process, SIGKILL, seek through another one.
    let nats = Nats::start().await;
    let mut killed = Process::start(&nats).await;
    let left = Unibus::start(&nats).await;
    let (client, other) = (killed.client().await, left.client().await);
    create_room(&client, "lobby").await;
    publish_n(&client, "lobby", 5).await;
    let _frames = Frames::open(&client, explicit("lobby", "ann")).await.unwrap();
    killed.kill9();
    let begun = tokio::time::Instant::now();
    assert_eq!(seek(&other, "lobby", "ann", At::AfterSequence(4)).await.unwrap(), 4);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!(floor(&nats, "lobby", "ann").await, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_sought_is_refused() {
    // Goal: a mistaken seek moves nothing. Method: after the end, nowhere, cursors of elsewhere and of a former life, no
    // such subscriber or room, an ephemeral room; every wrong field at once.
    let (lobby, client) = Lobby::without_room().await;
    create_room(&client, "other").await;
    publish(&client, "other", "x").await.unwrap();
    create_room(&client, "lobby").await;
    publish_n(&client, "lobby", 3).await;
    let cursor = |of: unibus::v1::HistoryResponse| of.messages[0].cursor.clone();
    let elsewhere = cursor(history(&client, "other", 1).await);
    let former = cursor(history(&client, "lobby", 1).await);
    let request = DeleteRoomRequest { room_id: "lobby".into() };
    client.clone().delete_room(request).await.unwrap();
    create_room(&client, "lobby").await;
    publish_n(&client, "lobby", 3).await;
    let request =
        SubscribeRequest { start: Some(Start { at: Some(At::AfterSequence(2)) }), ..explicit("lobby", "ann") };
    drop(Frames::open(&client, request).await.unwrap());

    for sequence in [4, u64::MAX] {
        let refused = seek(&client, "lobby", "ann", At::AfterSequence(sequence)).await;
        let refused = assert_status(refused, Code::OutOfRange, "POSITION_AFTER_END");
        assert_eq!(metadata(&refused, "last_sequence"), "3");
    }
    assert_field(seek(&client, "lobby", "ann", None).await, "position", "no position");
    let empty =
        SeekSubscriberRequest { room_id: "lobby".into(), subscriber: "ann".into(), position: Some(Start { at: None }) };
    assert_field(client.clone().seek_subscriber(empty).await, "position", "an empty position");
    assert_field(seek(&client, "lobby", "ann", At::Last(0)).await, "position.last", "the last none");
    let since = At::Since(prost_types::Timestamp { seconds: -1, nanos: 0 });
    assert_field(seek(&client, "lobby", "ann", since).await, "position.since", "before 1970");
    for wrong in ["*", &elsewhere] {
        let refused = seek(&client, "lobby", "ann", At::AfterCursor(wrong.to_owned())).await;
        let refused = assert_status(refused, Code::InvalidArgument, "CURSOR_INVALID");
        assert_eq!(fields(&refused), ["position.after_cursor"]);
    }
    let refused = seek(&client, "lobby", "ann", At::AfterCursor(former)).await;
    assert_status(refused, Code::FailedPrecondition, "CURSOR_EXPIRED");
    let refused = seek(&client, "a b", "c d", None).await;
    let refused = assert_status(refused, Code::InvalidArgument, "INVALID_FIELD");
    assert_eq!(fields(&refused), ["room_id", "subscriber", "position"]);
    assert_status(seek(&client, "lobby", "bob", At::All(())).await, Code::NotFound, "SUBSCRIBER_NOT_FOUND");
    assert_status(seek(&client, "nowhere", "ann", At::All(())).await, Code::NotFound, "ROOM_NOT_FOUND");
    create_ephemeral(&client, "live").await;
    assert_status(seek(&client, "live", "ann", At::All(())).await, Code::FailedPrecondition, "ROOM_NOT_PERSISTED");
    assert_eq!(floor(&lobby.nats, "lobby", "ann").await, 2);
}

/// The next frame that is not a sign of life.
async fn next(frames: &mut Frames) -> Frame {
    loop {
        match frames.next_frame(Duration::from_secs(10)).await.unwrap().expect("open") {
            Frame::Heartbeat(_) => {}
            frame => return frame,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_subscription_follows_a_seek_and_says_so() {
    // Goal: who is moved while it listens goes on there, in either mode, and what was sent before does not undo the move.
    // Method: read everything; seek back, then forwards, then to the end, through another instance; each time `opened` with
    // the position comes, then exactly what lies after it; the next subscription starts where this one was moved and read to.
    let nats = Nats::start().await;
    let (first, second) = (Unibus::start(&nats).await, Unibus::start(&nats).await);
    let (client, other) = (first.client().await, second.client().await);
    create_room(&client, "lobby").await;
    publish_n(&client, "lobby", 20).await;
    for subscriber in ["auto", "explicit"] {
        let request = match subscriber {
            "auto" => subscription("lobby", subscriber),
            _ => explicit("lobby", subscriber),
        };
        let mut frames = Frames::open(&client, request.clone()).await.unwrap();
        let backlog = frames.until_caught_up().await;
        let last = *sequences(&backlog).last().unwrap();
        for to in [5, 0, 12, last] {
            assert_eq!(seek(&other, "lobby", subscriber, At::AfterSequence(to)).await.unwrap(), to);
            match next(&mut frames).await {
                Frame::Opened(opened) => assert_eq!((opened.position, opened.resumed), (to, true)),
                other => panic!("{other:?}"),
            }
            assert_eq!(sequences(&frames.until_caught_up().await), listed(to + 1..=last));
        }
        publish(&client, "lobby", "live").await.unwrap();
        assert_eq!(sequences(&frames.messages(1).await), [last + 1]);
        // back again, and away before anything is read: nothing of before counts
        seek(&other, "lobby", subscriber, At::AfterSequence(3)).await.unwrap();
        let Frame::Opened(opened) = next(&mut frames).await else { panic!("not opened") };
        assert_eq!(opened.position, 3);
        drop(frames);
        let again = Frames::open(&client, request).await.unwrap();
        assert!(again.opened().position >= 3);
        if subscriber == "explicit" {
            assert_eq!(again.opened().position, 3);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_sends_heartbeats_while_it_is_moved() {
    // Goal: a NATS that does not answer makes no subscription silent. Method: an open subscription is moved over a slow
    // link, which freezes when the call has returned: the subscription waits for the state of the log, and sends
    // heartbeats. It continues at the new position when the link passes bytes again.
    let nats = Nats::start().await;
    let proxy = Proxy::start(nats.address()).await;
    let url = proxy.nats_url();
    let service = Unibus::configured(|config| {
        config.nats.url = Some(url);
        config.heartbeat_interval = Duration::from_millis(100);
    })
    .await;
    let client = service.client().await;
    create_room(&client, "lobby").await;
    publish_n(&client, "lobby", 10).await;
    let mut frames = Frames::open(&client, explicit("lobby", "ann")).await.unwrap();
    assert_eq!(sequences(&frames.until_caught_up().await), listed(1..=10));
    proxy.set(Mode::Delay(Duration::from_millis(200)));
    let mut moving = pin!(seek(&client, "lobby", "ann", At::AfterSequence(5)));
    let moved = loop {
        tokio::select! {
            moved = &mut moving => break moved.unwrap(),
            frame = frames.next_frame(FRAME_WAIT) => assert!(matches!(frame, Ok(Some(Frame::Heartbeat(_)))), "{frame:?}"),
        }
    };
    assert_eq!(moved, 5);
    proxy.set(Mode::Freeze);
    for _ in 0..10 {
        let frame = frames.next_frame(FRAME_WAIT).await;
        assert!(matches!(frame, Ok(Some(Frame::Heartbeat(_)))), "{frame:?}");
    }
    proxy.set(Mode::Pass);
    let opened = loop {
        match frames.next_frame(FRAME_WAIT).await.unwrap() {
            Some(Frame::Heartbeat(_)) => {}
            frame => break frame,
        }
    };
    assert!(matches!(&opened, Some(Frame::Opened(opened)) if opened.position == 5), "{opened:?}");
    assert_eq!(sequences(&frames.until_caught_up().await), listed(6..=10));
}
