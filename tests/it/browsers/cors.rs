//! Cross-origin calls: which pages may call, and what a browser lets them read.

use std::time::Duration;

use clap::Parser as _;
use reqwest::{Method, Response, header::HeaderMap};
use unibus::Config;

use crate::support::{
    Issuer, Nats, Unibus, create_room,
    http2::{END_HEADERS, END_STREAM, HEADERS, Http2, frame, literal},
};

/// A page that may call, one that may not, and one whose origin only begins like an allowed one.
const ALLOWED: &str = "https://app.example.com";
const OTHERS: [&str; 3] = ["https://evil.example.com", "https://app.example.com.evil.com", "null"];
const GET_ROOM: &str = "/unibus.v1.RoomService/GetRoom";
const HISTORY: &str = "/rooms/lobby/history";
const WEB: &str = "application/grpc-web+proto";

async fn allowing(nats: &Nats, origins: &[&str]) -> Unibus {
    let url = nats.url();
    Unibus::configured(|config| {
        config.nats.url = Some(url);
        config.cors.origins = origins.iter().map(|origin| (*origin).to_owned()).collect();
    })
    .await
}

/// The answer to the preflight of a call with these request fields.
async fn preflight(unibus: &Unibus, path: &str, origin: &str, method: &str, fields: &str) -> Response {
    let request = reqwest::Client::new().request(Method::OPTIONS, format!("http://{}{path}", unibus.address()));
    let request = request.header("origin", origin).header("access-control-request-method", method);
    request.header("access-control-request-headers", fields).send().await.expect("an answer")
}

/// The answer to a call of `GetRoom` over gRPC-Web without a message, which is an error, or to a page of history.
async fn call(unibus: &Unibus, path: &str, origin: Option<&str>, token: Option<&str>) -> Response {
    let url = format!("http://{}{path}", unibus.address());
    let http = reqwest::Client::new();
    let mut request = if path == GET_ROOM {
        http.post(url).header("content-type", WEB).header("x-grpc-web", "1").body(vec![0; 5])
    } else {
        http.get(url)
    };
    if let Some(origin) = origin {
        request = request.header("origin", origin);
    }
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    request.send().await.expect("an answer")
}

/// The names in a field that lists names.
fn names(headers: &HeaderMap, field: &str) -> Vec<String> {
    let list = headers.get(field).map_or("", |value| value.to_str().unwrap());
    let mut names: Vec<_> = list.split(',').map(|name| name.trim().to_lowercase()).collect();
    names.sort();
    names
}

