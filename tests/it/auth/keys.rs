//! Where keys come from, and what happens when they change, or cannot be read.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, extract::State, http::StatusCode, response::IntoResponse};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rcgen::{KeyPair, PKCS_ECDSA_P384_SHA384};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{net::TcpListener, time::timeout};
use tokio_util::task::AbortOnDropHandle;
use tonic::Code;
use unibus::{AuthMode, Config};

use crate::support::{Credentials, Issuer, Nats, Unibus, assert_status, claims, connect_with, eventually, list_rooms};

/// How long a change of keys may take to count: twice what a fetch waits for at most.
const SOON: Duration = Duration::from_secs(12);

/// A web server with one page.
struct Web {
    address: SocketAddr,
    page: Arc<Page>,
    _serving: AbortOnDropHandle<()>,
}

struct Page {
    answer: Mutex<(StatusCode, String)>,
    asked: AtomicUsize,
}

impl Web {
    async fn start(document: &Value) -> Self {
        let page = Page { answer: Mutex::new((StatusCode::OK, document.to_string())), asked: AtomicUsize::new(0) };
        let page = Arc::new(page);
        let answer = |State(page): State<Arc<Page>>| async move {
            page.asked.fetch_add(1, Ordering::Relaxed);
            let (status, body) = page.answer.lock().unwrap().clone();
            match status {
                StatusCode::FOUND => (status, [("location", body)]).into_response(),
                _ => (status, body).into_response(),
            }
        };
        let router = Router::new().fallback(answer).with_state(Arc::clone(&page));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = async move { axum::serve(listener, router).await.unwrap() };
        Self { address, page, _serving: AbortOnDropHandle::new(tokio::spawn(serving)) }
    }

    fn url(&self) -> String {
        format!("http://{}/keys.json", self.address)
    }

    fn now_answers(&self, status: StatusCode, body: &impl ToString) {
        *self.page.answer.lock().unwrap() = (status, body.to_string());
    }

    fn asked(&self) -> usize {
        self.page.asked.load(Ordering::Relaxed)
    }
}

