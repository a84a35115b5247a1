//! Clients that say too little, too slowly, too much or nothing any more: their connections end, and nobody else notices.

use std::time::Duration;

use prost::Message;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use tonic::{Code, Request};
use unibus::v1::{ListRoomsRequest, PublishRequest};

use crate::support::{
    Certificates, Client, Frames, Nats, TlsSocket, Unibus, create_ephemeral, create_room,
    http2::{self, Http2},
    list_rooms, over, publish, tls_endpoint,
};

/// An end comes soon after its time.
const SOON: Duration = Duration::from_secs(5);
/// What a client may take to say what it has to say first: the sum of the two flags of signs of life.
const SILENCE: Duration = Duration::from_millis(800);

/// An instance without TLS and one with it, which bear little.
async fn impatient(nats: &Nats, certificates: &Certificates, idle_timeout: Duration) -> [Unibus; 2] {
    let (url, server) = (nats.url(), certificates.server());
    let start = async |tls: bool| {
        Unibus::configured(|config| {
            config.nats.url = Some(url.clone());
            config.keepalive.interval = SILENCE / 2;
            config.keepalive.timeout = SILENCE / 2;
            config.keepalive.idle_timeout = idle_timeout;
            if tls {
                config.tls.certificate = Some(server.certificate.clone());
                config.tls.key = Some(server.key.clone());
            }
        })
        .await
    };
    [start(false).await, start(true).await]
}

