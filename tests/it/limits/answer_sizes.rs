//! Answers that a client with default settings can read, whatever was asked.

use std::collections::HashMap;

use tonic::{Code, Status};
use unibus::v1::{BatchMessage, CreateRoomRequest, PublishBatchRequest, PublishRequest};

use crate::support::{Lobby, assert_status, ephemeral, fields, list_rooms, metadata};

/// What clients read of trailers without a setting: Node 8 KiB in all, Go and Java 8 KiB for a field.
const DETAILS_BYTES_MAX: usize = 4096;
/// What default clients decode.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;

fn assert_bounded(status: &Status, case: &str) {
    // base64 in a trailer
    let details = status.details().len().div_ceil(3) * 4;
    assert!(details <= DETAILS_BYTES_MAX, "{case}: {details} bytes of details");
    assert!(status.message().len() <= 512, "{case}: {} bytes", status.message().len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_names_some_wrong_fields_and_counts_the_others() {
    // Goal: an error stays readable however many fields are wrong, and however long what is wrong is. Method: 300 wrong
    // headers, long names, values of three bytes a character; an atomic batch of 50 wrong ids; long room ids.
    let (_lobby, mut client) = Lobby::open().await;
    let plain = PublishRequest { room_id: "lobby".into(), payload: "x".into(), ..PublishRequest::default() };
    for name in ["a b ", "\u{20ac}", &"x y".repeat(30)] {
        let headers: HashMap<_, _> = (0..300).map(|number| (format!("{name}{number}"), "\r\n".to_owned())).collect();
        let status = client.publish(PublishRequest { headers, ..plain.clone() }).await;
        let status = assert_status(status, Code::InvalidArgument, "INVALID_FIELD");
        let more: usize = metadata(&status, "more_violations").parse().unwrap();
        assert!(!fields(&status).is_empty());
        assert!(fields(&status).len() + more >= 300, "{more}");
        assert_bounded(&status, name);
    }
    let wrong = |number: usize| BatchMessage {
        message_id: format!("{}\u{20ac} {number}", "\u{20ac}".repeat(200)),
        ..BatchMessage::default()
    };
    let messages = (0..50).map(wrong).collect();
    let batch = PublishBatchRequest { room_id: "lobby".into(), messages, atomic: true };
    let status = assert_status(client.publish_batch(batch).await, Code::InvalidArgument, "INVALID_FIELD");
    assert!(fields(&status).contains(&"messages[0].message_id".to_owned()), "{:?}", fields(&status));
    assert_bounded(&status, "an atomic batch");
    for room_id in ["\u{20ac}".repeat(20_000), "a\n".repeat(20_000)] {
        let status = client.publish(PublishRequest { room_id, ..plain.clone() }).await;
        assert_bounded(&assert_status(status, Code::InvalidArgument, "INVALID_FIELD"), "a long room id");
    }
    let labels = (0..300).map(|number| (format!("{number} {}", "\u{20ac}".repeat(40)), String::new())).collect();
    let status = client.create_room(CreateRoomRequest { labels, ..ephemeral("labelled") }).await;
    assert_bounded(&assert_status(status, Code::InvalidArgument, "INVALID_FIELD"), "labels");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_results_of_a_batch_and_a_page_of_rooms_fit_a_default_client() {
    // Goal: no answer is larger than what default clients decode. Method: a batch of 1000 messages of which each is wrong
    // in many ways; 1000 rooms with labels as large as they may be, listed to the end.
    let (_lobby, mut client) = Lobby::open().await;
    let wrong = BatchMessage {
        message_id: "\u{20ac}".repeat(300),
        headers: (0..40).map(|number| (format!("\u{20ac} {number}"), "\r".to_owned())).collect(),
        ..BatchMessage::default()
    };
    let batch = PublishBatchRequest { room_id: "lobby".into(), messages: vec![wrong; 1000], atomic: false };
    // the client's own bound of 4 MiB is what is tested
    let results = client.publish_batch(batch).await.unwrap().into_inner().results;
    assert_eq!(results.len(), 1000);
    assert!(results.iter().map(prost::Message::encoded_len).sum::<usize>() < ANSWER_BYTES_MAX);

    let labels: HashMap<_, _> = (0..32).map(|number| (format!("l{number:02}"), "\u{20ac}".repeat(41))).collect();
    for number in 0..1000 {
        let request = CreateRoomRequest { labels: labels.clone(), ..ephemeral(&format!("room{number:04}")) };
        client.create_room(request).await.unwrap();
    }
    let (mut listed, mut token, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let page = list_rooms(&client, 1000, &token).await.unwrap();
        assert!(prost::Message::encoded_len(&page) < 3 * 1024 * 1024 + 64 * 1024);
        listed.extend(page.rooms.into_iter().map(|room| room.room_id));
        token = page.next_page_token;
        pages += 1;
        if token.is_empty() {
            break;
        }
    }
    assert!(pages > 1, "the page was not bounded");
    assert_eq!(listed.len(), 1001);
    assert!(listed.is_sorted());
}
