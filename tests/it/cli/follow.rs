//! `unibus sub`: it prints each message once and in order, whatever happens to connections and to the service.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::support::{
    Cli, Client, Issuer, Lobby, Mode, Nats, Process, Proxy, Way, connect, create_ephemeral, create_room, eventually,
    floor, floor_reaches, publish, publish_n,
};

/// How long something may take on a busy machine.
const SOON: Duration = Duration::from_secs(30);

/// The lines `1` to `last`.
fn numbers(last: usize) -> Vec<String> {
    (1..=last).map(|number| number.to_string()).collect()
}

/// Publishes until the running command has printed something more, so that it is known to be open.
async fn follows(client: &Client, command: &crate::support::Running) {
    let before = command.stdout().len();
    eventually(SOON, async || {
        publish(client, "lobby", "x").await.map_err(|status| status.to_string())?;
        if command.stdout().len() > before { Ok(()) } else { Err("nothing is printed".to_owned()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_begins_where_it_is_told() {
    // Goal: every start. Method: 5 stored messages; each value of --from with --no-follow; without it, only new messages.
    let (lobby, client) = Lobby::open().await;
    publish_n(&client, "lobby", 5).await;
    let cli = Cli::of(lobby.unibus.address());
    for (from, expected) in [
        ("first", "1\n2\n3\n4\n5\n"),
        ("4", "4\n5\n"),
        ("last:1", "5\n"),
        ("newest", ""),
        ("1h ago", "1\n2\n3\n4\n5\n"),
    ] {
        let args = ["sub", "lobby", "--from", from, "--no-follow", "--raw"];
        assert_eq!(cli.ok(&args).await, expected, "{from}");
    }
    assert_eq!(cli.ok(&["sub", "lobby", "--no-follow", "--raw"]).await, "");
    // a durable subscriber has the whole backlog, once
    assert_eq!(cli.ok(&["sub", "lobby", "--as", "ann", "--no-follow", "-q"]).await, "1\n2\n3\n4\n5\n");
    assert_eq!(cli.ok(&["sub", "lobby", "--as", "ann", "--no-follow", "-q"]).await, "");
    lobby.unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_goes_on_after_the_last_message_that_was_printed() {
    // Goal: what was printed is acknowledged, and no more. Method: end after 3 of 10 messages, by --count, by a signal, and by
    // SIGKILL; the position never passes what was printed, and the next run begins right after it.
    let (lobby, client) = Lobby::open().await;
    publish_n(&client, "lobby", 10).await;
    let cli = Cli::of(lobby.unibus.address());
    let counted = cli.ok(&["sub", "lobby", "--as", "ann", "--count", "3", "--raw"]).await;
    assert_eq!(counted, "1\n2\n3\n");
    assert_eq!(floor(&lobby.nats, "lobby", "ann").await, 3);
    let command = cli.start(&["sub", "lobby", "--as", "ann", "--raw"]);
    command.prints(7).await;
    command.signal(Signal::INT);
    let done = command.ends().await;
    assert_eq!((done.status, done.text().as_str()), (Some(130), "4\n5\n6\n7\n8\n9\n10\n"));
    assert_eq!(floor(&lobby.nats, "lobby", "ann").await, 10);

    publish_n(&client, "lobby", 3).await;
    let command = cli.start(&["sub", "lobby", "--as", "ann", "-q"]);
    command.prints(3).await;
    floor_reaches(&lobby.nats, "lobby", "ann", 13).await;
    command.signal(Signal::KILL);
    assert_eq!(command.ends().await.status, None);
    assert_eq!(cli.ok(&["sub", "lobby", "--as", "ann", "--no-follow", "-q"]).await, "");

    // `never` leaves everything to the next run
    publish_n(&client, "lobby", 1).await;
    for _ in 0..2 {
        let args = ["sub", "lobby", "--as", "ann", "--ack", "never", "--no-follow", "-q"];
        assert_eq!(cli.ok(&args).await, "14\n");
    }
    assert_eq!(cli.ok(&["sub", "lobby", "--as", "ann", "--ack", "auto", "--no-follow", "-q"]).await, "14\n");
    floor_reaches(&lobby.nats, "lobby", "ann", 14).await;
    lobby.unibus.shutdown().await.unwrap();
}

/// Follows a room through a proxy while the service is killed and restarted and connections break.
async fn survives(args: &[&str]) {
    let nats = Nats::start().await;
    let mut service = Process::start(&nats).await;
    create_room(&service.client().await, "lobby").await;
    let proxy = Proxy::start(service.address()).await;
    let cli = Cli::of(proxy.address());
    let command = cli.start(&[&["sub", "lobby", "--raw", "--from", "first", "--timeout", "5s"], args].concat());
    let mut printed = 0;
    for round in 0..5 {
        let client = connect(service.address()).await;
        for _ in 0..20 {
            printed += 1;
            publish(&client, "lobby", printed.to_string()).await.unwrap();
        }
        // so that each break meets an open subscription
        command.prints(printed).await;
        match round {
            0 => proxy.cut(),
            1 => service.kill9(),
            2 => proxy.cut_after(Way::Out, 100),
            3 => service.terminate(),
            _ => {}
        }
        if matches!(round, 1 | 3) {
            proxy.set(Mode::Down);
            service.wait(SOON).await;
            service = Process::start(&nats).await;
            proxy.lead_to(service.address());
            proxy.set(Mode::Pass);
        }
    }
    command.prints(printed).await;
    command.signal(Signal::TERM);
    let done = command.ends().await;
    assert_eq!(done.status, Some(143), "{done:?}");
    assert_eq!(done.text().lines().collect::<Vec<_>>(), numbers(printed), "{done:?}");
    assert!(proxy.accepted() > 3, "{}", proxy.accepted());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_without_a_name_survives_restarts_and_broken_connections() {
    // Goal: it follows for ever, without a gap and without a duplicate. Method: see `survives`.
    survives(&[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_durable_subscription_survives_restarts_and_broken_connections() {
    // Goal: the same with a position that the service keeps, which may lie behind what was printed. Method: see `survives`.
    survives(&["--as", "ann"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ephemeral_room_is_followed_again() {
    // Goal: a room without positions is followed too. Method: cut the connection; messages come again.
    let (lobby, client) = Lobby::without_room().await;
    create_ephemeral(&client, "lobby").await;
    let proxy = Proxy::start(lobby.unibus.address()).await;
    let cli = Cli::of(proxy.address());
    let command = cli.start(&["sub", "lobby", "--raw"]);
    follows(&client, &command).await;
    proxy.cut();
    command.remarks("again").await;
    follows(&client, &command).await;
    command.signal(Signal::INT);
    assert_eq!(command.ends().await.status, Some(130));
    lobby.unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_connection_is_given_up() {
    // Goal: a dead network is noticed without a FIN. Method: the proxy swallows what comes over the open connection; the command
    // opens another one and prints what was published meanwhile.
    let (lobby, client) = Lobby::open().await;
    let proxy = Proxy::start(lobby.unibus.address()).await;
    let cli = Cli::of(proxy.address());
    let command = cli.start(&["sub", "lobby", "--raw", "--from", "first"]);
    publish_n(&client, "lobby", 1).await;
    command.prints(1).await;
    proxy.swallow();
    publish(&client, "lobby", "2").await.unwrap();
    assert_eq!(command.prints(2).await, ["1", "2"]);
    lobby.unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_that_cannot_go_on_ends_with_its_reason() {
    // Goal: following for ever is not hanging for ever. Method: a newer subscription takes over; the room is deleted; the room
    // does not exist.
    let (lobby, client) = Lobby::open().await;
    let cli = Cli::of(lobby.unibus.address());
    let older = cli.start(&["sub", "lobby", "--as", "ann", "--json"]);
    follows(&client, &older).await;
    let newer = cli.start(&["sub", "lobby", "--as", "ann", "--json"]);
    let done = older.ends().await;
    assert_eq!((done.status, &done.error()["reason"]), (Some(7), &json!("TAKEN_OVER")));
    cli.ok(&["room", "delete", "lobby", "--yes"]).await;
    let done = newer.ends().await;
    assert_eq!((done.status, &done.error()["reason"]), (Some(4), &json!("ROOM_NOT_FOUND")));
    assert_eq!(cli.run(&["sub", "lobby"]).await.status, Some(4));
    lobby.unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_ends_by_count_and_by_silence_and_says_which() {
    // Goal: a script can wait for messages with a time limit. Method: --count with enough and with too few messages.
    let (lobby, client) = Lobby::open().await;
    publish_n(&client, "lobby", 3).await;
    let cli = Cli::of(lobby.unibus.address());
    let run = async |more: &[&str]| {
        let done = cli.run(&[&["sub", "lobby", "--from", "first", "-q"], more].concat()).await;
        (done.status, done.text())
    };
    assert_eq!(run(&["--count", "2", "--idle-timeout", "20s"]).await, (Some(0), "1\n2\n".to_owned()));
    assert_eq!(run(&["--idle-timeout", "1s"]).await, (Some(0), "1\n2\n3\n".to_owned()));
    assert_eq!(run(&["--count", "4", "--idle-timeout", "1s"]).await, (Some(12), "1\n2\n3\n".to_owned()));
    assert_eq!(run(&["--count", "4", "--no-follow"]).await, (Some(12), "1\n2\n3\n".to_owned()));
    lobby.unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_moved_subscriber_is_followed_and_gaps_are_reported_beside_the_output() {
    // Goal: the output is what the service decided. Method: move the open subscriber back, then delete and purge messages that it
    // has not reached; the messages come again, and the gap is on standard error.
    let (lobby, client) = Lobby::open().await;
    publish_n(&client, "lobby", 4).await;
    let cli = Cli::of(lobby.unibus.address());
    let command = cli.start(&["sub", "lobby", "--as", "ann", "-q"]);
    command.prints(4).await;
    floor_reaches(&lobby.nats, "lobby", "ann", 4).await;
    cli.ok(&["subscriber", "seek", "lobby", "ann", "--from", "3"]).await;
    assert_eq!(command.prints(6).await, ["1", "2", "3", "4", "3", "4"]);
    floor_reaches(&lobby.nats, "lobby", "ann", 4).await;
    command.signal(Signal::INT);
    command.ends().await;

    publish_n(&client, "lobby", 4).await;
    cli.ok(&["room", "purge", "lobby", "--up-to", "6", "-y"]).await;
    cli.ok(&["subscriber", "seek", "lobby", "ann", "--from", "2"]).await;
    let done = cli.run(&["sub", "lobby", "--as", "ann", "--no-follow", "--json"]).await;
    let gap = done.stderr.lines().find_map(|line| {
        let object: serde_json::Value = serde_json::from_str(line).expect("JSON");
        object.get("gap").cloned()
    });
    let gap = gap.unwrap_or_else(|| panic!("{done:?}"));
    assert_eq!(
        (&gap["fromSequence"], &gap["toSequence"], &gap["reason"]),
        (&json!("2"), &json!("6"), &json!("GAP_REASON_PURGED"))
    );
    let printed: Vec<_> = done.json().iter().map(|message| message["sequence"].clone()).collect();
    assert_eq!(printed, ["7", "8"]);
    lobby.unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_closes_the_output_ends_the_command_in_silence() {
    // Goal: `unibus sub ROOM | head -1` works. Method: a shell's pipe whose reader ends; what the reader did not get is not
    // acknowledged.
    let (lobby, client) = Lobby::open().await;
    for number in 1..=200 {
        publish(&client, "lobby", format!("{number} {}", "x".repeat(10_000))).await.unwrap();
    }
    let cli = Cli::of(lobby.unibus.address());
    let binary = env!("CARGO_BIN_EXE_unibus");
    let script = format!(
        "set -o pipefail; {binary} sub lobby --as ann --raw | head -n 1 | cut -c 1-2; {binary} history lobby --all | head -n 1 >/dev/null"
    );
    let shell = tokio::process::Command::new("bash")
        .args(["-c", &script])
        .env("UNIBUS_SERVER", format!("http://{}", lobby.unibus.address()))
        .env("HOME", cli.home())
        .output();
    let done = tokio::time::timeout(SOON, shell).await.expect("an end").unwrap();
    assert_eq!((done.status.code(), done.stdout.as_slice()), (Some(0), &b"1 \n"[..]), "{done:?}");
    assert!(done.stderr.is_empty(), "{done:?}");
    assert!(floor(&lobby.nats, "lobby", "ann").await < 200);
    lobby.unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_ends_it_even_if_nobody_reads_the_output() {
    // Goal: Ctrl-C always works. Method: the output is a pipe that nobody reads, until it is full; SIGINT ends the command.
    let (lobby, client) = Lobby::open().await;
    for _ in 0..100 {
        publish(&client, "lobby", "x".repeat(10_000)).await.unwrap();
    }
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_unibus"))
        .args(["sub", "lobby", "--from", "first", "--raw"])
        .env("UNIBUS_SERVER", format!("http://{}", lobby.unibus.address()))
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let pid = rustix::process::Pid::from_raw(command.id().unwrap().cast_signed()).unwrap();
    // the main thread sleeps while another one hangs in a write
    let writes = || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero())).unwrap();
        let waits = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("syscall")).ok());
        waits.into_iter().any(|call| call.starts_with("1 0x1 "))
    };
    eventually(SOON, async || if writes() { Ok(()) } else { Err("it does not hang in a write".to_owned()) }).await;
    rustix::process::kill_process(pid, Signal::INT).unwrap();
    let status = tokio::time::timeout(SOON, command.wait()).await.expect("an end").unwrap();
    assert_eq!(status.code(), Some(130));
    lobby.unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_expires_is_read_again_from_its_file() {
    // Goal: short-lived tokens do not end a long subscription. Method: a token of a few seconds in a file; another process replaces
    // it; the subscription goes on without a gap. The same token on the command line ends it.
    let (nats, issuer) = (Nats::start().await, Issuer::new());
    let service = issuer.guard(&nats, |config| config.auth.leeway = Duration::ZERO).await;
    let client = issuer.client(&service, "ann").await;
    create_room(&client, "lobby").await;
    let short = || issuer.sign(&json!({ "sub": "ann", "exp": crate::support::seconds_from_now(3) }));
    let cli = Cli::of(service.address());
    cli.write("token", short());
    let from_file = cli.start(&["sub", "lobby", "--raw", "--from", "first", "--token-file", "token"]);
    let given = cli.start(&["sub", "lobby", "--json", "--token", &short()]);
    publish(&client, "lobby", "1").await.unwrap();
    from_file.prints(1).await;
    let done = given.ends().await;
    assert_eq!((done.status, &done.error()["reason"]), (Some(6), &json!("CREDENTIALS_EXPIRED")));
    from_file.remarks("trying again").await;
    publish(&client, "lobby", "2").await.unwrap();
    cli.write("token", issuer.token("ann"));
    assert_eq!(from_file.prints(2).await, ["1", "2"]);
    service.shutdown().await.unwrap();
}
