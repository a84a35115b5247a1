//! Client certificates: who is let in, and who is not.

use std::time::Duration;

use tokio::time::timeout;
use unibus::ClientAuth;

use crate::support::{Certificates, Certified, Nats, Unibus, list_rooms, try_tls_client};

/// A refusal comes at once.
const SOON: Duration = Duration::from_secs(5);

/// An instance that asks clients for certificates of this authority.
async fn asking(nats: &Nats, certificates: &Certificates, client_auth: ClientAuth) -> Unibus {
    let (url, server, authority) = (nats.url(), certificates.server(), certificates.authority());
    Unibus::configured(|config| {
        config.nats_url = Some(url);
        config.tls_certificate = Some(server.certificate);
        config.tls_key = Some(server.key);
        config.tls_client_ca = Some(authority);
        config.tls_client_auth = client_auth;
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
