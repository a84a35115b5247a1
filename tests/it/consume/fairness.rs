//! Rooms of a Consume stream take turns, and a slow client loses nothing.

use std::time::Duration;

use tokio::time::sleep;
use unibus::v1::consume_response::Frame;

use crate::support::{
    Consuming, Frames, Nats, Unibus, client_with_window, create_room, floor, floor_reaches, publish, subscription,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_with_a_large_backlog_starves_no_other() {
    // Goal: rooms take turns however much each has. Method: two rooms with large backlogs and a quiet one are opened; a
    // message published in the quiet room comes long before the backlogs are through, and these advance together.
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let client = client_with_window(unibus.address(), 64 * 1024).await;
    for room in ["red", "blue", "quiet"] {
        create_room(&client, room).await;
    }
    let count = 2000;
    for _ in 0..count {
        publish(&client, "red", vec![1; 4096]).await.unwrap();
        publish(&client, "blue", vec![1; 4096]).await.unwrap();
    }
    let mut stream = Consuming::start(&client).await;
    for room in ["red", "blue", "quiet"] {
        stream.ask(subscription(room, "")).await;
    }
    let (mut red, mut blue, mut quiet, mut apart) = (0_u32, 0_u32, None, 0);
    while red < count || blue < count {
        match stream.next().await.unwrap().expect("open") {
            (room, Frame::Message(_)) if room == "red" => red += 1,
            (room, Frame::Message(_)) if room == "blue" => blue += 1,
            (_, Frame::Message(_)) => quiet = Some(red + blue),
            _ => {}
        }
        if red.min(blue) > 100 {
            apart = apart.max(red.abs_diff(blue));
        }
        if red + blue == 1000 {
            // not over the connection whose window the stream may have filled
            publish(&unibus.client().await, "quiet", "hello").await.unwrap();
        }
    }
    assert!(quiet.is_some_and(|at| at < 1500), "{quiet:?}");
    // a reader of the log pauses now and then for what NATS has to bring
    assert!(apart < 1000, "{apart} messages apart");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_client_loses_nothing_holds_back_no_other_and_acknowledges_only_what_it_took() {
    // Goal: a client that does not read waits alone, and AUTO acks stay behind it. Method: a window that is smaller than one
    // message, and two AUTO rooms; the client stops reading; another subscriber gets everything; after two write-backs the
    // slow one's positions have not moved; then it reads on, and every message comes once, in order.
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let (fast, slow) = (unibus.client().await, client_with_window(unibus.address(), 64 * 1024).await);
    let mut stream = Consuming::start(&slow).await;
    for room in ["red", "blue"] {
        create_room(&fast, room).await;
        stream.open(subscription(room, "slow")).await;
    }
    let count = 40_u64;
    for _ in 0..count {
        publish(&fast, "red", vec![1; 256 * 1024]).await.unwrap();
        publish(&fast, "blue", vec![2; 256 * 1024]).await.unwrap();
    }
    for room in ["red", "blue"] {
        let mut frames = Frames::durable(&fast, room, "fast").await;
        assert_eq!(frames.messages(usize::try_from(count).unwrap()).await.len() as u64, count);
    }
    sleep(Duration::from_millis(2500)).await;
    for room in ["red", "blue"] {
        assert_eq!(floor(&nats, room, "slow").await, 0, "{room}");
    }
    let mut next = [("red", 1), ("blue", 1)];
    while next.iter().any(|(_, sequence)| *sequence <= count) {
        let (room, frame) = stream.next().await.unwrap().expect("open");
        let sequence = next.iter_mut().find(|(of, _)| *of == room).map(|(_, sequence)| sequence).unwrap();
        match frame {
            Frame::Message(message) => {
                assert_eq!(message.sequence, *sequence, "{room}");
                *sequence += 1;
            }
            Frame::Gap(gap) => panic!("{gap:?}"),
            _ => {}
        }
    }
    for room in ["red", "blue"] {
        assert_eq!(floor_reaches(&nats, room, "slow", count).await, count);
    }
}
