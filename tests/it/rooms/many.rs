//! Many rooms in use at the same time.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;

use crate::support::{
    Client, Frames, Nats, Unibus, create_room, floor_reaches, history, listed, payloads, publish, sequences,
};

const ROOMS: usize = 100;
const MESSAGES: usize = 20;

/// A room's whole life: created, subscribed to, published into, and each message delivered once and in order.
async fn live(client: &Client, publisher: &Client, room_id: &str) {
    create_room(client, room_id).await;
    let mut frames = Frames::durable(client, room_id, "ann").await;
    let publishing = async {
        for number in 1..=MESSAGES {
            let stored = publish(publisher, room_id, format!("{room_id} {number}")).await.unwrap();
            assert_eq!(stored.sequence, number as u64);
        }
    };
    let ((), messages) = tokio::join!(publishing, frames.messages(MESSAGES));
    assert_eq!(sequences(&messages), listed(1..=MESSAGES as u64));
    let expected: Vec<String> = (1..=MESSAGES).map(|number| format!("{room_id} {number}")).collect();
    assert_eq!(payloads(&messages), expected);
    assert_eq!(payloads(&history(client, room_id, 0).await.messages), expected);
    assert_eq!(frames.gaps, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_rooms_at_once_each_with_a_publisher_and_a_subscriber() {
    // Goal: rooms do not get into each other's way. Method: a hundred rooms at the same time over four connections, each
    // created, subscribed to by a durable and published into; every room delivers and keeps its own, and every position
    // arrives.
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let clients = [unibus.client().await, unibus.client().await, unibus.client().await, unibus.client().await];
    let rooms: Vec<String> = (0..ROOMS).map(|number| format!("room{number}")).collect();
    let lives = rooms.iter().enumerate();
    let lives = lives.map(|(number, room_id)| live(&clients[number % 2], &clients[2 + number % 2], room_id));
    timeout(Duration::from_secs(120), join_all(lives)).await.expect("in time");
    for room_id in &rooms {
        floor_reaches(&nats, room_id, "ann", MESSAGES as u64).await;
    }
}
