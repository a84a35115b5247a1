//! What forgers try, one by one (RFC 8725, 2 and 3), over HTTP, where a test can send whatever it likes.

use std::time::Duration;

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use reqwest::{StatusCode, header::HeaderMap};
use ring::hmac;
use serde_json::{Value, json};
use tokio::{net::TcpListener, time::timeout};

use crate::support::{Issuer, Nats, Unibus, claims};

/// An instance that knows an issuer of each kind.
struct Target {
    unibus: Unibus,
    issuers: [Issuer; 3],
    _nats: Nats,
}

impl Target {
    async fn start() -> Self {
        let nats = Nats::start().await;
        let issuers = [Issuer::new(), Issuer::es256(), Issuer::rs256()];
        let keys = issuers.iter().map(Issuer::public_key).collect();
        let unibus = issuers[0].guard(&nats, |config| config.auth.keys = keys).await;
        Self { unibus, issuers, _nats: nats }
    }

    /// Asks for a path that there is not: whoever is let in hears so.
    async fn answer(&self, headers: &[&str]) -> StatusCode {
        let mut map = HeaderMap::new();
        for value in headers {
            map.append("authorization", value.parse().expect("a header value"));
        }
        let request = reqwest::Client::new().get(format!("http://{}/nothing", self.unibus.address()));
        request.headers(map).send().await.expect("an answer").status()
    }

    async fn accepts(&self, token: &str) {
        assert_eq!(self.answer(&[&format!("Bearer {token}")]).await, StatusCode::NOT_FOUND, "{token}");
    }

    async fn refuses(&self, case: &str, token: &str) {
        assert_eq!(self.answer(&[&format!("Bearer {token}")]).await, StatusCode::UNAUTHORIZED, "{case}: {token}");
    }
}