/// The names of the fields of CORS.
fn cors_fields(headers: &HeaderMap) -> Vec<&str> {
    headers.keys().map(reqwest::header::HeaderName::as_str).filter(|name| name.starts_with("access-control-")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_preflight_of_an_allowed_page_needs_no_token() {
    // Goal: a browser learns before the call that the call is allowed, and what the page may send. Method: preflights of both
    // kinds of paths, of a service that asks for tokens; each field of the answer is compared.
    let (nats, issuer) = (Nats::start().await, Issuer::new());
    let unibus = issuer.guard(&nats, |config| config.cors.origins = vec![ALLOWED.into()]).await;
    for (path, method) in [(GET_ROOM, "POST"), (HISTORY, "GET")] {
        let answer = preflight(&unibus, path, ALLOWED, method, "authorization,content-type,x-grpc-web").await;
        assert_eq!(answer.status(), 200, "{path}");
        let headers = answer.headers();
        assert_eq!(headers["access-control-allow-origin"], ALLOWED);
        assert_eq!(headers["access-control-allow-credentials"], "true");
        assert_eq!(headers["access-control-max-age"], "600");
        assert_eq!(names(headers, "access-control-allow-methods"), ["get", "head", "post"]);
        assert_eq!(
            names(headers, "access-control-allow-headers"),
            [
                "authorization",
                "connect-protocol-version",
                "connect-timeout-ms",
                "content-type",
                "grpc-timeout",
                "last-event-id",
                "traceparent",
                "tracestate",
                "x-grpc-web",
                "x-user-agent",
            ]
        );
        assert!(names(headers, "vary").contains(&"origin".to_owned()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_allowed_page_reads_answers_and_refusals() {
    // Goal: a page sees why a call failed, also when the call was refused before its service. Method: both kinds of paths, with
    // a token, without one, and with one that is not valid; all answers have the fields that let the page read them.
    let (nats, issuer) = (Nats::start().await, Issuer::new());
    let unibus = issuer.guard(&nats, |config| config.cors.origins = vec![ALLOWED.into(), "http://b.test".into()]).await;
    create_room(&issuer.client(&unibus, "ann").await, "lobby").await;
    let token = issuer.token("ann");
    for (path, token, status) in [
        (HISTORY, Some(token.as_str()), 200),
        (HISTORY, None, 401),
        (HISTORY, Some("x"), 401),
        ("/nowhere", Some(token.as_str()), 404),
        (GET_ROOM, Some(token.as_str()), 200),
        (GET_ROOM, None, 200),
    ] {
        let answer = call(&unibus, path, Some(ALLOWED), token).await;
        assert_eq!(answer.status(), status, "{path} {token:?}");
        let headers = answer.headers();
        assert_eq!(headers["access-control-allow-origin"], ALLOWED, "{path} {token:?}");
        assert_eq!(
            names(headers, "access-control-expose-headers"),
            ["grpc-message", "grpc-status", "grpc-status-details-bin", "x-request-id"]
        );
        assert!(headers.contains_key("x-request-id"));
    }
    let refused = call(&unibus, GET_ROOM, Some(ALLOWED), None).await;
    assert_eq!(refused.headers()["grpc-status"], "16");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_page_gets_no_field_of_cors() {
    // Goal: a page of another origin can neither read nor ask. Method: preflights and calls of origins that are not allowed, of a
    // service that allows one origin and of one that allows none; a call without origin is answered as before.
    let (nats, issuer) = (Nats::start().await, Issuer::new());
    let token = issuer.token("ann");
    for origins in [vec![ALLOWED.to_owned()], vec![]] {
        let unibus = issuer.guard(&nats, |config| config.cors.origins.clone_from(&origins)).await;
        let mut others = OTHERS.to_vec();
        if origins.is_empty() {
            others.push(ALLOWED);
        }
        for path in [GET_ROOM, HISTORY] {
            for origin in &others {
                let answer = preflight(&unibus, path, origin, "POST", "authorization").await;
                assert!(answer.status().is_client_error(), "{path} {origin} {}", answer.status());
                assert_eq!(cors_fields(answer.headers()), Vec::<&str>::new(), "{path} {origin}");
                let answer = call(&unibus, path, Some(origin), Some(&token)).await;
                assert_eq!(cors_fields(answer.headers()), Vec::<&str>::new(), "{path} {origin}");
            }
            let answer = call(&unibus, path, None, Some(&token)).await;
            assert_eq!(cors_fields(answer.headers()), Vec::<&str>::new(), "{path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_page_may_call_without_credentials() {
    // Goal: `*` opens the service to all pages, and lends none of them a certificate. Method: a preflight and a call of any
    // origin.
    let nats = Nats::start().await;
    let unibus = allowing(&nats, &["*"]).await;
    create_room(&unibus.client().await, "lobby").await;
    for origin in [ALLOWED, OTHERS[0], "null"] {
        let asked = preflight(&unibus, GET_ROOM, origin, "POST", "content-type").await;
        assert_eq!(asked.status(), 200);
        for answer in [asked, call(&unibus, HISTORY, Some(origin), None).await] {
            assert_eq!(answer.headers()["access-control-allow-origin"], "*");
            assert!(!answer.headers().contains_key("access-control-allow-credentials"));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_options_request_that_is_no_preflight_is_refused() {
    // Goal: allowing an origin opens no further method. Method: OPTIONS with an allowed origin but without the field that makes it
    // a preflight.
    let nats = Nats::start().await;
    let unibus = allowing(&nats, &[ALLOWED]).await;
    for path in [GET_ROOM, HISTORY] {
        let request = reqwest::Client::new().request(Method::OPTIONS, format!("http://{}{path}", unibus.address()));
        assert_eq!(request.header("origin", ALLOWED).send().await.unwrap().status(), 405, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn preflights_use_up_nothing_of_their_connection() {
    // Goal: a page can go on asking before it has a token. Method: one HTTP/2 connection on which nobody was identified; it sends
    // many more preflights than it may have calls of that kind, several at a time, and all are answered.
    const AT_A_TIME: u32 = 4;
    let (nats, issuer) = (Nats::start().await, Issuer::new());
    let unibus = issuer.guard(&nats, |config| config.cors.origins = vec![ALLOWED.into()]).await;
    let mut connection = Http2::connect(unibus.address()).await;
    let fields = [
        (":method", "OPTIONS"),
        (":scheme", "http"),
        (":path", GET_ROOM),
        (":authority", "unibus"),
        ("origin", ALLOWED),
        ("access-control-request-method", "POST"),
    ];
    let block: Vec<u8> = fields.iter().flat_map(|(name, value)| literal(name, value)).collect();
    for round in 0..50 {
        for nth in 0..AT_A_TIME {
            let stream = 1 + 2 * (round * AT_A_TIME + nth);
            assert!(connection.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &block)).await);
        }
        for _ in 0..AT_A_TIME {
            let head = connection.until(HEADERS, Duration::from_secs(10)).await.expect("an open connection");
            // the first field is the status 200, from the static table
            assert_eq!(head.first(), Some(&0x88), "round {round}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_origin_that_no_browser_sends_is_refused_at_the_start() {
    // Goal: a mistake in an origin is found when the service starts. Method: wrong values as flags, whose message names the flag,
    // and in the configuration of a program, whose error names the field.
    for wrong in ["app.example.com", "https://app.example.com/", "https://*.example.com", "https://a.test,b"] {
        let refusal = Config::try_parse_from(["unibus", "--cors-origins", wrong]).expect_err(wrong).to_string();
        assert!(refusal.contains("--cors-origins"), "{refusal}");
    }
    let flags = ["unibus", "--cors-origins", "https://a.test,http://b.test:1", "--cors-origins", "http://[::1]:1"];
    let parsed = Config::try_parse_from(flags).expect("valid flags");
    assert_eq!(parsed.cors.origins, ["https://a.test", "http://b.test:1", "http://[::1]:1"]);

    let nats = Nats::start().await;
    for wrong in [vec!["https://a.test/"], vec!["*", "https://a.test"]] {
        let url = nats.url();
        let started = Unibus::try_configured(|config| {
            config.nats.url = Some(url);
            config.cors.origins = wrong.iter().map(|origin| (*origin).to_owned()).collect();
        });
        let error = started.await.err().expect("a refusal");
        let fields: Vec<_> = error.violations().iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(fields, ["cors_origins"], "{wrong:?}");
    }
}
