//! `PublishBatch`: each message for itself, or all or none.

use std::time::Duration;

use tonic::Code;
use unibus::v1::{CreateRoomRequest, PublishBatchRequest, PublishRequest};

use crate::support::{
    Lobby, assert_field, assert_status, bare_stream, create_ephemeral, create_room, eventually, fields, history,
    metadata, payloads, persisted, publish, publish_n,
    publishing::{batch, by_batch, named, plain, together},
    reason, sequences, settled,
};

fn numbered(count: usize) -> Vec<PublishRequest> {
    (1..=count).map(|number| plain("lobby", number.to_string())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_may_have_a_thousand_messages() {
    // Goal: the bounds are exact. Method: 1, 2 and 1000 messages, plain and atomic; none, 1001, and one byte too much, of
    // which nothing is stored.
    let (_lobby, mut client) = Lobby::open().await;
    let mut last = 0;
    for count in [1, 2, 1000] {
        let expected = |last: u64| Vec::from_iter(last + 1..=last + count as u64);
        let stored = by_batch(&client, numbered(count)).await;
        let stored: Vec<_> = stored.into_iter().map(|outcome| outcome.unwrap().sequence).collect();
        assert_eq!(stored, expected(last));
        last += count as u64;
        let stored = together(&client, numbered(count)).await.unwrap();
        assert!(stored.iter().all(|stored| !stored.duplicate && stored.published_at.is_some()));
        assert_eq!(stored.iter().map(|stored| stored.sequence).collect::<Vec<_>>(), expected(last));
        last += count as u64;
        let kept = history(&client, "lobby", i32::try_from(count).unwrap()).await.messages;
        assert_eq!(payloads(&kept), (1..=count).map(|number| number.to_string()).collect::<Vec<_>>());
    }

    for atomic in [false, true] {
        for count in [0, 1001] {
            let request = PublishBatchRequest { room_id: "lobby".into(), ..batch(numbered(count), atomic) };
            assert_field(client.publish_batch(request).await, "messages", &count.to_string());
        }
        let mut large = vec![plain("lobby", "x".repeat(512 * 1024)); 16];
        large.push(plain("lobby", "x"));
        let refused = client.publish_batch(batch(large.clone(), atomic)).await;
        let refused = assert_status(refused, Code::InvalidArgument, "PAYLOAD_TOO_LARGE");
        assert_eq!(fields(&refused), ["messages"]);
        assert_eq!(history(&client, "lobby", 1).await.last_sequence, last);
        large.pop();
        client.publish_batch(batch(large, atomic)).await.unwrap();
        last += 16;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_an_atomic_batch_is_named_message_by_message() {
    // Goal: a client can mend its request. Method: one batch with a wrong field in several messages; batches that each have
    // one thing that messages cannot have together; nothing is stored.
    let (_lobby, mut client) = Lobby::open().await;
    create_ephemeral(&client, "live").await;

    let mut wrong = numbered(4);
    wrong[1].message_id = "a b".into();
    wrong[3].ttl = Some(prost_types::Duration { seconds: -1, nanos: 0 });
    wrong[3].headers.insert("Nats-X".into(), "x".into());
    let refused = client.publish_batch(batch(wrong, true)).await;
    let refused = assert_status(refused, Code::InvalidArgument, "INVALID_FIELD");
    let named_fields = ["messages[1].message_id", "messages[3].headers[\"Nats-X\"]", "messages[3].ttl"];
    assert_eq!(fields(&refused), named_fields);

    let mut expecting = numbered(3);
    expecting[0].expected_last_sequence = Some(0);
    expecting[2].expected_last_sequence = Some(2);
    let refused = client.publish_batch(batch(expecting, true)).await;
    assert_field(refused, "messages[2].expected_last_sequence", "expectation");
    let twice = vec![named("lobby", "a"), named("lobby", "b"), named("lobby", "a")];
    assert_field(client.publish_batch(batch(twice, true)).await, "messages[2].message_id", "the same id");

    let mut brief = numbered(2);
    brief[1].ttl = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    let refused = client.publish_batch(batch(brief, true)).await;
    assert_status(refused, Code::FailedPrecondition, "TTL_NOT_ALLOWED");
    let mut large = numbered(3);
    large[2].payload = vec![0; 1024 * 1024].into();
    let refused = client.publish_batch(batch(large, true)).await;
    let refused = assert_status(refused, Code::InvalidArgument, "PAYLOAD_TOO_LARGE");
    assert_eq!(fields(&refused), ["messages[2].payload"]);
    let refused = client.publish_batch(batch(vec![plain("live", "x"); 2], true)).await;
    assert_status(refused, Code::FailedPrecondition, "ROOM_NOT_PERSISTED");
    for atomic in [false, true] {
        let refused = client.publish_batch(batch(vec![plain("nowhere", "x")], atomic)).await;
        assert_status(refused, Code::NotFound, "ROOM_NOT_FOUND");
        let refused = client.publish_batch(batch(vec![plain("two words", "x")], atomic)).await;
        assert_field(refused, "room_id", "a bad id");
    }
    assert_eq!(history(&client, "lobby", 1).await.last_sequence, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_atomic_batch_that_was_stored_is_answered_with_its_first_sequences() {
    // Goal: a batch with ids can be retried, and no id is stored twice. Method: the same batch again, also with an expected
    // sequence that it met itself; then batches that hold a known id and something else.
    let (_lobby, client) = Lobby::open().await;
    publish_n(&client, "lobby", 3).await;
    let mut requests: Vec<_> = ["a", "b", "c"].map(|id| named("lobby", id)).into();
    requests[0].expected_last_sequence = Some(3);
    for duplicate in [false, true, true] {
        let stored = together(&client, requests.clone()).await.unwrap();
        let stored: Vec<_> = stored.iter().map(|stored| (stored.sequence, stored.duplicate)).collect();
        assert_eq!(stored, [(4, duplicate), (5, duplicate), (6, duplicate)]);
    }
    // of one message likewise
    for duplicate in [false, true] {
        let stored = together(&client, vec![named("lobby", "single")]).await.unwrap();
        assert_eq!((stored[0].sequence, stored[0].duplicate), (7, duplicate));
    }

    let known_in_part = [
        (vec![named("lobby", "new"), named("lobby", "b")], "1", "5"),
        (vec![named("lobby", "c"), named("lobby", "a")], "0", "6"),
        (vec![named("lobby", "a"), named("lobby", "c")], "0", "4"),
        (vec![plain("lobby", "x"), named("lobby", "a")], "1", "4"),
        (vec![named("lobby", "a"), plain("lobby", "x")], "0", "4"),
        (vec![named("lobby", "c"), named("lobby", "new")], "0", "6"),
    ];
    for (requests, index, sequence) in known_in_part {
        let refused = together(&client, requests).await;
        let refused = assert_status(refused, Code::AlreadyExists, "BATCH_DUPLICATE");
        assert_eq!((&*metadata(&refused, "index"), &*metadata(&refused, "sequence")), (index, sequence));
    }
    // nothing was stored by asking
    let stored = together(&client, vec![named("lobby", "new"), named("lobby", "newer")]).await.unwrap();
    assert_eq!((stored[0].sequence, stored[0].duplicate), (8, false));
    assert_eq!(history(&client, "lobby", 1).await.last_sequence, 9);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_atomic_batch_expects_its_last_sequence_once() {
    // Goal: compare and set with several messages. Method: expectations that are met, from 0 on, and not, below and above.
    let (_lobby, mut client) = Lobby::without_room().await;
    let request = CreateRoomRequest { allow_message_ttl: true, ..persisted("lobby") };
    client.create_room(request).await.unwrap();
    let expecting = |last| {
        let mut requests = numbered(3);
        requests[0].expected_last_sequence = Some(last);
        requests[1].ttl = Some(prost_types::Duration { seconds: 600, nanos: 0 });
        requests
    };
    for last in [0, 3, 6] {
        let stored = together(&client, expecting(last)).await.unwrap();
        assert_eq!(stored[2].sequence, last + 3);
    }
    for wrong in [0, 8, 10, u64::MAX] {
        let refused = together(&client, expecting(wrong)).await;
        let refused = assert_status(refused, Code::FailedPrecondition, "SEQUENCE_MISMATCH");
        assert_eq!(metadata(&refused, "last_sequence"), "9");
    }
    assert_eq!(history(&client, "lobby", 1).await.last_sequence, 9);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_comes_between_the_messages_of_an_atomic_batch() {
    // Goal: atomic is in sequence, whoever else publishes, and more batches than JetStream takes at once do not fail.
    // Method: a native publisher, unary publishers and 80 batches at the same time.
    let (lobby, client) = Lobby::without_room().await;
    let room = create_room(&client, "lobby").await;
    let native = lobby.nats.client().await;
    let noise = tokio::spawn(async move {
        loop {
            native.publish(room.subject.clone(), "native".into()).await.unwrap();
            settled(&native).await;
        }
    });
    let batches = (0..80).map(|number| {
        let client = client.clone();
        async move {
            publish(&client, "lobby", "single").await.unwrap();
            let requests: Vec<_> = (0..7).map(|_| plain("lobby", format!("batch {number}"))).collect();
            // on a busy machine the last ones may not get their turn in time: then nothing of them is stored
            eventually(Duration::from_secs(30), async || match together(&client, requests.clone()).await {
                Ok(stored) => Ok(stored),
                Err(status) if reason(&status) == "NATS_UNAVAILABLE" => Err(status.to_string()),
                Err(status) => panic!("{status:?}"),
            })
            .await
        }
    });
    let stored = futures_util::future::join_all(batches).await;
    noise.abort();
    let mut all = Vec::new();
    loop {
        let after = unibus::v1::history_request::Anchor::AfterSequence(all.len() as u64);
        let page = crate::support::page(&client, "lobby", 1000, after).await.unwrap();
        all.extend(page.messages);
        if !page.has_newer {
            break;
        }
    }
    assert_eq!(sequences(&all), Vec::from_iter(1..=all.len() as u64));
    for (number, results) in stored.iter().enumerate() {
        let first = results[0].sequence;
        for (offset, result) in (0..).zip(results) {
            assert_eq!(result.sequence, first + offset);
            let kept = &all[usize::try_from(result.sequence - 1).unwrap()];
            assert_eq!(kept.payload, format!("batch {number}"));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_atomic_batch_survives_a_stream_that_was_stripped_or_deleted() {
    // Goal: another program's bare update, or its deletion of the stream, costs time and no batch. Method: both, each right
    // before a batch.
    let (lobby, client) = Lobby::open().await;
    let jetstream = lobby.nats.jetstream().await;
    let bare = bare_stream("lobby");
    jetstream.update_stream(&bare).await.unwrap();
    let stored = together(&client, numbered(10)).await.unwrap();
    assert_eq!(stored[9].sequence, 10);
    jetstream.delete_stream("UNIBUS_lobby").await.unwrap();
    let stored = eventually(Duration::from_secs(10), async || {
        together(&client, numbered(10)).await.map_err(|status| reason(&status))
    })
    .await;
    assert_eq!(stored[9].sequence, 10);
}