/// Sends these bytes one by one and then no more; gives how long the connection lasted. Panics when it does not end.
async fn trickle(stream: impl AsyncRead + AsyncWrite + Unpin, bytes: &[u8]) -> Duration {
    let begun = Instant::now();
    let (mut reading, mut writing) = tokio::io::split(stream);
    let read = async {
        let mut sink = [0; 1024];
        // an answer is none, an end or a reset is what is waited for
        while reading.read(&mut sink).await.is_ok_and(|length| length > 0) {}
    };
    let write = async {
        for byte in bytes {
            if writing.write_all(&[*byte]).await.is_err() || writing.flush().await.is_err() {
                return;
            }
            sleep(SILENCE / 16).await;
        }
        std::future::pending::<()>().await;
    };
    timeout(SOON + SILENCE, async {
        tokio::select! { () = read => {}, () = write => {} }
    })
    .await
    .expect("an end");
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_byte_by_byte_has_a_limit_of_time() {
    // Goal: no connection is kept by a byte now and then. Method: the preface of HTTP/2, its first SETTINGS, the headers of a
    // call, the head of an HTTP/1.1 request and a ClientHello, each sent byte by byte so that it is never complete in time;
    // without TLS and inside it.
    let (nats, certificates) = (Nats::start().await, Certificates::new());
    let [plain, secure] = impatient(&nats, &certificates, Duration::from_secs(300)).await;
    let settings = http2::frame(http2::SETTINGS, 0, 0, &[0; 120]);
    let settled = http2::frame(http2::SETTINGS, 0, 0, &[]);
    let headers = http2::frame(http2::HEADERS, 0, 1, &[0; 200]);
    let http1 = [b"GET /rooms/lobby/history HTTP/1.1\r\nx-slow: ".as_slice(), &[b'a'; 200]].concat();
    // what is sent at once, and what is trickled after it
    let cases: [(&str, &[u8], &[u8]); 5] = [
        ("preface", b"", &http2::PREFACE[..20]),
        ("settings", http2::PREFACE, &settings),
        ("headers", &[http2::PREFACE, &settled].concat(), &headers),
        ("HTTP/1.1", b"", &http1),
        ("HTTP/1.1 after its beginning", &http1[..50], &http1[50..]),
    ];
    for (case, first, then) in cases {
        let mut stream = TcpStream::connect(plain.address()).await.unwrap();
        stream.write_all(first).await.unwrap();
        let lasted = trickle(stream, then).await;
        assert!(lasted > SILENCE / 3, "{case} lasted {lasted:?}");
        let mut stream = TlsSocket::new(secure.address(), &certificates.authority()).connect().await.unwrap();
        stream.write_all(first).await.unwrap();
        trickle(stream, then).await;
    }
    // a ClientHello of 250 bytes, of which the first say so
    let hello = [&[22, 3, 1, 0, 250, 1, 0, 0, 246, 3, 3][..], &[0; 200]].concat();
    let lasted = trickle(TcpStream::connect(secure.address()).await.unwrap(), &hello).await;
    assert!(lasted > SILENCE / 3, "{lasted:?}");
    // half-open: nothing at all
    let lasted = trickle(TcpStream::connect(secure.address()).await.unwrap(), &[]).await;
    assert!(lasted > SILENCE / 3, "{lasted:?}");
}

/// A client that answers and asks for signs of life all the time.
async fn lively(unibus: &Unibus, certificates: Option<&Certificates>) -> Client {
    let endpoint = match certificates {
        Some(certificates) => tls_endpoint(unibus.address(), &certificates.authority(), None),
        None => tonic::transport::Endpoint::from_shared(format!("http://{}", unibus.address())).unwrap(),
    };
    let endpoint = endpoint.http2_keep_alive_interval(SILENCE / 8).keep_alive_while_idle(true);
    over(endpoint.connect().await.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_without_a_call_is_told_to_leave_and_one_with_a_call_is_not() {
    // Goal: signs of life are no use of a place. Method: a connection that answers pings and makes no call is told so by GOAWAY
    // and closed; a client whose connection went so makes its next call; a subscription lasts for many times as long.
    let idle = Duration::from_millis(600);
    let (nats, certificates) = (Nats::start().await, Certificates::new());
    let [plain, secure] = impatient(&nats, &certificates, idle).await;
    for (unibus, certificates) in [(&plain, None), (&secure, Some(&certificates))] {
        let client = lively(unibus, certificates).await;
        let room = if certificates.is_some() { "secure" } else { "plain" };
        create_ephemeral(&client, room).await;
        let busy = lively(unibus, certificates).await;
        let mut frames = Frames::transient(&busy, room).await;
        sleep(idle * 4).await;
        publish(&client, room, "hello").await.unwrap();
        assert_eq!(frames.messages(1).await[0].payload, "hello");
    }
    let begun = Instant::now();
    let mut silent = Http2::connect(plain.address()).await;
    let told = silent.until(http2::GOAWAY, SOON).await.expect("a word before the end");
    assert_eq!(told[4..8], [0; 4], "no error");
    assert!(begun.elapsed() >= idle, "{:?}", begun.elapsed());
    assert_eq!(silent.until(u8::MAX, SOON).await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_resets_costs_its_connection_alone() {
    // Goal: streams that are opened and reset at once (CVE-2023-44487) cost one connection. Method: tens of thousands of them on
    // one connection; another client is served before, meanwhile and after; the flood's connection is closed with
    // ENHANCE_YOUR_CALM, or is read so slowly that it still answers a PING at the end.
    let (nats, certificates) = (Nats::start().await, Certificates::new());
    let [unibus, _] = impatient(&nats, &certificates, Duration::from_secs(300)).await;
    let client = unibus.client().await;
    list_rooms(&client, 0, "").await.unwrap();
    let mut flood = Http2::connect(unibus.address()).await;
    for burst in 0..50_u32 {
        let streams = (0..1000_u32).map(|number| (burst * 1000 + number) * 2 + 1);
        let cancel = 8_u32.to_be_bytes();
        let bytes: Vec<u8> = streams
            .flat_map(|stream| [http2::request(stream), http2::frame(http2::RST_STREAM, 0, stream, &cancel)])
            .flatten()
            .collect();
        if !flood.send(&bytes).await {
            break;
        }
        if burst % 10 == 0 {
            timeout(SOON, list_rooms(&client, 0, "")).await.expect("in time").unwrap();
        }
    }
    let is_open = flood.send(&http2::frame(http2::PING, 0, 0, &[7; 8])).await;
    if !is_open || flood.until(http2::PING, 6 * SOON).await.is_none() {
        assert!(!flood.send(&http2::frame(http2::PING, 0, 0, &[7; 8])).await, "closed");
    }
    timeout(SOON, list_rooms(&client, 0, "")).await.expect("in time").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_beyond_their_bound_are_refused_and_the_connection_lives() {
    // Goal: a call's headers cannot fill memory. Method: nearly as many bytes as may be are served, many more are refused over
    // HTTP/2 and HTTP/1.1; the next call of the same client is served.
    let (nats, certificates) = (Nats::start().await, Certificates::new());
    let [unibus, _] = impatient(&nats, &certificates, Duration::from_secs(300)).await;
    let mut client = unibus.client().await;
    let mut with = async |bytes: usize| {
        let mut request = Request::new(ListRoomsRequest::default());
        for number in 0..bytes / 1000 {
            let name: tonic::metadata::MetadataKey<_> = format!("x-{number:05}").parse().unwrap();
            request.metadata_mut().insert(name, "a".repeat(950).parse().unwrap());
        }
        client.list_rooms(request).await
    };
    with(20_000).await.unwrap();
    with(30_000).await.unwrap_err();
    with(20_000).await.unwrap();

    let http = reqwest::Client::new().get(format!("http://{}/rooms/lobby/history", unibus.address()));
    let refused = http.header("x-long", "a".repeat(80_000)).send().await.unwrap();
    assert_eq!(refused.status(), 431);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_ends_at_the_deadline_that_its_client_gives() {
    // Goal: `grpc-timeout` is kept by the service, also for clients that do not keep it themselves. Method: a gRPC-Web call
    // that waits for NATS, which is stopped, with less time than the service itself gives it; one with enough that need not.
    let mut nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    create_room(&unibus.client().await, "lobby").await;
    let call = async |rpc: &str, message: Vec<u8>, limit: &str| {
        let url = format!("http://{}/unibus.v1.RoomService/{rpc}", unibus.address());
        let request = reqwest::Client::new().post(url).header("content-type", "application/grpc-web+proto");
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        let body = [&[0], &length[..], &message].concat();
        let answer = request.header("grpc-timeout", limit).body(body).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.headers().get("grpc-status").map(|status| status.to_str().unwrap().to_owned())
    };
    nats.kill9();
    let publish = PublishRequest { room_id: "lobby".into(), payload: "late".into(), ..PublishRequest::default() };
    let begun = Instant::now();
    let status = call("Publish", publish.encode_to_vec(), "200m").await;
    assert_eq!(status, Some((Code::DeadlineExceeded as i32).to_string()));
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    // the status comes in the trailers then
    assert_eq!(call("ListRooms", Vec::new(), "10S").await, None);
}
