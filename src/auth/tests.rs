//! The caller that the headers of a call identify, tested without a network.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    sync::{Arc, LazyLock},
    time::{Duration, SystemTime},
};

use ::http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::{Auth, AuthConfig, Enforced, claims::ClaimRules, crypto, issue, keyring::Keyring, pem, refused::Refused};
use crate::{
    domain::{Caller, ClientCertificate, Identity},
    error::{Reason, Result, Violations},
    metrics::AuthMetrics,
};

/// A key, and what signs with it.
struct Issuer {
    private: PathBuf,
    public: String,
    _dir: TempDir,
}

impl Issuer {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let files = issue::new_key().unwrap();
        let private = dir.path().join("key");
        fs::write(&private, files.private.as_bytes()).unwrap();
        fs::set_permissions(&private, fs::Permissions::from_mode(0o600)).unwrap();
        Self { private, public: files.public, _dir: dir }
    }

    fn token(&self, claims: Value) -> String {
        let Value::Object(claims) = claims else { panic!("claims are an object") };
        issue::sign(&self.private, &claims).unwrap()
    }

    fn keyring(&self, config: &AuthConfig) -> Keyring {
        let keys = pem::parse(self.public.as_bytes()).unwrap().into_iter().map(Arc::new).collect();
        Keyring::new(keys, rules(config), &Arc::new(AuthMetrics::new()))
    }

    fn auth(&self, config: &AuthConfig) -> Auth {
        crypto::install();
        let enforced = Enforced { keys: Arc::new(self.keyring(config)), metrics: Arc::new(AuthMetrics::new()) };
        Auth { enforced: Some(Arc::new(enforced)) }
    }
}

/// A configuration with which a token is valid until exactly its `exp`.
fn without_leeway() -> AuthConfig {
    AuthConfig { leeway: Duration::ZERO, ..AuthConfig::default() }
}

fn rules(config: &AuthConfig) -> ClaimRules {
    let mut wrong = Violations::default();
    let rules = ClaimRules::new(config, &mut wrong);
    wrong.finish().unwrap();
    rules
}

/// The end of time, as far as tokens go: 2100.
const FAR: u64 = 4_102_444_800;

fn identify(auth: &Auth, value: &[u8], certificate: Option<&ClientCertificate>) -> Result<Arc<Identity>> {
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, HeaderValue::from_bytes(value).unwrap());
    known(auth.identify(&headers, certificate))
}

fn known(caller: Result<Caller>) -> Result<Arc<Identity>> {
    caller.map(|caller| match caller {
        Caller::Known(identity) => identity,
        Caller::Anyone => panic!("anyone"),
    })
}

static ISSUER: LazyLock<Issuer> = LazyLock::new(Issuer::new);
static AUTH: LazyLock<Auth> = LazyLock::new(|| ISSUER.auth(&without_leeway()));
static TOKEN: LazyLock<String> = LazyLock::new(|| ISSUER.token(json!({ "sub": "ann", "exp": FAR })));

