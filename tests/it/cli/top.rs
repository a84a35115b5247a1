//! `unibus top`, on a terminal and for scripts.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use unibus::v1::SubscribeRequest;

use crate::support::{
    Cli, Client, Lobby, Mode, Nats, Process, Proxy, create_ephemeral, create_room, eventually, explicit, publish,
    publish_n,
};

/// How long something may take on a busy machine.
const SOON: Duration = Duration::from_secs(30);

/// Makes a durable subscriber that has read nothing.
async fn subscriber(client: &Client, room_id: &str, name: &str) {
    let request = SubscribeRequest { ..explicit(room_id, name) };
    let mut frames = client.clone().subscribe(request).await.unwrap().into_inner();
    frames.message().await.unwrap().expect("an opened frame");
}

/// The place of a room among the lines.
fn place(screen: &str, room_id: &str) -> Option<usize> {
    screen.lines().position(|line| line.trim_start_matches('>').trim_start().starts_with(room_id))
}

/// Whether the rooms are shown in this order.
fn in_order(screen: &str, room_ids: &[&str]) -> bool {
    let places: Option<Vec<_>> = room_ids.iter().map(|room_id| place(screen, room_id)).collect();
    places.is_some_and(|places| places.is_sorted())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_change_the_order_and_q_gives_the_terminal_back() {
    // Goal: the table is what the rooms are, and the terminal is as before at the end. Method: three rooms that differ in each
    // figure; each sort key puts its room first; q; the same with Ctrl-C and with SIGTERM.
    let (lobby, client) = Lobby::without_room().await;
    for (room_id, count, size) in [("many", 9, 1), ("large", 3, 5000), ("quiet", 1, 1)] {
        create_room(&client, room_id).await;
        for _ in 0..count {
            publish(&client, room_id, "x".repeat(size)).await.unwrap();
        }
    }
    create_ephemeral(&client, "live").await;
    subscriber(&client, "quiet", "ann").await;
    subscriber(&client, "quiet", "bob").await;
    let cli = Cli::of(lobby.unibus.address());
    let mut top = cli.on_terminal(&["top", "--interval", "200ms", "--sort", "name"], 24, 100);
    let screen =
        top.until(|screen| screen.contains("4 rooms") && screen.contains("quiet") && screen.contains("0.0")).await;
    assert!(in_order(&screen, &["large", "live", "many", "quiet"]), "{screen}");
    assert!(top.is_alternate() && !top.is_ordinary());
    assert!(top.lines_with("live")[0].contains("ephemeral"), "{screen}");
    for (key, order) in [
        ("m", ["many", "large", "quiet", "live"]),
        ("b", ["large", "many", "quiet", "live"]),
        ("l", ["quiet", "large", "many", "live"]),
        ("n", ["large", "live", "many", "quiet"]),
        ("n", ["quiet", "many", "live", "large"]),
    ] {
        top.press(key);
        top.until(|screen| in_order(screen, &order)).await;
    }
    // messages that come now have a rate
    top.press("r");
    let flow = async {
        loop {
            publish(&client, "quiet", "x").await.unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        never = flow => never,
        _ = top.until(|screen| in_order(screen, &["quiet", "large"])) => {}
    }
    top.press("q");
    assert_eq!(top.ends().await, Some(0));
    eventually(SOON, async || if top.is_ordinary() { Ok(()) } else { Err(top.screen()) }).await;

    let mut top = cli.on_terminal(&["top"], 24, 100);
    top.shows("4 rooms").await;
    top.press("\u{3}");
    assert_eq!(top.ends().await, Some(130));
    eventually(SOON, async || if top.is_ordinary() { Ok(()) } else { Err(top.screen()) }).await;
    let mut top = cli.on_terminal(&["top"], 24, 100);
    top.shows("4 rooms").await;
    top.signal(Signal::TERM);
    assert_eq!(top.ends().await, Some(143));
    eventually(SOON, async || if top.is_ordinary() { Ok(()) } else { Err(top.screen()) }).await;
    lobby.unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn enter_shows_the_subscribers_of_a_room() {
    // Goal: who lags is one key away. Method: two subscribers, one of which has acknowledged 2 of 3 messages.
    let (lobby, client) = Lobby::open().await;
    publish_n(&client, "lobby", 3).await;
    subscriber(&client, "lobby", "slow").await;
    subscriber(&client, "lobby", "fast").await;
    let cli = Cli::of(lobby.unibus.address());
    cli.ok(&["subscriber", "seek", "lobby", "fast", "--from", "3"]).await;
    let mut top = cli.on_terminal(&["top", "--interval", "200ms"], 24, 100);
    top.shows("lobby").await;
    top.press("\r");
    top.until(|screen| in_order(screen, &["SUBSCRIBER", "slow", "fast"])).await;
    let words: Vec<_> = top.lines_with("slow")[0].split_whitespace().map(str::to_owned).collect();
    assert_eq!(words[..3], [">", "slow", "3"]);
    publish_n(&client, "lobby", 1).await;
    top.until(|screen| screen.lines().any(|line| line.contains("slow") && line.contains(" 4 "))).await;
    top.press("\u{1b}");
    top.until(|screen| place(screen, "lobby").is_some() && screen.contains("1 room")).await;
    top.press("q");
    assert_eq!(top.ends().await, Some(0));
    lobby.unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_rooms_than_lines_are_scrolled_and_the_terminal_may_change_its_size() {
    // Goal: no room is out of reach. Method: 30 rooms on 12 lines; the last one after End; all of them after a resize.
    let (lobby, client) = Lobby::without_room().await;
    for number in 0..30 {
        create_room(&client, &format!("room-{number:02}")).await;
    }
    let cli = Cli::of(lobby.unibus.address());
    let mut top = cli.on_terminal(&["top", "--sort", "name", "--interval", "500ms"], 12, 60);
    // a frame may arrive in parts, and the keys are its last line
    let screen = top.until(|screen| screen.contains("room-07") && screen.contains("q quit")).await;
    assert!(!screen.contains("room-08"), "{screen}");
    top.press("\u{1b}[F");
    let screen = top.shows("room-29").await;
    assert!(!screen.contains("room-21"), "{screen}");
    top.resize(40, 120);
    let all = |screen: &str| (0..30).all(|number| screen.contains(&format!("room-{number:02}")));
    top.until(|screen| all(screen) && screen.contains("SUBSCRIBERS")).await;
    top.resize(8, 30);
    top.until(|screen| screen.contains("room-29") && !screen.contains("room-25")).await;
    top.press("q");
    assert_eq!(top.ends().await, Some(0));
    lobby.unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_the_service_is_survived() {
    // Goal: top goes on by itself, on a terminal and for a script. Method: both watch through a proxy while the service is killed
    // and started again; then they see a message that was published after that.
    let nats = Nats::start().await;
    let mut service = Process::start(&nats).await;
    create_room(&service.client().await, "lobby").await;
    let proxy = Proxy::start(service.address()).await;
    let cli = Cli::of(proxy.address());
    let mut top = cli.on_terminal(&["top", "--interval", "200ms"], 24, 100);
    let script = cli.start(&["top", "--interval", "200ms", "--json"]);
    top.shows("lobby").await;
    script.prints(1).await;
    proxy.set(Mode::Down);
    service.kill9();
    let screen = top.shows("reconnecting").await;
    assert!(place(&screen, "lobby").is_some(), "{screen}");
    script.remarks("trying again").await;
    let service = Process::start(&nats).await;
    proxy.lead_to(service.address());
    proxy.set(Mode::Pass);
    publish_n(&service.client().await, "lobby", 7).await;
    top.until(|screen| {
        !screen.contains("reconnecting") && screen.lines().any(|line| line.contains("lobby") && line.contains(" 7 "))
    })
    .await;
    eventually(SOON, async || {
        let last: Option<Value> = script.stdout().last().and_then(|line| serde_json::from_str(line).ok());
        let messages = last.map(|last| last["rooms"][0]["messages"].clone());
        if messages == Some(json!(7)) { Ok(()) } else { Err(format!("{messages:?}")) }
    })
    .await;
    script.signal(Signal::INT);
    assert_eq!(script.ends().await.status, Some(130));
    top.press("q");
    assert_eq!(top.ends().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_get_tables_or_objects() {
    // Goal: figures without a terminal. Method: --once as a table, in JSON, with names of rooms and with -q; without --once a table
    // for each refresh, until the reader of the pipe ends.
    let (lobby, client) = Lobby::open().await;
    create_ephemeral(&client, "live").await;
    publish_n(&client, "lobby", 3).await;
    subscriber(&client, "lobby", "ann").await;
    let cli = Cli::of(lobby.unibus.address());
    let fast = ["top", "--interval", "100ms"];
    let table = cli.ok(&[&fast[..], &["--once"]].concat()).await;
    let lines: Vec<Vec<_>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["ROOM", "MESSAGES", "BYTES", "RATE/S", "SUBSCRIBERS", "OPEN", "MAX", "LAG"]);
    assert_eq!((lines[1][..2].to_vec(), &lines[1][4..7]), (vec!["lobby", "3"], &["0.0", "1", "0"][..]));
    assert_eq!(lines[2][..2], ["live", "ephemeral"]);
    assert!(lines.len() == 3 && !table.contains('\u{1b}'), "{table}");

    let objects = cli.json(&[&fast[..], &["--once"]].concat()).await;
    assert_eq!(objects.len(), 1);
    let room = &objects[0]["rooms"][0];
    for (field, value) in [
        ("roomId", json!("lobby")),
        ("persisted", json!(true)),
        ("messages", json!(3)),
        ("publishRate", json!(0.0)),
        ("subscribers", json!(1)),
        ("openSubscribers", json!(0)),
        ("maxLag", json!(3)),
    ] {
        assert_eq!(room[field], value, "{field}: {room}");
    }
    assert!(objects[0]["rooms"][1]["messages"].is_null());
    assert_eq!(cli.ok(&[&fast[..], &["--once", "-q", "--sort", "name"]].concat()).await, "live\nlobby\n");
    assert_eq!(cli.json(&[&fast[..], &["--once", "live"]].concat()).await[0]["rooms"].as_array().unwrap().len(), 1);
    assert_eq!(cli.run(&["top", "--interval", "1ms"]).await.status, Some(2));

    let tables = cli.start(&fast);
    tables.prints(7).await;
    tables.signal(Signal::INT);
    let done = tables.ends().await;
    assert!(done.status == Some(130) && done.text().matches("MAX LAG").count() >= 2, "{done:?}");
    lobby.unibus.shutdown().await.unwrap();
    let away = cli.run(&["top", "--once"]).await;
    assert_eq!(away.status, Some(3), "{away:?}");
}
