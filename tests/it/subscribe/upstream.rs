//! One upstream for each active room: what it costs NATS, when it begins and ends, and who shares it.

use std::time::Duration;

use tokio::time::sleep;
use unibus::v1::{DeleteRoomRequest, start::At, subscribe_response::Frame};

use crate::support::{
    Frames, Lobby, Nats, NatsOptions, Unibus, client_with_window, create_ephemeral, create_room, eventually, free_port,
    listed, payloads, publish, publish_n, sequences, starting,
};

const WITHIN: Duration = Duration::from_secs(20);

/// Consumers of the stream of a room.
async fn consumers(nats: &Nats, mapped_id: &str) -> usize {
    nats.stream(mapped_id).await.get_info().await.unwrap().state.consumer_count
}

async fn consumers_become(nats: &Nats, mapped_id: &str, count: usize) {
    eventually(WITHIN, async || match consumers(nats, mapped_id).await {
        found if found == count => Ok(()),
        found => Err(format!("{found} consumers")),
    })
    .await;
}

/// Core subscriptions to a subject, as the NATS server's monitoring counts them.
async fn subscriptions(monitor: u16, subject: &str) -> usize {
    let url = format!("http://127.0.0.1:{monitor}/subsz?subs=1&test={subject}");
    let body = reqwest::get(url).await.unwrap().text().await.unwrap();
    let found: serde_json::Value = serde_json::from_str(&body).unwrap();
    found["subscriptions_list"].as_array().map_or(0, Vec::len)
}

async fn subscriptions_become(monitor: u16, subject: &str, count: usize) {
    eventually(WITHIN, async || match subscriptions(monitor, subject).await {
        found if found == count => Ok(()),
        found => Err(format!("{found} subscriptions")),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_subscriptions_cost_jetstream_one_reader_which_ends_after_the_last() {
    // Goal: the work that a room gives JetStream does not grow with its subscribers. Method: fifty subscriptions that are
    // caught up; the stream has one consumer, all get what is published; when they end, it goes.
    let (lobby, client) = Lobby::open().await;
    publish_n(&client, "lobby", 3).await;
    let mut all = Vec::new();
    for number in 0..50 {
        let start = if number % 2 == 0 { At::New(()) } else { At::All(()) };
        let mut frames = Frames::open(&client, starting("lobby", start)).await.unwrap();
        let backlog = if number % 2 == 0 { vec![] } else { listed(1..=3) };
        assert_eq!(sequences(&frames.until_caught_up().await), backlog);
        all.push(frames);
    }
    consumers_become(&lobby.nats, "lobby", 1).await;
    publish_n(&client, "lobby", 20).await;
    for frames in &mut all {
        assert_eq!(sequences(&frames.messages(20).await), listed(4..=23));
    }
    assert_eq!(consumers(&lobby.nats, "lobby").await, 1);
    drop(all);
    consumers_become(&lobby.nats, "lobby", 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ephemeral_room_is_heard_once_for_all() {
    // Goal: the same without a log. Method: count the subscriptions to the room's subject as the NATS server does.
    let monitor = free_port();
    let nats = NatsOptions::new().extra(&format!("http: \"127.0.0.1:{monitor}\"\n")).start().await;
    let unibus = Unibus::start(&nats).await;
    let client = unibus.client().await;
    let subject = create_ephemeral(&client, "live").await.subject;
    let mut all = Vec::new();
    for _ in 0..20 {
        all.push(Frames::transient(&client, "live").await);
    }
    assert_eq!(subscriptions(monitor, &subject).await, 1);
    publish(&client, "live", "hello").await.unwrap();
    for frames in &mut all {
        assert_eq!(payloads(&frames.messages(1).await), ["hello"]);
    }
    drop(all);
    subscriptions_become(monitor, &subject, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_comes_while_messages_pass_misses_none() {
    // Goal: the hand-over from the log to the upstream that others already share. Method: messages are published without a
    // pause while subscriptions open, each at another place; each gets every message from there on, once.
    const COUNT: u64 = 1500;
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let client = unibus.client().await;
    create_room(&client, "lobby").await;
    let publishing = {
        let client = client.clone();
        tokio::spawn(async move { publish_n(&client, "lobby", usize::try_from(COUNT).unwrap()).await })
    };
    let mut readers = Vec::new();
    while !publishing.is_finished() && readers.len() < 30 {
        let client = unibus.client().await;
        let at = if readers.len() % 3 == 0 { At::New(()) } else { At::All(()) };
        readers.push(tokio::spawn(async move {
            let mut frames = Frames::open(&client, starting("lobby", at)).await.unwrap();
            let from = frames.opened().position + 1;
            let read = frames.messages(usize::try_from(COUNT + 1 - from).unwrap()).await;
            assert_eq!(sequences(&read), listed(from..=COUNT));
            assert_eq!(frames.gaps, []);
        }));
        sleep(Duration::from_millis(20)).await;
    }
    publishing.await.unwrap();
    assert!(readers.len() > 3);
    for reader in readers {
        reader.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_lags_reads_the_log_and_comes_back() {
    // Goal: who falls behind what is kept for all loses nothing and costs the others nothing. Method: a reader with a small
    // window does not read while far more is published than is kept; meanwhile the other gets everything over the one
    // upstream; then the slow one gets all of it too, and after that JetStream has one reader again.
    const PAYLOAD_BYTES: usize = 64 * 1024;
    const COUNT: u64 = 300;
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let client = unibus.client().await;
    create_room(&client, "lobby").await;
    let narrow = client_with_window(unibus.address(), 64 * 1024).await;
    let mut slow = Frames::transient(&narrow, "lobby").await;
    let mut quick = Frames::transient(&unibus.client().await, "lobby").await;
    for number in 1..=COUNT {
        publish(&client, "lobby", vec![7; PAYLOAD_BYTES]).await.unwrap();
        assert_eq!(sequences(&quick.messages(1).await), [number]);
    }
    assert_eq!(consumers(&nats, "lobby").await, 1);
    assert_eq!(sequences(&slow.messages(usize::try_from(COUNT).unwrap()).await), listed(1..=COUNT));
    assert_eq!(slow.gaps, []);
    publish(&client, "lobby", "small").await.unwrap();
    assert_eq!(sequences(&slow.messages(1).await), [COUNT + 1]);
    consumers_become(&nats, "lobby", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_made_again_has_an_upstream_of_its_own() {
    // Goal: what is left of a deleted room serves nobody. Method: subscribe, delete, create under the same name with
    // another subject, subscribe at once: for a room with a log and for one without.
    let (_lobby, client) = Lobby::without_room().await;
    for persist in [true, false] {
        for round in 0..3 {
            let subject = format!("rooms.{persist}.{round}");
            let request = unibus::v1::CreateRoomRequest {
                room_id: "again".into(),
                persist,
                subject,
                ..unibus::v1::CreateRoomRequest::default()
            };
            client.clone().create_room(request).await.unwrap();
            let mut frames = Frames::transient(&client, "again").await;
            frames.until_caught_up().await;
            publish(&client, "again", format!("{persist} {round}")).await.unwrap();
            assert_eq!(payloads(&frames.messages(1).await), [format!("{persist} {round}")]);
            client.clone().delete_room(DeleteRoomRequest { room_id: "again".into() }).await.unwrap();
            loop {
                match frames.next_frame(WITHIN).await {
                    Ok(Some(Frame::Heartbeat(_))) => {}
                    Ok(frame) => panic!("{frame:?}"),
                    Err(status) => {
                        assert_eq!(status.code(), tonic::Code::NotFound);
                        break;
                    }
                }
            }
        }
    }
}
