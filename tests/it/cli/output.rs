//! The output and the exit statuses of the commands.

use std::time::Duration;

use serde_json::json;

use crate::support::{Cli, Issuer, Lobby, Nats, create_ephemeral, publish_n};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_failure_has_its_exit_status_and_its_reason() {
    // Goal: scripts can tell failures apart. Method: a failure of each kind, with its exit status and the service's reason.
    let (lobby, client) = Lobby::open().await;
    create_ephemeral(&client, "live").await;
    publish_n(&client, "lobby", 1).await;
    let cli = Cli::of(lobby.unibus.address());
    for (args, status, reason) in [
        (&["room", "get", "nowhere"][..], 4, "ROOM_NOT_FOUND"),
        (&["history", "nowhere"], 4, "ROOM_NOT_FOUND"),
        (&["pub", "nowhere", "x"], 4, "ROOM_NOT_FOUND"),
        (&["message", "delete", "lobby", "9", "-y"], 4, "MESSAGE_NOT_FOUND"),
        (&["subscriber", "delete", "lobby", "ann", "-y"], 4, "SUBSCRIBER_NOT_FOUND"),
        (&["member", "remove", "lobby", "ann"], 4, "MEMBER_NOT_FOUND"),
        (&["room", "create", "two words"], 8, "INVALID_FIELD"),
        (&["room", "purge", "lobby", "--up-to", "9", "-y"], 8, "POSITION_AFTER_END"),
        (&["sub", "lobby", "--from", "9"], 8, "POSITION_AFTER_END"),
        (&["sub", "lobby", "--from", "cursor:nonsense"], 8, "CURSOR_INVALID"),
        (&["room", "create", "lobby", "--max-age", "1h"], 7, "ROOM_EXISTS"),
        (&["room", "create", "other", "--subject", "a.b", "--replicas", "3"], 7, "REPLICAS_UNAVAILABLE"),
        (&["sub", "live", "--as", "ann"], 7, "ROOM_NOT_PERSISTED"),
        (&["pub", "lobby", "x", "--ttl", "1h"], 7, "TTL_NOT_ALLOWED"),
    ] {
        let done = cli.run(&[args, &["--json"]].concat()).await;
        assert_eq!(done.status, Some(status), "{args:?}: {done:?}");
        let error = done.error();
        assert_eq!((&error["reason"], &error["exitStatus"]), (&json!(reason), &json!(status)), "{args:?}");
        assert!(done.stdout.is_empty(), "{args:?}: {done:?}");
    }
    let error = cli.run(&["room", "create", "two words", "--subject", "a.*", "--json"]).await.error();
    let fields: Vec<_> = error["fields"].as_array().unwrap().iter().map(|field| &field["field"]).collect();
    assert_eq!(fields, ["room_id", "subject"]);
    for usage in
        [&["room"][..], &["rooms"], &["room", "get"], &["room", "update", "lobby"], &["pub", "lobby", "--no-such-flag"]]
    {
        assert_eq!(cli.run(usage).await.status, Some(2), "{usage:?}");
    }
    lobby.unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_callers_and_limits_have_statuses_of_their_own() {
    // Goal: the same for the statuses that need authentication. Method: no token, no role, too many rooms, NATS away.
    let (mut nats, issuer) = (Nats::start().await, Issuer::new());
    let service = issuer.guard(&nats, |config| config.rooms.limits.rooms = Some(1)).await;
    let bare = Cli::of(service.address());
    let ann = Cli::of(service.address()).with("UNIBUS_TOKEN", &issuer.token("ann"));
    let bob = Cli::of(service.address()).with("UNIBUS_TOKEN", &issuer.token("bob"));
    ann.ok(&["room", "create", "lobby"]).await;
    for (cli, args, status, reason) in [
        (&bare, &["room", "list"][..], 6, "UNAUTHENTICATED"),
        (&bob, &["room", "get", "lobby"], 5, "PERMISSION_DENIED"),
        (&bob, &["pub", "lobby", "x"], 5, "PERMISSION_DENIED"),
        (&ann, &["room", "create", "second"], 9, "LIMIT_REACHED"),
    ] {
        let done = cli.run(&[args, &["--json"]].concat()).await;
        assert_eq!((done.status, &done.error()["reason"]), (Some(status), &json!(reason)), "{args:?}: {done:?}");
    }
    nats.kill9();
    let done = ann.run(&["room", "purge", "lobby", "-y", "--json", "--timeout", "20s"]).await;
    assert!(matches!(done.status, Some(10 | 11)), "{done:?}");
    drop(tokio::time::timeout(Duration::from_secs(30), service.shutdown()).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_get_tables_and_colours_only_on_request() {
    // Goal: a pipe gets plain text. Method: the same lists with and without --color always, and with NO_COLOR.
    let (lobby, client) = Lobby::open().await;
    create_ephemeral(&client, "live-room-with-a-long-name").await;
    let cli = Cli::of(lobby.unibus.address());
    let plain = cli.ok(&["room", "list"]).await;
    let lines: Vec<Vec<_>> = plain.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0][..4], ["ROOM", "PERSISTED", "REPLICAS", "SUBJECT"]);
    assert_eq!(lines[1][..2], ["live-room-with-a-long-name", "no"]);
    assert_eq!(lines[2][..4], ["lobby", "yes", "1", "unibus.room.lobby"]);
    let column = |line: &str, word: &str| line.find(word).expect("a word");
    let text: Vec<_> = plain.lines().collect();
    assert_eq!(column(text[0], "PERSISTED"), column(text[2], "yes"));
    assert!(!plain.contains('\u{1b}'));
    let coloured = cli.ok(&["room", "list", "--color", "always"]).await;
    assert!(coloured.contains('\u{1b}'));
    assert_eq!(strip(&coloured), plain);
    let details = cli.ok(&["room", "get", "lobby"]).await;
    assert!(details.contains("UNIBUS_lobby") && !details.contains('\u{1b}'), "{details}");
    lobby.unibus.shutdown().await.unwrap();
}

/// The text without escape sequences.
fn strip(text: &str) -> String {
    let mut parts = text.split('\u{1b}');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |all, part| all + part.split_once('m').map_or("", |(_, rest)| rest))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn completions_know_the_commands() {
    // Goal: a shell completes them. Method: the script of each shell names the commands; bash accepts its script.
    let cli = Cli::bare();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = cli.ok(&["completions", shell]).await;
        for word in ["room", "create", "history", "token-file"] {
            assert!(script.contains(word), "{shell} {word}");
        }
    }
    let script = cli.ok(&["completions", "bash"]).await;
    let file = cli.write("completions.bash", script);
    let check = format!(
        "source {}; COMP_WORDS=(unibus room cre); COMP_CWORD=2; _unibus unibus cre room; echo \"${{COMPREPLY[@]}}\"",
        file.display()
    );
    let done = tokio::process::Command::new("bash").args(["-c", &check]).output().await.unwrap();
    assert_eq!(String::from_utf8(done.stdout).unwrap().trim(), "create", "{:?}", String::from_utf8(done.stderr));
}
