//! What operators read at `/metrics`: each event is counted once, and nothing that grows has a label.

use std::{collections::BTreeSet, time::Duration};

use futures_util::{StreamExt, stream};
use rustix::process::{Pid, Signal, kill_process};
use tonic::{Code, transport::Endpoint};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use unibus::v1::{DeleteMessageRequest, GetRoomRequest, HistoryRequest, PurgeRoomRequest, SubscribeRequest, start::At};

use crate::support::{
    Client, Consuming, Credentials, Frames, Issuer, Lobby, Nats, NatsOptions, Scrape, Unibus, acknowledge, claims,
    client_with_window, connect_with, create_ephemeral, create_room, ephemeral, eventually, explicit, list_rooms,
    publish, publish_n,
    publishing::{by_batch, by_stream, named, plain, together},
    seconds_from_now, starting, subscription,
};

/// How long a count may take to be seen.
const SOON: Duration = Duration::from_secs(20);
const ROOMS: &str = "unibus.v1.RoomService";
const HANDLED: &str = "grpc_server_handled_total";
const STARTED: &str = "grpc_server_started_total";

/// What is expected of a series: its name, its labels, and by how much it has grown.
type Growth<'a> = (&'a str, &'a [(&'a str, &'a str)], i64);

/// Waits until every series has grown by exactly this much since `before`.
async fn grows(unibus: &Unibus, before: &Scrape, expected: &[Growth<'_>]) {
    eventually(SOON, async || {
        let now = Scrape::of(unibus).await;
        for (name, labels, growth) in expected {
            let grown = now.since(before, name, labels);
            if grown != *growth {
                return Err(format!("{name} {labels:?} has grown by {grown}, not by {growth}"));
            }
        }
        Ok(())
    })
    .await;
}

/// Waits until a series has this value.
async fn becomes(unibus: &Unibus, name: &str, labels: &[(&str, &str)], expected: f64) {
    eventually(SOON, async || {
        let value = Scrape::of(unibus).await.try_value(name, labels);
        let is_expected = value.is_some_and(|value| (value - expected).abs() < 0.001);
        is_expected.then_some(()).ok_or_else(|| format!("{name} {labels:?} is {value:?}"))
    })
    .await;
}

async fn get_room(client: &Client, room_id: &str) -> Code {
    let got = client.clone().get_room(GetRoomRequest { room_id: room_id.into() }).await;
    got.err().map_or(Code::Ok, |status| status.code())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_counted_by_method_and_status() {
    // Goal: rate, errors and open calls of each RPC are right. Method: calls with and without success, over gRPC, gRPC-Web and
    // HTTP, one of health, one of no method, and a stream that is open and then given up; the exact growth of each series.
    let (lobby, client) = Lobby::open().await;
    let unibus = &lobby.unibus;
    let before = Scrape::of(unibus).await;
    for _ in 0..3 {
        list_rooms(&client, 0, "").await.unwrap();
    }
    assert_eq!(get_room(&client, "nowhere").await, Code::NotFound);
    let channel = Endpoint::from_shared(format!("http://{}", unibus.address())).unwrap().connect().await.unwrap();
    HealthClient::new(channel).check(HealthCheckRequest::default()).await.unwrap();
    let url = format!("http://{}", unibus.address());
    let http = reqwest::Client::new();
    for (kind, body) in [("application/grpc-web+proto", &b"\0\0\0\0\0"[..]), ("application/grpc-web-text", b"AAAAAAA=")]
    {
        let call = http.post(format!("{url}/{ROOMS}/ListRooms")).header("content-type", kind).body(body);
        call.send().await.unwrap().bytes().await.unwrap();
        let call = http.post(format!("{url}/{ROOMS}/Nothing{}", body.len())).header("content-type", kind).body(body);
        call.send().await.unwrap().bytes().await.unwrap();
    }
    for path in ["/rooms/lobby/history", "/rooms/nowhere/history", "/nothing"] {
        http.get(format!("{url}{path}")).send().await.unwrap().bytes().await.unwrap();
    }
    let mut open = Frames::transient(&client, "lobby").await;
    open.until_caught_up().await;

    let list: &[_] = &[("grpc_service", ROOMS), ("grpc_method", "ListRooms"), ("grpc_code", "OK")];
    let unknown: &[_] = &[("grpc_service", "unknown"), ("grpc_method", "unknown"), ("grpc_code", "Unimplemented")];
    grows(
        unibus,
        &before,
        &[
            (HANDLED, list, 5),
            (STARTED, &list[..2], 5),
            ("grpc_server_handling_seconds_count", &list[..2], 5),
            (HANDLED, &[("grpc_method", "GetRoom"), ("grpc_code", "NotFound")], 1),
            (HANDLED, &[("grpc_method", "GetRoom"), ("grpc_code", "OK")], 0),
            (HANDLED, &[("grpc_service", "grpc.health.v1.Health"), ("grpc_method", "Check"), ("grpc_code", "OK")], 1),
            (HANDLED, unknown, 2),
            (STARTED, &[("grpc_type", "server_stream"), ("grpc_method", "Subscribe")], 1),
            (HANDLED, &[("grpc_method", "Subscribe")], 0),
            ("unibus_errors_total", &[("reason", "ROOM_NOT_FOUND")], 2),
            ("unibus_errors_total", &[("reason", "NOT_SUPPORTED")], 3),
            ("unibus_http_requests_total", &[("code", "2xx")], 1),
            ("unibus_http_requests_total", &[("code", "4xx")], 2),
            ("unibus_http_request_seconds_count", &[], 3),
        ],
    )
    .await;
    becomes(unibus, "unibus_open_calls", &[("grpc_method", "Subscribe")], 1.0).await;
    becomes(unibus, "unibus_open_calls", &[], 1.0).await;
    drop(open);
    becomes(unibus, "unibus_open_calls", &[("grpc_method", "Subscribe")], 0.0).await;
    grows(unibus, &before, &[(HANDLED, &[("grpc_method", "Subscribe"), ("grpc_code", "Canceled")], 1)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishes_are_counted_however_they_are_made() {
    // Goal: published messages and bytes are what was stored, each once. Method: every way to publish, into a persisted and an
    // ephemeral room, with duplicates and refusals among them, on a server that syncs, so that groups and runs are used too.
    let nats = NatsOptions::new().sync_always().start().await;
    let unibus = Unibus::start(&nats).await;
    let client = unibus.client().await;
    create_room(&client, "lobby").await;
    create_ephemeral(&client, "live").await;
    let before = Scrape::of(&unibus).await;
    publish(&client, "lobby", "12345").await.unwrap();
    publish(&client, "live", "1234567").await.unwrap();
    publish(&client, "nowhere", "1").await.unwrap_err();
    by_stream(&client, (0..200).map(|_| plain("lobby", "12")).collect()).await;
    by_batch(&client, (0..3).map(|_| plain("lobby", "123")).collect()).await;
    together(&client, (0..4).map(|_| plain("lobby", "1234")).collect()).await.unwrap();
    for _ in 0..3 {
        client.clone().publish(named("lobby", "123456")).await.unwrap();
    }
    assert!(by_stream(&client, vec![plain("lobby", "1"), plain("nowhere", "1")]).await[1].is_err());
    let expected_bytes = 5 + 200 * 2 + 3 * 3 + 4 * 4 + 12 + 1;
    grows(
        &unibus,
        &before,
        &[
            ("unibus_published_messages_total", &[("kind", "persisted")], 1 + 200 + 3 + 4 + 1 + 1),
            ("unibus_published_bytes_total", &[("kind", "persisted")], expected_bytes),
            ("unibus_published_messages_total", &[("kind", "ephemeral")], 1),
            ("unibus_published_bytes_total", &[("kind", "ephemeral")], 7),
            ("unibus_publish_duplicates_total", &[], 2),
            ("unibus_errors_total", &[("reason", "ROOM_NOT_FOUND")], 2),
        ],
    )
    .await;
    let now = Scrape::of(&unibus).await;
    let answers = now.since(&before, "unibus_jetstream_ack_seconds_count", &[]);
    assert!((8..=212).contains(&answers), "{answers}");
    assert_eq!(now.since(&before, "unibus_publish_queue_wait_seconds_count", &[]), answers);
    assert_eq!(now.since(&before, "unibus_jetstream_requests_total", &[("api", "PUBLISH")]), answers);
    assert!(now.value("unibus_jetstream_ack_seconds_sum", &[]) > 0.0);
    for gauge in ["unibus_publish_queued_messages", "unibus_publish_queued_bytes", "unibus_publish_queue_fullest_ratio"]
    {
        becomes(&unibus, gauge, &[], 0.0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deliveries_are_counted_for_each_subscription() {
    // Goal: delivered messages, gaps, lags, take-overs and open subscriptions are right. Method: two subscriptions and a Consume
    // stream read what is published; a durable is taken over; messages are deleted and purged before others read; an ephemeral
    // room; one that does not read falls behind.
    let (lobby, client) = Lobby::open().await;
    let unibus = &lobby.unibus;
    create_ephemeral(&client, "live").await;
    let before = Scrape::of(unibus).await;
    let mut first = Frames::transient(&client, "lobby").await;
    first.until_caught_up().await;
    let mut durable = Frames::open(&client, explicit("lobby", "ann")).await.unwrap();
    durable.until_caught_up().await;
    let mut live = Frames::transient(&client, "live").await;
    live.until_caught_up().await;
    let mut consuming = Consuming::start(&client).await;
    consuming.open(subscription("lobby", "")).await;
    for (kind, count) in [("transient", 2.0), ("durable", 1.0), ("ephemeral", 1.0)] {
        becomes(unibus, "unibus_open_subscriptions", &[("kind", kind)], count).await;
    }
    becomes(unibus, "unibus_active_rooms", &[], 2.0).await;
    publish_n(&client, "lobby", 10).await;
    publish(&client, "live", "1").await.unwrap();
    first.messages(10).await;
    durable.messages(10).await;
    live.messages(1).await;
    consuming.messages("lobby", 10).await;
    grows(
        unibus,
        &before,
        &[
            ("unibus_delivered_messages_total", &[], 31),
            ("unibus_subscriptions_opened_total", &[("kind", "transient")], 2),
            ("unibus_take_overs_total", &[], 0),
            ("unibus_gaps_total", &[], 0),
        ],
    )
    .await;
    let now = Scrape::of(unibus).await;
    assert!(now.since(&before, "unibus_delivered_bytes_total", &[]) > 31 * 10);
    assert!(now.since(&before, "unibus_delivery_delay_seconds_count", &[]) >= 3, "no delivery was measured");
    becomes(unibus, "unibus_subscription_lag_max_messages", &[], 0.0).await;
    // a scrape adds one lag for each open subscription
    let lags = |scrape: &Scrape| scrape.value("unibus_subscription_lag_messages_count", &[]);
    let (one, two) = (Scrape::of(unibus).await, Scrape::of(unibus).await);
    assert!((lags(&two) - lags(&one) - 4.0).abs() < 0.5, "{} {}", lags(&one), lags(&two));

    let mut newer = Frames::open(&client, explicit("lobby", "ann")).await.unwrap();
    newer.messages(10).await;
    assert_eq!(durable.end(SOON).await.code(), Code::Aborted);
    for sequence in [3, 4] {
        let request = DeleteMessageRequest { room_id: "lobby".into(), sequence };
        client.clone().delete_message(request).await.unwrap();
    }
    let all = SubscribeRequest { until_caught_up: true, ..starting("lobby", At::All(())) };
    let mut reader = Frames::open(&client, all).await.unwrap();
    assert_eq!(reader.until_caught_up().await.len(), 8);
    let purge = PurgeRoomRequest { room_id: "lobby".into(), up_to_sequence: Some(6) };
    client.clone().purge_room(purge).await.unwrap();
    let after = SubscribeRequest { until_caught_up: true, ..starting("lobby", At::AfterSequence(1)) };
    let mut back = Frames::open(&client, after).await.unwrap();
    assert_eq!(back.until_caught_up().await.len(), 4);
    grows(
        unibus,
        &before,
        &[
            ("unibus_take_overs_total", &[], 1),
            ("unibus_errors_total", &[("reason", "TAKEN_OVER")], 1),
            ("unibus_gaps_total", &[("reason", "deleted")], 1),
            ("unibus_gap_messages_total", &[("reason", "deleted")], 2),
            ("unibus_gaps_total", &[("reason", "purged")], 1),
            ("unibus_gap_messages_total", &[("reason", "purged")], 5),
            ("unibus_delivered_messages_total", &[], 31 + 10 + 8 + 4),
        ],
    )
    .await;
    drop((first, durable, live, consuming, newer, reader, back));
    becomes(unibus, "unibus_open_subscriptions", &[], 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_that_does_not_read_is_behind() {
    // Goal: an operator sees that a subscriber is slow. Method: a client with a small window that reads nothing while a room
    // grows; its lag is what it misses, and falls to nothing when it reads.
    let (lobby, client) = Lobby::open().await;
    let slow = client_with_window(lobby.unibus.address(), 64 * 1024).await;
    let mut frames = Frames::transient(&slow, "lobby").await;
    frames.until_caught_up().await;
    let payloads = (0..3000).map(|_| plain("lobby", "x".repeat(1000))).collect();
    by_stream(&client, payloads).await;
    eventually(SOON, async || {
        let lag = Scrape::of(&lobby.unibus).await.value("unibus_subscription_lag_max_messages", &[]);
        (lag > 1000.0 && lag <= 3000.0).then_some(()).ok_or_else(|| format!("the lag is {lag}"))
    })
    .await;
    let behind = Scrape::of(&lobby.unibus).await;
    let within = |bound: &str| behind.value("unibus_subscription_lag_messages_bucket", &[("le", bound)]);
    assert!(within("10000") > within("1000"), "no lag between 1000 and 10000 was observed");
    frames.messages(3000).await;
    becomes(&lobby.unibus, "unibus_subscription_lag_max_messages", &[], 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_connections_to_nats_and_their_errors_are_counted() {
    // Goal: an operator sees that NATS was away, and which requests failed. Method: kill and restart NATS; ask for the position of
    // a subscriber that does not exist.
    let mut nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let client = unibus.client().await;
    create_room(&client, "lobby").await;
    publish(&client, "lobby", "x").await.unwrap();
    let before = Scrape::of(&unibus).await;
    let main: &[_] = &[("connection", "main")];
    becomes(&unibus, "unibus_nats_connected", main, 1.0).await;
    becomes(&unibus, "unibus_ready", &[], 1.0).await;
    assert!(before.value("unibus_jetstream_requests_total", &[("api", "STREAM.CREATE")]) >= 1.0);
    assert!(before.value("unibus_jetstream_request_seconds_count", &[]) >= 1.0);
    acknowledge(&client, "lobby", "nobody", 1).await.unwrap_err();
    grows(&unibus, &before, &[("unibus_nats_disconnects_total", main, 0), ("unibus_nats_connects_total", main, 0)])
        .await;
    nats.kill9();
    becomes(&unibus, "unibus_nats_connected", main, 0.0).await;
    becomes(&unibus, "unibus_ready", &[], 0.0).await;
    assert_eq!(publish(&client, "lobby", "x").await.unwrap_err().code(), Code::Unavailable);
    nats.restart().await;
    becomes(&unibus, "unibus_nats_connected", main, 1.0).await;
    grows(
        &unibus,
        &before,
        &[
            ("unibus_nats_disconnects_total", main, 1),
            ("unibus_nats_connects_total", main, 1),
            ("unibus_errors_total", &[("reason", "NATS_UNAVAILABLE")], 1),
        ],
    )
    .await;
    becomes(&unibus, "unibus_ready", &[], 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_are_counted_by_what_came_of_them() {
    // Goal: an operator sees a wave of bad tokens, and that good ones are verified once. Method: a good token several times, an
    // expired one, a forged one and none.
    let nats = Nats::start().await;
    let issuer = Issuer::new();
    let unibus = issuer.guard(&nats, |config| config.auth.leeway = Duration::ZERO).await;
    let before = Scrape::of(&unibus).await;
    let good = issuer.client(&unibus, "ann").await;
    for _ in 0..4 {
        list_rooms(&good, 0, "").await.unwrap();
    }
    let mut past = claims("ann");
    past["exp"] = seconds_from_now(-60).into();
    let expired = issuer.sign(&past);
    for bad in [expired, Issuer::new().token("ann"), String::from("x")] {
        let client = connect_with(unibus.address(), Credentials::bearer(&bad)).await;
        assert_eq!(list_rooms(&client, 0, "").await.unwrap_err().code(), Code::Unauthenticated);
    }
    let results: Vec<_> = [("verified", 1), ("cached", 3), ("expired", 1), ("refused", 2), ("certificate", 0)].into();
    for (result, count) in results {
        grows(&unibus, &before, &[("unibus_credentials_total", &[("result", result)], count)]).await;
    }
    grows(
        &unibus,
        &before,
        &[
            ("unibus_errors_total", &[("reason", "UNAUTHENTICATED")], 2),
            ("unibus_errors_total", &[("reason", "CREDENTIALS_EXPIRED")], 1),
            ("unibus_connections_opened_total", &[], 4),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_the_embedded_server_is_counted() {
    // Goal: an operator sees that the embedded nats-server died, and how much disk is left. Method: kill it.
    let data_dir = tempfile::TempDir::new().unwrap();
    let unibus = Unibus::try_embedded_in(data_dir.path()).await.unwrap();
    let before = Scrape::of(&unibus).await;
    assert!(before.value("unibus_disk_free_bytes", &[]) <= before.value("unibus_disk_size_bytes", &[]));
    assert!(before.value("unibus_disk_reserve_bytes", &[]) > 0.0);
    assert!(before.value("unibus_storage_full", &[]) < 0.5);
    let pid = std::fs::read_to_string(data_dir.path().join("nats.pid")).unwrap();
    kill_process(Pid::from_raw(pid.trim().parse().unwrap()).unwrap(), Signal::KILL).unwrap();
    grows(&unibus, &before, &[("unibus_nats_server_restarts_total", &[], 1)]).await;
    becomes(&unibus, "unibus_ready", &[], 1.0).await;
    unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_are_shown_with_what_is_used_of_them() {
    // Goal: "used of allowed" can be drawn for every limit. Method: the same limits have a used and a maximum, and no more is used
    // than allowed; the configured ones have the configured value; what is open is used.
    let nats = Nats::start().await;
    let url = nats.url();
    let unibus = Unibus::configured(|config| {
        config.nats.url = Some(url);
        config.connections.max = 77;
        config.rooms.max_subscriptions = 55;
    })
    .await;
    let client = unibus.client().await;
    create_room(&client, "lobby").await;
    let _frames = Frames::transient(&client, "lobby").await;
    publish(&client, "lobby", "x").await.unwrap();
    client.clone().history(HistoryRequest { room_id: "lobby".into(), ..HistoryRequest::default() }).await.unwrap();
    let now = Scrape::of(&unibus).await;
    let limits = |metric: &str| {
        now.series_of(metric).iter().map(|sample| sample.labels["limit"].clone()).collect::<BTreeSet<_>>()
    };
    assert_eq!(limits("unibus_limit_used"), limits("unibus_limit_max"));
    for limit in limits("unibus_limit_max") {
        let (used, max) = (&[("limit", &*limit)][..], now.value("unibus_limit_max", &[("limit", &limit)]));
        assert!(now.value("unibus_limit_used", used) <= max && max > 0.0, "{limit}");
    }
    for (limit, used, max) in [("--max-connections", 1.0, 77.0), ("--max-subscriptions", 1.0, 55.0)] {
        becomes(&unibus, "unibus_limit_used", &[("limit", limit)], used).await;
        becomes(&unibus, "unibus_limit_max", &[("limit", limit)], max).await;
    }
    assert!(now.value("process_cpu_seconds_total", &[]) > 0.0);
    assert!(now.value("process_resident_memory_bytes", &[]) > 1e6);
    assert!(now.value("process_open_fds", &[]) > 5.0);
    let age = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64()
        - now.value("process_start_time_seconds", &[]);
    assert!((-2.0..3600.0).contains(&age), "{age}");
}

/// Rooms of the test of growth.
const MANY_ROOMS: usize = 10_000;
/// Rooms that are made at the same time.
const AT_ONCE: usize = 64;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_rooms_add_no_series() {
    // Goal: metrics stay small, however many rooms there are. Method: the series before and after ten thousand rooms were made,
    // and some of them used by callers of different names, and calls of methods that do not exist.
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let client = unibus.client().await;
    create_room(&client, "lobby").await;
    publish(&client, "lobby", "x").await.unwrap();
    Frames::transient(&client, "lobby").await.until_caught_up().await;
    create_ephemeral(&client, "live").await;
    Frames::transient(&client, "live").await.until_caught_up().await;
    let before = Scrape::of(&unibus).await.all_series();
    assert!((100..3000).contains(&before.len()), "{} series", before.len());
    stream::iter(0..MANY_ROOMS)
        .for_each_concurrent(AT_ONCE, |number| {
            let client = client.clone();
            async move {
                client.clone().create_room(ephemeral(&format!("room-{number}"))).await.unwrap();
                if number % 100 == 0 {
                    publish(&client, &format!("room-{number}"), "x").await.unwrap();
                    let room_id = format!("stored-{number}");
                    create_room(&client, &room_id).await;
                    let mut frames =
                        Frames::open(&client, explicit(&room_id, &format!("reader-{number}"))).await.unwrap();
                    publish(&client, &room_id, "x").await.unwrap();
                    frames.messages(1).await;
                    assert_eq!(get_room(&client, &format!("nowhere-{number}")).await, Code::NotFound);
                }
            }
        })
        .await;
    let http = reqwest::Client::new();
    for number in 0..10 {
        let call = http.post(format!("http://{}/no.Service{number}/Method{number}", unibus.address()));
        call.header("content-type", "application/grpc-web+proto").send().await.unwrap();
    }
    let scrape = Scrape::of(&unibus).await;
    assert!(scrape.value("unibus_rooms", &[]) >= 10_000.0);
    let after = scrape.all_series();
    let new: Vec<_> = after.difference(&before).collect();
    assert!(new.is_empty() && after.len() == before.len(), "{} new series, such as {:?}", new.len(), new.first());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_client_gets_the_format_that_it_reads() {
    // Goal: Prometheus and curl both read the metrics. Method: the accept header of Prometheus, and none; the content type and the
    // text that each gets.
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let url = format!("http://{}/metrics", unibus.server().admin_addr());
    let accepted =
        "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;q=0.5";
    let http = reqwest::Client::new();
    let open = http.get(&url).header("accept", accepted).send().await.unwrap();
    assert_eq!(open.headers()["content-type"], "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let open = open.text().await.unwrap();
    assert!(open.ends_with("# EOF\n") && open.contains("# TYPE grpc_server_handled counter\n"), "{open:.300}");
    let plain = http.get(&url).send().await.unwrap();
    assert_eq!(plain.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let plain = plain.text().await.unwrap();
    assert!(!plain.contains("# EOF") && plain.contains("# TYPE grpc_server_handled_total counter\n"), "{plain:.300}");
}
