//! What operators and tools see: health, readiness, reflection, gRPC-Web, and the price of a page.

use std::{
    net::{SocketAddr, TcpListener},
    process::Command,
    time::{Duration, Instant},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use prost::Message as _;
use reqwest::StatusCode;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_reflection::pb::{v1, v1alpha};
use unibus::Config;
use unibus::v1::{
    HistoryRequest, HistoryResponse, ListRoomsRequest, ListRoomsResponse, Start, SubscribeRequest, SubscribeResponse,
    start::At, subscribe_response::Frame,
};

use crate::support::{
    Frames, Lobby, Nats, Process, Spy, Unibus, create_room, eventually, explicit, floor_reaches, history, publish,
};

/// How long a change of NATS may take to be seen.
const SOON: Duration = Duration::from_secs(20);
/// The contract's service.
const SERVICE: &str = "unibus.v1.RoomService";

/// Sets a field of a configuration.
type Change = fn(&mut Config);

async fn channel(unibus: &Unibus) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{}", unibus.address())).unwrap();
    endpoint.connect().await.unwrap()
}

/// Asserts that reflection in one of its versions lists the contract and gives the file of a message.
macro_rules! reflects {
    ($version:ident, $unibus:expr) => {{
        use $version::{
            ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
            server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
        };
        let ask = async |request: MessageRequest| {
            let mut client = ServerReflectionClient::new(channel($unibus).await);
            let request = ServerReflectionRequest { host: String::new(), message_request: Some(request) };
            let answers = client.server_reflection_info(tokio_stream::once(request)).await;
            let answer = answers.unwrap().into_inner().message().await?;
            Ok::<_, Status>(answer.and_then(|answer| answer.message_response).expect("an answer"))
        };
        match ask(MessageRequest::ListServices(String::new())).await.unwrap() {
            MessageResponse::ListServicesResponse(list) => {
                let names: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
                for expected in [SERVICE, "grpc.health.v1.Health"] {
                    assert!(names.iter().any(|name| name == expected), "{expected} in {names:?}");
                }
            }
            other => panic!("{other:?}"),
        }
        for symbol in ["unibus.v1.PublishRequest", SERVICE, "google.rpc.ErrorInfo"] {
            match ask(MessageRequest::FileContainingSymbol(symbol.into())).await.unwrap() {
                MessageResponse::FileDescriptorResponse(files) => assert!(!files.file_descriptor_proto.is_empty()),
                other => panic!("{symbol}: {other:?}"),
            }
        }
        let mut client = ServerReflectionClient::new(channel($unibus).await);
        let asked = ["unibus.v1.Nothing", SERVICE].map(|symbol| ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::FileContainingSymbol(symbol.into())),
        });
        let mut answers = client.server_reflection_info(tokio_stream::iter(asked)).await.unwrap().into_inner();
        let unknown = answers.message().await.unwrap().and_then(|answer| answer.message_response);
        match unknown.expect("an answer") {
            MessageResponse::ErrorResponse(error) => assert_eq!(error.error_code, i32::from(Code::NotFound)),
            other => panic!("{other:?}"),
        }
        assert!(answers.message().await.unwrap().is_some(), "the stream stays open");
    }};
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reflection_tells_tools_the_contract() {
    // Goal: grpcurl and the like need no files. Method: both versions of the reflection protocol: the services, the files of
    // a message, of the service and of an error's details; a symbol that does not exist is an error in its answer, and the
    // stream goes on.
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    reflects!(v1, &unibus);
    reflects!(v1alpha, &unibus);
}

/// Status of a path on the admin port.
async fn probe(unibus: &Unibus, path: &str) -> StatusCode {
    let url = format!("http://{}{path}", unibus.server().admin_addr());
    reqwest::get(url).await.expect("an answer").status()
}

/// Waits until readiness answers with this status; liveness answers with 200 all the while.
async fn readiness_becomes(unibus: &Unibus, status: StatusCode) {
    eventually(SOON, async || {
        assert_eq!(probe(unibus, "/livez").await, StatusCode::OK);
        let found = probe(unibus, "/readyz").await;
        (found == status).then_some(()).ok_or_else(|| found.to_string())
    })
    .await;
}

