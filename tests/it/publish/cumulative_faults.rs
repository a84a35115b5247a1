//! Cumulative acknowledgements while something breaks: what is acknowledged is stored, and nothing is told wrongly.

use std::time::Duration;

use async_nats::jetstream::stream::Config;
use tokio::{sync::watch, time::timeout};
use tonic::Code;
use unibus::v1::CreateRoomRequest;

use crate::support::{
    Client, Cluster, Nats, Unibus, assert_status, create_room,
    cumulative::{Answers, Told, assert_honest, cumulative, cumulatively},
    eventually, everything, payloads, persisted, publish,
    publishing::plain,
};

const SOON: Duration = Duration::from_secs(30);

/// A stream that publishes 1, 2, 3 and so on to `lobby` until it is told to stop.
struct Traffic {
    count: watch::Receiver<usize>,
    stop: watch::Sender<bool>,
    running: tokio::task::JoinHandle<(u64, Answers, tonic::Status)>,
}

impl Traffic {
    async fn start(client: &Client) -> Self {
        let (requests, mut answers) = Answers::open(client).await;
        let (stop, stopped) = watch::channel(false);
        let (counter, count) = watch::channel(0);
        let running = tokio::spawn(async move {
            let sending = async move {
                let mut sent = 0;
                while !*stopped.borrow() {
                    let request = cumulative(sent + 1, plain("lobby", (sent + 1).to_string()));
                    if requests.send(request).await.is_err() {
                        break;
                    }
                    sent += 1;
                    if sent % 64 == 0 {
                        tokio::task::yield_now().await;
                    }
                }
                sent
            };
            let reading = async {
                loop {
                    match answers.next().await {
                        Ok(true) => {
                            counter.send_replace(answers.told.len());
                        }
                        Ok(false) => return tonic::Status::new(Code::Ok, ""),
                        Err(status) => return status,
                    }
                }
            };
            let (sent, end) = tokio::join!(sending, reading);
            (sent, answers, end)
        });
        Self { count, stop, running }
    }

    /// Waits for this many answered messages more.
    async fn more(&mut self, messages: usize) {
        let enough = *self.count.borrow() + messages;
        timeout(SOON, self.count.wait_for(|count| *count >= enough)).await.expect("in time").unwrap();
    }

    /// Half-closes, and compares what was told with what the room holds. Returns the answers.
    async fn check(self, client: &Client) -> (Answers, usize) {
        self.stop.send_replace(true);
        let (sent, answers, end) = timeout(SOON, self.running).await.expect("in time").unwrap();
        assert_eq!(end.code(), Code::Ok, "{end:?}");
        assert_eq!(answers.told.len() as u64, sent, "not every message has an answer");
        let sent: Vec<_> = (1..=sent).map(|number| number.to_string()).collect();
        let kept = payloads(&everything(client, "lobby").await);
        let unknown = assert_honest(&kept, &sent, &answers.told);
        (answers, unknown)
    }
}

