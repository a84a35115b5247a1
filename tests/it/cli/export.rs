//! `unibus export`.

use rustix::process::Signal;
use serde_json::json;
use unibus::v1::{DeleteMessageRequest, DeleteRoomRequest};

use super::transfer::{SOON, content, fill, message, size, store};
use crate::support::{
    Cli, Issuer, Lobby, Mode, Nats, Process, Proxy, Way, create_ephemeral, create_room, eventually, everything,
    publish, publish_n,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_has_every_message_and_the_same_bytes_each_time() {
    // Goal: a backup can be compared with another one. Method: 10,000 messages with headers, ids, binary and large payloads,
    // exported to a file and to standard output; what the file says of itself.
    let (lobby, client) = Lobby::open().await;
    let cli = Cli::of(lobby.unibus.address());
    fill(&client, "lobby", 9_999).await;
    publish(&client, "lobby", vec![0xab; 900_000]).await.unwrap();
    let exported = cli.json(&["export", "lobby"]).await;
    assert_eq!((&exported[0]["file"], &exported[0]["messages"]), (&json!("lobby.unibus"), &json!("10000")));
    let bytes = content(&cli, "lobby.unibus");
    let piped = cli.run(&["export", "lobby", "--output", "-"]).await;
    assert!(piped.stdout == bytes && piped.stderr.is_empty(), "{}", piped.stderr);
    assert!(!cli.path("lobby.unibus.partial").exists());
    let sum = ring::digest::digest(&ring::digest::SHA256, &bytes);
    assert_eq!(exported[0]["sha256"], json!(format!("{sum:?}").trim_start_matches("SHA256:")));

    let checked = cli.json(&["import", "--check", "lobby.unibus"]).await;
    let stored = everything(&client, "lobby").await;
    let payload_bytes: usize = stored.iter().map(|message| message.payload.len()).sum();
    assert_eq!(checked[0]["payloadBytes"], json!(payload_bytes.to_string()));
    assert_eq!((&checked[0]["firstSequence"], &checked[0]["lastSequence"]), (&json!("1"), &json!("10000")));
    assert_eq!((&checked[0]["room"], &checked[0]["sha256"]), (&json!("lobby"), &exported[0]["sha256"]));
    // the payloads and cursors are there as they are
    let has = |part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
    assert!(stored.iter().step_by(999).all(|message| has(&message.payload) && has(message.cursor.as_bytes())));
    lobby.unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flags_choose_the_messages() {
    // Goal: a part of a room can be exported, as history prints it. Method: each flag, in a room with holes; the selection and
    // the sequences that the file has.
    let (lobby, client) = Lobby::open().await;
    let cli = Cli::of(lobby.unibus.address());
    publish_n(&client, "lobby", 5).await;
    for sequence in [1, 4] {
        let request = DeleteMessageRequest { room_id: "lobby".to_owned(), sequence };
        client.clone().delete_message(request).await.unwrap();
    }
    let stored = everything(&client, "lobby").await;
    let time = |at: usize| stored[at].published_at.unwrap().to_string();
    let (third, fifth) = (time(1), time(2));
    let cursor = stored[1].cursor.as_str();
    let cases: [(&[&str], [&str; 3]); 8] = [
        (&[], ["3", "2", "5"]),
        (&["--after", "2"], ["2", "3", "5"]),
        (&["--after", cursor], ["1", "5", "5"]),
        (&["--before", "5"], ["2", "2", "3"]),
        (&["--before", cursor], ["1", "2", "2"]),
        (&["--since", &third, "--until", &fifth], ["1", "3", "3"]),
        (&["--after", "5"], ["0", "0", "0"]),
        (&["--until", "2000-01-01"], ["0", "0", "0"]),
    ];
    for (flags, expected) in cases {
        let exported = cli.json(&[&["export", "lobby", "--force"], flags].concat()).await;
        let [messages, first, last] = ["messages", "firstSequence", "lastSequence"].map(|name| &exported[0][name]);
        assert_eq!([messages, first, last], expected.map(|text| json!(text)).each_ref(), "{flags:?}");
        assert_eq!(cli.run(&["import", "--check", "lobby.unibus"]).await.status, Some(0), "{flags:?}");
    }
    lobby.unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_export_goes_on_and_ends_with_the_same_bytes() {
    // Goal: no power cut costs more than the last block. Method: SIGKILL at several sizes of the partial file, and SIGINT; what
    // a torn write leaves behind is added; messages that are published meanwhile are not in the file.
    let (lobby, client) = Lobby::open().await;
    let cli = Cli::of(lobby.unibus.address());
    fill(&client, "lobby", 10_000).await;
    cli.ok(&["export", "lobby", "--output", "whole"]).await;
    let whole = content(&cli, "whole");

    let proxy = Proxy::start(lobby.unibus.address()).await;
    proxy.set(Mode::Slow(2_000_000));
    let server = format!("http://{}", proxy.address());
    let partial = "killed.partial";
    for (kills, signal) in [Signal::KILL, Signal::KILL, Signal::INT, Signal::KILL].into_iter().enumerate() {
        let before = size(&cli, partial);
        let command = cli.start(&["export", "lobby", "--output", "killed", "--server", &server]);
        let more = || size(&cli, partial) > before + 200_000;
        eventually(SOON, async || if more() { Ok(()) } else { Err(command.stderr().join("\n")) }).await;
        command.signal(signal);
        let done = command.ends().await;
        assert_eq!(done.status, (signal == Signal::INT).then_some(130), "{done:?}");
        assert!(!cli.path("killed").exists());
        let mut torn = content(&cli, partial);
        match kills {
            0 => torn.truncate(torn.len() - 7),
            1 => torn.extend([2, 200, 0, 0, 0, 1, 2, 3]),
            // a file system that wrote zeros after a power cut
            2 => torn.extend([0; 5000]),
            _ => {}
        }
        cli.write(partial, torn);
        publish(&client, "lobby", "later").await.unwrap();
    }
    let done = cli.json(&["export", "lobby", "--output", "killed"]).await;
    let earlier: u64 = done[0]["earlier"].as_str().unwrap().parse().unwrap();
    assert!(done[0]["messages"] == "10000" && (1000..10_000).contains(&earlier), "{done:?}");
    assert!(content(&cli, "killed") == whole, "the files differ");
    assert!(!cli.path(partial).exists());
    lobby.unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_that_only_lacks_its_name_gets_it() {
    // Goal: a kill between the last byte and the name costs nothing. Method: a whole file under the partial name; also one that
    // was cut in its end or in its head.
    let (lobby, client) = Lobby::open().await;
    let cli = Cli::of(lobby.unibus.address());
    fill(&client, "lobby", 10).await;
    cli.ok(&["export", "lobby", "--output", "whole"]).await;
    let whole = content(&cli, "whole");
    for kept in [whole.len(), whole.len() - 1, whole.len() - 30, 40, 8, 0] {
        cli.write("file.partial", &whole[..kept]);
        cli.ok(&["export", "lobby", "--output", "file", "--force"]).await;
        assert!(content(&cli, "file") == whole, "{kept}");
    }
    lobby.unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_survives_broken_connections_and_a_restart_of_the_service() {
    // Goal: a rolling restart does not end a backup. Method: connections are cut within answers and swallowed, and the service
    // is replaced, all during one export.
    let nats = Nats::start().await;
    let mut service = Process::start(&nats).await;
    let client = service.client().await;
    create_room(&client, "lobby").await;
    fill(&client, "lobby", 10_000).await;
    let proxy = Proxy::start(service.address()).await;
    let cli = Cli::of(proxy.address());
    cli.ok(&["export", "lobby", "--output", "whole"]).await;
    proxy.set(Mode::Slow(3_000_000));
    let command = cli.start(&["export", "lobby", "--output", "file", "--timeout", "3s"]);
    let reaches = async |bytes: u64| {
        let is_there = || size(&cli, "file.partial") >= bytes;
        eventually(SOON, async || if is_there() { Ok(()) } else { Err(command.stderr().join("\n")) }).await;
    };
    reaches(100_000).await;
    proxy.cut();
    reaches(700_000).await;
    proxy.cut_after(Way::Out, 1000);
    reaches(1_200_000).await;
    proxy.swallow();
    reaches(1_800_000).await;
    proxy.set(Mode::Down);
    service.terminate();
    service.wait(SOON).await;
    let service = Process::start(&nats).await;
    proxy.lead_to(service.address());
    proxy.set(Mode::Pass);
    let done = command.ends().await;
    assert_eq!(done.status, Some(0), "{done:?}");
    assert!(done.stderr.contains("trying again"), "{done:?}");
    assert!(content(&cli, "file") == content(&cli, "whole"), "the files differ");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_part_of_the_same_export_is_refused() {
    // Goal: no file mixes rooms. Method: partial files of another room, of other flags, of a room that was created again, and of
    // no export; a file that exists; a room without messages to store.
    let (lobby, client) = Lobby::open().await;
    let cli = Cli::of(lobby.unibus.address());
    fill(&client, "lobby", 20).await;
    cli.ok(&["export", "lobby", "--output", "file"]).await;
    let whole = content(&cli, "file");
    let refused = cli.run(&["export", "lobby", "--output", "file"]).await;
    assert_eq!(refused.status, Some(2), "{refused:?}");
    let fails = async |args: &[&str], partial: &[u8], status: i32| {
        cli.write("new.partial", partial);
        let done = cli.run(&[args, &["--output", "new"]].concat()).await;
        assert_eq!(done.status, Some(status), "{args:?} {done:?}");
        let left = std::fs::read(cli.path("new.partial")).unwrap_or_default();
        assert!(left == partial && !cli.path("new").exists(), "{args:?}");
    };
    let begun = &whole[..whole.len() / 2];
    let begun_end = whole.len() / 2;
    // only what is whole stays, so cut at a block: the command itself does it
    cli.write("new.partial", begun);
    cli.run(&["export", "lobby", "--output", "new", "--after", "3"]).await;
    let begun = content(&cli, "new.partial");
    assert!(begun.len() <= begun_end && begun.len() > 100);
    create_room(&client, "other").await;
    fails(&["export", "other"], &begun, 7).await;
    fails(&["export", "lobby", "--after", "3"], &begun, 7).await;
    fails(&["export", "lobby"], b"something else", 13).await;
    let request = DeleteRoomRequest { room_id: "lobby".to_owned() };
    client.clone().delete_room(request).await.unwrap();
    fails(&["export", "lobby"], &begun, 4).await;
    create_room(&client, "lobby").await;
    fill(&client, "lobby", 30).await;
    fails(&["export", "lobby"], &begun, 7).await;
    // also if it has only its head: mark and version, and a block with its length
    let length = u32::from_le_bytes(whole[10..14].try_into().unwrap());
    fails(&["export", "lobby"], &whole[..9 + 5 + usize::try_from(length).unwrap() + 4], 7).await;
    create_ephemeral(&client, "live").await;
    fails(&["export", "live"], b"", 7).await;
    assert_eq!(cli.run(&["export", "nowhere", "--json"]).await.error()["reason"], "ROOM_NOT_FOUND");
    assert!(!cli.path("nowhere.unibus.partial").exists());
    lobby.unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_ends_at_the_newest_message_of_its_begin_and_has_what_the_caller_may_read() {
    // Goal: a busy room has a consistent end, and nobody exports what is hidden from them. Method: messages that come while a
    // slow export runs; a member who may not read the first messages; a stranger.
    let (lobby, client) = Lobby::open().await;
    fill(&client, "lobby", 4_000).await;
    let proxy = Proxy::start(lobby.unibus.address()).await;
    proxy.set(Mode::Slow(1_000_000));
    let cli = Cli::of(proxy.address());
    let command = cli.start(&["export", "lobby", "--output", "file", "--json"]);
    let begun = || size(&cli, "file.partial") > 0;
    eventually(SOON, async || if begun() { Ok(()) } else { Err("no file".to_owned()) }).await;
    store(
        &client,
        "lobby",
        (1..=500).map(message).map(|one| unibus::v1::BatchMessage { message_id: String::new(), ..one }).collect(),
    )
    .await;
    proxy.set(Mode::Pass);
    let done = command.ends().await;
    assert_eq!((done.status, &done.json()[0]["lastSequence"]), (Some(0), &json!("4000")), "{done:?}");
    lobby.unibus.shutdown().await.unwrap();

    let issuer = Issuer::new();
    let nats = Nats::start().await;
    let unibus = issuer.guard(&nats, |_| {}).await;
    let tokens = ["alice", "bob", "eve"].map(|name| issuer.token(name));
    let cli = Cli::of(unibus.address());
    let run = async |who: usize, args: &[&str]| cli.run(&[args, &["--token", &tokens[who]]].concat()).await;
    assert_eq!(run(0, &["room", "create", "lobby"]).await.status, Some(0));
    for text in ["one", "two", "three"] {
        assert_eq!(run(0, &["pub", "lobby", text]).await.status, Some(0));
    }
    assert_eq!(run(0, &["member", "add", "lobby", "bob", "--visible-from", "3"]).await.status, Some(0));
    let done = run(1, &["export", "lobby", "--json"]).await;
    assert_eq!((&done.json()[0]["messages"], &done.json()[0]["firstSequence"]), (&json!("1"), &json!("3")));
    assert_eq!(run(2, &["export", "lobby", "--output", "eve"]).await.status, Some(5));
    unibus.shutdown().await.unwrap();
}
