//! Certificates follow their files, and open streams do not notice.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use unibus::ClientAuth;

use crate::support::{
    Certificates, Certified, Frames, Nats, Process, Unibus, certificate_in, create_ephemeral, create_room, eventually,
    list_rooms, publish, shown_certificate, tls_client, try_tls_client,
};

/// How soon a change of the files is in force; they are looked at every two seconds.
const FOLLOWED: Duration = Duration::from_secs(10);

async fn shows(unibus: std::net::SocketAddr, authority: &Path, expected: &[u8]) {
    eventually(FOLLOWED, async || {
        let shown = shown_certificate(unibus, authority).await?;
        (shown == expected).then_some(()).ok_or_else(|| String::from("another certificate"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_certificate_is_shown_to_new_connections_and_open_streams_stay() {
    // Goal: renewal without a cut. Method: a subscription and a client from before; the files are replaced; new connections
    // see the new certificate, the subscription delivers on, and the client's connection serves calls.
    let (nats, certificates) = (Nats::start().await, Certificates::new());
    let (url, authority) = (nats.url(), certificates.authority());
    let Certified { certificate, key } = certificates.server();
    let unibus = Unibus::configured(|config| {
        config.nats.url = Some(url);
        config.tls.certificate = Some(certificate.clone());
        config.tls.key = Some(key);
    })
    .await;
    let old = certificate_in(&certificate);
    assert_eq!(shown_certificate(unibus.address(), &authority).await.unwrap(), old);
    let client = tls_client(unibus.address(), &authority).await;
    create_room(&client, "lobby").await;
    let mut frames = Frames::durable(&client, "lobby", "ann").await;
    publish(&client, "lobby", "before").await.unwrap();

    // writes over the same files
    certificates.server();
    let new = certificate_in(&certificate);
    assert_ne!(old, new);
    shows(unibus.address(), &authority, &new).await;
    publish(&client, "lobby", "after").await.unwrap();
    let newcomer = tls_client(unibus.address(), &authority).await;
    publish(&newcomer, "lobby", "newcomer").await.unwrap();
    let payloads: Vec<_> = frames.messages(3).await.into_iter().map(|message| message.payload).collect();
    assert_eq!(payloads, ["before", "after", "newcomer"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_are_half_written_leave_the_old_certificate_in_force() {
    // Goal: a renewal that is under way, or wrong, harms nobody. Method: the key alone is replaced, then a file is removed; each
    // is told in the log, once, and the old certificate is shown; then the whole pair is there, and is shown.
    let (nats, certificates) = (Nats::start().await, Certificates::new());
    let authority = certificates.authority();
    let Certified { certificate, key } = certificates.server();
    let flag = |name: &str, path: &PathBuf| format!("--{name}={}", path.display());
    let args = [flag("tls-certificate", &certificate), flag("tls-key", &key)];
    let service = Process::start_with(&nats, &args.each_ref().map(String::as_str), None).await;
    let warnings = || {
        let lines = service.stdout();
        let of_tls = |line: &&String| line.contains("\"WARN\"") && line.contains("unibus::server::tls");
        lines.iter().filter(of_tls).count()
    };
    let told = async |count: usize| {
        eventually(FOLLOWED, async || (warnings() >= count).then_some(()).ok_or_else(|| String::from("not told")))
            .await;
    };
    let old = certificate_in(&certificate);
    fs::write(&key, fs::read(Certificates::new().server().key).unwrap()).unwrap();
    told(1).await;
    assert_eq!(shown_certificate(service.address(), &authority).await.unwrap(), old);
    fs::remove_file(&key).unwrap();
    told(2).await;
    assert_eq!(shown_certificate(service.address(), &authority).await.unwrap(), old);
    certificates.server();
    shows(service.address(), &authority, &certificate_in(&certificate)).await;
    assert!(warnings() <= 3, "{:?}", service.stdout());
    let secret = fs::read_to_string(&key).unwrap();
    let secret = secret.lines().nth(1).unwrap();
    assert!(!service.stdout().iter().any(|line| line.contains(secret)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_authority_of_clients_is_in_force_for_every_connection() {
    // Goal: authorities come and go without a restart. Method: another authority is added to the file; its clients are let in,
    // and an open subscription of the old one's stays. The old one is removed: its clients are not let in any more, and what
    // was open is closed.
    let (nats, certificates, others) = (Nats::start().await, Certificates::new(), Certificates::new());
    let (url, server) = (nats.url(), certificates.server());
    let dir = tempfile::TempDir::new().unwrap();
    let client_ca = dir.path().join("clients.pem");
    fs::copy(certificates.authority(), &client_ca).unwrap();
    let unibus = Unibus::configured(|config| {
        config.nats.url = Some(url);
        config.tls.certificate = Some(server.certificate);
        config.tls.key = Some(server.key);
        config.tls.client_ca = Some(client_ca.clone());
        config.tls.client_auth = ClientAuth::Required;
    })
    .await;
    let (old, new) = (certificates.client(), others.client());
    let call = async |shown: &Certified| {
        let client = try_tls_client(unibus.address(), &certificates.authority(), Some(shown)).await;
        let client = client.map_err(|error| error.to_string())?;
        list_rooms(&client, 0, "").await.map_err(|status| status.to_string())
    };
    let inside = try_tls_client(unibus.address(), &certificates.authority(), Some(&old)).await.unwrap();
    list_rooms(&inside, 0, "").await.unwrap();
    call(&new).await.unwrap_err();
    create_ephemeral(&inside, "lobby").await;
    let mut frames = Frames::transient(&inside, "lobby").await;
    let both = [fs::read(certificates.authority()).unwrap(), fs::read(others.authority()).unwrap()].concat();
    fs::write(&client_ca, both).unwrap();
    eventually(FOLLOWED, async || call(&new).await).await;
    publish(&inside, "lobby", "still here").await.unwrap();
    assert_eq!(frames.messages(1).await[0].payload, "still here");

    fs::copy(others.authority(), &client_ca).unwrap();
    frames.end(FOLLOWED).await;
    call(&old).await.unwrap_err();
    call(&new).await.unwrap();
    list_rooms(&inside, 0, "").await.unwrap_err();
}