async fn open() -> (Nats, Unibus, Client) {
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let client = unibus.client().await;
    create_room(&client, "lobby").await;
    (nats, unibus, client)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_acknowledged_survives_restarts_of_nats_and_the_rest_is_reported() {
    // Goal: an acknowledgement is a promise, and nothing is stored twice. Method: a stream of messages while NATS is killed
    // and restarted three times; each message has one answer, and the room agrees with all of them.
    let (mut nats, _unibus, client) = open().await;
    let mut traffic = Traffic::start(&client).await;
    for _ in 0..3 {
        traffic.more(2000).await;
        nats.kill9();
        nats.restart().await;
    }
    traffic.more(2000).await;
    let (answers, unknown) = traffic.check(&client).await;
    assert!(unknown < answers.told.len() / 2, "{unknown} of {} are unknown", answers.told.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_acknowledged_survives_changes_of_the_leader() {
    // Goal: an acknowledgement holds whatever server leads, and no run is stored twice. Method: a stream of messages to a room
    // with three copies; its leader steps down four times, and is killed and restarted twice.
    let mut cluster = Cluster::start().await;
    let urls = cluster.urls();
    let unibus = Unibus::configured(|config| {
        config.nats.url = Some(urls);
        config.registry_replicas = 3;
    })
    .await;
    let client = unibus.client().await;
    let lobby = CreateRoomRequest { replicas: 3, ..persisted("lobby") };
    client.clone().create_room(lobby).await.unwrap();
    let native = cluster.nodes[0].client().await;
    let mut traffic = Traffic::start(&client).await;
    for round in 0..6 {
        traffic.more(1000).await;
        let leader = cluster.leader("UNIBUS_lobby").await;
        if round % 3 == 2 {
            cluster.nodes[leader].kill9();
            traffic.more(1000).await;
            cluster.nodes[leader].restart().await;
        } else {
            native.request("$JS.API.STREAM.LEADER.STEPDOWN.UNIBUS_lobby", "".into()).await.unwrap();
        }
    }
    cluster.leader("UNIBUS_lobby").await;
    traffic.more(5000).await;
    let (answers, unknown) = traffic.check(&client).await;
    assert!(matches!(answers.told.last(), Some(Told::Through(Some(_)))), "{:?}", answers.told.last());
    assert!(unknown < answers.told.len() / 2, "{unknown} of {} are unknown", answers.told.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_no_longer_allows_fast_batches_is_repaired_and_nothing_is_told_wrongly() {
    // Goal: another program's configuration does not make answers wrong. Method: under a stream of messages another program
    // takes the permission for fast batches away, again and again.
    let (nats, _unibus, client) = open().await;
    let jetstream = nats.jetstream().await;
    let config = nats.stream("lobby").await.cached_info().config.clone();
    let mut traffic = Traffic::start(&client).await;
    for _ in 0..5 {
        traffic.more(1000).await;
        jetstream.update_stream(&Config { allow_batch_publish: false, ..config.clone() }).await.unwrap();
    }
    traffic.more(1000).await;
    traffic.check(&client).await;
    eventually(SOON, async || {
        let config = nats.stream("lobby").await.cached_info().config.clone();
        config.allow_batch_publish.then_some(()).ok_or_else(|| format!("{config:?}"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_is_kept_around_moments_in_which_nobody_takes_the_messages() {
    // Goal: a message that is tried again comes before its successors, or not at all. Method: under a stream of messages
    // another program takes the room's subject away from its stream, again and again.
    let (nats, _unibus, client) = open().await;
    let jetstream = nats.jetstream().await;
    let config = nats.stream("lobby").await.cached_info().config.clone();
    let away = Config { subjects: vec!["elsewhere".into()], ..config };
    let mut traffic = Traffic::start(&client).await;
    for _ in 0..10 {
        traffic.more(500).await;
        jetstream.update_stream(&away).await.unwrap();
    }
    traffic.more(500).await;
    traffic.check(&client).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_in_the_middle_changes_no_answer() {
    // Goal: acknowledgements go on by sequence when messages are removed. Method: purges by another program under a stream of
    // messages; every message is acknowledged, and the last sequence counts them all.
    let (nats, _unibus, client) = open().await;
    let mut traffic = Traffic::start(&client).await;
    for _ in 0..5 {
        traffic.more(1000).await;
        nats.stream("lobby").await.purge().await.unwrap();
    }
    traffic.more(1000).await;
    traffic.stop.send_replace(true);
    let (sent, answers, end) = timeout(SOON, traffic.running).await.expect("in time").unwrap();
    assert_eq!(end.code(), Code::Ok, "{end:?}");
    assert_eq!(answers.told.len() as u64, sent);
    assert!(answers.told.iter().all(|told| matches!(told, Told::Through(_))));
    assert!(matches!(answers.told.last(), Some(Told::Through(Some(last))) if *last == sent));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_that_is_deleted_in_the_middle_is_reported_by_message() {
    // Goal: a deleted room ends nothing but its own messages. Method: the room is deleted under a stream of messages; from
    // some message on each gets an error, and the stream goes on for another room.
    let (_nats, _unibus, client) = open().await;
    create_room(&client, "hall").await;
    let mut traffic = Traffic::start(&client).await;
    traffic.more(2000).await;
    let request = unibus::v1::DeleteRoomRequest { room_id: "lobby".into() };
    client.clone().delete_room(request).await.unwrap();
    traffic.more(2000).await;
    traffic.stop.send_replace(true);
    let (sent, answers, end) = timeout(SOON, traffic.running).await.expect("in time").unwrap();
    assert_eq!(end.code(), Code::Ok, "{end:?}");
    assert_eq!(answers.told.len() as u64, sent);
    let last = answers.told.last().expect("an answer").reason();
    assert_eq!(last, "ROOM_NOT_FOUND");
    let allowed = ["", "ROOM_NOT_FOUND", "OUTCOME_UNKNOWN", "NATS_UNAVAILABLE"];
    assert!(answers.told.iter().all(|told| allowed.contains(&told.reason().as_str())));
    cumulatively(&client, vec![plain("hall", "x")]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_acknowledges_all_that_was_read_and_says_so() {
    // Goal: a client knows what to publish again elsewhere. Method: the service stops under a stream of messages; the stream
    // ends with DRAINING, and exactly what was acknowledged is stored.
    let (nats, unibus, client) = open().await;
    let other = Unibus::start(&nats).await;
    let mut traffic = Traffic::start(&client).await;
    traffic.more(1000).await;
    timeout(SOON, Box::pin(unibus.shutdown())).await.expect("in time").unwrap();
    let (_, answers, end) = timeout(SOON, traffic.running).await.expect("in time").unwrap();
    assert_status::<()>(Err(end), Code::Unavailable, "DRAINING");
    assert!(answers.told.iter().all(|told| matches!(told, Told::Through(_))));
    let kept = payloads(&everything(&other.client().await, "lobby").await);
    assert_eq!(kept, (1..=answers.told.len()).map(|number| number.to_string()).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_vanishes_leaves_a_prefix_and_a_room_that_works() {
    // Goal: a broken stream stores nothing out of order and blocks nobody. Method: a client drops its stream under load; the
    // room holds the first messages without a gap, at least those that were acknowledged, and takes others.
    let (_nats, unibus, client) = open().await;
    let own = unibus.client().await;
    let mut traffic = Traffic::start(&own).await;
    traffic.more(2000).await;
    let answered = *traffic.count.borrow();
    traffic.running.abort();
    drop(own);
    publish(&client, "lobby", "after").await.unwrap();
    let kept = eventually(SOON, async || {
        let first = everything(&client, "lobby").await.len();
        tokio::time::sleep(Duration::from_millis(200)).await;
        let kept = payloads(&everything(&client, "lobby").await);
        (kept.len() == first).then_some(kept).ok_or_else(|| "still growing".to_owned())
    })
    .await;
    let own: Vec<_> = kept.into_iter().filter(|payload| payload != "after").collect();
    assert!(own.len() >= answered);
    assert_eq!(own, (1..=own.len()).map(|number| number.to_string()).collect::<Vec<_>>());
}
