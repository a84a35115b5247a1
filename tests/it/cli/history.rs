//! `unibus history`.

use serde_json::Value;

use crate::support::{Cli, Lobby, create_ephemeral, everything, history, publish, publish_n};

/// The sequences of the printed messages.
fn sequences(printed: &[Value]) -> Vec<u64> {
    printed.iter().map(|message| message["sequence"].as_str().expect("text").parse().expect("a number")).collect()
}

fn range(sequences: impl IntoIterator<Item = u64>) -> Vec<u64> {
    sequences.into_iter().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_part_of_a_log_can_be_printed() {
    // Goal: each way to choose messages. Method: 2500 messages, more than two pages; every flag, alone and together.
    let (lobby, client) = Lobby::open().await;
    lobby.nats.publish_n("unibus.room.lobby", 2500).await;
    let cli = Cli::of(lobby.unibus.address());
    let cursor = history(&client, "lobby", 2).await.messages[0].cursor.clone();
    for (args, expected) in [
        (&[][..], range(2481..=2500)),
        (&["-n", "3"], range(2498..=2500)),
        (&["-n", "2100"], range(401..=2500)),
        (&["-n", "0"], range([])),
        (&["--before", "4"], range(1..=3)),
        (&["--before", "1"], range([])),
        (&["--before", "1000", "-n", "5"], range(995..=999)),
        (&["--before", &cursor, "-n", "2"], range(2497..=2498)),
        (&["--after", "2490"], range(2491..=2500)),
        (&["--after", "10", "-n", "3"], range(11..=13)),
        (&["--after", &cursor], range([2500])),
        (&["--all"], range(1..=2500)),
        (&["--all", "--before", "1500"], range(1..=1499)),
        (&["--all", "--before", &cursor], range(1..=2498)),
        (&["--all", "--after", "1200"], range(1201..=2500)),
        (&["--since", "1h", "-n", "2"], range(1..=2)),
        (&["--since", "now", "-n", "2"], range([])),
        (&["--until", "1h"], range([])),
        (&["--until", "now", "-n", "2"], range(2499..=2500)),
    ] {
        let printed = cli.json(&[&["history", "lobby"], args].concat()).await;
        assert_eq!(sequences(&printed), expected, "{args:?}");
    }
    // a time between two messages: both sides of it together are the whole log
    let middle = everything(&client, "lobby").await[1234].published_at.unwrap();
    let middle = format!("{}.{:09}Z", seconds(middle.seconds), middle.nanos);
    let early = sequences(&cli.json(&["history", "lobby", "--all", "--until", &middle]).await);
    let late = sequences(&cli.json(&["history", "lobby", "--all", "--since", &middle]).await);
    assert_eq!([early.clone(), late].concat(), range(1..=2500));
    assert!(early.len() <= 1234, "{}", early.len());
    let newest = sequences(&cli.json(&["history", "lobby", "-n", "3", "--until", &middle]).await);
    assert_eq!(newest, early[early.len() - 3..]);
    lobby.unibus.shutdown().await.unwrap();
}

/// Seconds since 1970 as a date and time, without an offset.
fn seconds(seconds: i64) -> String {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds.cast_unsigned());
    humantime::format_rfc3339_seconds(time).to_string().trim_end_matches('Z').to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payloads_are_text_if_they_can_be_and_always_exact_with_raw() {
    // Goal: nothing in a payload steers a terminal or is changed for a script. Method: payloads of all kinds, in the three forms.
    let (lobby, client) = Lobby::open().await;
    let cli = Cli::of(lobby.unibus.address());
    let all: [&[u8]; 5] = [b"plain", "Gr\u{fc}\u{df}e".as_bytes(), b"two\nlines", b"\x1b[2J", &[0xff, 0xfe, 0]];
    for payload in all {
        publish(&client, "lobby", payload.to_vec()).await.unwrap();
    }
    let text = cli.ok(&["history", "lobby"]).await;
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 6, "{text}");
    for (line, end) in
        lines.iter().zip(["  plain", "  Gr\u{fc}\u{df}e", "  two", "    lines", "  base64:G1sySg==", "  base64://4A"])
    {
        assert!(line.ends_with(end), "{line}");
    }
    assert!(!text.contains('\u{1b}'));
    let raw = cli.run(&["history", "lobby", "--raw", "--no-newline"]).await.stdout;
    assert_eq!(raw, all.concat());
    let raw = cli.run(&["history", "lobby", "--raw", "-n", "1"]).await.stdout;
    assert_eq!(raw, [0xff, 0xfe, 0, b'\n']);
    let json = cli.json(&["history", "lobby", "-n", "1"]).await;
    assert_eq!(json[0]["payload"], "//4A");
    lobby.unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_and_an_ephemeral_room_have_no_messages() {
    // Goal: nothing to print is no failure. Method: an empty room and an ephemeral one, with and without --all.
    let (lobby, client) = Lobby::open().await;
    create_ephemeral(&client, "live").await;
    let cli = Cli::of(lobby.unibus.address());
    for room in ["lobby", "live"] {
        for more in [&[][..], &["--all"], &["--since", "1h"]] {
            assert!(cli.json(&[&["history", room], more].concat()).await.is_empty(), "{room} {more:?}");
        }
    }
    publish_n(&client, "lobby", 1).await;
    assert_eq!(cli.json(&["history", "lobby"]).await.len(), 1);
    lobby.unibus.shutdown().await.unwrap();
}
