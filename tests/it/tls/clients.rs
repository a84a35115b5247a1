//! Client certificates: who is let in, and who is not.

use std::time::Duration;

use tokio::time::timeout;
use tonic::Code;
use unibus::{AuthMode, ClientAuth, v1::room_service_client::RoomServiceClient};

use crate::support::{
    Certificates, Certified, Client, Credentials, Frames, Issuer, Nats, Unibus, assert_status, create_room, list_rooms,
    subscription, tls_endpoint, try_tls_client,
};

/// A refusal comes at once.
const SOON: Duration = Duration::from_secs(5);

/// An instance that asks clients for certificates of this authority.
async fn asking(nats: &Nats, certificates: &Certificates, client_auth: ClientAuth) -> Unibus {
    let (url, server, authority) = (nats.url(), certificates.server(), certificates.authority());
    Unibus::configured(|config| {
        config.nats.url = Some(url);
        config.tls.certificate = Some(server.certificate);
        config.tls.key = Some(server.key);
        config.tls.client_ca = Some(authority);
        config.tls.client_auth = client_auth;
    })
    .await
}

/// Whether a client that shows this is served.
async fn is_served(unibus: &Unibus, certificates: &Certificates, shown: Option<&Certified>) -> bool {
    let answered = async {
        let client = try_tls_client(unibus.address(), &certificates.authority(), shown).await.ok()?;
        list_rooms(&client, 0, "").await.ok()
    };
    timeout(SOON, answered).await.expect("an answer at once").is_some()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_required_certificate_must_be_shown_and_be_of_the_authority() {
    // Goal: mutual TLS. Method: a certificate of the authority is served; none, one of another authority, an expired one and
    // one that is not for clients are not; who was let in stays served.
    let (nats, certificates, others) = (Nats::start().await, Certificates::new(), Certificates::new());
    let unibus = asking(&nats, &certificates, ClientAuth::Required).await;
    let shown = certificates.client();
    let inside = try_tls_client(unibus.address(), &certificates.authority(), Some(&shown)).await.unwrap();
    list_rooms(&inside, 0, "").await.unwrap();
    for (case, shown) in [
        ("none", None),
        ("another authority", Some(others.client())),
        ("expired", Some(certificates.expired_client())),
        ("for servers", Some(certificates.server())),
    ] {
        assert!(!is_served(&unibus, &certificates, shown.as_ref()).await, "{case}");
    }
    assert!(is_served(&unibus, &certificates, Some(&shown)).await);
    list_rooms(&inside, 0, "").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_optional_certificate_may_be_missing_but_not_wrong() {
    // Goal: a certificate that does not verify is never ignored. Method: with and without one; one of another authority, an
    // expired one.
    let (nats, certificates, others) = (Nats::start().await, Certificates::new(), Certificates::new());
    let unibus = asking(&nats, &certificates, ClientAuth::Optional).await;
    assert!(is_served(&unibus, &certificates, None).await);
    assert!(is_served(&unibus, &certificates, Some(&certificates.client())).await);
    assert!(!is_served(&unibus, &certificates, Some(&others.client())).await);
    assert!(!is_served(&unibus, &certificates, Some(&certificates.expired_client())).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_does_not_trust_a_service_of_another_authority() {
    // Goal: the certificate that is shown is the one of the flags. Method: a client that trusts another authority.
    let (nats, certificates) = (Nats::start().await, Certificates::new());
    let unibus = asking(&nats, &certificates, ClientAuth::Optional).await;
    assert!(!is_served(&unibus, &Certificates::new(), None).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_says_who_calls_unless_a_token_does() {
    // Goal: a certificate and a token are two proofs of one name, and a wrong token is never made good by a certificate.
    // Method: with authentication on, one open subscription for each caller: the holder of a certificate has one, so who has a
    // token of the same name gets none; who has another's token beside the certificate is not the room's owner; no proof, and
    // a wrong token beside the certificate, are refused.
    let (nats, certificates) = (Nats::start().await, Certificates::new());
    let (server, authority) = (certificates.server(), certificates.authority());
    let issuer = Issuer::new();
    let unibus = issuer
        .guard(&nats, |config| {
            config.tls.certificate = Some(server.certificate);
            config.tls.key = Some(server.key);
            config.tls.client_ca = Some(certificates.authority());
            config.tls.client_auth = ClientAuth::Optional;
            config.rooms.limits.subscriptions = Some(1);
        })
        .await;
    let shown = certificates.client();
    let with = async |shown: Option<&Certified>, credentials: Credentials| -> Client {
        let channel = tls_endpoint(unibus.address(), &authority, shown).connect().await.unwrap();
        RoomServiceClient::with_interceptor(channel, credentials)
    };
    let holder = with(Some(&shown), Credentials::default()).await;
    create_room(&holder, "lobby").await;
    let _open = Frames::open(&holder, subscription("lobby", "")).await.unwrap();
    let same = with(None, Credentials::bearer(&issuer.token("client"))).await;
    let refused = Frames::open(&same, subscription("lobby", "")).await.map(drop);
    assert_status(refused, Code::ResourceExhausted, "LIMIT_REACHED");
    let other = with(Some(&shown), Credentials::bearer(&issuer.token("bob"))).await;
    let refused = Frames::open(&other, subscription("lobby", "")).await.map(drop);
    assert_status(refused, Code::PermissionDenied, "PERMISSION_DENIED");

    let forged = Issuer::new().token("client");
    for nobody in [with(None, Credentials::default()).await, with(Some(&shown), Credentials::bearer(&forged)).await] {
        assert_status(list_rooms(&nobody, 0, "").await, Code::Unauthenticated, "UNAUTHENTICATED");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_alone_are_enough_to_know_callers() {
    // Goal: who has a public key infrastructure needs no tokens. Method: enforced without any key for tokens: the holder of a
    // certificate owns the room that it makes; no token counts, with a certificate or without.
    let (nats, certificates) = (Nats::start().await, Certificates::new());
    let (url, server, authority) = (nats.url(), certificates.server(), certificates.authority());
    let unibus = Unibus::configured(|config| {
        config.nats.url = Some(url);
        config.auth.mode = AuthMode::Enforce;
        config.tls.certificate = Some(server.certificate);
        config.tls.key = Some(server.key);
        config.tls.client_ca = Some(certificates.authority());
        config.tls.client_auth = ClientAuth::Optional;
    })
    .await;
    let shown = certificates.client();
    let with = async |shown: Option<&Certified>, credentials: Credentials| -> Client {
        let channel = tls_endpoint(unibus.address(), &authority, shown).connect().await.unwrap();
        RoomServiceClient::with_interceptor(channel, credentials)
    };
    let room = create_room(&with(Some(&shown), Credentials::default()).await, "lobby").await;
    assert_eq!(room.creator, "client");
    let token = Credentials::bearer(&Issuer::new().token("client"));
    for nobody in
        [with(None, Credentials::default()).await, with(None, token.clone()).await, with(Some(&shown), token).await]
    {
        assert_status(list_rooms(&nobody, 0, "").await, Code::Unauthenticated, "UNAUTHENTICATED");
    }
}
