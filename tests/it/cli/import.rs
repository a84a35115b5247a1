//! `unibus import`.

use std::time::{Duration, Instant};

use serde_json::json;
use unibus::v1::{BatchMessage, DeleteMessageRequest, Message};

use super::transfer::{SOON, content, fill, kept, message, store};
use crate::support::{
    Cli, Issuer, Lobby, Nats, create_ephemeral, create_room, eventually, everything, list_rooms, publish, publish_n,
    sequences,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_keeps_order_payloads_headers_and_message_ids() {
    // Goal: a room can move to another cluster. Method: 10,000 messages with headers, ids, binary and large payloads go to another
    // service through a file; the settings of the room with --create; the file of the copy differs only by what is new.
    let (lobby, client) = Lobby::without_room().await;
    let cli = Cli::of(lobby.unibus.address());
    let settings =
        ["--max-age=30d", "--max-messages=20000", "--dedupe-window=12h", "--label=team=shop", "--allow-message-ttl"];
    cli.ok(&[&["room", "create", "lobby"][..], &settings].concat()).await;
    fill(&client, "lobby", 9_999).await;
    publish(&client, "lobby", vec![0xab; 900_000]).await.unwrap();
    cli.ok(&["export", "lobby"]).await;

    let (there, far_client) = Lobby::without_room().await;
    let far = Cli::of(there.unibus.address());
    far.write("lobby.unibus", content(&cli, "lobby.unibus"));
    assert_eq!(far.run(&["import", "lobby.unibus"]).await.status, Some(4));
    let imported = far.json(&["import", "lobby.unibus", "--create"]).await;
    let expected = json!({
        "file": "lobby.unibus", "room": "lobby", "messages": "10000", "earlier": "0", "withoutMessageId": "0",
        "lastSequence": "10000",
    });
    assert_eq!(imported, [expected]);
    let (here, there_now) = (everything(&client, "lobby").await, everything(&far_client, "lobby").await);
    assert!(kept(&here) == kept(&there_now) && sequences(&there_now) == sequences(&here));
    let rooms = [&client, &far_client].map(async |client| list_rooms(client, 10, "").await.unwrap().rooms.remove(0));
    let [one, other] = rooms;
    let (one, other) = (one.await, other.await);
    assert_eq!(one.dedupe_window.map(|window| window.seconds), Some(12 * 3600));
    assert_eq!((one.retention, one.labels, one.dedupe_window), (other.retention, other.labels, other.dedupe_window));
    assert!(other.allow_message_ttl);

    // a part of a room with holes, from standard input, into another room
    client.clone().delete_message(DeleteMessageRequest { room_id: "lobby".into(), sequence: 9 }).await.unwrap();
    let part = cli.run(&["export", "lobby", "--after", "5", "--before", "12", "-o", "-"]).await.stdout;
    far.ok(&["room", "create", "part"]).await;
    let done = far.run_with(&["import", "-", "--room", "part", "-q"], &part).await;
    assert_eq!((done.status, done.text().as_str()), (Some(0), "5\n"), "{done:?}");
    let part = everything(&far_client, "part").await;
    assert_eq!(kept(&part), [kept(&here[5..8]), kept(&here[9..11])].concat_all());
    lobby.unibus.shutdown().await.unwrap();
    there.unibus.shutdown().await.unwrap();
}

/// Several lists as one.
trait ConcatAll<T> {
    fn concat_all(self) -> Vec<T>;
}

impl<T, const N: usize> ConcatAll<T> for [Vec<T>; N] {
    fn concat_all(self) -> Vec<T> {
        self.into_iter().flatten().collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn origin_headers_tell_what_an_import_cannot_keep() {
    // Goal: sequences, times and senders are not lost. Method: a sender with a token; the headers after an import and after an
    // import of its export, which tell the same.
    let issuer = Issuer::new();
    let nats = Nats::start().await;
    let unibus = issuer.guard(&nats, |_| {}).await;
    let cli = Cli::of(unibus.address()).with("UNIBUS_TOKEN", &issuer.token("alice"));
    cli.ok(&["room", "create", "lobby"]).await;
    cli.ok(&["pub", "lobby", "first"]).await;
    cli.ok(&["pub", "lobby", "hello", "-H", "kind=x", "--id", "m-1"]).await;
    cli.ok(&["export", "lobby", "--after", "1"]).await;
    cli.ok(&["room", "create", "copy"]).await;
    cli.ok(&["import", "lobby.unibus", "--room", "copy", "--origin-headers"]).await;
    let original = &cli.json(&["history", "lobby"]).await[1];
    let copies = cli.json(&["history", "copy"]).await;
    assert_eq!(
        copies[0]["headers"],
        json!({
            "kind": "x",
            "Origin-Sequence": "2",
            "Origin-Time": original["publishedAt"],
            "Origin-Sender": "alice",
            "Origin-Message-Id": "m-1",
        })
    );
    assert_eq!((&copies[0]["messageId"], &copies[0]["sequence"]), (&json!("m-1"), &json!("1")));
    cli.ok(&["export", "copy"]).await;
    cli.ok(&["room", "create", "again"]).await;
    cli.ok(&["import", "copy.unibus", "--room", "again", "--origin-headers"]).await;
    assert_eq!(cli.json(&["history", "again"]).await[0]["headers"], copies[0]["headers"]);

    // who may not publish imports nothing
    cli.ok(&["room", "create", "closed"]).await;
    cli.ok(&["member", "add", "closed", "bob"]).await;
    let token = issuer.token("bob");
    let refused = cli.run(&["import", "lobby.unibus", "--room", "closed", "--token", &token, "--json"]).await;
    assert_eq!((refused.status, &refused.error()["reason"]), (Some(5), &json!("PERMISSION_DENIED")));
    unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_with_other_messages_is_refused_and_append_after_adds_to_it() {
    // Goal: nothing is mixed by mistake, and no run adds twice. Method: rooms with other messages, one that was purged, one whose
    // last message is another one; every command a second time.
    let (lobby, client) = Lobby::open().await;
    let cli = Cli::of(lobby.unibus.address());
    fill(&client, "lobby", 1_200).await;
    cli.ok(&["export", "lobby"]).await;
    let original = everything(&client, "lobby").await;

    create_room(&client, "other").await;
    publish_n(&client, "other", 3).await;
    let import = async |room: &str, flags: &[&str]| {
        let done = cli.run(&[&["import", "lobby.unibus", "--json", "--room", room], flags].concat()).await;
        (done.status, done.json().pop().map(|done| (done["messages"].clone(), done["earlier"].clone())))
    };
    let (all, none) = (json!("1200"), json!("0"));
    assert_eq!(import("other", &[]).await, (Some(7), None));
    assert_eq!(import("other", &["--append-after", "2"]).await, (Some(7), None));
    assert_eq!(import("other", &["--append-after", "4"]).await, (Some(7), None));
    assert_eq!(everything(&client, "other").await.len(), 3);
    assert_eq!(import("other", &["--append-after", "3"]).await, (Some(0), Some((all.clone(), none.clone()))));
    assert_eq!(import("other", &["--append-after", "3"]).await, (Some(0), Some((all.clone(), all.clone()))));
    // also when others go on publishing after the import
    publish(&client, "other", "later").await.unwrap();
    assert_eq!(import("other", &["--append-after", "3"]).await, (Some(0), Some((all.clone(), all.clone()))));
    let stored = everything(&client, "other").await;
    assert!(stored.len() == 1204 && kept(&stored[3..1203]) == kept(&original));

    // a room that was emptied
    create_room(&client, "emptied").await;
    publish_n(&client, "emptied", 3).await;
    cli.ok(&["room", "purge", "emptied", "--yes"]).await;
    assert_eq!(import("emptied", &[]).await, (Some(7), None));
    assert_eq!(import("emptied", &["--append-after", "3"]).await, (Some(0), Some((all.clone(), none.clone()))));

    // an import into the room itself finds everything there
    assert_eq!(import("lobby", &[]).await, (Some(0), Some((all.clone(), all.clone()))));
    // one wrong message in the middle
    create_room(&client, "mixed").await;
    let mut messages: Vec<_> = (1..=500).map(message).collect();
    messages[250] = BatchMessage { payload: "other".into(), ..BatchMessage::default() };
    store(&client, "mixed", messages).await;
    assert_eq!(import("mixed", &[]).await, (Some(7), None));
    assert_eq!(everything(&client, "mixed").await.len(), 500);
    create_ephemeral(&client, "live").await;
    assert_eq!(import("live", &[]).await, (Some(7), None));
    lobby.unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_whose_id_the_room_knows_is_stored_without_its_id() {
    // Goal: deduplication never takes a message away. Method: a file in which ids repeat, near and far, as rooms can have them when
    // their window has passed; a room that knows the ids of the file from other messages.
    let (lobby, client) = Lobby::open().await;
    let cli = Cli::of(lobby.unibus.address());
    cli.ok(&["room", "create", "windowless", "--max-age", "30d"]).await;
    // no window has to pass if the messages come from several rooms
    let with_id = |number: u64, id: &str| BatchMessage {
        payload: number.to_string().into(),
        message_id: id.to_owned(),
        ..BatchMessage::default()
    };
    let first: Vec<_> = (1..=300).map(|number| with_id(number, &format!("id-{number}"))).collect();
    store(&client, "lobby", first).await;
    cli.ok(&["export", "lobby"]).await;
    let import = async |flags: &[&str]| {
        cli.json(&[&["import", "lobby.unibus", "--room", "windowless"], flags].concat()).await.remove(0)
    };
    assert_eq!(import(&[]).await["withoutMessageId"], "0");
    // all ids are known now
    assert_eq!(import(&["--append-after", "300"]).await["withoutMessageId"], "300");
    // some are
    store(&client, "lobby", vec![with_id(301, "new-1"), with_id(302, "")]).await;
    cli.ok(&["export", "lobby", "--force", "--after", "298"]).await;
    let some = import(&["--append-after", "600"]).await;
    assert_eq!((&some["withoutMessageId"], &some["messages"]), (&json!("2"), &json!("4")));
    // the second run compares messages that lost their ids
    assert_eq!(import(&["--append-after", "600"]).await["earlier"], "4");
    let stored = everything(&client, "windowless").await;
    let payloads: Vec<u64> = stored.iter().map(number).collect();
    assert_eq!(payloads, (1..=300).chain(1..=300).chain(299..=302).collect::<Vec<_>>());
    let ids = |messages: &[Message]| messages.iter().filter(|message| !message.message_id.is_empty()).count();
    assert_eq!((ids(&stored[..300]), ids(&stored[300..600]), ids(&stored[600..])), (300, 0, 1));
    lobby.unibus.shutdown().await.unwrap();
}

/// The number that is the payload.
fn number(message: &Message) -> u64 {
    String::from_utf8(message.payload.to_vec()).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tight_bounds_are_respected_and_a_refused_record_is_named() {
    // Goal: the bounds of the target do not break an import, and who must correct something knows what. Method: a room that keeps 7
    // messages; one with small messages, into which a file with a large one does not go.
    let (lobby, client) = Lobby::open().await;
    let cli = Cli::of(lobby.unibus.address());
    publish_n(&client, "lobby", 700).await;
    publish(&client, "lobby", vec![1; 1000]).await.unwrap();
    publish_n(&client, "lobby", 10).await;
    cli.ok(&["export", "lobby"]).await;
    let original = everything(&client, "lobby").await;

    cli.ok(&["room", "create", "short", "--max-messages", "7"]).await;
    let done = cli.json(&["import", "lobby.unibus", "--room", "short"]).await;
    assert_eq!(done[0]["lastSequence"], "711");
    assert_eq!(kept(&everything(&client, "short").await), kept(&original[704..]));
    assert_eq!(cli.json(&["import", "lobby.unibus", "--room", "short"]).await[0]["earlier"], "711");

    // a room that has lost its first messages, and one that has lost all
    assert_eq!(cli.json(&["export", "short"]).await[0]["firstSequence"], "705");
    cli.ok(&["room", "create", "rest"]).await;
    assert_eq!(cli.json(&["import", "short.unibus", "--room", "rest"]).await[0]["lastSequence"], "7");
    assert_eq!(kept(&everything(&client, "rest").await), kept(&original[704..]));
    cli.ok(&["room", "update", "rest", "--max-age", "100ms"]).await;
    let is_empty = async || everything(&client, "rest").await.is_empty();
    eventually(SOON, async || if is_empty().await { Ok(()) } else { Err("not yet expired".to_owned()) }).await;
    assert_eq!(cli.json(&["export", "rest"]).await[0]["messages"], "0");
    for _ in 0..2 {
        let empty = cli.json(&["import", "rest.unibus", "--room", "nothing", "--create"]).await;
        assert_eq!((&empty[0]["messages"], &empty[0]["lastSequence"]), (&json!("0"), &json!("0")));
    }
    // nothing is left that a second run could compare
    assert_eq!(cli.run(&["import", "short.unibus", "--room", "rest"]).await.status, Some(7));

    cli.ok(&["room", "create", "small", "--max-message-bytes", "999"]).await;
    let refused = cli.run(&["import", "lobby.unibus", "--room", "small", "--json"]).await;
    assert_eq!((refused.status, &refused.error()["reason"]), (Some(8), &json!("PAYLOAD_TOO_LARGE")));
    assert!(refused.error()["message"].as_str().unwrap().contains("record 701"), "{refused:?}");
    assert_eq!(kept(&everything(&client, "small").await), kept(&original[..700]));
    cli.ok(&["room", "update", "small", "--max-message-bytes", "none"]).await;
    assert_eq!(cli.json(&["import", "lobby.unibus", "--room", "small"]).await[0]["earlier"], "700");
    assert_eq!(kept(&everything(&client, "small").await), kept(&original));

    // with --create a room of the same id must have the same settings
    let exists = cli.run(&["import", "lobby.unibus", "--room", "small", "--create"]).await;
    assert_eq!(exists.status, Some(0), "{exists:?}");
    let exists = cli.run(&["import", "lobby.unibus", "--room", "short", "--create", "--json"]).await;
    assert_eq!((exists.status, &exists.error()["reason"]), (Some(7), &json!("ROOM_EXISTS")));
    lobby.unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_respects_the_rate_of_its_caller() {
    // Goal: a caller with a small allowance can import, only slower. Method: a rate that is smaller than a batch; 1500 messages come
    // in whole and in order, and take their time.
    let issuer = Issuer::new();
    let nats = Nats::start().await;
    let open = issuer.guard(&nats, |_| {}).await;
    let unibus = issuer.guard(&nats, |config| config.rooms.limits.publishes = Some(300)).await;
    let alice = issuer.client(&open, "alice").await;
    create_room(&alice, "lobby").await;
    fill(&alice, "lobby", 1_500).await;
    let cli = Cli::of(unibus.address()).with("UNIBUS_TOKEN", &issuer.token("alice"));
    cli.ok(&["export", "lobby"]).await;
    let begin = Instant::now();
    cli.ok(&["import", "lobby.unibus", "--room", "copy", "--create"]).await;
    assert!(begin.elapsed() >= Duration::from_secs(2), "{:?}", begin.elapsed());
    assert!(kept(&everything(&alice, "lobby").await) == kept(&everything(&alice, "copy").await));
    unibus.shutdown().await.unwrap();
    open.shutdown().await.unwrap();
}
