//! A NATS server that keeps its connections and says nothing.

use std::time::Duration;

use tokio::time::timeout;
use tonic::Code;
use unibus::v1::subscribe_response::Frame;

use crate::support::{Cluster, Frames, Unibus, create_room, metadata, publish_n, reason, subscription};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_subscription_whose_stream_says_nothing_ends_as_unavailable() {
    // Goal: whoever has a subscription open is told that NATS is not there, and where to go on: not that its call took too long.
    // Method: three nodes, and a room with one copy on a node to which the service is not connected; freeze that node, so that
    // the link stands and the stream is silent.
    let cluster = Cluster::start().await;
    let first = &cluster.nodes[0];
    let unibus = Unibus::start(first).await;
    let client = unibus.client().await;
    let mut number = 0;
    let (room_id, leader) = loop {
        number += 1;
        let room_id = format!("room_{number}");
        create_room(&client, &room_id).await;
        match cluster.leader(&format!("UNIBUS_{room_id}")).await {
            0 => assert!(number < 100, "every stream is on the first node"),
            leader => break (room_id, leader),
        }
    };
    publish_n(&client, &room_id, 3).await;
    let mut frames = Frames::open(&client, subscription(&room_id, "")).await.unwrap();
    frames.until_caught_up().await;
    cluster.nodes[leader].freeze().await;
    let ended = timeout(Duration::from_secs(90), async {
        loop {
            match frames.next_frame(Duration::from_secs(10)).await {
                Ok(Some(Frame::Heartbeat(_))) => {}
                Ok(frame) => panic!("{frame:?}"),
                Err(status) => return status,
            }
        }
    });
    let status = ended.await.expect("an end");
    cluster.nodes[leader].thaw();
    assert_eq!((status.code(), &*reason(&status)), (Code::Unavailable, "NATS_UNAVAILABLE"), "{status:?}");
    assert_eq!(metadata(&status, "position"), "3");
}
