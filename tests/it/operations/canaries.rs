//! What is secret never reaches a log, standard error, the text of an error, a metric, or a span.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use async_nats::ConnectOptions;
use base64::{
    Engine,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use futures_util::TryStreamExt;
use nkeys::KeyPair;
use prost::Message as _;
use tonic::{Code, Request, Status};
use unibus::v1::{
    self, AddMemberRequest, DeleteMessageRequest, DeleteSubscriberRequest, HistoryRequest, ListRoomsRequest,
    PublishRequest, PurgeRoomRequest, RemoveMemberRequest, SeekSubscriberRequest, UpdateRoomRequest,
};

use crate::support::{
    Client, Collector, Consuming, Credentials, Frames, Issuer, Nats, NatsOptions, Process, acknowledge,
    calls::calls,
    connect_with, create_ephemeral, create_room, eventually, explicit, history, list_rooms, publish,
    publishing::{by_batch, by_stream, together},
    subscription,
};

/// How long a line may take to be written.
const SOON: Duration = Duration::from_secs(10);
const PAYLOAD: &str = "canary-payload-Zq7vXw2LtB9sKd4R";
const VALUE: &str = "canary-header-Hn5mPy8GcJ3fVe6T";
const MESSAGE_ID: &str = "canary-message-Wd2kTb6RxN4jLq8S";
const PASSWORD: &str = "canary-password-Gf9hUc3YzM7aPe5K";

/// All ways in which these bytes may stand in a text: as they are, in base64 at each of its three places, in hexadecimal,
/// and as a list of numbers.
fn writings(secret: &str) -> Vec<String> {
    let bytes = secret.as_bytes();
    let mut writings = vec![secret.to_owned()];
    for before in 0..3 {
        let shifted = [&[0; 2][..before], bytes].concat();
        // the characters at the ends depend on what stands beside
        let whole = shifted.len() / 3 * 3;
        for encoded in [STANDARD_NO_PAD.encode(&shifted[..whole]), URL_SAFE_NO_PAD.encode(&shifted[..whole])] {
            writings.push(encoded[4..].to_owned());
        }
    }
    let hexadecimal = bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    writings.push(hexadecimal.to_uppercase());
    writings.push(hexadecimal);
    let numbers: Vec<String> = bytes.iter().map(u8::to_string).collect();
    writings.push(numbers.join(", "));
    writings.push(numbers.join(","));
    writings
}

/// What is looked for, with what it is.
type Secrets = Vec<(&'static str, String)>;

/// The secrets that stand in these lines, and where.
fn found<'a>(secrets: &Secrets, lines: &'a [String]) -> Vec<(&'static str, &'a String)> {
    let mut found = Vec::new();
    for (what, secret) in secrets {
        let writings = writings(secret);
        let lines = lines.iter().filter(|line| writings.iter().any(|writing| line.contains(writing)));
        found.extend(lines.map(|line| (*what, line)));
    }
    found
}

#[track_caller]
fn assert_kept(secrets: &Secrets, where_: &str, lines: &[String]) {
    let found = found(secrets, lines);
    assert!(found.is_empty(), "{where_}: {} lines, such as {:?}", found.len(), found[0]);
}

/// What an error tells, as text.
fn told(status: &Status) -> Vec<String> {
    let details = String::from_utf8_lossy(status.details()).into_owned();
    vec![status.message().to_owned(), details, format!("{:?}", status.metadata())]
}

/// Makes every call of the contract, with and without success; the errors.
async fn makes_every_call(client: &Client) -> Vec<Status> {
    let mut errors = Vec::new();
    let mut client = client.clone();
    macro_rules! call {
        ($call:ident, $request:expr) => {
            if let Err(status) = client.$call($request).await {
                errors.push(status);
            }
        };
    }
    let published = |room_id: &str, message_id: &str| PublishRequest {
        room_id: room_id.into(),
        payload: PAYLOAD.into(),
        headers: HashMap::from([("x-canary".into(), VALUE.into())]),
        message_id: message_id.into(),
        ..PublishRequest::default()
    };
    let room_id = || String::from("lobby");
    let subscriber = || String::from("ann");
    create_room(&client, "lobby").await;
    create_ephemeral(&client, "live").await;
    list_rooms(&client, 0, "").await.unwrap();
    call!(update_room, UpdateRoomRequest::default());
    let mut live = Frames::transient(&client, "live").await;
    live.until_caught_up().await;
    let mut frames = Frames::transient(&client, "lobby").await;
    frames.until_caught_up().await;
    call!(publish, published("live", ""));
    assert_eq!(live.messages(1).await[0].headers["x-canary"], VALUE);
    call!(publish, published("lobby", MESSAGE_ID));
    let received = frames.messages(1).await.remove(0);
    assert_eq!((&received.payload[..], &*received.message_id), (PAYLOAD.as_bytes(), MESSAGE_ID));
    call!(publish, PublishRequest { expected_last_sequence: Some(77), ..published("lobby", "") });
    let bad_header = HashMap::from([("a b".into(), VALUE.into()), ("c".into(), format!(" {VALUE}"))]);
    call!(publish, PublishRequest { headers: bad_header, ..published("lobby", "") });
    call!(publish, published("live", MESSAGE_ID));
    call!(publish, published("nowhere", MESSAGE_ID));
    call!(publish, published("lobby", &format!("{MESSAGE_ID} {MESSAGE_ID}")));
    errors.extend(
        by_stream(&client, vec![published("lobby", MESSAGE_ID), published("live", MESSAGE_ID)])
            .await
            .into_iter()
            .filter_map(Result::err),
    );
    errors.extend(by_batch(&client, vec![published("lobby", MESSAGE_ID); 2]).await.into_iter().filter_map(Result::err));
    errors.extend(together(&client, vec![published("lobby", MESSAGE_ID), published("lobby", "other")]).await.err());
    errors.extend(together(&client, vec![published("lobby", MESSAGE_ID); 2]).await.err());
    let mut durable = Frames::open(&client, explicit("lobby", "ann")).await.unwrap();
    assert_eq!(durable.messages(1).await[0].payload, PAYLOAD);
    errors.extend(acknowledge(&client, "lobby", "ann", 1).await.err());
    let mut consuming = Consuming::start(&client).await;
    consuming.open(subscription("lobby", "")).await;
    assert_eq!(consuming.messages("lobby", 1).await[0].payload, PAYLOAD);
    assert_eq!(history(&client, "lobby", 1).await.messages.len(), 1);
    let anchor = Some(v1::history_request::Anchor::BeforeCursor(STANDARD_NO_PAD.encode(PAYLOAD)));
    call!(history, HistoryRequest { room_id: room_id(), anchor, ..HistoryRequest::default() });
    let seek =
        SeekSubscriberRequest { room_id: room_id(), subscriber: subscriber(), ..SeekSubscriberRequest::default() };
    call!(seek_subscriber, seek);
    call!(delete_subscriber, DeleteSubscriberRequest { room_id: room_id(), subscriber: subscriber() });
    call!(add_member, AddMemberRequest { room_id: room_id(), ..AddMemberRequest::default() });
    call!(remove_member, RemoveMemberRequest { room_id: room_id(), ..RemoveMemberRequest::default() });
    call!(delete_message, DeleteMessageRequest { room_id: room_id(), sequence: 1 });
    call!(purge_room, PurgeRoomRequest { room_id: room_id(), ..PurgeRoomRequest::default() });
    for call in calls() {
        let own = format!("room-of-{}", call.rpc);
        if !call.makes_room() {
            create_room(&client, &own).await;
        }
        for room_id in [own.as_str(), "nowhere"] {
            errors.extend(call.make(&client, room_id, "ann").await.err());
        }
    }
    errors
}

/// The keys with which the service signs.
async fn signing_keys(nats: &Nats) -> Secrets {
    let bucket = nats.jetstream().await.get_key_value("unibus_secrets").await.unwrap();
    let names: Vec<String> = bucket.keys().await.unwrap().try_collect().await.unwrap();
    let mut keys = Secrets::new();
    for name in names {
        let value = bucket.get(&name).await.unwrap().expect("a value");
        let value: serde_json::Value = serde_json::from_slice(&value).unwrap();
        keys.push(("a signing key", value["key"].as_str().expect("a key").trim_end_matches('=').to_owned()));
    }
    assert!(!keys.is_empty());
    keys
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_told_by_any_call_in_either_form_of_the_log_in_metrics_or_in_spans() {
    // Goal: logs, errors, metrics and traces can be given away. Method: at the most talkative level, in JSON and in text, make every call of the
    // contract with and without success, with tokens that count and such that do not, over HTTP too, with NATS killed in
    // between; look for payloads, header values, message ids, tokens, the NATS password and the signing keys in every line,
    // also encoded, in every error, and in every span; in metrics and spans also for the ids of rooms and members.
    let login = ConnectOptions::with_user_and_password("ann".into(), PASSWORD.into());
    let users = format!("authorization {{ user: ann, password: \"{PASSWORD}\" }}\n");
    let set = prost_types::FileDescriptorSet::decode(v1::FILE_DESCRIPTOR_SET).unwrap();
    for format in ["json", "text"] {
        let mut nats = NatsOptions::new().extra(&users).login(login.clone()).start().await;
        let issuer = Issuer::new();
        let (token, forged) = (issuer.token("ann"), Issuer::new().token("eve"));
        let collector = Collector::start().await;
        let flags = [
            format!("--otlp-endpoint={}", collector.url()),
            String::from("--nats-user=ann"),
            format!("--nats-password={PASSWORD}"),
            String::from("--auth=enforce"),
            format!("--auth-keys={}", issuer.public_key().display()),
            format!("--log-format={format}"),
            String::from("--drain-timeout=1s"),
        ];
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let mut process = Process::start_with(&nats, &flags, Some("trace")).await;
        let client = connect_with(process.address(), Credentials::bearer(&token)).await;
        let mut errors = makes_every_call(&client).await;
        for credentials in [forged.clone(), format!("{token}x"), format!("x{token}")] {
            let stranger = connect_with(process.address(), Credentials::bearer(&credentials)).await;
            errors.push(list_rooms(&stranger, 0, "").await.unwrap_err());
        }
        let mut with_headers = Request::new(ListRoomsRequest::default());
        for name in ["x-canary", "baggage"] {
            with_headers.metadata_mut().insert(name, format!("canary={VALUE}").parse().unwrap());
        }
        client.clone().list_rooms(with_headers).await.unwrap();
        let mut secrets: Secrets = vec![
            ("a payload", PAYLOAD.into()),
            ("a header value", VALUE.into()),
            ("a message id", MESSAGE_ID.into()),
            ("the NATS password", PASSWORD.into()),
        ];
        for token in [&token, &forged] {
            // the signature alone would do for whoever knows the claims
            secrets.push(("a token", token.rsplit('.').next().expect("a signature").to_owned()));
        }
        secrets.extend(signing_keys(&nats).await);
        let http = reqwest::Client::new();
        for credentials in [&token, &forged] {
            let page = http.get(format!("http://{}/rooms/lobby/history", process.address()));
            let page = page.header("authorization", format!("Bearer {credentials}")).send().await.unwrap();
            page.text().await.unwrap();
        }
        let metrics =
            reqwest::get(format!("http://{}/metrics", process.admin_address())).await.unwrap().text().await.unwrap();
        nats.kill9();
        errors.push(publish(&client, "lobby", PAYLOAD).await.unwrap_err());
        nats.restart().await;
        eventually(SOON, async || publish(&client, "lobby", PAYLOAD).await.map_err(|status| status.to_string())).await;
        process.terminate();
        process.wait(SOON).await;

        let log = process.stdout();
        assert!(log.iter().any(|line| line.contains("TRACE")), "the log is not at trace level");
        let spans: BTreeSet<_> = collector.spans().into_iter().map(|span| span.name).collect();
        for method in set.file.iter().flat_map(|file| &file.service).flat_map(|service| &service.method) {
            let path = format!("RoomService/{}", method.name());
            assert!(log.iter().any(|line| line.contains(&path)), "{path} was not called, or is not logged");
            assert!(spans.contains(&format!("unibus.v1.{path}")), "{path} is not in {spans:?}");
        }
        let exported = collector.everything();
        assert_kept(&secrets, "spans", &exported);
        assert_kept(&secrets, format, &log);
        assert_kept(&secrets, "standard error", &process.stderr());
        assert!(metrics.contains("unibus_published_messages_total{kind=\"persisted\"} "), "{metrics:.500}");
        assert_kept(&secrets, "metrics", &metrics.lines().map(str::to_owned).collect::<Vec<_>>());
        // the log may name rooms and members, but labels may not
        for id in ["\"ann\"", "lobby", "room-of-", "bystander", "x-canary"] {
            assert!(!metrics.contains(id), "{id} is in the metrics");
            assert!(!exported.iter().any(|text| text.contains(id)), "{id} is in the spans");
        }
        assert!(errors.len() > 12 && errors.iter().any(|status| status.code() == Code::Unauthenticated), "{errors:?}");
        assert_kept(&secrets, "errors", &errors.iter().flat_map(told).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_way_into_nats_is_told() {
    // Goal: whatever lets the service into NATS stays with it. Method: a password in the URL, a token, and an nkey, each good
    // and then bad, at the most talkative level; look for them in the log and on standard error.
    let key = KeyPair::new_user();
    let seed = key.seed().unwrap();
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("seed");
    std::fs::write(&path, &seed).unwrap();
    let token = format!("authorization {{ token: \"{PASSWORD}\" }}\n");
    let user = format!("authorization {{ user: ann, password: \"{PASSWORD}\" }}\n");
    let nkey = format!("authorization {{ users: [{{ nkey: {} }}] }}\n", key.public_key());
    let by_token = ConnectOptions::with_token(PASSWORD.into());
    let by_password = ConnectOptions::with_user_and_password("ann".into(), PASSWORD.into());
    let by_nkey = ConnectOptions::with_nkey(seed.clone());
    let secrets: Secrets = vec![("a password or token", PASSWORD.into()), ("an nkey seed", seed)];
    for (settings, login, flag) in [
        (token, by_token, format!("--nats-token={PASSWORD}")),
        (user, by_password, String::new()),
        (nkey, by_nkey, format!("--nats-nkey-file={}", path.display())),
    ] {
        let good = NatsOptions::new().extra(&settings).login(login).start().await;
        let bad = NatsOptions::new().extra("authorization { token: another }\n");
        let bad = bad.login(ConnectOptions::with_token("another".into())).start().await;
        for (nats, is_good) in [(&good, true), (&bad, false)] {
            for format in ["json", "text"] {
                let url = if flag.is_empty() {
                    nats.url().replacen("nats://", &format!("nats://ann:{PASSWORD}@"), 1)
                } else {
                    nats.url()
                };
                let data_dir = format!("--data-dir={}", dir.path().display());
                let (url, format) = (format!("--nats-url={url}"), format!("--log-format={format}"));
                let flags: Vec<&str> =
                    [&*url, &*data_dir, &*format, &*flag].into_iter().filter(|flag| !flag.is_empty()).collect();
                let mut process = Process::spawn_logging(&flags, "trace");
                if is_good {
                    process.ready().await;
                    process.terminate();
                }
                let ended = process.wait(SOON).await;
                assert_eq!(ended.success(), is_good, "{:?}", process.stdout());
                assert_kept(&secrets, &format, &process.stdout());
                assert_kept(&secrets, "standard error", &process.stderr());
            }
        }
    }
}

#[test]
fn what_is_planted_is_found() {
    // Goal: the search finds what it looks for. Method: each way of writing, in the middle of a line.
    let secrets: Secrets = vec![("a payload", PAYLOAD.into())];
    for writing in writings(PAYLOAD) {
        assert_eq!(found(&secrets, &[format!("before {writing} after")]).len(), 1, "{writing}");
    }
    assert!(found(&secrets, &[String::from("canary-payload")]).is_empty());
}
