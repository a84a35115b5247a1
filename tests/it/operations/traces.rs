//! Traces: the spans of calls at a collector, and what happens without one.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use prost::Message as _;
use tokio::net::TcpListener;
use tonic::{Code, IntoRequest, Request, client::Grpc, codegen::http::uri::PathAndQuery, transport::Endpoint};
use tonic_prost::ProstCodec;
use unibus::v1::{
    AcknowledgeRequest, ConsumeOpen, ConsumeRequest, GetRoomRequest, HistoryRequest, PublishBatchRequest,
    PublishRequest, SubscribeRequest, consume_request::Command,
};

use crate::support::{
    Client, Collector, Frames, Nats, Process, Scrape, Trace, Unibus, create_ephemeral, create_room, eventually,
    explicit, free_port, persisted, publish,
    publishing::{batch, plain},
    subscription,
};

const SERVICE: &str = "unibus.v1.RoomService";
const SOON: Duration = Duration::from_secs(30);
/// The span of a caller.
const CALLER: &str = "b7ad6b7169203331";

/// A trace of its own for each number.
fn trace(number: u32) -> String {
    format!("0af7651916cd43dd8448eb21{number:08x}")
}

/// A request of a caller in the trace with this number, which its sampler has chosen.
fn of_trace<T>(number: u32, message: T) -> Request<T> {
    let mut request = message.into_request();
    let parent = format!("00-{}-{CALLER}-01", trace(number));
    request.metadata_mut().insert("traceparent", parent.parse().unwrap());
    request
}

async fn traced(nats: &Nats, collector: &Collector, sample: f64) -> Unibus {
    Unibus::configured(|config| {
        config.nats.url = Some(nats.url());
        config.traces.endpoint = Some(collector.url());
        config.traces.sample = sample;
    })
    .await
}