fn encoded(text: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

/// Header and claims, without a signature.
fn unsigned(header: &Value, claims: &Value) -> String {
    format!("{}.{}", encoded(header.to_string()), encoded(claims.to_string()))
}

fn parts(token: &str) -> [&str; 3] {
    token.split('.').collect::<Vec<_>>().try_into().expect("three parts")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_without_a_signature_is_refused_however_none_is_spelt() {
    // Goal: `none` is no algorithm. Method: every spelling, with no signature, with a wrong one, and with the right one.
    let target = Target::start().await;
    for issuer in &target.issuers {
        target.accepts(&issuer.token("root")).await;
        for none in ["none", "None", "NONE", "nOnE", "none ", "", "null"] {
            let message = unsigned(&json!({ "typ": "JWT", "alg": none }), &claims("root"));
            let right = encoded(issuer.signature(message.as_bytes()));
            for signature in ["", "AA", &right] {
                target.refuses(none, &format!("{message}.{signature}")).await;
            }
        }
        for header in [json!({ "typ": "JWT" }), json!({ "alg": null }), json!({ "alg": ["none"] }), json!({ "alg": 0 })]
        {
            let token = issuer.sign_parts(&header.to_string(), &claims("root").to_string());
            target.refuses("no algorithm", &token).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_public_key_is_no_secret_of_hmac() {
    // Goal: who knows the public key can sign nothing. Method: HMAC with it in every form that it is published in.
    let target = Target::start().await;
    let algorithms = [("HS256", hmac::HMAC_SHA256), ("HS384", hmac::HMAC_SHA384), ("HS512", hmac::HMAC_SHA512)];
    for issuer in &target.issuers {
        let pem = issuer.public_pem();
        let (der, raw) = (issuer.public_der(), issuer.public_bytes());
        for secret in [pem.as_bytes(), pem.trim().as_bytes(), &der, raw, STANDARD.encode(&der).as_bytes(), b""] {
            for (name, algorithm) in algorithms {
                let message = unsigned(&json!({ "typ": "JWT", "alg": name }), &claims("root"));
                let tag = hmac::sign(&hmac::Key::new(algorithm, secret), message.as_bytes());
                target.refuses(name, &format!("{message}.{}", encoded(tag))).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_key_fixes_the_algorithm() {
    // Goal: a token cannot choose how it is verified. Method: tokens that one issuer signed, under every other name.
    let target = Target::start().await;
    for issuer in &target.issuers {
        for name in
            ["EdDSA", "ES256", "RS256", "ES384", "ES512", "RS384", "RS512", "PS256", "Ed25519", "eddsa", "rs256"]
        {
            if name != issuer.algorithm() {
                let token = issuer.sign_parts(&json!({ "alg": name }).to_string(), &claims("root").to_string());
                target.refuses(name, &token).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signatures_that_mean_nothing_are_refused() {
    // Goal: no signature passes for every key. Method: zeros, as verifiers of ECDSA once took; lengths that are wrong.
    let target = Target::start().await;
    let order = {
        let n = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";
        (0..n.len()).step_by(2).map(|at| u8::from_str_radix(&n[at..at + 2], 16).unwrap()).collect::<Vec<_>>()
    };
    for issuer in &target.issuers {
        let message = unsigned(&json!({ "alg": issuer.algorithm() }), &claims("root"));
        let right = issuer.signature(message.as_bytes());
        let wrong = [
            vec![0; right.len()],
            vec![0xff; right.len()],
            [&order[..], &order].concat(),
            vec![0],
            right[..right.len() - 1].to_vec(),
            [&right[..], &[0]].concat(),
            [&[0], &right[..]].concat(),
            right.iter().rev().copied().collect(),
        ];
        for signature in wrong {
            target.refuses(issuer.algorithm(), &format!("{message}.{}", encoded(signature))).await;
        }
        target.accepts(&format!("{message}.{}", encoded(right))).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_signed_cannot_be_altered() {
    // Goal: a token says what its issuer wrote. Method: other claims, another header, parts of two tokens; then every
    // character of a token replaced by another one of the alphabet.
    let target = Target::start().await;
    for issuer in &target.issuers {
        let (ann, root) = (issuer.token("ann"), issuer.token("root"));
        let ([header, claims, signature], [_, other, _]) = (parts(&ann), parts(&root));
        target.refuses("claims of another token", &format!("{header}.{other}.{signature}")).await;
        let renamed = encoded(json!({ "alg": issuer.algorithm(), "typ": "JWT", "kid": "1" }).to_string());
        target.refuses("another header", &format!("{renamed}.{claims}.{signature}")).await;
        for at in (0..ann.len()).step_by(3) {
            let mut bytes = ann.clone().into_bytes();
            if bytes[at] != b'.' {
                bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
                target.refuses("one character", &String::from_utf8(bytes).unwrap()).await;
            }
        }
        target.accepts(&ann).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_has_one_spelling_and_a_bounded_length() {
    // Goal: nothing but three parts of base64url is read. Method: parts too few and too many, padding, white space, the other
    // alphabet, bits that mean nothing; a genuine token that is too long.
    let target = Target::start().await;
    let issuer = &target.issuers[0];
    let token = issuer.token("ann");
    let [header, claims, signature] = parts(&token);
    let last = signature.chars().last().unwrap();
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let next = alphabet.chars().nth(alphabet.find(last).unwrap() + 1).unwrap();
    let loose = format!("{}{next}", &token[..token.len() - 1]);
    for (case, given) in [
        ("nothing", String::new()),
        ("dots", "..".into()),
        ("one part", header.into()),
        ("two parts", format!("{header}.{claims}")),
        ("no signature", format!("{header}.{claims}.")),
        ("no header", format!(".{claims}.{signature}")),
        ("no claims", format!("{header}..{signature}")),
        ("a fourth part", format!("{token}.{signature}")),
        ("a dot at the end", format!("{token}.")),
        ("five parts", format!("{header}.{claims}.{claims}.{claims}.{signature}")),
        ("padding", format!("{token}==")),
        ("padding of the header", format!("{header}=.{claims}.{signature}")),
        ("a space", format!("{header}. {claims}.{signature}")),
        ("a space before", format!(" {token}")),
        ("a tab", format!("{header}.{claims}\t.{signature}")),
        ("an escaped line break", format!("{token}%0a")),
        ("quotes", format!("\"{token}\"")),
        ("the other alphabet", format!("{header}.{claims}.{}", signature.replace('-', "+").replace('_', "/") + "+")),
        ("bits beyond the last byte", loose),
        ("a comma", format!("{token},{token}")),
    ] {
        target.refuses(case, &given).await;
    }
    let long = |bytes: usize| {
        let mut claims = crate::support::claims("ann");
        claims["padding"] = "x".repeat(bytes).into();
        issuer.sign(&claims)
    };
    target.accepts(&long(5_900)).await;
    let too_long = long(6_100);
    assert!(long(5_900).len() <= 8192 && too_long.len() > 8192);
    target.refuses("too long", &too_long).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_stands_twice_is_refused() {
    // Goal: two readers never read two different tokens. Method: genuine signatures over duplicate names.
    let target = Target::start().await;
    let issuer = &target.issuers[0];
    let exp = crate::support::seconds_from_now(600);
    let header = r#"{"alg":"EdDSA"}"#;
    for claims in [
        format!(r#"{{"sub":"ann","sub":"root","exp":{exp}}}"#),
        format!(r#"{{"sub":"ann","exp":{exp},"exp":{exp}}}"#),
        format!(r#"{{"sub":"ann","s\u0075b":"root","exp":{exp}}}"#),
        format!(r#"{{"sub":"ann","exp":{exp},"x":{{"a":1,"a":2}}}}"#),
    ] {
        target.refuses("claims", &issuer.sign_parts(header, &claims)).await;
    }
    let claims = claims("ann").to_string();
    for header in [
        r#"{"alg":"none","alg":"EdDSA"}"#,
        r#"{"alg":"EdDSA","alg":"EdDSA"}"#,
        r#"{"alg":"EdDSA","kid":"1","kid":"2"}"#,
        r#"{"alg":"EdDSA","x":1,"x":2}"#,
    ] {
        target.refuses("header", &issuer.sign_parts(header, &claims)).await;
    }
    target.accepts(&issuer.sign_parts(header, &claims)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_brings_no_key_along_and_nothing_is_fetched_for_it() {
    // Goal: keys come from the operator. Method: a forger's key inside the header, and addresses in it of a socket that
    // listens; tokens of a genuine issuer may have such headers, and nobody connects for these either.
    let target = Target::start().await;
    let (issuer, forger) = (&target.issuers[0], Issuer::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/keys", listener.local_addr().unwrap());
    let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "x": encoded(forger.public_bytes()), "kid": "1", "use": "sig" });
    for header in [
        json!({ "alg": "EdDSA", "jwk": jwk, "kid": "1" }),
        json!({ "alg": "EdDSA", "jku": url, "kid": "1" }),
        json!({ "alg": "EdDSA", "x5u": url }),
        json!({ "alg": "EdDSA", "kid": url }),
        json!({ "alg": "EdDSA", "x5c": [STANDARD.encode(forger.public_der())] }),
    ] {
        let (header, claims) = (header.to_string(), claims("root").to_string());
        target.refuses(&header, &forger.sign_parts(&header, &claims)).await;
        target.accepts(&issuer.sign_parts(&header, &claims)).await;
    }
    let connected = timeout(Duration::from_millis(500), listener.accept()).await;
    assert!(connected.is_err(), "{connected:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn extensions_types_and_nesting_that_are_not_understood_are_refused() {
    // Goal: a token for another purpose is none for this one. Method: genuine signatures over headers with `crit`, foreign
    // types, and a token inside a token; a key id that is a path or a query is only a name.
    let target = Target::start().await;
    let issuer = &target.issuers[0];
    let claims = claims("ann").to_string();
    for header in [
        json!({ "alg": "EdDSA", "crit": ["exp"], "exp": 1 }),
        json!({ "alg": "EdDSA", "crit": [] }),
        json!({ "alg": "EdDSA", "crit": null }),
        json!({ "alg": "EdDSA", "crit": ["b64"], "b64": false }),
        json!({ "alg": "EdDSA", "typ": "dpop+jwt" }),
        json!({ "alg": "EdDSA", "typ": "logout+jwt" }),
        json!({ "alg": "EdDSA", "typ": 1 }),
        json!({ "alg": "EdDSA", "kid": 1 }),
        json!(["alg", "EdDSA"]),
        json!("EdDSA"),
    ] {
        let header = header.to_string();
        target.refuses(&header, &issuer.sign_parts(&header, &claims)).await;
    }
    let nested = issuer.token("ann");
    for header in [json!({ "alg": "EdDSA", "cty": "JWT" }), json!({ "alg": "EdDSA" })] {
        let header = header.to_string();
        target.refuses("nested", &issuer.sign_parts(&header, &nested)).await;
        target.refuses("nested", &issuer.sign_parts(&header, &json!(nested).to_string())).await;
    }
    for header in [
        json!({ "alg": "EdDSA" }),
        json!({ "alg": "EdDSA", "typ": "jwt" }),
        json!({ "alg": "EdDSA", "typ": "at+JWT" }),
        json!({ "alg": "EdDSA", "typ": "application/at+jwt" }),
        json!({ "alg": "EdDSA", "kid": "../../../../dev/null" }),
        json!({ "alg": "EdDSA", "kid": "' OR 1=1 --" }),
    ] {
        target.accepts(&issuer.sign_parts(&header.to_string(), &claims)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_comes_in_one_authorization_header_and_nowhere_else() {
    // Goal: one place, one meaning. Method: the genuine token in the URL, twice, under other schemes and headers.
    let target = Target::start().await;
    let token = target.issuers[0].token("ann");
    let bearer = format!("Bearer {token}");
    for headers in [
        &[] as &[&str],
        &[&bearer, &bearer],
        &["Bearer x", &bearer],
        &[&bearer, "Basic YTpi"],
        &["Bearer"],
        &["Bearer "],
        &[&token],
        &[&format!("Token {token}")],
        &[&format!("Basic {token}")],
        &[&format!("Bearer  {token}")],
        &[&format!("Bearer\t{token}")],
        &[&format!("Bearer={token}")],
        &[&format!("Bearer {token}, Basic YTpi")],
    ] {
        assert_eq!(target.answer(headers).await, StatusCode::UNAUTHORIZED, "{headers:?}");
    }
    for scheme in ["Bearer", "bearer", "BEARER", "bEaReR"] {
        assert_eq!(target.answer(&[&format!("{scheme} {token}")]).await, StatusCode::NOT_FOUND, "{scheme}");
    }
    let url = format!("http://{}", target.unibus.address());
    for query in ["access_token", "token", "authorization", "jwt"] {
        let answer = reqwest::get(format!("{url}/rooms/lobby/history?{query}={token}")).await.unwrap();
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{query}");
    }
    for header in ["cookie", "x-authorization", "proxy-authorization", "authorization-bin"] {
        let request = reqwest::Client::new().get(format!("{url}/rooms/lobby/history")).header(header, &bearer);
        assert_eq!(request.send().await.unwrap().status(), StatusCode::UNAUTHORIZED, "{header}");
    }
}
