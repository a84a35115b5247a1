//! Who is let in, and how the others are told.

use reqwest::StatusCode;
use serde_json::json;
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_types::StatusExt;

use crate::support::{
    Client, Credentials, Issuer, Nats, Unibus, assert_status, connect, connect_with, list_rooms, seconds_from_now,
};

/// A client with this token, whatever it is.
async fn holder(unibus: &Unibus, token: &str) -> Client {
    connect_with(unibus.address(), Credentials::bearer(token)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_each_algorithm_lets_its_holder_in() {
    // Goal: all three kinds of keys work, side by side. Method: an instance with a key of each kind, a token of each.
    let nats = Nats::start().await;
    let issuers = [Issuer::new(), Issuer::es256(), Issuer::rs256()];
    let keys = issuers.iter().map(Issuer::public_key).collect();
    let unibus = issuers[0].guard(&nats, |config| config.auth.keys = keys).await;
    for issuer in &issuers {
        let client = issuer.client(&unibus, "ann").await;
        list_rooms(&client, 0, "").await.unwrap_or_else(|status| panic!("{}: {status}", issuer.algorithm()));
    }
    unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_token_a_forged_one_and_an_expired_one_are_refused() {
    // Goal: nobody comes in without a proof that counts now. Method: a token of another's key, one that has expired and is
    // the holder's own, and none; only the expired one hears more than the rest: that the call may succeed again.
    let nats = Nats::start().await;
    let issuer = Issuer::new();
    let unibus = issuer.guard(&nats, |_| {}).await;
    let nobody = list_rooms(&connect(unibus.address()).await, 0, "").await;
    let nobody = assert_status(nobody, Code::Unauthenticated, "UNAUTHENTICATED");
    let forged = holder(&unibus, &Issuer::new().token("ann")).await;
    let forged = assert_status(list_rooms(&forged, 0, "").await, Code::Unauthenticated, "UNAUTHENTICATED");
    assert_eq!(nobody.message(), forged.message());
    let expired = issuer.sign(&json!({ "sub": "ann", "exp": seconds_from_now(-60) }));
    let expired = list_rooms(&holder(&unibus, &expired).await, 0, "").await;
    let expired = assert_status(expired, Code::Unauthenticated, "CREDENTIALS_EXPIRED");
    assert!(expired.get_details_retry_info().is_some_and(|retry| retry.retry_delay.is_some()));
    for refused in [&nobody, &forged] {
        assert!(refused.get_details_retry_info().is_none());
    }
    let expired = Issuer::new().sign(&json!({ "sub": "ann", "exp": seconds_from_now(-60) }));
    let expired = list_rooms(&holder(&unibus, &expired).await, 0, "").await;
    assert_status(expired, Code::Unauthenticated, "UNAUTHENTICATED");
    list_rooms(&issuer.client(&unibus, "ann").await, 0, "").await.unwrap();
    unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_has_the_form_that_the_call_wants_and_health_needs_no_token() {
    // Goal: every client understands that it lacks a token. Method: the same refusal over HTTP, gRPC-Web and for a path that
    // there is not; health answers all the same.
    let nats = Nats::start().await;
    let issuer = Issuer::new();
    let unibus = issuer.guard(&nats, |_| {}).await;
    let url = format!("http://{}", unibus.address());
    for path in ["/rooms/lobby/history", "/nothing"] {
        let http = reqwest::get(format!("{url}{path}")).await.unwrap();
        assert_eq!(http.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(http.headers()["www-authenticate"], "Bearer");
        assert!(http.text().await.unwrap().contains("\"UNAUTHENTICATED\""));
    }
    let web = reqwest::Client::new().post(format!("{url}/unibus.v1.RoomService/ListRooms"));
    let web = web.header("content-type", "application/grpc-web+proto").body(vec![0; 5]);
    let refused = web.try_clone().unwrap().send().await.unwrap();
    assert_eq!(refused.headers()["grpc-status"], (Code::Unauthenticated as i32).to_string());
    let served = web.header("authorization", format!("bearer {}", issuer.token("ann"))).send().await.unwrap();
    assert!(!served.headers().contains_key("grpc-status"), "{served:?}");

    let channel = tonic::transport::Endpoint::from_shared(url).unwrap().connect().await.unwrap();
    HealthClient::new(channel).check(HealthCheckRequest::default()).await.unwrap();
    unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_doors_on_a_network_are_refused_unless_insisted_upon() {
    // Goal: nobody serves strangers by accident. Method: all addresses of the machine, with and without the flag that insists.
    let nats = Nats::start().await;
    for address in ["0.0.0.0:0", "[::]:0"] {
        let url = nats.url();
        let refused = Unibus::try_configured(|config| {
            config.nats.url = Some(url);
            config.listen = address.parse().unwrap();
        });
        let error = refused.await.err().expect("a refusal");
        assert_eq!(error.violations()[0].field, "auth");
    }
    // an address of no machine: past the question of identity, it cannot be bound
    // an address of no machine: past the question of identity, it cannot be bound
    let url = nats.url();
    let insisted = Unibus::try_configured(|config| {
        config.nats.url = Some(url);
        config.listen = "192.0.2.1:0".parse().unwrap();
        config.auth.insecure = true;
    });
    assert_eq!(insisted.await.err().expect("no such address").violations()[0].field, "listen");
}
