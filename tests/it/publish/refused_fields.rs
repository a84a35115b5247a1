//! What a publisher may not set on a message.

use std::collections::HashMap;

use unibus::v1::{CreateRoomRequest, PublishRequest};

use crate::support::{Lobby, assert_field, history, persisted};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_headers_message_ids_and_lifetimes_are_refused() {
    // Goal: nothing that a publisher sets can forge a header, or mean something to NATS. Method: one wrong thing at a time
    // in a room that takes every field; the room stays empty.
    let (_lobby, mut client) = Lobby::without_room().await;
    let request = CreateRoomRequest { allow_message_ttl: true, ..persisted("lobby") };
    client.create_room(request).await.unwrap();
    let plain = PublishRequest { room_id: "lobby".into(), payload: "x".into(), ..PublishRequest::default() };

    let long = "x".repeat(129);
    let large = "x".repeat(32 * 1024);
    let headers = [
        ("", "x"),
        (" ", "x"),
        ("a b", "x"),
        ("a:b", "x"),
        ("a\r\nb", "x"),
        ("\u{e9}", "x"),
        (&long, "x"),
        ("Nats-Msg-Id", "x"),
        ("Nats-TTL", "1s"),
        ("nats-rollup", "all"),
        ("NATS-Expected-Stream", "x"),
        ("Unibus-Sender", "x"),
        ("unibus-x", "x"),
        ("a", "x\rb"),
        ("a", "x\nb"),
        ("a", "x\r\nNats-Rollup: all"),
        ("a", "\n"),
        ("a", "x\0"),
        ("a", " "),
        ("a", " x"),
        ("a", "x "),
        ("a", "x\t"),
        ("a", "\u{a0}x"),
        ("a", &large),
    ];
    for (name, value) in headers {
        let request = PublishRequest { headers: HashMap::from([(name.to_owned(), value.to_owned())]), ..plain.clone() };
        let case = format!("{name:?}: {value:.20?}");
        assert_field(client.publish(request).await, "headers", &case);
    }
    let headers = (0..1001).map(|number| (format!("h{number}"), String::new())).collect();
    let request = PublishRequest { headers, ..plain.clone() };
    assert_field(client.publish(request).await, "headers", "1001 headers");
    let long = "x".repeat(256);
    for message_id in [" ", "a b", "a\n", "a\tb", "\u{e9}", "a\u{7f}", &long] {
        let request = PublishRequest { message_id: message_id.into(), ..plain.clone() };
        assert_field(client.publish(request).await, "message_id", message_id);
    }
    let lifetimes = [(0, 0), (-1, 0), (0, 500_000_000), (1, 500_000_000), (0, 999_999_999), (1, -1), (i64::MAX, 0)];
    for (seconds, nanos) in lifetimes {
        let request = PublishRequest { ttl: Some(prost_types::Duration { seconds, nanos }), ..plain.clone() };
        let case = format!("{seconds} s {nanos} ns");
        assert_field(client.publish(request).await, "ttl", &case);
    }
    assert_eq!(history(&client, "lobby", 0).await.last_sequence, 0);
}
