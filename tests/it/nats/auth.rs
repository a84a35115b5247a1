//! Being let in by NATS: every way that the flags know, and that a wrong key is told at once.

use std::{fs, path::PathBuf, time::Duration};

use async_nats::ConnectOptions;
use nkeys::KeyPair;
use tempfile::TempDir;
use tokio::time::Instant;
use unibus::Config;

use crate::support::{
    Certificates, Nats, NatsOptions, Operator, Process, Unibus, create_room, history, payloads, publish_n,
};

/// How soon a refusal is told: far below the time for which a server that is not there is waited for.
const PROMPT: Duration = Duration::from_secs(10);

/// Asserts that the service works when it is let in this way.
async fn serves(nats: &Nats, change: impl FnOnce(&mut Config)) {
    let url = nats.url();
    let unibus = Unibus::configured(|config| {
        config.nats.url = Some(url);
        change(config);
    })
    .await;
    let client = unibus.client().await;
    create_room(&client, "lobby").await;
    publish_n(&client, "lobby", 3).await;
    assert_eq!(payloads(&history(&client, "lobby", 3).await.messages), ["1", "2", "3"]);
}

/// Asserts that the service gives up soon when it is not let in this way.
async fn is_refused(nats: &Nats, case: &str, change: impl FnOnce(&mut Config)) {
    let url = nats.url();
    let begun = Instant::now();
    let started = Unibus::try_configured(|config| {
        config.nats.url = Some(url);
        change(config);
    })
    .await;
    assert!(started.is_err(), "{case}");
    assert!(begun.elapsed() < PROMPT, "{case}: {:?} {:?}", begun.elapsed(), started.err());
}

/// A file with these contents, in a directory that must be kept.
fn file(contents: &str) -> (TempDir, PathBuf) {
    let dir = TempDir::new().expect("a temporary directory");
    let path = dir.path().join("secret");
    fs::write(&path, contents).expect("a file");
    (dir, path)
}

/// A server that knows one user, `ann` with the password `p@ss/word`.
async fn with_password() -> Nats {
    let login = ConnectOptions::with_user_and_password("ann".into(), "p@ss/word".into());
    let users = "authorization { user: ann, password: \"p@ss/word\" }\n";
    NatsOptions::new().extra(users).login(login).start().await
}

