//! The connection to one service: TLS, credentials, receive limit, keepalive (U5 to U8).

use std::{
    collections::HashMap,
    error::Error as StdError,
    fmt,
    net::IpAddr,
    panic::AssertUnwindSafe,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use tokio::{
    runtime::Handle,
    time::{self, Instant},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{
    Code, Request,
    metadata::AsciiMetadataValue,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Uri},
};
use unibus::v1::room_service_client::RoomServiceClient;

use crate::{
    client::ClientBuilder,
    error::{Error, Result},
    publish::RoomFacts,
};

/// How long the service may be silent before it gets a ping (U6).
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// How long the service may take to answer a ping (U6).
const PING_TIMEOUT: Duration = Duration::from_secs(10);

const NO_TOKEN: &str = "the token is empty, or has characters that no header can carry";

/// The generated client.
pub(crate) type Stub = RoomServiceClient<Channel>;
/// A function that gives the token of an attempt (U8).
pub(crate) type TokenSupplier =
    Box<dyn Fn() -> BoxFuture<'static, Result<String, Box<dyn StdError + Send + Sync>>> + Send + Sync>;

/// The connection, and what all handles of a client share.
pub(crate) struct Connection {
    endpoint: Endpoint,
    channel: Mutex<Numbered>,
    token: Option<TokenSupplier>,
    receive_limit: usize,
    pub(crate) subscriptions: Tasks,
    pub(crate) publishers: Tasks,
    /// Ends all calls: the tasks have ended.
    pub(crate) closed: CancellationToken,
    pub(crate) facts: Mutex<HashMap<String, RoomFacts>>,
}

/// The tasks of all subscriptions, or of all publishers.
pub(crate) struct Tasks {
    pub(crate) runtime: Handle,
    tracker: TaskTracker,
    /// Tells the tasks to end in an orderly way (U27).
    pub(crate) closing: CancellationToken,
}

impl Tasks {
    fn new(runtime: Handle) -> Self {
        Self { runtime, tracker: TaskTracker::new(), closing: CancellationToken::new() }
    }

    /// Starts a task, wherever the program is.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tracker.spawn_on(task, &self.runtime);
    }

    /// Ends the tasks, and waits for them.
    async fn close(&self) {
        self.closing.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// One connection of HTTP/2 after the other.
#[derive(Clone)]
struct Numbered {
    number: u64,
    channel: Channel,
}

impl Connection {
    /// Checks the settings. Nothing is sent.
    pub(crate) fn new(settings: ClientBuilder) -> Result<Self> {
        let runtime = Handle::try_current().map_err(|_| Error::invalid("a client needs the runtime of tokio"))?;
        let wrong = |error: &dyn fmt::Display| Error::invalid(format!("{}: {error}", settings.address));
        let endpoint = Endpoint::from_shared(settings.address.clone()).map_err(|error| wrong(&error))?;
        let is_tls = match endpoint.uri().scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(wrong(&"must begin with https:// or http://")),
        };
        let has_token = settings.token.is_some();
        if has_token && !is_tls && !(settings.allows_plaintext_token && is_loopback(endpoint.uri())) {
            return Err(wrong(&"a token goes only over https, or to this machine if the program allows it"));
        }
        if settings.has_wrong_token {
            return Err(Error::invalid(NO_TOKEN));
        }
        if settings.ca.as_ref().is_some_and(|pem| !is_authority(pem)) {
            return Err(Error::invalid("the certificate authority is no certificate in the form PEM"));
        }
        if !is_tls && (settings.ca.is_some() || settings.identity.is_some()) {
            return Err(wrong(&"has certificates, so it must begin with https://"));
        }
        let endpoint = endpoint
            .connect_timeout(settings.times.attempt)
            .http2_keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .user_agent(concat!("unibus-client-rust/", env!("CARGO_PKG_VERSION")))
            .map_err(|error| wrong(&error))?;
        let endpoint = if is_tls {
            endpoint.tls_config(tls(settings.ca, settings.identity)).map_err(|error| {
                let cause = error.source().map(ToString::to_string).unwrap_or_default();
                Error::invalid(format!("certificates: {error} {cause}"))
            })?
        } else {
            endpoint
        };
        Ok(Self {
            channel: Mutex::new(Numbered { number: 0, channel: endpoint.connect_lazy() }),
            endpoint,
            token: settings.token,
            receive_limit: settings.receive_limit,
            subscriptions: Tasks::new(runtime.clone()),
            publishers: Tasks::new(runtime),
            closed: CancellationToken::new(),
            facts: Mutex::default(),
        })
    }

    /// The generated client on the present connection, with the number of the connection.
    pub(crate) fn stub(&self) -> (u64, Stub) {
        let Numbered { number, channel } = self.channel.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (number, RoomServiceClient::new(channel).max_decoding_message_size(self.receive_limit))
    }

    /// Later calls use a new connection in place of this one, which may be dead without the system knowing it. The calls on
    /// the old one go on.
    pub(crate) fn renew(&self, number: u64) {
        let mut present = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        if present.number == number {
            *present = Numbered { number: number + 1, channel: self.endpoint.connect_lazy() };
        }
    }

    /// Asks the program for a token, and returns the header that carries it (U8).
    pub(crate) async fn token(&self, deadline: Instant) -> Result<Option<AsciiMetadataValue>> {
        let Some(supplier) = &self.token else { return Ok(None) };
        let failed = |cause: &dyn fmt::Display| Error::unsent(Code::Unavailable, format!("no token: {cause}"));
        // the token function shares nothing with the client that a panic could leave half done
        let asked = AssertUnwindSafe(async { supplier().await }).catch_unwind();
        match time::timeout_at(deadline, asked).await {
            Ok(Ok(Ok(token))) => bearer(&token).map(Some).ok_or_else(|| failed(&NO_TOKEN)),
            Ok(Ok(Err(error))) => Err(failed(&error)),
            Ok(Err(_)) => Err(failed(&"its function panicked")),
            Err(_) => Err(Error::unsent(Code::DeadlineExceeded, "no token: its function did not return in time")),
        }
    }

    /// Ends everything (U27). Running handlers can publish until the last one has returned.
    pub(crate) async fn close(&self) {
        self.subscriptions.close().await;
        self.publishers.close().await;
        self.closed.cancel();
    }

    /// Ends a call when the program closes the client (U3).
    pub(crate) async fn unless_closed<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        let ended = self.closed.run_until_cancelled(call).await;
        ended.unwrap_or_else(|| Err(Error::cancelled("the client is closed")))
    }

    /// A pause between two attempts of a call.
    pub(crate) async fn sleep_until(&self, next: Instant) -> Result<()> {
        let pause = async {
            time::sleep_until(next).await;
            Ok(())
        };
        self.unless_closed(pause).await
    }
}

