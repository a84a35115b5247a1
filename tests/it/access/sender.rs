//! Who published a message: told wherever it is proven, and nowhere else.

use std::{collections::HashMap, time::Duration};

use async_nats::{HeaderMap, jetstream::kv};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::json;
use unibus::{
    NatsSync,
    v1::{Message, PublishRequest},
};

use crate::support::{
    Client, Consuming, Frames, Issuer, Nats, NatsOptions, Unibus, create_ephemeral, create_room, eventually,
    everything, history, payloads, publish, publish_n,
    publishing::{by_batch, by_stream, named, plain, together},
    settled, subscription,
};

/// How long something may take that nobody asks for.
const SOON: Duration = Duration::from_secs(60);
/// The bucket of the keys.
const SECRETS: &str = "unibus_secrets";

/// Asserts that all these messages are from the sender, and that nothing shows how that is known.
#[track_caller]
fn assert_from(sender: &str, messages: &[Message]) {
    assert!(!messages.is_empty());
    for message in messages {
        assert_eq!(message.sender, sender, "{message:?}");
        assert!(message.headers.keys().all(|name| !name.to_lowercase().starts_with("unibus")), "{message:?}");
    }
}

/// The last message of the room as NATS has it.
async fn stored_last(nats: &Nats, mapped_id: &str) -> async_nats::jetstream::message::StreamMessage {
    let mut stream = nats.stream(mapped_id).await;
    let last = stream.info().await.unwrap().state.last_sequence;
    stream.get_raw_message(last).await.unwrap()
}

async fn bucket(nats: &Nats) -> kv::Store {
    nats.jetstream().await.get_key_value(SECRETS).await.unwrap()
}

