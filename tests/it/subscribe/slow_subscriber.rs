//! A subscriber that does not read, beside others that do.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use unibus::v1::subscribe_response::Frame;

use crate::support::{Client, Frames, Nats, Process, client_with_window, create_room, publish};

const PAYLOAD_BYTES: usize = 64 * 1024;
const WARM_UP: u64 = 160;
const COUNT: u64 = 3200;
const GROWTH_BYTES_MAX: u64 = 64 * 1024 * 1024;
const ALL_WITHIN: Duration = Duration::from_secs(240);

/// Publishes this many messages, several at a time.
async fn publish_large(clients: &[Client], count: u64) {
    let share = count / clients.len() as u64;
    let publishers = clients.iter().map(async |client| {
        for _ in 0..share {
            publish(client, "lobby", vec![7; PAYLOAD_BYTES]).await.unwrap();
        }
    });
    join_all(publishers).await;
}

/// Reads the messages after `position` up to and including `last`, keeping none; each once, in order.
async fn read(mut frames: Frames, mut position: u64, last: u64) -> Frames {
    while position < last {
        match frames.next_frame(Duration::from_secs(30)).await.unwrap().expect("open") {
            Frame::Message(message) => {
                assert_eq!(message.sequence, position + 1);
                position = message.sequence;
            }
            Frame::Gap(gap) => panic!("{gap:?}"),
            _ => {}
        }
    }
    frames
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_that_never_reads_costs_little_memory_and_slows_nobody() {
    // Goal: memory for each subscriber is bounded, and a slow one is alone with it. Method: six durables on a process, one
    // of which never reads; 200 MiB are published; the five get everything while the process grows by less than a bound;
    // at last the silent one reads, and has lost nothing.
    let nats = Nats::start().await;
    let service = Arc::new(Process::start(&nats).await);
    let client = service.client().await;
    create_room(&client, "lobby").await;
    let publishers = [service.client().await, service.client().await, service.client().await, service.client().await];
    publish_large(&publishers, WARM_UP).await;
    let narrow = client_with_window(service.address(), 64 * 1024).await;
    let silent = Frames::durable(&narrow, "lobby", "silent").await;
    let mut readers = Vec::new();
    for number in 0..5 {
        let frames = Frames::durable(&service.client().await, "lobby", &format!("reader{number}")).await;
        readers.push(read(frames, 0, WARM_UP).await);
    }

    let before = service.resident_bytes();
    let peak = Arc::new(AtomicU64::new(before));
    let watching = {
        let (service, peak) = (Arc::clone(&service), Arc::clone(&peak));
        AbortOnDropHandle::new(tokio::spawn(async move {
            loop {
                peak.fetch_max(service.resident_bytes(), Ordering::Relaxed);
                sleep(Duration::from_millis(20)).await;
            }
        }))
    };
    let readers = readers.into_iter().map(|frames| read(frames, WARM_UP, WARM_UP + COUNT));
    let readers: Vec<_> = readers.map(|reading| AbortOnDropHandle::new(tokio::spawn(reading))).collect();
    timeout(ALL_WITHIN, publish_large(&publishers, COUNT)).await.expect("published in time");
    for reader in timeout(ALL_WITHIN, join_all(readers)).await.expect("read in time") {
        reader.unwrap();
    }
    drop(watching);
    let growth = peak.load(Ordering::Relaxed).saturating_sub(before);
    assert!(growth < GROWTH_BYTES_MAX, "{before} bytes, then {growth} more");

    timeout(ALL_WITHIN, read(silent, 0, WARM_UP + COUNT)).await.expect("the silent one reads in time");
}