/// A request with the credentials of the caller.
pub(crate) fn with_token<Q>(request: Q, token: Option<AsciiMetadataValue>) -> Request<Q> {
    let mut request = Request::new(request);
    if let Some(header) = token {
        request.metadata_mut().insert("authorization", header);
    }
    request
}

/// The header of a token. `None` if no header can carry it.
pub(crate) fn bearer(token: &str) -> Option<AsciiMetadataValue> {
    let token = token.trim();
    let can_carry = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    let mut header: AsciiMetadataValue = format!("Bearer {token}").parse().ok().filter(|_| can_carry)?;
    header.set_sensitive(true);
    Some(header)
}

/// Whether these are certificates. The library ignores what it cannot read, and then trusts nobody.
fn is_authority(pem: &[u8]) -> bool {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let Ok(certificates) = certificates else { return false };
    let (used, ignored) = RootCertStore::empty().add_parsable_certificates(certificates);
    used > 0 && ignored == 0
}

fn tls(ca: Option<Vec<u8>>, identity: Option<(Vec<u8>, Vec<u8>)>) -> ClientTlsConfig {
    let tls = match ca {
        Some(pem) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)),
        None => ClientTlsConfig::new().with_native_roots(),
    };
    match identity {
        Some((certificate, key)) => tls.identity(Identity::from_pem(certificate, key)),
        None => tls,
    }
}

/// Whether nobody on a network can read what is sent to this address.
fn is_loopback(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, future};

    use super::*;
    use crate::{Class, Client, retry::later};

    fn settings(address: &str) -> ClientBuilder {
        Client::builder(address).token("secret")
    }

    #[tokio::test]
    async fn a_token_goes_only_where_nobody_can_read_it() {
        for (address, allows, is_accepted) in [
            ("https://bus.example.com", false, true),
            ("http://127.0.0.1:1", true, true),
            ("http://[::1]:1", true, true),
            ("http://localhost:1", true, true),
            ("http://127.0.0.1:1", false, false),
            ("http://bus.example.com", true, false),
            ("http://127.0.0.1.example.com", true, false),
        ] {
            let made = Connection::new(ClientBuilder { allows_plaintext_token: allows, ..settings(address) });
            assert_eq!(made.is_ok(), is_accepted, "{address} {allows}");
        }
        assert!(Connection::new(Client::builder("http://bus.example.com")).is_ok());
        assert!(Connection::new(settings("bus.example.com:1")).is_err());
    }

    #[tokio::test]
    async fn a_certificate_that_nobody_can_read_is_refused_at_once() {
        let block = |name| format!("-----BEGIN {name}-----\nAAAA\n-----END {name}-----\n").into_bytes();
        for pem in [b"no certificate".to_vec(), Vec::new(), block("PRIVATE KEY"), block("CERTIFICATE")] {
            let builder = Client::builder("https://bus.example.com");
            let made = builder.ca_certificate(pem.clone()).build();
            assert!(made.is_err_and(|error| error.code() == Code::InvalidArgument));
            let builder = Client::builder("https://bus.example.com");
            assert!(builder.client_certificate(pem.clone(), pem).build().is_err());
        }
    }

    #[tokio::test]
    async fn a_token_that_no_header_can_carry_is_not_sent_and_not_shown() -> Result<()> {
        let deadline = later(Instant::now(), Duration::MAX);
        for token in ["se\ncret", "s\u{e9}cret", "", " \n"] {
            let builder = || Client::builder("https://bus.example.com");
            assert!(builder().token(token).build().is_err_and(|error| !error.message().contains("cret")));
            let supplier = move || future::ready(Ok::<_, Infallible>(token.to_owned()));
            let client = builder().token_from(supplier).build()?;
            let failed = client.connection.token(deadline).await;
            assert!(failed.is_err_and(|error| error.class() == Class::Again && !error.message().contains("cret")));
        }
        let client = Client::builder("https://bus.example.com").token("secret\n").build()?;
        let header = client.connection.token(deadline).await?;
        assert_eq!(header.as_ref().and_then(|header| header.to_str().ok()), Some("Bearer secret"));
        assert!(!format!("{header:?}").contains("secret"));
        Ok(())
    }

    #[test]
    fn without_a_runtime_there_is_an_error_in_place_of_a_panic() {
        assert!(Connection::new(settings("https://bus.example.com")).is_err());
    }

    #[tokio::test]
    async fn a_dead_connection_is_replaced_once() {
        let Ok(connection) = Connection::new(settings("https://bus.example.com")) else { unreachable!() };
        connection.renew(0);
        connection.renew(0);
        assert_eq!(connection.stub().0, 1);
    }
}
