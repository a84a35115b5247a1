//! `unibus bench`: what it counts is what the service did.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use unibus::v1::{GetRoomRequest, PurgeRoomRequest};

use crate::support::{
    Cli, Client, Cluster, Issuer, Lobby, Mode, Nats, Process, Proxy, Running, Unibus, create_ephemeral, eventually,
    history, list_rooms,
};

/// How long something may take on a busy machine.
const SOON: Duration = Duration::from_secs(30);

/// Runs a benchmark that must succeed, and gives its result.
async fn bench(cli: &Cli, more: &[&str]) -> Value {
    let results = cli.json(&[&["bench"], more].concat()).await;
    assert_eq!(results.len(), 1, "{results:?}");
    results.into_iter().next().unwrap()
}

/// The ids of all rooms.
async fn room_ids(client: &Client) -> Vec<String> {
    let page = list_rooms(client, 1000, "").await.unwrap();
    page.rooms.into_iter().map(|room| room.room_id).collect()
}

/// Waits until the run has stored more than this number of messages in a room that is not one of these.
async fn stores(client: &Client, command: &Running, messages: u64, others: &[String]) {
    eventually(SOON, async || {
        let rooms = room_ids(client).await;
        for room_id in rooms.iter().filter(|room_id| !others.contains(room_id)) {
            let request = GetRoomRequest { room_id: room_id.clone() };
            let room = client.clone().get_room(request).await.map_err(|status| status.to_string())?.into_inner().room;
            if room.unwrap_or_default().state.unwrap_or_default().messages > messages {
                return Ok(());
            }
        }
        Err(format!("{rooms:?} {:?}", command.stderr()))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_counts_add_up_and_the_rooms_are_deleted() {
    // Goal: every message is published, acknowledged and delivered once to each subscriber, by every way of publishing. Method:
    // each way with several publishers, subscribers and rooms; no room is left.
    let (lobby, client) = Lobby::without_room().await;
    let cli = Cli::of(lobby.unibus.address());
    for (way, subscribers) in [
        (&["--publishers", "3", "--subscribers", "2"][..], 2),
        (&["--publishers", "2", "--rooms", "3", "--connections", "2", "--window", "7"], 1),
        (&["--unary", "--publishers", "2", "--subscribers", "3"], 3),
        (&["--unary", "--window", "16", "--size", "24"], 1),
        (&["--ephemeral", "--window", "8"], 1),
        (&["--subscribers", "0", "--size", "100KiB"], 0),
        (&["--rate", "2000", "--publishers", "3"], 1),
        (&["--rate", "2000", "--unary", "--warm-up", "300ms"], 1),
    ] {
        let warm_up: &[&str] = if way.contains(&"--warm-up") { &[] } else { &["--warm-up", "0s"] };
        let result = bench(&cli, &[way, warm_up, &["--messages", "500"]].concat()).await;
        assert_eq!(result["sent"], json!(500), "{way:?}: {result}");
        assert_eq!(result["publish"]["messages"], json!(500), "{way:?}: {result}");
        assert_eq!(result["deliver"]["messages"], json!(500 * subscribers), "{way:?}: {result}");
        assert_eq!(result["expectedDeliveries"], json!(500 * subscribers), "{way:?}: {result}");
        assert_eq!((&result["lost"], &result["duplicated"]), (&json!(0), &json!(0)), "{way:?}: {result}");
        assert_eq!((&result["errors"], &result["complete"]), (&json!({}), &json!(true)), "{way:?}: {result}");
        let latencies = |side: &str| -> Vec<f64> {
            let latencies = &result[side]["latencyMs"];
            ["p50", "p90", "p99", "p999", "max"].map(|name| latencies[name].as_f64().unwrap_or_default()).into()
        };
        assert!(latencies("publish")[0] > 0.0 && latencies("publish").is_sorted(), "{way:?}: {result}");
        assert!(subscribers == 0 || (latencies("deliver")[0] > 0.0 && latencies("deliver").is_sorted()), "{result}");
        assert!(result["publish"]["perSecond"].as_f64().unwrap() > 0.0, "{result}");
        assert_eq!(room_ids(&client).await, [""; 0]);
    }
    lobby.unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rooms_have_as_many_copies_as_asked_for() {
    // Goal: a cluster is measured with its copies. Method: rooms that are kept, on three servers; and copies that an ephemeral room
    // cannot have.
    let cluster = Cluster::start().await;
    let urls = cluster.urls();
    let unibus = Unibus::configured(|config| config.nats.url = Some(urls)).await;
    let cli = Cli::of(unibus.address());
    let ways = ["--replicas", "3", "--rooms", "2", "--messages", "100", "--warm-up", "0s", "--keep"];
    assert_eq!(bench(&cli, &ways).await["sent"], json!(100));
    let rooms = list_rooms(&unibus.client().await, 1000, "").await.unwrap().rooms;
    assert_eq!(rooms.iter().map(|room| room.replicas).collect::<Vec<_>>(), [3, 3]);
    assert_eq!(cli.run(&["bench", "--replicas", "3", "--ephemeral"]).await.status, Some(2));
    unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_given_room_is_used_and_stays() {
    // Goal: --room deletes nothing, and --keep keeps. Method: the room holds what was published, with the size that was asked for;
    // messages of others in the same room are not counted.
    let (lobby, client) = Lobby::open().await;
    create_ephemeral(&client, "live").await;
    let cli = Cli::of(lobby.unibus.address());
    let result = bench(&cli, &["--room", "lobby", "--warm-up", "0s", "--messages", "50", "--size", "1KiB"]).await;
    assert_eq!((&result["rooms"], &result["deliver"]["messages"]), (&json!(["lobby"]), &json!(50)));
    let stored = history(&client, "lobby", 100).await.messages;
    assert_eq!(stored.len(), 50);
    assert!(stored.iter().all(|message| message.payload.len() == 1024));
    assert_eq!(
        bench(&cli, &["--room", "live", "--warm-up", "0s", "--messages", "50", "--window", "5"]).await["persisted"],
        json!(false)
    );
    let kept = bench(&cli, &["--keep", "--warm-up", "0s", "--messages", "50", "--rooms", "2"]).await["rooms"].clone();
    let kept: Vec<_> = kept.as_array().unwrap().iter().map(|room| room.as_str().unwrap().to_owned()).collect();
    assert_eq!(room_ids(&client).await, [kept, vec!["live".to_owned(), "lobby".to_owned()]].concat());
    // two runs at a time in one room
    let args = ["--room", "lobby", "--warm-up", "0s", "--messages", "2000"];
    let (one, other) = tokio::join!(bench(&cli, &args), bench(&cli, &args));
    assert_eq!((&one["deliver"]["messages"], &other["deliver"]["messages"]), (&json!(2000), &json!(2000)));
    let purged = client.clone().purge_room(PurgeRoomRequest { room_id: "lobby".into(), up_to_sequence: None }).await;
    assert_eq!(purged.unwrap().into_inner().purged, 4050);
    lobby.unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_get_a_table_and_wrong_flags_are_refused() {
    // Goal: the table has both sides, and nonsense is refused before anything is created. Method: a short run; flags that
    // contradict each other.
    let (lobby, client) = Lobby::without_room().await;
    let cli = Cli::of(lobby.unibus.address());
    let done = cli.run(&["bench", "--messages", "100", "--warm-up", "100ms"]).await;
    assert_eq!(done.status, Some(0), "{done:?}");
    let text = done.text();
    let lines: Vec<Vec<_>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0][..3], ["MESSAGES", "PER", "SECOND"]);
    assert_eq!((lines[1][..2].to_vec(), lines[2][..2].to_vec()), (vec!["publish", "100"], vec!["deliver", "100"]));
    assert!(lines[3][0] == "complete:" && lines.len() == 4, "{text}");
    assert_eq!(cli.ok(&["bench", "--messages", "10", "--warm-up", "0s", "-q"]).await, "");
    for wrong in [
        &["--size", "23"][..],
        &["--size", "1GiB"],
        &["--messages", "1", "--duration", "1s"],
        &["--room", "lobby", "--keep"],
        &["--publishers", "0"],
        &["--window", "1025"],
        &["--rooms", "10000", "--subscribers", "100"],
    ] {
        assert_eq!(cli.run(&[&["bench"], wrong].concat()).await.status, Some(2), "{wrong:?}");
    }
    assert_eq!(cli.run(&["bench", "--room", "nowhere"]).await.status, Some(4));
    assert_eq!(room_ids(&client).await, [""; 0]);
    lobby.unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_ends_the_run_and_deletes_its_rooms() {
    // Goal: nothing is left after Ctrl-C. Method: SIGINT and SIGTERM while an endless run publishes in three rooms; the result so
    // far is printed, and says that it is not complete.
    let (lobby, client) = Lobby::without_room().await;
    let cli = Cli::of(lobby.unibus.address());
    for (signal, status) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let args = ["bench", "--duration", "1h", "--warm-up", "0s", "--rooms", "3", "--rate", "300", "--json"];
        let command = cli.start(&args);
        stores(&client, &command, 10, &[]).await;
        command.signal(signal);
        let done = command.ends().await;
        assert_eq!(done.status, Some(status), "{done:?}");
        let result = &done.json()[0];
        assert_eq!((&result["complete"], &result["lost"]), (&json!(false), &Value::Null), "{result}");
        assert!(result["publish"]["messages"].as_u64().unwrap() > 0, "{result}");
        assert_eq!(room_ids(&client).await, [""; 0], "{done:?}");
    }
    lobby.unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_loop_publishes_what_is_due_and_no_more() {
    // Goal: --rate is the rate, whatever the service does. Method: a second at 200 messages per second publishes 200 messages: the
    // times of all messages are fixed before, so a busy machine makes them late and not fewer. A service that stands still for half
    // of the time shows in the latencies, since they count from the time at which a message was due.
    let (lobby, client) = Lobby::without_room().await;
    let proxy = Proxy::start(lobby.unibus.address()).await;
    let cli = Cli::of(proxy.address());
    let args = ["bench", "--duration", "1s", "--rate", "200", "--publishers", "3", "--warm-up", "0s"];
    let result = &cli.json(&args).await[0];
    assert_eq!((&result["sent"], &result["lost"]), (&json!(200), &json!(0)), "{result}");
    assert!(result["publish"]["seconds"].as_f64().unwrap() > 0.9, "{result}");

    let stalled = cli.start(&["bench", "--duration", "6s", "--rate", "50", "--unary", "--warm-up", "0s", "--json"]);
    stores(&client, &stalled, 20, &[]).await;
    proxy.set(Mode::Freeze);
    tokio::time::sleep(Duration::from_secs(2)).await;
    proxy.set(Mode::Pass);
    let done = stalled.ends().await;
    assert_eq!(done.status, Some(0), "{done:?}");
    let result = &done.json()[0];
    assert_eq!((&result["sent"], &result["lost"]), (&json!(300), &json!(0)), "{result}");
    // in a closed loop one message of 300 would be late, and here a third of them is
    assert!(result["publish"]["latencyMs"]["p90"].as_f64().unwrap() > 300.0, "{result}");
    lobby.unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_dies_ends_the_run_with_an_error() {
    // Goal: no run hangs, and nobody takes a broken run for a result. Method: kill the service in the middle of a run, by both ways
    // of publishing; the command says so, with the room that it could not delete.
    let nats = Nats::start().await;
    for way in ["--window=10", "--unary"] {
        let mut service = Process::start(&nats).await;
        let client = service.client().await;
        let cli = Cli::of(service.address());
        let others = room_ids(&client).await;
        let command = cli.start(&["bench", "--duration", "1h", "--rate", "100", "--warm-up", "0s", way, "--json"]);
        stores(&client, &command, 10, &others).await;
        service.kill9();
        let done = command.ends().await;
        assert_eq!((done.status, &done.error()["exitStatus"]), (Some(3), &json!(3)), "{done:?}");
        assert_eq!(done.json()[0]["complete"], json!(false), "{done:?}");
        assert!(done.stderr.contains("notDeleted"), "{done:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_are_counted_and_shown_once() {
    // Goal: a limit of the service is named once, with what to do. Method: a rate limit below the rate of the run; a payload that
    // is too large, which no message can pass; a limit on rooms.
    let (nats, issuer) = (Nats::start().await, Issuer::new());
    let service = issuer
        .guard(&nats, |config| {
            config.rooms.limits.publishes = Some(50);
            config.rooms.limits.rooms = Some(2);
        })
        .await;
    let client = issuer.client(&service, "ann").await;
    let ann = Cli::of(service.address()).with("UNIBUS_TOKEN", &issuer.token("ann"));
    let args = ["bench", "--messages", "300", "--rate", "1000", "--warm-up", "0s", "--json"];
    let done = ann.run(&args).await;
    assert_eq!(done.status, Some(9), "{done:?}");
    let result = &done.json()[0];
    let refused = result["errors"]["RATE_LIMITED"].as_u64().unwrap();
    let stored = result["publish"]["messages"].as_u64().unwrap();
    assert!(refused > 0 && stored > 0 && refused + stored == 300, "{result}");
    assert_eq!((&result["lost"], &result["deliver"]["messages"]), (&json!(0), &json!(stored)), "{result}");
    let error = done.error();
    assert_eq!(error["reason"], json!("RATE_LIMITED"));
    assert!(error["hint"].as_str().unwrap().contains("--limit-publishes"), "{error}");
    assert_eq!(done.stderr.matches("RATE_LIMITED").count(), 1, "{done:?}");

    let done = ann.run(&["bench", "--messages", "5", "--size", "2MiB", "--warm-up", "0s", "--json"]).await;
    assert_eq!((done.status, &done.error()["reason"]), (Some(8), &json!("PAYLOAD_TOO_LARGE")), "{done:?}");
    let done = ann.run(&["bench", "--messages", "5", "--rooms", "3", "--json"]).await;
    assert_eq!((done.status, &done.error()["reason"]), (Some(9), &json!("LIMIT_REACHED")), "{done:?}");
    assert_eq!(room_ids(&client).await, [""; 0]);
    service.shutdown().await.unwrap();
}