/// The keys by name.
async fn keys(nats: &Nats) -> Vec<(String, String)> {
    use futures_util::TryStreamExt;
    let bucket = bucket(nats).await;
    let mut names: Vec<String> = bucket.keys().await.unwrap().try_collect().await.unwrap();
    names.sort();
    let mut keys = Vec::new();
    for name in names {
        let value = bucket.get(&name).await.unwrap().expect("a value");
        keys.push((name, String::from_utf8(value.into()).unwrap()));
    }
    keys
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sender_is_told_by_every_way_of_publishing_and_reading_on_every_instance() {
    // Goal: whoever reads knows who wrote, whichever way. Method: publish by each way, so many at once that they are committed
    // in groups; read the backlog, live, by a durable, by Consume and by history, on another instance; the same in an
    // ephemeral room.
    let nats = NatsOptions::new().sync_always().start().await;
    let issuer = Issuer::new();
    let one = issuer.guard(&nats, |config| config.nats.sync = NatsSync::Always).await;
    let other = issuer.guard(&nats, |_| {}).await;
    let (ann, reader) = (issuer.client(&one, "ann").await, issuer.client(&other, "ann").await);
    create_room(&ann, "lobby").await;
    create_ephemeral(&ann, "live").await;
    let mut live = Frames::transient(&ann, "lobby").await;
    live.until_caught_up().await;
    let mut passing = Frames::transient(&ann, "live").await;
    passing.until_caught_up().await;

    let headers = HashMap::from([("kind".to_owned(), "żółw".to_owned()), ("a".to_owned(), String::new())]);
    let with_headers = PublishRequest { headers, ..named("lobby", "unary") };
    ann.clone().publish(with_headers).await.unwrap();
    let several = |way: &str| (0..3).map(|number| named("lobby", &format!("{way}-{number}"))).collect::<Vec<_>>();
    assert!(by_batch(&ann, several("each")).await.iter().all(Result::is_ok));
    together(&ann, several("all")).await.unwrap();
    let grouped: Vec<_> = (0..200).map(|number| plain("lobby", format!("grouped {number}"))).collect();
    assert!(by_stream(&ann, grouped).await.iter().all(Result::is_ok));
    let count = 1 + 3 + 3 + 200;
    // the last ones may have gone by themselves: too few were left
    let stream = nats.stream("lobby").await;
    let mut groups = 0;
    for sequence in 8..=count as u64 {
        let stored = stream.get_raw_message(sequence).await.unwrap();
        groups += usize::from(stored.headers.get("Nats-Batch-Id").is_some());
    }
    assert!(groups > 0, "nothing was committed in a group");

    assert_from("ann", &live.messages(count).await);
    let read = everything(&reader, "lobby").await;
    assert_eq!(read.len(), count);
    assert_from("ann", &read);
    assert_from("ann", &Frames::transient(&reader, "lobby").await.until_caught_up().await);
    assert_from("ann", &Frames::durable(&reader, "lobby", "ann").await.messages(count).await);
    let mut consuming = Consuming::start(&reader).await;
    consuming.open(subscription("lobby", "")).await;
    assert_from("ann", &consuming.messages("lobby", count).await);

    publish_n(&ann, "live", 3).await;
    assert_from("ann", &passing.messages(3).await);
    one.shutdown().await.unwrap();
    other.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_authorisation_off_nothing_is_signed_and_what_was_is_still_told() {
    // Goal: who needs no identity pays nothing for it, and loses nothing. Method: publish with and without; look at what NATS
    // has; read both with authorisation off.
    let nats = Nats::start().await;
    let issuer = Issuer::new();
    let guarded = issuer.guard(&nats, |_| {}).await;
    let open = Unibus::start(&nats).await;
    let (ann, anyone) = (issuer.client(&guarded, "ann").await, open.client().await);
    create_room(&ann, "lobby").await;
    publish(&ann, "lobby", "signed").await.unwrap();
    publish(&anyone, "lobby", "unsigned").await.unwrap();
    assert!(stored_last(&nats, "lobby").await.headers.is_empty());
    let read = everything(&anyone, "lobby").await;
    assert_from("ann", &read[..1]);
    assert_from("", &read[1..]);
    open.shutdown().await.unwrap();
    guarded.shutdown().await.unwrap();
}

/// What a program on NATS makes of a message that it has read: the subject, headers and payload that it publishes.
fn forgeries(
    headers: &HeaderMap,
    subject: &str,
    elsewhere: &str,
) -> Vec<(&'static str, String, HeaderMap, &'static str)> {
    let genuine = headers.get("Unibus-Signature").expect("a signature").to_string();
    let parts: Vec<&str> = genuine.splitn(3, '.').collect();
    let with = |name: &str, value: &str| {
        let mut headers = headers.clone();
        headers.insert(name, value);
        headers
    };
    let mut sender_alone = HeaderMap::new();
    sender_alone.insert("Unibus-Sender", "ann");
    let mut lower_case = HeaderMap::new();
    lower_case.insert("unibus-sender", "ann");
    lower_case.insert("unibus-signature", genuine.as_str());
    let signed_with = |key: &str, mac: &str| with("Unibus-Signature", &format!("{key}.{}.{mac}", parts[1]));
    vec![
        ("the sender alone", subject.into(), sender_alone, "x"),
        ("in lower case", subject.into(), lower_case, "original"),
        ("another payload", subject.into(), headers.clone(), "forged"),
        ("another room", elsewhere.into(), headers.clone(), "original"),
        ("another sender", subject.into(), with("Unibus-Sender", "bob"), "original"),
        ("one more header", subject.into(), with("kind", "greeting"), "original"),
        ("another message id", subject.into(), with("Nats-Msg-Id", "another"), "original"),
        ("a message id that it had none of", subject.into(), with("Nats-Msg-Id", ""), "original"),
        ("a truncated signature", subject.into(), signed_with(parts[0], &parts[2][..30]), "original"),
        ("another key", subject.into(), signed_with("1", parts[2]), "original"),
        ("a newer key", subject.into(), signed_with("99999999999", parts[2]), "original"),
        ("no signature at all", subject.into(), with("Unibus-Signature", ""), "original"),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_native_program_forges_has_no_sender() {
    // Goal: nobody on NATS can put words into a sender's mouth. Method: read a signed message natively, publish its headers
    // again with one thing changed at a time; read that by history, live and by subscription, in both kinds of room.
    let nats = Nats::start().await;
    let issuer = Issuer::new();
    let unibus = issuer.guard(&nats, |_| {}).await;
    let ann = issuer.client(&unibus, "ann").await;
    let (room, other) = (create_room(&ann, "lobby").await, create_room(&ann, "other").await);
    let (live, live_other) = (create_ephemeral(&ann, "live").await, create_ephemeral(&ann, "live2").await);
    let native = nats.client().await;
    let mut overheard = native.subscribe(live.subject.clone()).await.unwrap();
    settled(&native).await;
    let mut readers = Vec::new();
    for room_id in ["lobby", "other", "live", "live2"] {
        let mut frames = Frames::transient(&ann, room_id).await;
        frames.until_caught_up().await;
        readers.push(frames);
    }
    publish(&ann, "lobby", "original").await.unwrap();
    publish(&ann, "live", "original").await.unwrap();
    assert_from("ann", &readers[0].messages(1).await);
    assert_from("ann", &readers[2].messages(1).await);
    let stored = stored_last(&nats, "lobby").await.headers;
    let heard = futures_util::StreamExt::next(&mut overheard).await.expect("a message").headers.expect("headers");

    for (place, headers, subject, elsewhere) in
        [(0, &stored, &room.subject, &other.subject), (2, &heard, &live.subject, &live_other.subject)]
    {
        for (case, subject, headers, payload) in forgeries(headers, subject, elsewhere) {
            let reader = if subject == *elsewhere { place + 1 } else { place };
            native.publish_with_headers(subject, headers, payload.into()).await.unwrap();
            let message = readers[reader].messages(1).await.remove(0);
            assert_eq!((message.sender.as_str(), &message.payload[..]), ("", payload.as_bytes()), "{case}");
            assert_from("", &[message]);
        }
    }
    let read = everything(&ann, "lobby").await;
    assert_from("ann", &read[..1]);
    assert_from("", &read[1..]);
    assert_from("", &everything(&ann, "other").await);
    unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signed_message_with_an_id_cannot_be_stored_twice() {
    // Goal: while a signature counts, the room remembers the message's id. Method: a native program publishes a message as it
    // was; then one after it, which takes the next sequence.
    let nats = Nats::start().await;
    let issuer = Issuer::new();
    let unibus = issuer.guard(&nats, |_| {}).await;
    let ann = issuer.client(&unibus, "ann").await;
    let room = create_room(&ann, "lobby").await;
    ann.clone().publish(named("lobby", "original")).await.unwrap();
    let stored = stored_last(&nats, "lobby").await;
    let native = nats.client().await;
    native.publish_with_headers(room.subject, stored.headers, stored.payload).await.unwrap();
    settled(&native).await;
    publish(&ann, "lobby", "next").await.unwrap();
    assert_eq!(payloads(&everything(&ann, "lobby").await), ["original", "next"]);
    unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_that_is_made_anew_knows_nothing_of_former_senders() {
    // Goal: what was said in a former room of the name was not said in this one. Method: publish, delete, make the room
    // anew, and publish natively what was stored in the former one.
    let nats = Nats::start().await;
    let issuer = Issuer::new();
    let unibus = issuer.guard(&nats, |_| {}).await;
    let mut ann = issuer.client(&unibus, "ann").await;
    let room = create_room(&ann, "lobby").await;
    publish(&ann, "lobby", "original").await.unwrap();
    let stored = stored_last(&nats, "lobby").await;
    ann.delete_room(unibus::v1::DeleteRoomRequest { room_id: "lobby".into() }).await.unwrap();
    create_room(&ann, "lobby").await;
    let native = nats.client().await;
    native.publish_with_headers(room.subject, stored.headers, stored.payload).await.unwrap();
    settled(&native).await;
    assert_from("", &history(&ann, "lobby", 0).await.messages);
    unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_agree_on_one_key_and_put_it_back_when_the_bucket_is_lost() {
    // Goal: losing the bucket loses nothing while an instance lives. Method: two instances started at once; delete the
    // bucket; what is there later is what was there before, and a new instance still tells the sender of old messages.
    let nats = Nats::start().await;
    let issuer = Issuer::new();
    let (one, other) = tokio::join!(issuer.guard(&nats, |_| {}), issuer.guard(&nats, |_| {}));
    let (ann, bob) = (issuer.client(&one, "ann").await, issuer.client(&other, "ann").await);
    create_room(&ann, "lobby").await;
    publish(&ann, "lobby", "by one").await.unwrap();
    assert_from("ann", &everything(&bob, "lobby").await);
    let before = keys(&nats).await;
    assert!(!before.is_empty());
    nats.jetstream().await.delete_key_value(SECRETS).await.unwrap();
    publish(&bob, "lobby", "without a bucket").await.unwrap();
    eventually(SOON, async || {
        let bucket = nats.jetstream().await.get_key_value(SECRETS).await.map_err(|error| error.to_string())?;
        bucket.get(&before[0].0).await.map_err(|error| error.to_string())?.map(drop).ok_or("not yet".to_owned())
    })
    .await;
    assert_eq!(keys(&nats).await, before);
    let third = issuer.guard(&nats, |_| {}).await;
    assert_from("ann", &everything(&issuer.client(&third, "ann").await, "lobby").await);
    for unibus in [one, other, third] {
        unibus.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_lost_for_good_costs_the_senders_of_before_and_nothing_else() {
    // Goal: a lost key is no outage, and no reason to believe anything. Method: delete the bucket while nobody runs, start
    // again, read what was stored before, publish.
    let nats = Nats::start().await;
    let issuer = Issuer::new();
    let unibus = issuer.guard(&nats, |_| {}).await;
    let ann = issuer.client(&unibus, "ann").await;
    create_room(&ann, "lobby").await;
    publish(&ann, "lobby", "before").await.unwrap();
    unibus.shutdown().await.unwrap();
    nats.jetstream().await.delete_key_value(SECRETS).await.unwrap();
    let unibus = issuer.guard(&nats, |_| {}).await;
    let ann = issuer.client(&unibus, "ann").await;
    publish(&ann, "lobby", "after").await.unwrap();
    let read = everything(&ann, "lobby").await;
    assert_eq!(payloads(&read), ["before", "after"]);
    assert_from("", &read[..1]);
    assert_from("ann", &read[1..]);
    unibus.shutdown().await.unwrap();
}

/// Publishes as this client until it is signed with the key of this number.
async fn publish_signed_with(nats: &Nats, client: &Client, key: &str) {
    eventually(SOON, async || {
        publish(client, "lobby", "x").await.map_err(|status| status.to_string())?;
        let signature = stored_last(nats, "lobby").await.headers.get("Unibus-Signature").expect("signed").to_string();
        signature.starts_with(&format!("{key}.")).then_some(()).ok_or(signature)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_key_signs_at_once_and_the_older_ones_still_count() {
    // Goal: keys are changed while the service runs, as docs/nats.md says. Method: add a key with the greatest number; what is
    // then signed with it, and what was before, is read by both instances from the first message on; a value that is no key
    // disturbs nobody.
    let nats = Nats::start().await;
    let issuer = Issuer::new();
    let (one, other) = (issuer.guard(&nats, |_| {}).await, issuer.guard(&nats, |_| {}).await);
    let (ann, reader) = (issuer.client(&one, "ann").await, issuer.client(&other, "ann").await);
    create_room(&ann, "lobby").await;
    publish(&ann, "lobby", "before").await.unwrap();
    let mut live = Frames::transient(&reader, "lobby").await;
    assert_from("ann", &live.until_caught_up().await);
    let bucket = bucket(&nats).await;
    for broken in ["\"canary\"", "{\"key\":\"canary\"}", "canary"] {
        bucket.put("sender.99999999998", broken.into()).await.unwrap();
    }
    let value = json!({ "key": BASE64_STANDARD.encode([7; 32]) }).to_string();
    bucket.put("sender.99999999999", value.into()).await.unwrap();
    publish_signed_with(&nats, &ann, "99999999999").await;
    let count = everything(&reader, "lobby").await;
    assert_from("ann", &count);
    assert_from("ann", &live.messages(count.len() - 1).await);
    one.shutdown().await.unwrap();
    other.shutdown().await.unwrap();
}
