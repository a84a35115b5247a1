//! What the claims of a genuine token must be.

use std::time::Duration;

use serde_json::{Value, json};
use tonic::{Code, Status};

use crate::support::{
    Credentials, Issuer, Nats, Unibus, assert_status, claims, connect_with, eventually, list_rooms, seconds_from_now,
};

/// What the holder of a token with these claims hears.
async fn hears(unibus: &Unibus, issuer: &Issuer, claims: &Value) -> Result<(), Status> {
    let client = connect_with(unibus.address(), Credentials::bearer(&issuer.sign(claims))).await;
    list_rooms(&client, 0, "").await.map(drop)
}

/// The claims of a good token, with one of them set; `null` takes it away.
fn with(name: &str, value: Value) -> Value {
    let mut claims = claims("ann");
    if value.is_null() {
        claims.as_object_mut().unwrap().remove(name);
    } else {
        claims[name] = value;
    }
    claims
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn times_that_are_wrong_or_no_times_are_refused() {
    // Goal: a token counts within its time, give or take the leeway, and never for want of a time. Method: times of every
    // kind and form, with the default leeway of 30 s.
    let nats = Nats::start().await;
    let issuer = Issuer::new();
    let unibus = issuer.guard(&nats, |_| {}).await;
    let at = seconds_from_now;
    let fraction = serde_json::from_str::<Value>(&format!("{}.5", at(600))).unwrap();
    for good in [
        with("exp", json!(at(-10))),
        with("exp", fraction),
        with("exp", json!(253_402_300_799_u64)),
        with("nbf", json!(at(10))),
        with("nbf", json!(at(-600))),
        with("nbf", json!(0)),
        with("iat", json!(at(10))),
        with("iat", json!(at(-600))),
    ] {
        hears(&unibus, &issuer, &good).await.unwrap_or_else(|status| panic!("{good}: {status}"));
    }
    for expired in [with("exp", json!(at(-40))), with("exp", json!(0)), with("exp", json!(0.5))] {
        assert_status(hears(&unibus, &issuer, &expired).await, Code::Unauthenticated, "CREDENTIALS_EXPIRED");
    }
    let mut wrong = vec![with("exp", Value::Null), with("nbf", json!(at(60))), with("iat", json!(at(60)))];
    for name in ["exp", "nbf", "iat"] {
        let texts = [
            "-1",
            "-1e300",
            "1e300",
            "253402300800",
            "18446744073709551615",
            "18446744073709551616",
            "\"soon\"",
            "true",
            "[]",
            "{}",
            "\"99999999999\"",
            "[99999999999]",
            "-0.5",
        ];
        wrong.extend(texts.map(|text| with(name, serde_json::from_str(text).unwrap())));
        let mut null = with(name, json!(0));
        null[name] = Value::Null;
        wrong.push(null);
    }
    for wrong in wrong {
        let refused = hears(&unibus, &issuer, &wrong).await;
        assert!(refused.is_err(), "{wrong}");
        assert_status(refused, Code::Unauthenticated, "UNAUTHENTICATED");
    }
    unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subject_is_an_endpoint_id() {
    // Goal: nobody is let in without a name that members can have. Method: subjects of every kind.
    let nats = Nats::start().await;
    let issuer = Issuer::new();
    let unibus = issuer.guard(&nats, |_| {}).await;
    for good in ["a", "alice@example.org", "spiffe://example.org/a", "zoë", &"x".repeat(126)] {
        hears(&unibus, &issuer, &with("sub", json!(good))).await.unwrap_or_else(|status| panic!("{good}: {status}"));
    }
    for wrong in [
        json!(""),
        json!("a b"),
        json!("a\n"),
        json!("a\u{0}"),
        json!("x".repeat(127)),
        json!(1),
        json!(["a"]),
        Value::Null,
    ] {
        let refused = hears(&unibus, &issuer, &with("sub", wrong.clone())).await;
        assert!(refused.is_err(), "{wrong}");
        assert_status(refused, Code::Unauthenticated, "UNAUTHENTICATED");
    }
    unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn issuer_and_audience_are_those_that_are_demanded() {
    // Goal: a token for another service is of no use here (RFC 8725, 3.8 and 3.9). Method: an instance that demands both, one
    // that demands neither; issuers and audiences that fit, that do not, and that are missing.
    let nats = Nats::start().await;
    let issuer = Issuer::new();
    let strict = issuer.guard(&nats, |config| {
        config.auth.issuer = Some("https://issuer.example".into());
        config.auth.audience = Some("unibus".into());
    });
    let strict = strict.await;
    let named = |iss: Value, aud: Value| {
        let mut claims = with("iss", iss);
        if !aud.is_null() {
            claims["aud"] = aud;
        }
        claims
    };
    let here = || json!("https://issuer.example");
    for aud in [json!("unibus"), json!(["unibus"]), json!(["other", "unibus"])] {
        hears(&strict, &issuer, &named(here(), aud)).await.unwrap();
    }
    for wrong in [
        named(here(), Value::Null),
        named(here(), json!("other")),
        named(here(), json!(["other"])),
        named(here(), json!([])),
        named(here(), json!([["unibus"]])),
        named(here(), json!({ "unibus": true })),
        named(here(), json!("Unibus")),
        named(here(), json!("unibus ")),
        named(Value::Null, json!("unibus")),
        named(json!("https://issuer.example/"), json!("unibus")),
        named(json!("https://issuer.example.evil"), json!("unibus")),
        named(json!(1), json!("unibus")),
        named(json!(""), json!("unibus")),
        named(json!([here()]), json!("unibus")),
        named(json!(["https://other.example", here()]), json!("unibus")),
    ] {
        let refused = hears(&strict, &issuer, &wrong).await;
        assert!(refused.is_err(), "{wrong}");
        assert_status(refused, Code::Unauthenticated, "UNAUTHENTICATED");
    }
    let lax = issuer.guard(&nats, |_| {}).await;
    hears(&lax, &issuer, &with("iss", json!("anybody"))).await.unwrap();
    for iss in [json!(["anybody"]), json!([]), json!(1)] {
        let refused = hears(&lax, &issuer, &with("iss", iss)).await;
        assert_status(refused, Code::Unauthenticated, "UNAUTHENTICATED");
    }
    for aud in [json!("unibus"), json!(["other"])] {
        let refused = hears(&lax, &issuer, &with("aud", aud)).await;
        assert_status(refused, Code::Unauthenticated, "UNAUTHENTICATED");
    }
    strict.shutdown().await.unwrap();
    lax.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_was_taken_before_ends_all_the_same() {
    // Goal: what is remembered of a token does not outlive it. Method: the same token again and again, over its end.
    let nats = Nats::start().await;
    let issuer = Issuer::new();
    let unibus = issuer.guard(&nats, |config| config.auth.leeway = Duration::ZERO).await;
    let client =
        connect_with(unibus.address(), Credentials::bearer(&issuer.sign(&with("exp", json!(seconds_from_now(3))))));
    let client = client.await;
    list_rooms(&client, 0, "").await.unwrap();
    let refused = eventually(Duration::from_secs(10), async || match list_rooms(&client, 0, "").await {
        Ok(_) => Err("let in".to_owned()),
        Err(status) => Ok(status),
    });
    assert_status::<()>(Err(refused.await), Code::Unauthenticated, "CREDENTIALS_EXPIRED");
    unibus.shutdown().await.unwrap();
}
