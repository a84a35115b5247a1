//! The console: which files the admin port serves, under which policy, and whose calls it lets through.

use std::net::SocketAddr;

use clap::Parser as _;
use reqwest::{Method, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use unibus::Config;

use crate::support::{Nats, Unibus};

/// The files, each with its type.
const FILES: [(&str, &str); 7] = [
    ("/console/", "text/html; charset=utf-8"),
    ("/console/app.js", "text/javascript; charset=utf-8"),
    ("/console/app.css", "text/css; charset=utf-8"),
    ("/console/icon.svg", "image/svg+xml"),
    ("/console/licenses.txt", "text/plain; charset=utf-8"),
    ("/console/settings.json", "application/json"),
    ("/openapi.json", "application/json"),
];

async fn with_console(nats: &Nats, change: impl FnOnce(&mut Config)) -> Unibus {
    let url = nats.url();
    Unibus::configured(|config| {
        config.nats.url = Some(url);
        config.console.enabled = true;
        change(config);
    })
    .await
}

fn admin(unibus: &Unibus) -> SocketAddr {
    unibus.server().admin_addr()
}

/// The whole answer to a GET of exactly this path.
async fn raw_get(address: SocketAddr, path: &str, host: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// The origin of the service that the console is told for a browser which sends this `host`.
async fn told(unibus: &Unibus, host: &str) -> (String, String) {
    let settings = raw_get(admin(unibus), "/console/settings.json", host).await;
    let (_, body) = settings.split_once("\r\n\r\n").expect("a body");
    let settings: serde_json::Value = serde_json::from_str(body).expect("JSON");
    let page = raw_get(admin(unibus), "/console/", host).await.to_lowercase();
    let (_, policy) = page.split_once("content-security-policy: ").expect("a policy");
    let (policy, _) = policy.split_once("\r\n").expect("its end");
    let (_, connects) = policy.split_once("connect-src 'self' ").expect("a directive");
    let (connects, _) = connects.split_once(';').expect("its end");
    (settings["service"].as_str().expect("an origin").to_owned(), connects.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_console_is_off_unless_asked_for() {
    // Goal: no page that nobody asked for. Method: each path of the console without the flag, and the flag itself.
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    for path in FILES.map(|(path, _)| path).into_iter().chain(["/console"]) {
        for address in [admin(&unibus), unibus.address()] {
            assert_eq!(reqwest::get(format!("http://{address}{path}")).await.unwrap().status(), 404, "{path}");
        }
    }
    assert!(!Config::try_parse_from(["unibus"]).unwrap().console.enabled);
    assert!(Config::try_parse_from(["unibus", "--console"]).unwrap().console.enabled);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_file_has_its_type_and_a_strict_policy() {
    // Goal: a browser runs the code of the console and nothing else, and no other page can embed it. Method: the fields of each
    // answer; the page names no address outside of its folder, and has no code and no style of its own.
    let nats = Nats::start().await;
    let unibus = with_console(&nats, |_| {}).await;
    let http = reqwest::Client::new();
    for (path, kind) in FILES {
        let url = format!("http://{}{path}", admin(&unibus));
        let answer = http.get(&url).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        let headers = answer.headers().clone();
        for (name, value) in [
            ("content-type", kind),
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "no-referrer"),
            ("cache-control", "no-cache"),
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert_eq!(headers[name], value, "{path} {name}");
        }
        let policy = headers["content-security-policy"].to_str().unwrap();
        let mut directives: Vec<_> = policy.split("; ").collect();
        let service = format!("connect-src 'self' http://{}", unibus.address());
        if path == "/console/" {
            let page = [
                "script-src 'self'",
                "style-src 'self'",
                "img-src 'self' data:",
                service.as_str(),
                "require-trusted-types-for 'script'",
                "trusted-types 'none'",
            ];
            assert_eq!(directives.split_off(4), page);
        }
        assert_eq!(
            directives,
            ["default-src 'none'", "base-uri 'none'", "frame-ancestors 'none'", "form-action 'none'"]
        );
        assert!(!headers.keys().any(|name| name.as_str().starts_with("access-control-")), "{path}");

        let length = answer.bytes().await.unwrap().len();
        let head = http.head(&url).send().await.unwrap();
        assert_eq!(
            (head.status(), head.headers()["content-length"].to_str().unwrap()),
            (StatusCode::OK, &*length.to_string())
        );
    }
    let page = reqwest::get(format!("http://{}/console/", admin(&unibus))).await.unwrap().text().await.unwrap();
    for outside in ["//", "<style", " style=", " onload=", "javascript:", "=\"/"] {
        assert!(!page.contains(outside), "{outside}: {page}");
    }
    let scripts: Vec<_> = page.split("<script").skip(1).collect();
    assert_eq!(scripts.len(), 1);
    assert!(scripts[0].contains("src=\"./app.js\"></script>"), "{page}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_files_are_served_and_only_read() {
    // Goal: the console opens no way to other files and takes nothing. Method: paths that leave the folder or name other files, as they
    // are; methods other than GET and HEAD; the path without its slash leads to the page.
    let nats = Nats::start().await;
    let unibus = with_console(&nats, |_| {}).await;
    for path in [
        "/console/../livez",
        "/console/../../etc/passwd",
        "/console/..%2f..%2fetc%2fpasswd",
        "/console/%2e%2e/%2e%2e/etc/passwd",
        "/console/..\\..\\etc\\passwd",
        "/console//etc/passwd",
        "/console//app.js",
        "/console/./app.js",
        "/console/app.js/",
        "/console/APP.JS",
        "/console/index.html",
        "/console/package.json",
        "/console/app.js%00.css",
        "/consoles",
    ] {
        let answer = raw_get(admin(&unibus), path, "localhost").await;
        assert!(answer.starts_with("HTTP/1.1 404 "), "{path}: {answer}");
    }
    let http = reqwest::Client::new();
    for (path, _) in FILES {
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
            let answer = http.request(method, format!("http://{}{path}", admin(&unibus))).send().await.unwrap();
            assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED, "{path}");
            assert_eq!(answer.headers()["allow"], "GET,HEAD");
            assert!(!answer.text().await.unwrap().is_empty());
        }
    }
    let moved = raw_get(admin(&unibus), "/console", "localhost").await.to_lowercase();
    assert!(moved.starts_with("http/1.1 308 ") && moved.contains("\r\nlocation: console/\r\n"), "{moved}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_console_calls_the_service_at_the_host_of_its_page() {
    // Goal: the page reaches the service without configuration, and nobody writes into its policy. Method: hosts that a browser sends,
    // hosts that none does, and the flag, which stands above them.
    let nats = Nats::start().await;
    let unibus = with_console(&nats, |_| {}).await;
    let port = unibus.address().port();
    let by_address = format!("http://{}", unibus.address());
    for (host, expected) in [
        ("localhost:50052", format!("http://localhost:{port}")),
        ("Node-1.example.COM", format!("http://node-1.example.com:{port}")),
        ("[::1]:50052", format!("http://[::1]:{port}")),
        ("", by_address.clone()),
        ("a; script-src *", by_address.clone()),
        ("a'b", by_address.clone()),
        ("*", by_address.clone()),
        ("a,b", by_address.clone()),
    ] {
        assert_eq!(told(&unibus, host).await, (expected.clone(), expected), "{host}");
    }
    let flag = "https://unibus.example.com";
    let unibus = with_console(&nats, |config| config.console.service = Some(flag.to_owned())).await;
    assert_eq!(told(&unibus, "localhost:50052").await, (flag.to_owned(), flag.to_owned()));
    for wrong in ["unibus.example.com", "https://unibus.example.com/", "*"] {
        assert!(Config::try_parse_from(["unibus", "--console-service", wrong]).is_err(), "{wrong}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_console_of_this_machine_may_call_without_a_flag() {
    // Goal: the console works at once, and no other page gains by it. Method: preflights of the console's origins, with and without the
    // console; other ports, hosts and schemes; none may bring a certificate.
    let nats = Nats::start().await;
    for enabled in [true, false] {
        let unibus = with_console(&nats, |config| config.console.enabled = enabled).await;
        let port = admin(&unibus).port();
        let url = format!("http://{}/unibus.v1.RoomService/ListRooms", unibus.address());
        for (origin, is_own) in [
            (format!("http://localhost:{port}"), true),
            (format!("http://127.0.0.1:{port}"), true),
            (format!("http://[::1]:{port}"), true),
            (format!("https://localhost:{port}"), false),
            (format!("http://127.0.0.1:{}", port.wrapping_add(1)), false),
            (format!("http://evil.example.com:{port}"), false),
            ("http://localhost".to_owned(), false),
            ("null".to_owned(), false),
        ] {
            let request = reqwest::Client::new().request(Method::OPTIONS, &url).header("origin", &origin);
            let answer = request.header("access-control-request-method", "POST").send().await.unwrap();
            let allowed = answer.headers().get("access-control-allow-origin").map(|value| value.to_str().unwrap());
            assert_eq!(allowed, (enabled && is_own).then_some(origin.as_str()), "{origin}");
            assert!(!answer.headers().contains_key("access-control-allow-credentials"), "{origin}");
        }
    }
}