async fn check(client: &mut HealthClient<Channel>, service: &str) -> Result<ServingStatus, Code> {
    let checked = client.check(HealthCheckRequest { service: service.into() }).await;
    checked.map(|response| response.into_inner().status()).map_err(|status| status.code())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_and_readiness_follow_the_nats_connection() {
    // Goal: traffic is sent elsewhere while NATS is away, and comes back with it, and the process is not restarted for it.
    // Method: Check, Watch, /livez and /readyz with NATS there, killed, and there again.
    let mut nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let mut client = HealthClient::new(channel(&unibus).await);
    let mut watches = Vec::new();
    for service in ["", SERVICE] {
        let watch = client.watch(HealthCheckRequest { service: service.into() }).await;
        watches.push(watch.unwrap().into_inner());
    }
    let mut steps = Vec::new();
    for (http, health) in [
        (StatusCode::OK, ServingStatus::Serving),
        (StatusCode::SERVICE_UNAVAILABLE, ServingStatus::NotServing),
        (StatusCode::OK, ServingStatus::Serving),
    ] {
        match steps.len() {
            0 => {}
            1 => nats.kill9(),
            _ => nats.restart().await,
        }
        steps.push(health);
        readiness_becomes(&unibus, http).await;
        for watch in &mut watches {
            let next = tokio::time::timeout(SOON, watch.message()).await.expect("a change in time");
            assert_eq!(next.unwrap().expect("a status").status(), health, "{steps:?}");
        }
        for service in ["", SERVICE] {
            assert_eq!(check(&mut client, service).await, Ok(health));
        }
    }
    assert_eq!(check(&mut client, "unibus.v1.Nothing").await, Err(Code::NotFound));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_calls_over_grpc_web() {
    // Goal: gRPC-Web needs no proxy. Method: a unary call over HTTP/1.1, its frames taken apart; then one that fails, whose
    // status comes in the headers or in the last frame.
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    create_room(&unibus.client().await, "lobby").await;

    let (data, trailers) = web_call(&unibus, WEB, "ListRooms", &ListRoomsRequest::default()).await;
    assert_eq!(status_in(&trailers), Some("0"), "{trailers}");
    let [data] = &data[..] else { panic!("{} answers", data.len()) };
    let rooms = ListRoomsResponse::decode(&**data).unwrap().rooms;
    let ids: Vec<&str> = rooms.iter().map(|room| room.room_id.as_str()).collect();
    assert_eq!(ids, ["lobby"]);

    let unknown = unibus::v1::GetRoomRequest { room_id: "nowhere".into() };
    let (data, trailers) = web_call(&unibus, WEB, "GetRoom", &unknown).await;
    assert_eq!(data, Vec::<Vec<u8>>::new());
    assert_eq!(status_in(&trailers), Some("5"), "{trailers}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_subscribes_over_grpc_web() {
    // Goal: a subscription is translated as any other answer, and what was sent counts as taken. Method: over HTTP/1.1, in
    // both encodings: a durable subscriber reads a room to its end, and its position moves; then a room that is not there.
    let (lobby, client) = Lobby::open().await;
    // of all lengths that base64 pads differently, and more than go out together
    let sent: Vec<_> = (0..50).map(|number| "x".repeat(number * 20 + number % 3)).collect();
    for payload in &sent {
        publish(&client, "lobby", payload.clone()).await.unwrap();
    }
    for (kind, subscriber) in [(WEB, "binary"), (WEB_TEXT, "text")] {
        let request = SubscribeRequest {
            room_id: "lobby".into(),
            subscriber: subscriber.into(),
            ack_mode: unibus::v1::AckMode::Auto.into(),
            start: Some(Start { at: Some(At::All(())) }),
            until_caught_up: true,
        };
        let (data, trailers) = web_call(&lobby.unibus, kind, "Subscribe", &request).await;
        assert_eq!(status_in(&trailers), Some("0"), "{trailers}");
        let frames = data.iter().map(|frame| SubscribeResponse::decode(&**frame).unwrap().frame.unwrap());
        let received: Vec<_> = frames
            .filter_map(|frame| match frame {
                Frame::Message(message) => Some(String::from_utf8(message.payload.to_vec()).unwrap()),
                _ => None,
            })
            .collect();
        assert_eq!(received, sent);
        assert_eq!(floor_reaches(&lobby.nats, "lobby", subscriber, 50).await, 50);
        let nowhere = SubscribeRequest { room_id: "nowhere".into(), ..request };
        let (data, trailers) = web_call(&lobby.unibus, kind, "Subscribe", &nowhere).await;
        assert_eq!((data.len(), status_in(&trailers)), (0, Some("5")), "{trailers}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn browsers_read_pages_of_an_active_room() {
    // Goal: a page that comes from memory reaches clients of gRPC-Web whole. Method: an active room with messages of more than
    // one piece of an answer; its page in both encodings is the page over HTTP/2, with a status at its end.
    let (lobby, client) = Lobby::open().await;
    let mut open = Frames::transient(&client, "lobby").await;
    open.until_caught_up().await;
    for size in [0, 10, 50_000] {
        publish(&client, "lobby", vec![7; size]).await.unwrap();
    }
    open.messages(3).await;
    let request = HistoryRequest { room_id: "lobby".into(), limit: 3, anchor: None };
    let expected = client.clone().history(request.clone()).await.unwrap();
    assert_eq!(expected.get_ref().messages.len(), 3);
    for kind in [WEB, WEB_TEXT] {
        let (data, trailers) = web_call(&lobby.unibus, kind, "History", &request).await;
        assert_eq!(status_in(&trailers), Some("0"), "{trailers}");
        assert_eq!(data.len(), 1);
        assert_eq!(HistoryResponse::decode(&data[0][..]).unwrap(), *expected.get_ref());
    }
}

/// The kinds of gRPC-Web: as it is, and in base64.
const WEB: &str = "application/grpc-web+proto";
const WEB_TEXT: &str = "application/grpc-web-text+proto";

/// Makes a gRPC-Web call; gives the messages that are answered and the trailers as text, wherever they were.
async fn web_call(unibus: &Unibus, kind: &str, method: &str, request: &impl prost::Message) -> (Vec<Vec<u8>>, String) {
    let message = request.encode_to_vec();
    let mut body = vec![0];
    body.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    body.extend(message);
    let url = format!("http://{}/{SERVICE}/{method}", unibus.address());
    if kind == WEB_TEXT {
        body = BASE64_STANDARD.encode(body).into();
    }
    let call = reqwest::Client::new().post(url).header("content-type", kind).header("accept", kind);
    let response = call.header("x-grpc-web", "1").body(body).send().await.expect("an answer");
    assert_eq!(response.version(), reqwest::Version::HTTP_11);
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], kind);
    let header =
        response.headers().get("grpc-status").map(|status| format!("grpc-status:{}", status.to_str().unwrap()));
    let mut trailers = header.unwrap_or_default();
    let mut data = Vec::new();
    let mut body = response.bytes().await.expect("a body").to_vec();
    if kind == WEB_TEXT {
        // each part is padded by itself
        body = body.chunks(4).flat_map(|four| BASE64_STANDARD.decode(four).unwrap()).collect();
    }
    let mut rest = &body[..];
    while let [flags, a, b, c, d, tail @ ..] = rest {
        let (frame, tail) = tail.split_at(u32::from_be_bytes([*a, *b, *c, *d]) as usize);
        match flags {
            0 => data.push(frame.to_vec()),
            0x80 => trailers.push_str(std::str::from_utf8(frame).unwrap()),
            _ => panic!("a frame with the flags {flags}"),
        }
        rest = tail;
    }
    assert!(rest.is_empty());
    (data, trailers)
}

/// The status in trailers of gRPC-Web.
fn status_in(trailers: &str) -> Option<&str> {
    let line = trailers.lines().find_map(|line| line.trim().strip_prefix("grpc-status:"));
    line.map(str::trim)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_durable_subscription_opens_with_few_requests() {
    // Goal: many subscribers can come back at once. Method: a native spy on JetStream's API while a subscriber opens for the first
    // time, and again. The consumer of the room's reader, which all its subscriptions share, is not counted, nor is the one write of
    // the bucket, which is no request to the API. The reader may ask once for the state of the stream.
    let (lobby, client) = Lobby::without_room().await;
    create_room(&client, "lobby").await;
    for (requests_max, what) in [(8, "new"), (5, "known")] {
        let mut spy = Spy::start(&lobby.nats).await;
        let frames = Frames::open(&client, explicit("lobby", "ann")).await.unwrap();
        let mut seen = spy.seen().await;
        drop(frames);
        let of_reader = |subject: &str| {
            subject == "$JS.API.CONSUMER.CREATE.UNIBUS_lobby" || subject.starts_with("$JS.API.CONSUMER.MSG.NEXT.")
        };
        seen.retain(|subject| !of_reader(subject));
        assert!((1..=requests_max).contains(&seen.len()), "{what}: {seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_page_costs_two_requests_at_most() {
    // Goal: a page without holes is cheap, however long the room. Method: a native spy on JetStream's API while the newest 200
    // of 1,000 messages are read; those about the room's stream are counted.
    let (lobby, client) = Lobby::without_room().await;
    let room = create_room(&client, "lobby").await;
    lobby.nats.publish_n(&room.subject, 999).await;
    publish(&client, "lobby", "1000").await.unwrap();

    let mut spy = Spy::start(&lobby.nats).await;
    let page = history(&client, "lobby", 200).await;
    assert_eq!(page.messages.len(), 200);
    let seen = spy.seen_of_lobby().await;
    assert!((1..=2).contains(&seen.len()), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_cannot_configure_what_the_flags_refuse() {
    // Goal: the bounds hold for the library too. Method: each field set to what its flag refuses; the start names the field,
    // and all of them where several are wrong.
    let wrong: &[(&str, Change)] = &[
        ("auth_jwks_refresh", |config| config.auth.jwks_refresh = Duration::ZERO),
        ("auth_keys_max_age", |config| config.auth.keys_max_age = Duration::ZERO),
        ("cors_origins", |config| config.cors.origins = vec![String::from("app.example.com")]),
        ("console_service", |config| config.console.service = Some(String::from("localhost"))),
        ("registry_replicas", |config| config.registry_replicas = 2),
        ("max_connections", |config| config.connections.max = 0),
        ("max_streams_per_connection", |config| config.connections.max_streams = 0),
        ("max_subscriptions", |config| config.rooms.max_subscriptions = 0),
        ("limit_publishes", |config| config.rooms.limits.publishes = Some(0)),
        ("limit_publish_bytes", |config| config.rooms.limits.publish_bytes = Some(0)),
        ("payload_max", |config| config.rooms.payload_max = 0),
        ("keepalive_interval", |config| config.keepalive.interval = Duration::ZERO),
        ("keepalive_timeout", |config| config.keepalive.timeout = Duration::ZERO),
        ("idle_timeout", |config| config.keepalive.idle_timeout = Duration::ZERO),
        ("heartbeat_interval", |config| config.heartbeat_interval = Duration::from_millis(99)),
    ];
    let nats = Nats::start().await;
    let refusal = async |change: &dyn Fn(&mut Config)| {
        let url = nats.url();
        let started = Unibus::try_configured(|config| {
            config.nats.url = Some(url);
            change(config);
        });
        let error = started.await.err().expect("a refusal");
        error.violations().iter().map(|violation| violation.field.clone()).collect::<Vec<_>>()
    };
    for (field, change) in wrong {
        assert_eq!(refusal(change).await, [*field]);
    }
    let all = refusal(&|config| wrong.iter().for_each(|(_, change)| change(config))).await;
    assert_eq!(all, wrong.iter().map(|(field, _)| *field).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_health_check_of_a_container_follows_readiness() {
    // Goal: a container engine restarts or skips what cannot serve. Method: the command, as the image runs it, while the service
    // serves, while NATS is away, after the service has stopped, and in front of a port that never answers. It ends with 0
    // only while the service serves, and in time.
    let mut nats = Nats::start().await;
    let mut process = Process::start(&nats).await;
    let admin_listen = process.admin_address();
    let ends = |address: SocketAddr| {
        let command = Command::new(env!("CARGO_BIN_EXE_unibus"))
            .args(["healthcheck", "--admin-listen", &format!("0.0.0.0:{}", address.port()), "--timeout", "1s"])
            .output()
            .expect("the binary starts");
        (command.status.code(), command.stdout, command.stderr.is_empty())
    };
    assert_eq!(ends(admin_listen), (Some(0), b"ok\n".to_vec(), true));
    nats.kill9();
    eventually(SOON, async || {
        let (status, printed, is_quiet) = ends(admin_listen);
        (status == Some(1) && printed.is_empty() && !is_quiet).then_some(()).ok_or_else(|| format!("{status:?}"))
    })
    .await;
    nats.restart().await;
    eventually(SOON, async || (ends(admin_listen).0 == Some(0)).then_some(()).ok_or_else(|| String::from("not ready")))
        .await;
    process.terminate();
    process.wait(SOON).await;
    assert_eq!(ends(admin_listen).0, Some(1));
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let begun = Instant::now();
    assert_eq!(ends(silent.local_addr().unwrap()).0, Some(1));
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
}