/// `nats.url()` with this user and password in it.
fn url_with(nats: &Nats, credentials: &str) -> String {
    nats.url().replacen("nats://", &format!("nats://{credentials}@"), 1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn user_and_password_are_given_as_flags() {
    // Goal: --nats-user and --nats-password. Method: the right ones; a wrong password, a wrong user, none.
    let nats = with_password().await;
    let login = |user: &str, password: &str| {
        let (user, password) = (Some(user.to_owned()), Some(password.to_owned()));
        move |config: &mut Config| {
            config.nats.user = user;
            config.nats.password = password;
        }
    };
    serves(&nats, login("ann", "p@ss/word")).await;
    is_refused(&nats, "password", login("ann", "password")).await;
    is_refused(&nats, "user", login("bob", "p@ss/word")).await;
    is_refused(&nats, "nothing", |_| {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn user_and_password_are_given_in_the_url() {
    // Goal: user:password@ in --nats-url, percent-encoded. Method: the right ones, in the only URL and in the last of two;
    // a wrong password.
    let nats = with_password().await;
    let right = url_with(&nats, "ann:p%40ss%2Fword");
    let both = format!("{},{right}", nats.url());
    for url in [right, both] {
        serves(&nats, |config| config.nats.url = Some(url)).await;
    }
    let wrong = url_with(&nats, "ann:password");
    is_refused(&nats, "password", |config| config.nats.url = Some(wrong)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_given_as_a_flag() {
    // Goal: --nats-token. Method: the right one; a wrong one, none.
    let login = ConnectOptions::with_token("s3cret-token".into());
    let nats = NatsOptions::new().extra("authorization { token: s3cret-token }\n").login(login).start().await;
    let token = |token: &str| {
        let token = Some(token.to_owned());
        move |config: &mut Config| config.nats.token = token
    };
    serves(&nats, token("s3cret-token")).await;
    is_refused(&nats, "token", token("token")).await;
    is_refused(&nats, "nothing", |_| {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_nkey_is_given_as_a_file() {
    // Goal: --nats-nkey-file. Method: the seed of the key that the server knows, with white space around it; the seed of
    // another key, a file without a seed, no file.
    let key = KeyPair::new_user();
    let seed = key.seed().unwrap();
    let users = format!("authorization {{ users: [ {{ nkey: {} }} ] }}\n", key.public_key());
    let nats = NatsOptions::new().extra(&users).login(ConnectOptions::with_nkey(seed.clone())).start().await;
    let (_right, right) = file(&format!("{seed}\n\n"));
    serves(&nats, |config| config.nats.nkey_file = Some(right)).await;
    let (_other, other) = file(&KeyPair::new_user().seed().unwrap());
    is_refused(&nats, "another key", |config| config.nats.nkey_file = Some(other)).await;
    let (garbage_dir, garbage) = file("not a seed");
    is_refused(&nats, "no seed", |config| config.nats.nkey_file = Some(garbage)).await;
    let missing = garbage_dir.path().join("missing");
    is_refused(&nats, "no file", |config| config.nats.nkey_file = Some(missing)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_credentials_file_is_given() {
    // Goal: --nats-credentials with decentralised JWT authentication. Method: a user of an account with JetStream; a user of
    // an account of another operator, a file without credentials, no file.
    let operator = Operator::new();
    let credentials = operator.credentials();
    let login = ConnectOptions::with_credentials(&credentials).unwrap();
    let nats = NatsOptions::new().extra(operator.config()).login(login).start().await;
    let (_right, right) = file(&credentials);
    serves(&nats, |config| config.nats.credentials = Some(right)).await;
    let (_other, other) = file(&Operator::new().credentials());
    is_refused(&nats, "another operator", |config| config.nats.credentials = Some(other)).await;
    let (garbage_dir, garbage) = file("not a credentials file");
    is_refused(&nats, "no credentials", |config| config.nats.credentials = Some(garbage)).await;
    let missing = garbage_dir.path().join("missing");
    is_refused(&nats, "no file", |config| config.nats.credentials = Some(missing)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_of_a_private_authority_is_trusted_by_its_certificate() {
    // Goal: --nats-tls-ca. Method: the authority of the server's certificate; another authority, none, a file without a
    // certificate, no file; and the authority with a server that does not speak TLS.
    let certificates = Certificates::new();
    let server = certificates.server();
    let tls = format!("tls {{ cert_file: {:?}, key_file: {:?}, timeout: 5 }}\n", server.certificate, server.key);
    let login = ConnectOptions::new().add_root_certificates(certificates.authority());
    let nats = NatsOptions::new().extra(&tls).login(login).start().await;
    let authority = |path: PathBuf| move |config: &mut Config| config.nats.tls_ca = Some(path);
    serves(&nats, authority(certificates.authority())).await;
    is_refused(&nats, "another authority", authority(Certificates::new().authority())).await;
    is_refused(&nats, "no authority", |_| {}).await;
    let (garbage_dir, garbage) = file("not a certificate");
    is_refused(&nats, "no certificate", authority(garbage)).await;
    is_refused(&nats, "no file", authority(garbage_dir.path().join("missing"))).await;
    let plain = Nats::start().await;
    is_refused(&plain, "no TLS", authority(certificates.authority())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_certificate_is_shown() {
    // Goal: --nats-tls-certificate and --nats-tls-key. Method: a server that verifies clients; a certificate of its authority;
    // one of another authority, none, another's key, files that are not there.
    let (certificates, others) = (Certificates::new(), Certificates::new());
    let (server, client, other) = (certificates.server(), certificates.client(), others.client());
    let authority = certificates.authority();
    let tls = format!(
        "tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {authority:?}, verify: true, timeout: 5 }}\n",
        server.certificate, server.key
    );
    let login = ConnectOptions::new().add_root_certificates(authority.clone());
    let login = login.add_client_certificate(client.certificate.clone(), client.key.clone());
    let nats = NatsOptions::new().extra(&tls).login(login).start().await;
    let shown = |certificate: &PathBuf, key: &PathBuf| {
        let (authority, certificate, key) = (authority.clone(), certificate.clone(), key.clone());
        move |config: &mut Config| {
            config.nats.tls_ca = Some(authority);
            config.nats.tls_certificate = Some(certificate);
            config.nats.tls_key = Some(key);
        }
    };
    serves(&nats, shown(&client.certificate, &client.key)).await;
    is_refused(&nats, "another authority", shown(&other.certificate, &other.key)).await;
    is_refused(&nats, "nothing", |config| config.nats.tls_ca = Some(authority.clone())).await;
    is_refused(&nats, "another's key", shown(&client.certificate, &other.key)).await;
    let missing = authority.with_file_name("missing");
    is_refused(&nats, "no files", shown(&missing, &missing)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_takes_the_flags_and_keeps_the_secrets() {
    // Goal: the flags reach NATS, a refusal ends the program with 1, and no secret is logged. Method: the binary at trace
    // level with a password in the URL; then as a flag, wrong.
    let nats = with_password().await;
    let url = url_with(&nats, "ann:p%40ss%2Fword");
    let mut process =
        Process::start_with(&nats, &["--nats-user=ann", "--nats-password=p@ss/word"], Some("trace")).await;
    create_room(&process.client().await, "lobby").await;
    let no_secret = |lines: &[String]| {
        for secret in ["p@ss/word", "p%40ss", "wr0ng"] {
            assert!(!lines.iter().any(|line| line.contains(secret)), "{secret} is logged");
        }
    };
    no_secret(&process.stdout());
    process.kill9();

    let url_flag = format!("--nats-url={url}");
    let mut process = Process::spawn(&[&url_flag]);
    process.ready().await;
    no_secret(&process.stdout());
    process.kill9();

    let url_flag = format!("--nats-url={}", nats.url());
    let mut process = Process::spawn(&[&url_flag, "--nats-user=ann", "--nats-password=wr0ng"]);
    assert_eq!(process.wait(PROMPT).await.code(), Some(1));
    no_secret(&process.stdout());
}
