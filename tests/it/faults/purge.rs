//! Messages go while subscribers are on their way to them.

use std::time::Duration;

use tokio::time::sleep;
use unibus::v1::subscribe_response::Frame;

use crate::support::{
    Circumstances, Frames, Nats, Random, Traffic, Unibus, client_with_window, create_room, publish, subscription,
};

const GOES_ON_WITHIN: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscribers_beside_purges_and_deletions_are_told_and_go_on() {
    // Goal: what another program removes is named to whom it was still to come, whatever the moment. Method: traffic, with
    // random native purges, of all and of a part, and deletions of single messages under way; and a subscriber that stands
    // still meanwhile and then reads on: it sees a gap, and the last message.
    let mut random = Random::seeded();
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let client = unibus.client().await;
    create_room(&client, "lobby").await;
    let circumstances = Circumstances { removals: true, ..Circumstances::default() };
    let traffic = Traffic::start(unibus.address(), circumstances).await;
    let narrow = client_with_window(unibus.address(), 64 * 1024).await;
    let mut slow = Frames::open(&narrow, subscription("lobby", "slow")).await.unwrap();
    let stream = nats.stream("lobby").await;
    for _ in 0..30 {
        traffic.goes_on(random.within(1..40), GOES_ON_WITHIN).await;
        let state = stream.get_info().await.unwrap().state;
        match random.within(0..4) {
            0 => drop(stream.purge().await.unwrap()),
            1 => drop(stream.purge().keep(random.within(1..20)).await.unwrap()),
            2 => drop(
                stream.purge().sequence(random.within(state.first_sequence..state.last_sequence + 1)).await.unwrap(),
            ),
            _ => {
                let sequence = random.within(state.first_sequence..state.last_sequence + 1);
                // It may be gone already.
                let _ = stream.delete_message(sequence).await;
            }
        }
        sleep(Duration::from_millis(random.within(0..50))).await;
    }
    // more than is kept in memory for all subscribers of the room, so that the one that stands still reads the log
    for _ in 0..160 {
        publish(&client, "lobby", vec![7; 64 * 1024]).await.unwrap();
    }
    stream.purge().await.unwrap();
    publish(&client, "lobby", "after").await.unwrap();
    let mut position = 0;
    loop {
        match slow.next_frame(Duration::from_secs(10)).await.unwrap().expect("open") {
            Frame::Message(message) => {
                assert_eq!(message.sequence, position + 1);
                position = message.sequence;
                if message.payload == "after" {
                    break;
                }
            }
            Frame::Gap(gap) => {
                assert_eq!(gap.from_sequence, position + 1);
                position = gap.to_sequence;
            }
            _ => {}
        }
    }
    assert!(!slow.gaps.is_empty());
    traffic.finish(&client).await;
}
