//! Rooms, members and subscribers by the commands.

use serde_json::json;
use unibus::v1::Role;

use crate::support::{Cli, Issuer, Lobby, Nats, acknowledge, history, membership, publish_n, sequences};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_is_created_shown_changed_purged_and_deleted() {
    // Goal: the whole life of a room without another tool. Method: each command, and what the service then reports.
    let (lobby, client) = Lobby::without_room().await;
    let cli = Cli::of(lobby.unibus.address());
    let bounds = ["--max-age", "1h", "--max-bytes", "64MiB", "--max-messages", "1000", "--max-message-bytes", "10kB"];
    let labels = ["--label", "team=a", "--label", "tier=1"];
    let create = [&["room", "create", "ops", "--dedupe-window", "30m"][..], &bounds, &labels].concat();
    let created = cli.json(&create).await;
    let retention =
        json!({ "maxAge": "3600s", "maxBytes": "67108864", "maxMessages": "1000", "maxMessageBytes": 10_000 });
    assert_eq!((&created[0]["retention"], &created[0]["dedupeWindow"]), (&retention, &json!("1800s")));
    assert_eq!((&created[0]["persist"], &created[0]["labels"]), (&json!(true), &json!({ "team": "a", "tier": "1" })));
    // the same command again changes nothing
    cli.ok(&create).await;
    assert_eq!(cli.json(&["room", "get", "ops"]).await[0]["retention"], retention);

    let update = ["room", "update", "ops", "--max-age", "none", "--label", "tier=2", "--remove-label", "team"];
    let updated = cli.json(&update).await;
    assert_eq!(updated[0]["labels"], json!({ "tier": "2" }));
    assert_eq!(updated[0]["retention"].get("maxAge"), None);
    assert_eq!(updated[0]["retention"]["maxBytes"], "67108864");
    let window = cli.json(&["room", "update", "ops", "--dedupe-window", "24h"]).await;
    assert_eq!((&window[0]["dedupeWindow"], &window[0]["labels"]), (&json!("86400s"), &json!({ "tier": "2" })));
    let cleared = cli.json(&["room", "update", "ops", "--remove-all-labels"]).await;
    assert_eq!((&cleared[0]["labels"], &cleared[0]["retention"]["maxMessages"]), (&json!({}), &json!("1000")));

    publish_n(&client, "ops", 5).await;
    assert_eq!(cli.json(&["room", "purge", "ops", "--up-to", "2", "--yes"]).await[0]["purged"], "2");
    cli.ok(&["message", "delete", "ops", "4", "--yes"]).await;
    let left = history(&client, "ops", 10).await.messages;
    assert_eq!(sequences(&left), [3, 5]);

    cli.ok(&["room", "create", "live", "--ephemeral"]).await;
    let generated = cli.ok(&["room", "create", "-q"]).await;
    let ids = cli.ok(&["room", "list", "-q"]).await;
    let mut expected = vec!["live", "ops", generated.trim()];
    expected.sort_unstable();
    assert_eq!(ids.lines().collect::<Vec<_>>(), expected);
    for room in expected {
        cli.ok(&["room", "delete", room, "-y"]).await;
    }
    assert!(cli.json(&["room", "list"]).await.is_empty());
    lobby.unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_destroys_asks_first_and_does_nothing_without_an_answer() {
    // Goal: no script destroys by accident. Method: each destroying command without a terminal and without --yes ends with
    // the status of a wrong command line, and everything is still there.
    let (lobby, client) = Lobby::open().await;
    publish_n(&client, "lobby", 3).await;
    let cli = Cli::of(lobby.unibus.address());
    cli.ok(&["sub", "lobby", "--as", "ann", "--ack", "never", "--no-follow"]).await;
    for args in [
        &["room", "delete", "lobby"][..],
        &["room", "purge", "lobby"],
        &["message", "delete", "lobby", "2"],
        &["subscriber", "delete", "lobby", "ann"],
    ] {
        assert_eq!(cli.run_with(args, b"y\n").await.status, Some(2), "{args:?}");
    }
    assert_eq!(history(&client, "lobby", 10).await.messages.len(), 3);
    assert_eq!(cli.json(&["subscriber", "list", "lobby"]).await.len(), 1);
    lobby.unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_are_added_listed_and_removed() {
    // Goal: access by the commands. Method: a service that asks for tokens; an owner adds members with each role, changes one
    // and removes one; the service reports the same roles.
    let (nats, issuer) = (Nats::start().await, Issuer::new());
    let service = issuer.guard(&nats, |_| {}).await;
    let cli = Cli::of(service.address()).with("UNIBUS_TOKEN", &issuer.token("olga"));
    cli.ok(&["room", "create", "ops"]).await;
    for (member, role) in [("rita", "reader"), ("walter", "writer"), ("otto", "owner")] {
        let added = cli.json(&["member", "add", "ops", member, "--role", role]).await;
        assert_eq!(added[0]["role"], format!("ROLE_{}", role.to_uppercase()));
    }
    cli.ok(&["member", "add", "ops", "rita", "--role", "writer"]).await;
    cli.ok(&["member", "remove", "ops", "walter"]).await;
    let olga = issuer.client(&service, "olga").await;
    let expected = [("olga", Role::Owner), ("otto", Role::Owner), ("rita", Role::Writer)];
    assert_eq!(membership::roles(&olga, "ops").await, expected.map(|(id, role)| (id.to_owned(), role)));
    let listed = cli.ok(&["member", "list", "ops", "-q"]).await;
    assert_eq!(listed, "olga\notto\nrita\n");
    service.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscribers_are_listed_moved_and_deleted() {
    // Goal: positions by the commands. Method: a durable subscriber at 2 of 5; list it, move it to each kind of place, delete it.
    let (lobby, client) = Lobby::open().await;
    publish_n(&client, "lobby", 5).await;
    let cli = Cli::of(lobby.unibus.address());
    cli.ok(&["sub", "lobby", "--as", "ann", "--ack", "never", "--no-follow"]).await;
    acknowledge(&client, "lobby", "ann", 2).await.unwrap();
    let listed = cli.json(&["subscriber", "list", "lobby"]).await;
    assert_eq!(
        (&listed[0]["subscriber"], &listed[0]["position"], &listed[0]["lag"]),
        (&json!("ann"), &json!("2"), &json!("3"))
    );
    let cursor = history(&client, "lobby", 2).await.messages[0].cursor.clone();
    let cursor = format!("cursor:{cursor}");
    for (place, position) in
        [("first", "0"), ("newest", "5"), ("4", "3"), ("last:2", "3"), ("1h", "0"), (&*cursor, "4"), ("now", "5")]
    {
        let moved = cli.json(&["subscriber", "seek", "lobby", "ann", "--from", place]).await;
        assert_eq!(moved[0]["position"], position, "{place}");
    }
    cli.ok(&["subscriber", "delete", "lobby", "ann", "--yes"]).await;
    assert!(cli.json(&["subscriber", "list", "lobby"]).await.is_empty());
    lobby.unibus.shutdown().await.unwrap();
}