/// Waits for the trace, and asserts that the call is a part of the caller's span.
async fn arrived(collector: &Collector, number: u32, method: &str, count: usize) -> (Trace, String) {
    let call = format!("{SERVICE}/{method}");
    let found = collector.trace(&trace(number), &call, count).await;
    assert_eq!(found.one(&call).parent_id, CALLER);
    assert_eq!(found.one(&call).attributes["rpc.method"], method);
    (found, call)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_and_its_steps_are_one_trace_of_the_caller() {
    // Goal: an operator sees where the time of a call went. Method: calls of each kind with a `traceparent`, each in a trace of its
    // own; at the collector the span of the call is a part of the caller's, and the steps are parts of the call. The test
    // installs no log, so the filter of a log shows nothing.
    let (nats, collector) = (Nats::start().await, Collector::start().await);
    let unibus = traced(&nats, &collector, 1.0).await;
    let mut client = unibus.client().await;
    client.create_room(of_trace(1, persisted("lobby"))).await.unwrap();
    create_ephemeral(&client, "live").await;
    client.publish(of_trace(2, plain("lobby", "tea"))).await.unwrap();
    client.publish(of_trace(3, plain("live", "tea"))).await.unwrap();
    let three = || vec![plain("lobby", "tea"); 3];
    client.publish_batch(of_trace(4, batch(three(), false))).await.unwrap();
    client.publish_batch(of_trace(5, batch(three(), true))).await.unwrap();
    let frames = client.subscribe(of_trace(6, explicit("lobby", "ann"))).await.unwrap();
    let history = HistoryRequest { room_id: "lobby".into(), ..HistoryRequest::default() };
    client.history(of_trace(7, history)).await.unwrap();
    let subscribe = SubscribeRequest { until_caught_up: true, ..subscription("lobby", "bob") };
    let open = ConsumeOpen { subscribe: Some(subscribe), ..ConsumeOpen::default() };
    let open = ConsumeRequest { command: Some(Command::Open(open)) };
    let mut consuming = client.consume(of_trace(8, stream::iter([open]))).await.unwrap().into_inner();
    while consuming.message().await.unwrap().is_some() {}
    drop(frames);

    let (found, call) = arrived(&collector, 1, "CreateRoom", 3).await;
    let parts = found.parts_of(&call);
    for part in ["registry write", "jetstream STREAM.CREATE"] {
        assert!(parts.contains(&part), "{found:#?}");
    }
    let (found, call) = arrived(&collector, 2, "Publish", 3).await;
    assert_eq!(found.parts_of(&call), ["publish queue", "jetstream PUBLISH"], "{found:#?}");
    let (queue, request) = (found.one("publish queue").time, found.one("jetstream PUBLISH").time);
    let whole = found.one(&call).time;
    assert!(whole.0 <= queue.0 && queue.0 <= queue.1 && queue.1 <= request.0, "{found:#?}");
    assert!(request.0 < request.1 && request.1 <= whole.1, "{found:#?}");
    let attributes: Vec<_> = found.one(&call).attributes.iter().map(|(key, value)| (&**key, &**value)).collect();
    let expected =
        [("rpc.grpc.status_code", "0"), ("rpc.method", "Publish"), ("rpc.service", SERVICE), ("rpc.system", "grpc")];
    assert_eq!(attributes, expected);
    let (found, call) = arrived(&collector, 3, "Publish", 2).await;
    assert_eq!(found.parts_of(&call), ["nats publish"]);
    let (found, call) = arrived(&collector, 4, "PublishBatch", 2).await;
    assert_eq!((found.parts_of(&call), found.0.len()), (vec!["publish each"], 2));
    let (found, call) = arrived(&collector, 5, "PublishBatch", 3).await;
    assert_eq!(found.parts_of(&call), ["publish queue", "jetstream PUBLISH"]);
    assert_eq!(found.one("jetstream PUBLISH").attributes["messaging.batch.message_count"], "3");
    let (found, call) = arrived(&collector, 6, "Subscribe", 3).await;
    assert_eq!(found.parts_of(&call), ["open subscription"], "{found:#?}");
    assert!(found.parts_of("open subscription").contains(&"jetstream CONSUMER.CREATE"), "{found:#?}");
    let (found, call) = arrived(&collector, 7, "History", 2).await;
    assert!(found.parts_of(&call).contains(&"jetstream DIRECT.GET"), "{found:#?}");
    let (found, call) = arrived(&collector, 8, "Consume", 3).await;
    assert_eq!(found.parts_of(&call), ["open subscription"], "{found:#?}");
    assert!(collector.spans().iter().all(|span| !span.is_error), "{:#?}", collector.spans());

    let resources = collector.resources();
    assert!(resources.iter().all(|resource| resource == &resources[0]), "{resources:?}");
    assert_eq!(resources[0]["service.name"], "unibus");
    assert_eq!(resources[0]["service.version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(resources[0]["service.instance.id"].len(), 36);
    unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_call_tells_its_status_and_reason() {
    // Goal: failed calls are found by attributes. Method: a call that is refused, and one of a method that does not exist; the
    // first is no fault of the service, and the second has a name out of a closed set.
    let (nats, collector) = (Nats::start().await, Collector::start().await);
    let unibus = traced(&nats, &collector, 1.0).await;
    let mut client = unibus.client().await;
    let refused = client.publish(of_trace(1, plain("nowhere", "tea"))).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    let (found, call) = arrived(&collector, 1, "Publish", 1).await;
    let span = found.one(&call);
    assert_eq!(span.attributes["rpc.grpc.status_code"], "5");
    assert_eq!((&*span.attributes["error.type"], span.is_error), ("ROOM_NOT_FOUND", false));

    let channel = Endpoint::from_shared(format!("http://{}", unibus.address())).unwrap().connect().await.unwrap();
    let mut any = Grpc::new(channel);
    any.ready().await.unwrap();
    let path = PathAndQuery::from_static("/unibus.v1.RoomService/Secret");
    let unknown = any.unary(of_trace(2, ()), path, ProstCodec::<(), ()>::default()).await.unwrap_err();
    assert_eq!(unknown.code(), Code::Unimplemented);
    let found = collector.trace(&trace(2), "unknown/unknown", 1).await;
    assert_eq!((found.0.len(), found.0[0].is_error), (1, true));
    assert!(!collector.everything().concat().contains("Secret"));
    unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_grpc_web_and_connect_name_their_trace_too() {
    // Goal: a trace that begins in a browser goes on. Method: the history over HTTP, server-sent events, and a call over gRPC-Web
    // and by the Connect protocol, all with `traceparent` and `tracestate`.
    let (nats, collector) = (Nats::start().await, Collector::start().await);
    let unibus = traced(&nats, &collector, 0.0).await;
    let client = unibus.client().await;
    create_room(&client, "lobby").await;
    publish(&client, "lobby", "tea").await.unwrap();
    let http = reqwest::Client::new();
    let with_trace = |request: reqwest::RequestBuilder, number: u32| {
        let request = request.header("traceparent", format!("00-{}-{CALLER}-01", trace(number)));
        request.header("tracestate", "vendor=7")
    };
    let page = http.get(format!("http://{}/rooms/lobby/history?limit=1", unibus.address()));
    assert_eq!(with_trace(page, 1).send().await.unwrap().status(), 200);
    let message = GetRoomRequest { room_id: "lobby".into() }.encode_to_vec();
    let body = [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), &message].concat();
    let call = http.post(format!("http://{}/{SERVICE}/GetRoom", unibus.address()));
    let call = call.header("content-type", "application/grpc-web+proto").header("x-grpc-web", "1").body(body);
    let answer = with_trace(call, 2).send().await.unwrap().bytes().await.unwrap();
    assert!(String::from_utf8_lossy(&answer).contains("grpc-status:0"));
    let call = http.post(format!("http://{}/{SERVICE}/GetRoom", unibus.address()));
    let call = call.header("content-type", "application/json").body(r#"{"roomId": "lobby"}"#);
    assert_eq!(with_trace(call, 3).send().await.unwrap().status(), 200);
    let events = http.get(format!("http://{}/v1/rooms/lobby/events", unibus.address()));
    drop(with_trace(events, 4).send().await.unwrap());

    let name = "GET /rooms/{id}/history";
    let found = collector.trace(&trace(1), name, 2).await;
    let span = found.one(name);
    assert_eq!((&*span.parent_id, &*span.trace_state), (CALLER, "vendor=7"));
    let attributes: Vec<_> = span.attributes.iter().map(|(key, value)| (&**key, &**value)).collect();
    let expected =
        [("http.request.method", "GET"), ("http.response.status_code", "200"), ("http.route", "/rooms/{id}/history")];
    assert_eq!(attributes, expected);
    assert!(found.parts_of(name).contains(&"jetstream DIRECT.GET"), "{found:#?}");
    let (found, call) = arrived(&collector, 2, "GetRoom", 2).await;
    assert_eq!(found.one(&call).attributes["rpc.grpc.status_code"], "0");
    assert_eq!(found.one(&call).trace_state, "vendor=7");
    let (found, call) = arrived(&collector, 3, "GetRoom", 2).await;
    assert_eq!(found.one(&call).attributes["rpc.system"], "connect_rpc");
    let name = "GET /v1/rooms/{id}/events";
    let found = collector.trace(&trace(4), name, 3).await;
    assert_eq!(found.parts_of(name), ["open subscription"]);
    unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_caller_decides_and_else_the_ratio() {
    // Goal: a trace is whole or absent. Method: a ratio of 0: only the call whose caller has chosen its trace arrives; a ratio of
    // 1: a call without a trace arrives, and a call whose caller has not chosen its trace does not. Spans arrive in order, so the
    // last call shows that the earlier ones never will.
    let (nats, collector) = (Nats::start().await, Collector::start().await);
    for (sample, expected) in [(0.0, 0), (1.0, 5)] {
        let unibus = traced(&nats, &collector, sample).await;
        let mut client = unibus.client().await;
        let before = collector.spans().len();
        for _ in 0..5 {
            client.list_rooms(unibus::v1::ListRoomsRequest::default()).await.unwrap();
        }
        let mut unchosen = Request::new(unibus::v1::ListRoomsRequest::default());
        let parent = format!("00-{}-{CALLER}-00", trace(77));
        unchosen.metadata_mut().insert("traceparent", parent.parse().unwrap());
        client.list_rooms(unchosen).await.unwrap();
        let last = 100 + expected;
        client.list_rooms(of_trace(last, unibus::v1::ListRoomsRequest::default())).await.unwrap();
        arrived(&collector, last, "ListRooms", 1).await;
        let spans = collector.spans().split_off(before);
        let own = spans.iter().filter(|span| span.parent_id.is_empty()).count();
        assert_eq!((own, spans.len()), (expected as usize, expected as usize + 1), "{spans:#?}");
        unibus.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_trace_of_a_message_is_its_publishers() {
    // Goal: readers can link to the span that made a message, and the service invents no headers. Method: publish in one trace a
    // message that names another, and a message without headers, by each way of publishing; read both by subscription and by
    // history.
    let (nats, collector) = (Nats::start().await, Collector::start().await);
    let unibus = traced(&nats, &collector, 1.0).await;
    let mut client = unibus.client().await;
    create_room(&client, "lobby").await;
    let own = HashMap::from([("traceparent".to_owned(), format!("00-{}-{CALLER}-01", trace(9)))]);
    let mut frames = Frames::transient(&client, "lobby").await;
    let message = PublishRequest { headers: own.clone(), ..plain("lobby", "tea") };
    client.publish(of_trace(1, message.clone())).await.unwrap();
    client.publish(of_trace(1, plain("lobby", "tea"))).await.unwrap();
    for atomic in [false, true] {
        let request: PublishBatchRequest = batch(vec![message.clone(), plain("lobby", "tea")], atomic);
        client.publish_batch(of_trace(1, request)).await.unwrap();
    }
    let expected = [own.clone(), HashMap::new()].into_iter().cycle().take(6).collect::<Vec<_>>();
    let received: Vec<_> = frames.messages(6).await.into_iter().map(|message| message.headers).collect();
    assert_eq!(received, expected);
    let request = HistoryRequest { room_id: "lobby".into(), ..HistoryRequest::default() };
    let page = client.history(request).await.unwrap().into_inner();
    let stored: Vec<_> = page.messages.into_iter().map(|message| message.headers).collect();
    assert_eq!(stored, expected);
    unibus.shutdown().await.unwrap();
}

/// Publishes many messages at once.
async fn publish_all(client: &Client, count: usize) {
    let publishing = stream::iter(0..count).map(|number| publish(client, "lobby", number.to_string()));
    let mut publishing = publishing.buffer_unordered(32);
    while let Some(published) = publishing.next().await {
        published.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_hangs_costs_spans_and_nothing_else() {
    // Goal: tracing never stops the service. Method: a collector that accepts connections and never answers; more calls than spans
    // may wait all succeed; the lost spans are counted, and the stop takes its bounded time.
    let nats = Nats::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let unibus = Unibus::configured(|config| {
        config.nats.url = Some(nats.url());
        config.traces.endpoint = Some(url);
    })
    .await;
    let client = unibus.client().await;
    create_room(&client, "lobby").await;
    publish_all(&client, 4000).await;
    let lost = Scrape::of(&unibus).await.value("unibus_trace_spans_lost_total", &[("reason", "queue")]);
    assert!(lost > 1000.0, "{lost}");
    let begun = Instant::now();
    unibus.shutdown().await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    drop(listener);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_collector_is_warned_of_once_and_found_later() {
    // Goal: an operator learns of the loss without a flood of lines, and needs no restart. Method: no collector; calls succeed, and
    // spans of several exports are lost with one warning. Then a collector takes the port: it gets the spans of later calls.
    let nats = Nats::start().await;
    let port = free_port();
    let endpoint = format!("--otlp-endpoint=http://127.0.0.1:{port}");
    let mut process = Process::start_with(&nats, &[&endpoint], None).await;
    let client = process.client().await;
    create_room(&client, "lobby").await;
    let lost = async || {
        let scrape = Scrape::at(process.admin_address()).await;
        scrape.value("unibus_trace_spans_lost_total", &[("reason", "export")])
    };
    for _ in 0..2 {
        let before = lost().await;
        publish(&client, "lobby", "tea").await.unwrap();
        eventually(SOON, async || {
            let now = lost().await;
            (now >= before + 3.0).then_some(()).ok_or_else(|| format!("{now} spans are lost"))
        })
        .await;
    }
    let warnings = |process: &Process| process.stdout().iter().filter(|line| line.contains("spans were lost")).count();
    assert_eq!(warnings(&process), 1, "{:?}", process.stdout());
    let collector = Collector::start_on(port).await;
    eventually(SOON, async || {
        publish(&client, "lobby", "tea").await.unwrap();
        let names: Vec<_> = collector.spans().into_iter().map(|span| span.name).collect();
        names.contains(&format!("{SERVICE}/Publish")).then_some(()).ok_or_else(|| format!("{names:?}"))
    })
    .await;
    assert_eq!(warnings(&process), 1);
    process.terminate();
    process.wait(SOON).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_spans_are_sent_when_the_service_stops() {
    // Goal: what happened just before a stop can be seen. Method: a call and then at once SIGTERM, with a log that shows only its
    // errors; after the end of the process the collector has the span.
    let (nats, collector) = (Nats::start().await, Collector::start().await);
    let endpoint = format!("--otlp-endpoint={}", collector.url());
    let mut process = Process::start_with(&nats, &[&endpoint], Some("error,unibus::server=info")).await;
    let mut client = process.client().await;
    let unknown = AcknowledgeRequest { room_id: "nowhere".into(), ..AcknowledgeRequest::default() };
    client.acknowledge(of_trace(1, unknown)).await.unwrap_err();
    process.terminate();
    assert!(process.wait(SOON).await.success());
    let name = format!("{SERVICE}/Acknowledge");
    assert!(collector.spans().iter().any(|span| span.name == name && span.trace_id == trace(1)));
}