fn encoded(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The issuer's public key, as an entry of a key set.
fn jwk(issuer: &Issuer, kid: &str) -> Value {
    let public = issuer.public_bytes();
    match issuer.algorithm() {
        "EdDSA" => json!({ "kty": "OKP", "crv": "Ed25519", "x": encoded(public), "kid": kid }),
        "ES256" => {
            json!({ "kty": "EC", "crv": "P-256", "x": encoded(&public[1..33]), "y": encoded(&public[33..]), "kid": kid })
        }
        // the one RSA key of these tests: a modulus of 2048 bits, and the exponent 65537
        _ => json!({ "kty": "RSA", "n": encoded(&public[9..265]), "e": "AQAB", "kid": kid }),
    }
}

fn set(keys: &[Value]) -> Value {
    json!({ "keys": keys })
}

/// A token that names its key.
fn token(issuer: &Issuer, kid: &str) -> String {
    issuer.sign_parts(&json!({ "alg": issuer.algorithm(), "kid": kid }).to_string(), &claims("ann").to_string())
}

async fn start(nats: &Nats, jwks: &str, change: impl FnOnce(&mut Config)) -> Result<Unibus, unibus::Error> {
    let (url, jwks) = (nats.url(), jwks.to_owned());
    Unibus::try_configured(|config| {
        config.nats.url = Some(url);
        config.auth.mode = AuthMode::Enforce;
        config.auth.jwks = Some(jwks);
        change(config);
    })
    .await
}

async fn call(unibus: &Unibus, token: &str) -> Result<(), tonic::Status> {
    let client = connect_with(unibus.address(), Credentials::bearer(token)).await;
    list_rooms(&client, 0, "").await.map(drop)
}

async fn is_let_in(unibus: &Unibus, token: &str) {
    eventually(SOON, async || call(unibus, token).await.map_err(|status| status.to_string())).await;
}

async fn is_refused(unibus: &Unibus, token: &str) {
    let refused = eventually(SOON, async || match call(unibus, token).await {
        Ok(()) => Err("let in".to_owned()),
        Err(status) => Ok(status),
    });
    assert_status::<()>(Err(refused.await), Code::Unauthenticated, "UNAUTHENTICATED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_set_at_a_url_is_followed_as_keys_come_and_go() {
    // Goal: issuers rotate their keys without a word. Method: a set with one key, then with another one too, then without the
    // first: its tokens end, though they were verified before. The set is fetched because a token names a key that is missing.
    let nats = Nats::start().await;
    let (old, new) = (Issuer::new(), Issuer::es256());
    let web = Web::start(&set(&[jwk(&old, "old")])).await;
    let unibus = start(&nats, &web.url(), |_| {}).await.unwrap();
    let (old_token, new_token) = (token(&old, "old"), token(&new, "new"));
    call(&unibus, &old_token).await.unwrap();
    assert_status(call(&unibus, &new_token).await, Code::Unauthenticated, "UNAUTHENTICATED");

    web.now_answers(StatusCode::OK, &set(&[jwk(&old, "old"), jwk(&new, "new")]));
    is_let_in(&unibus, &new_token).await;
    call(&unibus, &old_token).await.unwrap();

    web.now_answers(StatusCode::OK, &set(&[jwk(&new, "new")]));
    let unknown = token(&old, "never published");
    eventually(SOON, async || {
        call(&unibus, &unknown).await.unwrap_err();
        call(&unibus, &old_token).await.err().map(drop).ok_or("let in".to_owned())
    })
    .await;
    call(&unibus, &new_token).await.unwrap();
    unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_cannot_make_the_service_fetch_without_end() {
    // Goal: forged tokens are no way to attack the issuer. Method: many that name keys that there are not, for two seconds.
    let nats = Nats::start().await;
    let issuer = Issuer::new();
    let web = Web::start(&set(&[jwk(&issuer, "1")])).await;
    let unibus = start(&nats, &web.url(), |_| {}).await.unwrap();
    let client = reqwest::Client::new();
    let url = format!("http://{}/nothing", unibus.address());
    let flood = async {
        for number in 0.. {
            let forged = token(&issuer, &format!("key {number}"));
            client.get(&url).bearer_auth(forged).send().await.unwrap();
        }
    };
    timeout(Duration::from_secs(2), flood).await.unwrap_err();
    assert!((1..=2).contains(&web.asked()), "{}", web.asked());
    unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_keys_the_service_does_not_start() {
    // Goal: it never serves strangers because their proofs cannot be checked. Method: key sets that cannot be had, are none, are
    // empty, hold nothing of use, are too long, or are somewhere else; places where no key set may be.
    let nats = Nats::start().await;
    let issuer = Issuer::new();
    let good = set(&[jwk(&issuer, "1")]);
    let elsewhere = Web::start(&good).await;
    let web = Web::start(&good).await;
    for (status, body) in [
        (StatusCode::INTERNAL_SERVER_ERROR, good.to_string()),
        (StatusCode::NO_CONTENT, String::new()),
        (StatusCode::FOUND, elsewhere.url()),
        (StatusCode::OK, String::new()),
        (StatusCode::OK, "keys".into()),
        (StatusCode::OK, json!({ "keys": {} }).to_string()),
        (StatusCode::OK, set(&[]).to_string()),
        (StatusCode::OK, set(&[json!({ "kty": "oct", "k": "c2VjcmV0" })]).to_string()),
        (StatusCode::OK, format!("{good}{}", " ".repeat(256 * 1024))),
        (StatusCode::OK, format!(r#"{{"keys":[],"keys":[{}]}}"#, jwk(&issuer, "1"))),
    ] {
        web.now_answers(status, &body);
        let error = start(&nats, &web.url(), |_| {}).await.err();
        let error = error.unwrap_or_else(|| panic!("{status} {body:.60}"));
        assert_eq!(error.violations()[0].field, "auth_jwks", "{status} {body:.60}");
    }
    assert_eq!(elsewhere.asked(), 0);
    let port = elsewhere.address.port();
    for url in [
        "http://192.0.2.1/keys.json".to_owned(),
        "http://example.org/keys.json".to_owned(),
        "ftp://127.0.0.1/keys.json".to_owned(),
        "file:///etc/keys.json".to_owned(),
        format!("http://localhost.example:{port}/"),
        format!("http://user:password@127.0.0.1:{port}/"),
        "http://127.0.0.1:1/".to_owned(),
        "/nowhere/keys.json".to_owned(),
    ] {
        let error = start(&nats, &url, |_| {}).await.err().unwrap_or_else(|| panic!("{url}"));
        assert_eq!(error.violations()[0].field, "auth_jwks", "{url}");
    }
    assert_eq!(elsewhere.asked(), 0);
    let nothing = Unibus::try_configured(|config| config.auth.mode = AuthMode::Enforce).await;
    assert_eq!(nothing.err().expect("no keys").violations()[0].field, "auth_keys");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_host_of_keys_is_given_up() {
    // Goal: the start ends. Method: a host that takes the connection, and says nothing.
    let nats = Nats::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let error = timeout(Duration::from_secs(15), start(&nats, &url, |_| {})).await.expect("an end").err();
    assert_eq!(error.expect("no keys").violations()[0].field, "auth_jwks");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_cannot_be_fetched_any_more_count_for_a_while() {
    // Goal: an outage of the issuer is none of the service's, and does not keep old keys for ever. Method: the set breaks, its
    // keys count, and after their greatest age they do not; it comes back, and so do they.
    let nats = Nats::start().await;
    let issuer = Issuer::rs256();
    let good = set(&[jwk(&issuer, "1")]);
    let web = Web::start(&good).await;
    let url = web.url();
    let unibus = start(&nats, &url, |config| {
        config.auth.jwks_refresh = Duration::from_millis(100);
        config.auth.keys_max_age = Duration::from_secs(3);
    });
    let unibus = unibus.await.unwrap();
    let token = token(&issuer, "1");
    for (status, body) in [(StatusCode::INTERNAL_SERVER_ERROR, good.to_string()), (StatusCode::OK, "{}".into())] {
        is_let_in(&unibus, &token).await;
        web.now_answers(status, &body);
        let asked = web.asked();
        eventually(SOON, async || (web.asked() > asked + 2).then_some(()).ok_or("not asked".into())).await;
        call(&unibus, &token).await.unwrap();
        is_refused(&unibus, &token).await;
        web.now_answers(StatusCode::OK, &good);
    }
    is_let_in(&unibus, &token).await;
    unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_key_set_only_the_fit_keys_count() {
    // Goal: a set is read with care. Method: a set in a file with one good key of each kind, and others that are for other uses,
    // malformed, too short, symmetric or private; no token of those is taken, and the good ones are.
    let nats = Nats::start().await;
    let good = [Issuer::new(), Issuer::es256(), Issuer::rs256()];
    let mut keys: Vec<_> = good.iter().map(|issuer| jwk(issuer, issuer.algorithm())).collect();
    let unfit = Issuer::new();
    for (index, (name, value)) in [
        ("use", json!("enc")),
        ("key_ops", json!(["sign"])),
        ("alg", json!("RS256")),
        ("alg", json!("HS256")),
        ("alg", json!("unheard of")),
        ("crv", json!("X25519")),
        ("crv", json!("Ed448")),
        ("kty", json!("EC")),
        ("x", json!(encoded(&unfit.public_bytes()[1..]))),
        ("x", json!("not base64url!")),
        ("d", json!("AAAA")),
        ("kid", json!(7)),
    ]
    .into_iter()
    .enumerate()
    {
        let mut key = jwk(&unfit, &format!("unfit {index}"));
        key[name] = value;
        keys.push(key);
    }
    keys.push(json!({ "kty": "oct", "k": encoded(b"secret"), "kid": "secret" }));
    keys.push(json!({ "kty": "RSA", "n": encoded(&[0xc1; 128]), "e": "AQAB", "kid": "short" }));
    keys.push(json!({ "kty": "unheard of", "kid": "new" }));
    keys.push(json!("no object"));
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("keys.json");
    fs::write(&file, set(&keys).to_string()).unwrap();
    let unibus = start(&nats, file.to_str().unwrap(), |_| {}).await.unwrap();
    for issuer in &good {
        call(&unibus, &token(issuer, issuer.algorithm())).await.unwrap();
        call(&unibus, &issuer.token("ann")).await.unwrap();
    }
    for index in 0..12 {
        let refused = call(&unibus, &token(&unfit, &format!("unfit {index}"))).await;
        assert_status(refused, Code::Unauthenticated, "UNAUTHENTICATED");
    }
    assert_status(call(&unibus, &unfit.token("ann")).await, Code::Unauthenticated, "UNAUTHENTICATED");
    unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_id_names_one_key() {
    // Goal: a token is verified with the key that it names. Method: tokens of one issuer under the other's key id, and under ids
    // that no key has: names only, whatever they look like.
    let nats = Nats::start().await;
    let (ann, bob) = (Issuer::new(), Issuer::new());
    let web = Web::start(&set(&[jwk(&ann, "ann"), jwk(&bob, "bob")])).await;
    let unibus = start(&nats, &web.url(), |_| {}).await.unwrap();
    call(&unibus, &token(&ann, "ann")).await.unwrap();
    call(&unibus, &token(&bob, "bob")).await.unwrap();
    let long = "x".repeat(2000);
    for kid in ["bob", "ANN", "", "../ann", "/dev/null", "ann' OR '1'='1", "ann\u{0}", "*", &long] {
        let refused = call(&unibus, &token(&ann, kid)).await;
        assert!(refused.is_err(), "{kid}");
        assert_status(refused, Code::Unauthenticated, "UNAUTHENTICATED");
    }
    unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_tried_with_a_few_keys() {
    // Goal: a stranger's token costs a bounded number of verifications. Method: a set of five keys of one algorithm: tokens
    // that name theirs are let in, and without a name only those of the first four; five keys in PEM files, which have no
    // ids, are refused at the start, and four are not.
    let nats = Nats::start().await;
    let issuers: Vec<_> = (0..5).map(|_| Issuer::es256()).collect();
    let keys: Vec<_> = issuers.iter().enumerate().map(|(number, issuer)| jwk(issuer, &number.to_string())).collect();
    let web = Web::start(&set(&keys)).await;
    let unibus = start(&nats, &web.url(), |_| {}).await.unwrap();
    for (number, issuer) in issuers.iter().enumerate() {
        call(&unibus, &token(issuer, &number.to_string())).await.unwrap();
        let unnamed = call(&unibus, &issuer.token("ann")).await;
        if number < 4 {
            unnamed.unwrap();
        } else {
            assert_status(unnamed, Code::Unauthenticated, "UNAUTHENTICATED");
        }
    }
    unibus.shutdown().await.unwrap();
    for (count, starts) in [(5, false), (4, true)] {
        let files: Vec<_> = issuers[..count].iter().map(Issuer::public_key).collect();
        let url = nats.url();
        let started = Unibus::try_configured(|config| {
            config.nats.url = Some(url);
            config.auth.mode = AuthMode::Enforce;
            config.auth.keys = files;
        });
        match started.await {
            Ok(unibus) => {
                assert!(starts, "{count} keys");
                for issuer in &issuers[..count] {
                    call(&unibus, &issuer.token("ann")).await.unwrap();
                }
                unibus.shutdown().await.unwrap();
            }
            Err(error) => {
                assert!(!starts, "{count} keys: {error}");
                assert_eq!(error.violations()[0].field, "auth_keys");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_keys_is_read_again_when_it_changes() {
    // Goal: who takes a key away takes its holders away. Method: a PEM file with one key, with two, with the other alone; a
    // broken one leaves the keys that were there for their greatest age.
    let nats = Nats::start().await;
    let (old, new) = (Issuer::new(), Issuer::rs256());
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("keys.pem");
    let put = |text: &str| {
        fs::write(dir.path().join("new"), text).unwrap();
        fs::rename(dir.path().join("new"), &file).unwrap();
    };
    put(&old.public_pem());
    let url = nats.url();
    let unibus = Unibus::configured(|config| {
        config.nats.url = Some(url);
        config.auth.mode = AuthMode::Enforce;
        config.auth.keys = vec![file.clone()];
        config.auth.keys_max_age = Duration::from_secs(4);
    });
    let unibus = unibus.await;
    let (old_token, new_token) = (old.token("ann"), new.token("ann"));
    call(&unibus, &old_token).await.unwrap();
    put(&format!("both of them\n{}\n{}", old.public_pem(), new.public_pem()));
    is_let_in(&unibus, &new_token).await;
    call(&unibus, &old_token).await.unwrap();
    put(&new.public_pem());
    is_refused(&unibus, &old_token).await;
    call(&unibus, &new_token).await.unwrap();
    put("half a key");
    tokio::time::sleep(Duration::from_secs(2)).await;
    call(&unibus, &new_token).await.unwrap();
    is_refused(&unibus, &new_token).await;
    put(&old.public_pem());
    is_let_in(&unibus, &old_token).await;
    unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_no_public_key_is_refused_at_the_start() {
    // Goal: a slip of the operator is told at once, and a private key is not even read in. Method: files of every other kind.
    let dir = TempDir::new().unwrap();
    let private = include_str!("../support/rsa.pem");
    let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let good = Issuer::new().public_pem();
    for (name, text) in [
        ("empty", String::new()),
        ("garbage", "garbage".into()),
        ("private", private.into()),
        ("both", format!("{good}{private}")),
        ("P-384", p384.public_key_pem()),
        ("certificate", private.replace("PRIVATE KEY", "CERTIFICATE")),
        ("mislabelled", private.replace("PRIVATE KEY", "PUBLIC KEY")),
        ("cut", good[..good.len() / 2].into()),
        ("long", good.repeat(4000)),
        ("many", good.repeat(65)),
    ] {
        let file = dir.path().join(name);
        fs::write(&file, text).unwrap();
        refused_at_start(&file).await;
    }
    refused_at_start(&dir.path().join("missing")).await;
    refused_at_start(dir.path()).await;
}

async fn refused_at_start(file: &Path) {
    let file = file.to_owned();
    let started = Unibus::try_configured(|config| {
        config.auth.mode = AuthMode::Enforce;
        config.auth.keys = vec![file.clone()];
    });
    let error = started.await.err().unwrap_or_else(|| panic!("{}", file.display()));
    assert_eq!(error.violations()[0].field, "auth_keys", "{}", file.display());
}
