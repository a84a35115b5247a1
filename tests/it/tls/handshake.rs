//! TLS towards clients: which versions and protocols are spoken, what is refused, and that a flood of handshakes is nobody
//! else's business.

use std::{fs, path::PathBuf, time::Duration};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tonic::Code;
use unibus::Reason;

use crate::support::{
    Certificates, Certified, Frames, Nats, TlsSocket, Unibus, create_room, history, http2, list_rooms, payloads,
    publish, publish_n, tls_client,
};

/// A refusal comes at once.
const SOON: Duration = Duration::from_secs(5);
/// Handshakes that may be under way at once; docs/limits.md says so.
const HANDSHAKES: usize = 1024;

/// An instance with a certificate of this authority.
async fn start(nats: &Nats, certificates: &Certificates) -> Unibus {
    let (url, server) = (nats.url(), certificates.server());
    Unibus::configured(|config| {
        config.nats.url = Some(url);
        config.tls.certificate = Some(server.certificate);
        config.tls.key = Some(server.key);
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_and_grpc_web_and_http_are_served_over_both_versions_of_tls() {
    // Goal: TLS changes nothing but the wire. Method: publish, subscribe and history with the generated client; the HTTP
    // endpoint and a gRPC-Web call over HTTP/1.1, with TLS 1.2 alone and with TLS 1.3 alone.
    let (nats, certificates) = (Nats::start().await, Certificates::new());
    let unibus = start(&nats, &certificates).await;
    let authority = certificates.authority();
    let client = tls_client(unibus.address(), &authority).await;
    create_room(&client, "lobby").await;
    let mut frames = Frames::durable(&client, "lobby", "ann").await;
    publish_n(&client, "lobby", 3).await;
    assert_eq!(payloads(&frames.messages(3).await), ["1", "2", "3"]);
    assert_eq!(payloads(&history(&client, "lobby", 3).await.messages), ["1", "2", "3"]);

    let address = unibus.address();
    let sockets = [
        TlsSocket::tls12(address, &authority),
        TlsSocket::tls13(address, &authority),
        TlsSocket::tls13(address, &authority).alpn(&["http/1.1"]),
    ];
    for socket in sockets {
        let mut stream = socket.connect().await.unwrap();
        let request = format!("GET /rooms/lobby/history HTTP/1.1\r\nhost: {address}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let head =
            format!("POST /unibus.v1.RoomService/ListRooms HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
        let head = format!("{head}content-type: application/grpc-web+proto\r\ncontent-length: 5\r\n\r\n");
        stream.write_all(&[head.as_bytes(), &[0; 5]].concat()).await.unwrap();
        let mut answers = Vec::new();
        timeout(SOON, stream.read_to_end(&mut answers)).await.expect("answers").unwrap();
        let answers = String::from_utf8_lossy(&answers);
        assert!(answers.starts_with("HTTP/1.1 200 OK"), "{answers}");
        assert!(answers.contains(r#"{"messages":["MQ==","Mg==","Mw=="]}"#), "{answers}");
        assert!(answers.contains("grpc-status:0") && answers.contains("unibus.room.lobby"), "{answers}");
    }
    let mut offered = TlsSocket::tls13(address, &authority).alpn(&["h2"]).connect().await.unwrap();
    assert_eq!(offered.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    offered.shutdown().await.unwrap();
    TlsSocket::tls13(address, &authority).alpn(&["spdy/3"]).connect().await.expect_err("nothing in common");
    drop(frames);
    unibus.shutdown().await.unwrap();
}

/// A `ClientHello` of TLS 1.1 that offers what its servers took.
fn hello_of_tls_1_1() -> Vec<u8> {
    let mut hello = vec![3, 2];
    hello.extend([7; 32]);
    // no session; ECDHE and RSA with AES; no compression; P-256, uncompressed points, RSA with SHA-256
    hello.extend([0, 0, 4, 0xc0, 0x13, 0, 0x2f, 1, 0]);
    let extensions = [0, 10, 0, 4, 0, 2, 0, 23, 0, 11, 0, 2, 1, 0, 0, 13, 0, 4, 0, 2, 4, 1];
    hello.extend([0, extensions.len().try_into().unwrap()]);
    hello.extend(extensions);
    let length = u8::try_from(hello.len()).unwrap();
    [&[22, 3, 1, 0, length + 4, 1, 0, 0, length], &hello[..]].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_tls_or_too_old_is_refused_at_once() {
    // Goal: nobody waits for a protocol that is not spoken. Method: TLS 1.1 is answered with the alert for its version (70,
    // RFC 8446), plain HTTP/2 and HTTP/1.1 with an end; a client with TLS is served meanwhile.
    let (nats, certificates) = (Nats::start().await, Certificates::new());
    let unibus = start(&nats, &certificates).await;
    let client = tls_client(unibus.address(), &certificates.authority()).await;
    let hello = hello_of_tls_1_1();
    let plain = [http2::PREFACE, &http2::frame(http2::SETTINGS, 0, 0, &[])].concat();
    for (sent, alert) in [(&hello[..], Some(70)), (&plain, None), (b"GET /rooms/a/history HTTP/1.1\r\n\r\n", None)] {
        let mut stream = TcpStream::connect(unibus.address()).await.unwrap();
        stream.write_all(sent).await.unwrap();
        let mut answer = Vec::new();
        // a reset is an end as well
        let _ = timeout(SOON, stream.read_to_end(&mut answer)).await.expect("an end");
        if let Some(alert) = alert {
            assert_eq!((answer[0], &answer[3..]), (21, &[0, 2, 2, alert][..]), "{answer:?}");
        }
        assert!(answer.is_empty() || answer[0] == 21, "{answer:?}");
        list_rooms(&client, 0, "").await.unwrap();
    }
    // and the other way round: who expects TLS of a port without it
    let plain = Unibus::start(&nats).await;
    let socket = TlsSocket::new(plain.address(), &certificates.authority());
    timeout(SOON, socket.connect()).await.expect("an end").expect_err("no TLS");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_handshakes_stops_neither_clients_nor_newcomers() {
    // Goal: handshakes that never end take nothing from others. Method: more sockets than handshakes may be under way, all
    // silent, and one place; a newcomer is let in at once and has the place, the oldest sockets are closed, the newest not.
    let (nats, certificates) = (Nats::start().await, Certificates::new());
    let (url, server) = (nats.url(), certificates.server());
    let unibus = Unibus::configured(|config| {
        config.nats.url = Some(url);
        config.tls.certificate = Some(server.certificate);
        config.tls.key = Some(server.key);
        config.connections.max = 1;
    })
    .await;
    let mut flood = Vec::new();
    for _ in 0..HANDSHAKES + 50 {
        flood.push(TcpStream::connect(unibus.address()).await.unwrap());
    }
    let client = timeout(SOON, tls_client(unibus.address(), &certificates.authority())).await.expect("let in");
    create_room(&client, "lobby").await;
    publish(&client, "lobby", "hello").await.unwrap();
    timeout(SOON, flood[0].read_u8()).await.expect("an end").expect_err("nothing is said");
    let newest = flood.last_mut().unwrap();
    timeout(Duration::ZERO, newest.read_u8()).await.expect_err("still open");
    list_rooms(&client, 0, "").await.unwrap();
}

/// The field that is wrong, then certificate, key and authority of clients.
type Case = (&'static str, Option<PathBuf>, Option<PathBuf>, Option<PathBuf>);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_do_not_serve_are_named_at_the_start() {
    // Goal: an operator learns which flag is wrong. Method: each file missing, empty or of something else, a key of another
    // certificate, flags without those that they need; the field is named.
    let (certificates, others) = (Certificates::new(), Certificates::new());
    let (server, other, authority) = (certificates.server(), others.server(), certificates.authority());
    let dir = TempDir::new().unwrap();
    let file = |name: &str, contents: &str| {
        fs::write(dir.path().join(name), contents).unwrap();
        dir.path().join(name)
    };
    let (empty, garbage) = (file("empty", ""), file("garbage", "-----BEGIN CERTIFICATE-----\nAAAA\n"));
    let not_der = file("not_der", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let missing = dir.path().join("missing");
    let Certified { certificate, key } = server;
    let path = |path: &PathBuf| Some(path.clone());
    let cases: Vec<Case> = vec![
        ("tls_certificate", path(&missing), path(&key), None),
        ("tls_certificate", path(&empty), path(&key), None),
        ("tls_certificate", path(&garbage), path(&key), None),
        ("tls_certificate", path(&not_der), path(&key), None),
        ("tls_certificate", path(&key), path(&key), None),
        ("tls_certificate", None, path(&key), None),
        ("tls_certificate", None, None, path(&authority)),
        ("tls_key", path(&certificate), path(&missing), None),
        ("tls_key", path(&certificate), path(&empty), None),
        ("tls_key", path(&certificate), path(&certificate), None),
        ("tls_key", path(&certificate), path(&other.key), None),
        ("tls_key", path(&certificate), None, None),
        ("tls_client_ca", path(&certificate), path(&key), path(&missing)),
        ("tls_client_ca", path(&certificate), path(&key), path(&empty)),
        ("tls_client_ca", path(&certificate), path(&key), path(&not_der)),
    ];
    for (field, certificate, key, client_ca) in cases {
        let case = format!("{certificate:?} {key:?} {client_ca:?}");
        let started = Unibus::try_configured(|config| {
            config.tls.certificate = certificate;
            config.tls.key = key;
            config.tls.client_ca = client_ca;
            // is not reached
            config.nats.url = Some(String::from("nats://127.0.0.1:1"));
        });
        let error = started.await.err().unwrap_or_else(|| panic!("started: {case}"));
        let fields: Vec<_> = error.violations().iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!((error.reason(), fields), (Reason::InvalidField, vec![field]), "{case}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_drain_does_not_wait_for_handshakes() {
    // Goal: a socket that says nothing does not hold up a stop. Method: one in its handshake and an open subscription; the
    // instance stops within its time, and the subscription ends with a status.
    let (nats, certificates) = (Nats::start().await, Certificates::new());
    let unibus = start(&nats, &certificates).await;
    let client = tls_client(unibus.address(), &certificates.authority()).await;
    create_room(&client, "lobby").await;
    let mut frames = Frames::durable(&client, "lobby", "ann").await;
    let _silent = TcpStream::connect(unibus.address()).await.unwrap();
    let ended = tokio::spawn(async move {
        loop {
            if let Err(status) = frames.next_frame(Duration::from_secs(20)).await {
                return status.code();
            }
        }
    });
    unibus.shutdown().await.unwrap();
    assert_eq!(ended.await.unwrap(), Code::Unavailable);
}