fn is_refused(value: &[u8]) -> bool {
    // what HTTP does not let through never comes here
    let Ok(value) = HeaderValue::from_bytes(value) else { return true };
    match identify(&AUTH, value.as_bytes(), None) {
        Ok(_) => false,
        Err(error) => error.reason() == Reason::Unauthenticated,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_header_of_chance_lets_anybody_in(value in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(is_refused(&value));
        prop_assert!(is_refused(&[b"Bearer ", &value[..]].concat()));
    }

    #[test]
    fn no_text_in_three_parts_lets_anybody_in(
        header in "\\{\"(alg|kid|typ|crit)\":(\"(EdDSA|none|HS256|ES256)\"|[0-9]{1,3}|null|\\[\\])(,\"alg\":\"EdDSA\")?\\}|\\PC{0,40}",
        claims in "\\{\"sub\":\"[a-z]{0,4}\",\"exp\":[0-9]{0,20}\\}|\\PC{0,40}",
        signature in proptest::collection::vec(any::<u8>(), 0..70),
    ) {
        let part = |text: &[u8]| URL_SAFE_NO_PAD.encode(text);
        let (header, claims, signature) = (part(header.as_bytes()), part(claims.as_bytes()), part(&signature));
        let value = format!("Bearer {header}.{claims}.{signature}");
        prop_assert!(is_refused(value.as_bytes()));
    }

    #[test]
    fn no_slip_in_a_genuine_token_lets_anybody_in(at in any::<prop::sample::Index>(), byte in any::<u8>(), way in 0..4) {
        let genuine = format!("Bearer {}", *TOKEN).into_bytes();
        let mut given = genuine.clone();
        let at = 7 + at.index(genuine.len() - 7);
        match way {
            0 => given[at] = byte,
            1 => given.insert(at, byte),
            2 => drop(given.remove(at)),
            _ => given.truncate(at),
        }
        // trimmed by HTTP, and letters of the scheme aside, nothing else may be the same token
        prop_assert!(given == genuine || is_refused(&given));
    }
}

#[test]
fn the_genuine_token_of_these_tests_lets_its_holder_in() {
    let identity = identify(&AUTH, format!("Bearer {}", *TOKEN).as_bytes(), None).unwrap();
    assert_eq!(identity.id.as_str(), "ann");
    assert!(!identity.administrator);
    assert_eq!(identity.expires_at, Some(SystemTime::UNIX_EPOCH + Duration::from_secs(FAR)));
}

#[test]
fn a_token_is_verified_once_for_each_set_of_keys() {
    // the identity that is given is the very one of before, until the keys are others
    crypto::install();
    let (keyring, now) = (ISSUER.keyring(&without_leeway()), SystemTime::now());
    let first = keyring.verified(&TOKEN, now).unwrap();
    assert!(Arc::ptr_eq(&first, &keyring.verified(&TOKEN, now).unwrap()));
    keyring.replace(pem::parse(ISSUER.public.as_bytes()).unwrap().into_iter().map(Arc::new).collect());
    assert!(!Arc::ptr_eq(&first, &keyring.verified(&TOKEN, now).unwrap()));
    keyring.replace(pem::parse(Issuer::new().public.as_bytes()).unwrap().into_iter().map(Arc::new).collect());
    assert_eq!(keyring.verified(&TOKEN, now), Err(Refused::Signature));
    keyring.replace(Vec::new());
    assert_eq!(keyring.verified(&TOKEN, now), Err(Refused::NoKey));
}

#[test]
fn other_rules_are_in_force_at_once_also_for_a_token_that_was_verified() {
    // a token in the cache of verified tokens gets its rights from the new rules; wrong rules change nothing
    let ann = |auth: &Auth| identify(auth, format!("Bearer {}", *TOKEN).as_bytes(), None).unwrap();
    let auth = ISSUER.auth(&without_leeway());
    assert!(!ann(&auth).administrator);
    auth.set_rules(&AuthConfig { admins: vec!["ann".into()], ..without_leeway() }).unwrap();
    assert!(ann(&auth).administrator);
    let wrong = AuthConfig { admins: vec!["\u{7}".into()], ..without_leeway() };
    assert_eq!(auth.set_rules(&wrong).unwrap_err().reason(), Reason::InvalidField);
    assert!(ann(&auth).administrator);
    auth.set_rules(&AuthConfig { issuer: Some("another".into()), ..without_leeway() }).unwrap();
    let refused = identify(&auth, format!("Bearer {}", *TOKEN).as_bytes(), None);
    assert_eq!(refused.err().map(|error| error.reason()), Some(Reason::Unauthenticated));
}

#[test]
fn a_certificate_counts_when_there_is_no_token() {
    let auth = ISSUER.auth(&AuthConfig { admins: vec!["root".into()], ..without_leeway() });
    let later = SystemTime::now() + Duration::from_secs(60);
    let certificate = |id: &str, expires_at| ClientCertificate { id: id.to_owned(), expires_at };
    let reason = |result: Result<Arc<Identity>>| result.err().map(|error| error.reason());

    let none = HeaderMap::new();
    let bob = known(auth.identify(&none, Some(&certificate("bob", later)))).unwrap();
    assert_eq!((bob.id.as_str(), bob.administrator, bob.expires_at), ("bob", false, Some(later)));
    assert!(known(auth.identify(&none, Some(&certificate("root", later)))).unwrap().administrator);
    let past = SystemTime::now() - Duration::from_secs(1);
    let expired = known(auth.identify(&none, Some(&certificate("bob", past))));
    assert_eq!(reason(expired), Some(Reason::CredentialsExpired));
    let nameless = known(auth.identify(&none, Some(&certificate("two words", later))));
    assert_eq!(reason(nameless), Some(Reason::Unauthenticated));
    assert_eq!(reason(known(auth.identify(&none, None))), Some(Reason::Unauthenticated));

    let ann = identify(&auth, format!("Bearer {}", *TOKEN).as_bytes(), Some(&certificate("bob", later))).unwrap();
    assert_eq!(ann.id.as_str(), "ann");
    for invalid in ["Bearer x", "Basic x", "Bearer", ""] {
        let refused = identify(&auth, invalid.as_bytes(), Some(&certificate("bob", later)));
        assert_eq!(reason(refused), Some(Reason::Unauthenticated), "{invalid}");
    }
}

#[test]
fn administrators_are_those_of_the_list_and_of_the_claim() {
    let is_administrator = |admin_claim: Option<&str>, name: &str, value: Value| {
        let admin_claim = admin_claim.map(str::to_owned);
        let auth = ISSUER.auth(&AuthConfig { admins: vec!["root".into()], admin_claim, ..without_leeway() });
        let mut claims = Map::from_iter([("sub".to_owned(), json!("ann")), ("exp".to_owned(), json!(FAR))]);
        claims.insert(name.to_owned(), value);
        let token = ISSUER.token(Value::Object(claims));
        identify(&auth, format!("Bearer {token}").as_bytes(), None).unwrap().administrator
    };
    assert!(is_administrator(None, "sub", json!("root")));
    for (claim, name, value) in [
        ("admin", "admin", json!(true)),
        ("role=admin", "role", json!("admin")),
        ("roles=admin", "roles", json!(["user", "admin"])),
        ("https://example.org/role=a=b", "https://example.org/role", json!("a=b")),
    ] {
        assert!(is_administrator(Some(claim), name, value.clone()), "{claim} {value}");
        assert!(!is_administrator(None, name, value));
    }
    for (claim, name, value) in [
        ("admin", "admin", json!("true")),
        ("admin", "admin", json!(1)),
        ("admin", "admin", json!(false)),
        ("admin", "Admin", json!(true)),
        ("admin", "x", json!({ "admin": true })),
        ("admin=true", "admin", json!(true)),
        ("role=admin", "role", json!("administrator")),
        ("role=admin", "role", json!("user admin")),
        ("role=admin", "role", json!([["admin"]])),
        ("role=admin", "role", json!({ "admin": true })),
    ] {
        assert!(!is_administrator(Some(claim), name, value.clone()), "{claim} {value}");
    }
    for wrong in ["", "=", "=admin", "admin="] {
        let config = AuthConfig { admin_claim: Some(wrong.into()), ..without_leeway() };
        let mut violations = Violations::default();
        ClaimRules::new(&config, &mut violations);
        assert!(violations.finish().is_err(), "{wrong}");
    }
}
