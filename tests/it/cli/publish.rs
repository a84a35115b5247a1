//! `unibus pub`.

use std::{fmt::Write, time::Duration};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{
    Cli, Lobby, Mode, Nats, Process, Proxy, Way, create_ephemeral, create_room, eventually, everything, history,
    payloads,
};

/// How long something may take on a busy machine.
const SOON: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payload_comes_from_an_argument_a_file_or_standard_input() {
    // Goal: any bytes can be published from a shell. Method: one message by each way, with every option; read them back.
    let (lobby, client) = Lobby::without_room().await;
    let cli = Cli::of(lobby.unibus.address());
    cli.ok(&["room", "create", "lobby", "--allow-message-ttl"]).await;
    let bytes = [0xff, 0, b'\n', 0x1b];
    cli.write("bytes", bytes);
    cli.ok(&["pub", "lobby", "hello"]).await;
    cli.ok(&["pub", "lobby", "--file", "bytes"]).await;
    assert_eq!(cli.run_with(&["pub", "lobby"], &bytes).await.status, Some(0));
    assert_eq!(cli.run_with(&["pub", "lobby", "-"], b"dash\n").await.status, Some(0));
    cli.ok(&["pub", "lobby", ""]).await;
    cli.ok(&["pub", "lobby", "--", "--help"]).await;
    let options = ["-H", "kind=a=b", "-H", "x=", "--id", "m-1", "--ttl", "1h", "--expected-sequence", "6"];
    let stored = cli.json(&[&["pub", "lobby", "last"][..], &options].concat()).await;
    assert_eq!((&stored[0]["sequence"], &stored[0]["duplicate"]), (&json!("7"), &json!(false)));
    let messages = history(&client, "lobby", 100).await.messages;
    let read: Vec<_> = messages.iter().map(|message| message.payload.to_vec()).collect();
    assert_eq!(read, [b"hello", &bytes[..], &bytes, b"dash\n", b"", b"--help", b"last"]);
    let last = messages.last().unwrap();
    assert_eq!(last.message_id, "m-1");
    assert_eq!(last.headers, [("kind".to_owned(), "a=b".to_owned()), ("x".to_owned(), String::new())].into());

    let again = cli.json(&["pub", "lobby", "other", "--id", "m-1"]).await;
    assert_eq!((&again[0]["sequence"], &again[0]["duplicate"]), (&json!("7"), &json!(true)));
    let refused = cli.run(&["pub", "lobby", "no", "--expected-sequence", "3", "--json"]).await;
    assert_eq!((refused.status, &refused.error()["reason"]), (Some(7), &json!("SEQUENCE_MISMATCH")));
    assert_eq!(history(&client, "lobby", 100).await.last_sequence, 7);
    lobby.unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_line_is_a_message_in_the_order_of_the_input() {
    // Goal: bulk input keeps its order. Method: 5000 lines, the last without a newline; then the same file again with the same
    // --id, which stores nothing.
    let (lobby, client) = Lobby::open().await;
    let cli = Cli::of(lobby.unibus.address());
    let input = (1..=5000).map(|number| number.to_string()).collect::<Vec<_>>().join("\n");
    cli.write("lines", &input);
    let stored = cli.json(&["pub", "lobby", "--lines", "--file", "lines", "--id", "job"]).await;
    let expected: Vec<Value> = (1..=5000_u64).map(|number| json!([number, number.to_string(), false])).collect();
    let told: Vec<_> = stored.iter().map(|one| json!([one["line"], one["sequence"], one["duplicate"]])).collect();
    assert_eq!(told, expected);
    let again = cli.json(&["pub", "lobby", "--lines", "--file", "lines", "--id", "job"]).await;
    assert!(again.len() == 5000 && again.iter().all(|one| one["duplicate"] == true));
    let messages = everything(&client, "lobby").await;
    assert_eq!(payloads(&messages), (1..=5000).map(|number| number.to_string()).collect::<Vec<_>>());
    assert_eq!(messages[41].message_id, "job-42");
    lobby.unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_that_is_refused_is_named_and_ends_the_input() {
    // Goal: who corrects the input knows where. Method: a line that is larger than the room allows, among others; an ephemeral
    // room, where the same command sends every line.
    let (lobby, client) = Lobby::without_room().await;
    let cli = Cli::of(lobby.unibus.address());
    cli.ok(&["room", "create", "lobby", "--max-message-bytes", "10"]).await;
    let mut input = String::from("one\ntwo\n");
    writeln!(input, "{}", "x".repeat(11)).unwrap();
    let done = cli.run_with(&["pub", "lobby", "--lines"], input.as_bytes()).await;
    assert_eq!(done.status, Some(8), "{done:?}");
    assert!(done.stderr.contains("line 3"), "{done:?}");
    assert_eq!(payloads(&everything(&client, "lobby").await), ["one", "two"]);
    let more = [input.as_str(), &"four\n".repeat(20_000)].concat();
    let done = cli.run_with(&["pub", "lobby", "--lines", "--json"], more.as_bytes()).await;
    assert_eq!((done.status, &done.error()["reason"]), (Some(8), &json!("PAYLOAD_TOO_LARGE")));
    assert!(everything(&client, "lobby").await.len() < 10_000);

    create_ephemeral(&client, "live").await;
    let sent = cli.run_with(&["pub", "live", "--lines", "--json"], b"a\nb\nc\n").await;
    assert_eq!((sent.status, sent.json().len()), (Some(0), 3), "{sent:?}");
    lobby.unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_break_lose_and_double_no_line() {
    // Goal: bulk input survives the network. Method: lines go through a proxy, which breaks the connection before each part of
    // them, also in the middle of requests and of answers; at the end each line is stored once, in order.
    const PARTS: usize = 8;
    const LINES: usize = 16_000;
    let (lobby, client) = Lobby::open().await;
    let proxy = Proxy::start(lobby.unibus.address()).await;
    let cli = Cli::of(proxy.address());
    let mut command = cli.start(&["pub", "lobby", "--lines", "-q", "--timeout", "2s"]);
    command.feed(b"1\n").await;
    command.prints(1).await;
    for part in 0..PARTS {
        let before = proxy.accepted();
        match part % 4 {
            0 => proxy.cut(),
            1 => proxy.cut_after(Way::In, 1000),
            2 => proxy.cut_after(Way::Out, 1000),
            _ => proxy.swallow(),
        }
        let lines = (1..=LINES / PARTS).map(|number| format!("{}\n", part * LINES / PARTS + number + 1));
        command.feed(lines.collect::<String>().as_bytes()).await;
        let again = || proxy.accepted() > before;
        eventually(SOON, async || if again() { Ok(()) } else { Err("no new connection".to_owned()) }).await;
    }
    command.end_input();
    let done = command.ends().await;
    assert_eq!(done.status, Some(0), "{done:?}");
    let stored = payloads(&everything(&client, "lobby").await);
    assert_eq!(stored, (1..=LINES + 1).map(|number| number.to_string()).collect::<Vec<_>>());
    lobby.unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_the_service_holds_the_input_up_and_no_more() {
    // Goal: a rolling restart does not break a pipe. Method: lines before, while and after the service is away.
    let nats = Nats::start().await;
    let mut service = Process::start(&nats).await;
    create_room(&service.client().await, "lobby").await;
    let proxy = Proxy::start(service.address()).await;
    let cli = Cli::of(proxy.address());
    let mut command = cli.start(&["pub", "lobby", "--lines", "-q"]);
    command.feed(b"before\n").await;
    assert_eq!(command.prints(1).await, ["1"]);
    proxy.set(Mode::Down);
    service.terminate();
    service.wait(SOON).await;
    command.feed(b"meanwhile\n").await;
    let service = Process::start(&nats).await;
    proxy.lead_to(service.address());
    proxy.set(Mode::Pass);
    command.feed(b"after\n").await;
    assert_eq!(command.prints(3).await, ["1", "2", "3"]);
    command.end_input();
    assert_eq!(command.ends().await.status, Some(0));
    let client = service.client().await;
    assert_eq!(payloads(&everything(&client, "lobby").await), ["before", "meanwhile", "after"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_ends_an_open_input() {
    // Goal: Ctrl-C always works. Method: SIGINT and SIGTERM while the command waits for its input; what came before is stored.
    let (lobby, client) = Lobby::open().await;
    let cli = Cli::of(lobby.unibus.address());
    for (signal, status) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let mut command = cli.start(&["pub", "lobby", "--lines", "-q"]);
        command.feed(b"line\nbegun").await;
        command.prints(1).await;
        command.signal(signal);
        assert_eq!(command.ends().await.status, Some(status));
    }
    assert_eq!(payloads(&everything(&client, "lobby").await), ["line", "line"]);
    lobby.unibus.shutdown().await.unwrap();
}
