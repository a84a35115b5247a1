//! The service in the test's own process.

use std::{net::SocketAddr, path::Path, sync::Once, time::Duration};

use tempfile::TempDir;
use tonic::{
    service::interceptor::InterceptedService,
    transport::{Channel, Endpoint},
};
use tracing_subscriber::EnvFilter;
use unibus::{Config, EmbeddedNatsConfig, Server, v1::room_service_client::RoomServiceClient};

use super::{Credentials, Nats, nats::nats_server_binary};

/// The generated client, with what it says of itself.
pub(crate) type Client = RoomServiceClient<InterceptedService<Channel, Credentials>>;

/// One instance of the service, on free ports, with a data directory of its own.
pub(crate) struct Unibus {
    server: Server,
    _data_dir: TempDir,
}

impl Unibus {
    /// An instance in front of this nats-server.
    pub(crate) async fn start(nats: &Nats) -> Self {
        let url = nats.url();
        Self::configured(|config| config.nats.url = Some(url)).await
    }

    /// An instance that runs a nats-server of its own.
    pub(crate) async fn embedded() -> Self {
        Self::configured(|config| config.embedded.nats_server = Some(nats_server_binary())).await
    }

    /// An instance that runs a nats-server of its own on this data directory, for a start that may fail.
    pub(crate) async fn try_embedded_in(data_dir: &Path) -> Result<Self, unibus::Error> {
        Self::try_configured(|config| {
            config.embedded.nats_server = Some(nats_server_binary());
            data_dir.clone_into(&mut config.embedded.data_dir);
        })
        .await
    }

    /// An instance with the default configuration but for free ports, a short heartbeat and what `change` sets.
    pub(crate) async fn configured(change: impl FnOnce(&mut Config)) -> Self {
        Self::try_configured(change).await.expect("the service starts")
    }

    /// As [`Self::configured`], for a start that may fail.
    pub(crate) async fn try_configured(change: impl FnOnce(&mut Config)) -> Result<Self, unibus::Error> {
        log_if_asked();
        let data_dir = TempDir::new().expect("a temporary directory");
        let mut config = Config {
            listen: "127.0.0.1:0".parse().expect("an address"),
            admin_listen: "127.0.0.1:0".parse().expect("an address"),
            embedded: EmbeddedNatsConfig { data_dir: data_dir.path().to_owned(), ..EmbeddedNatsConfig::default() },
            heartbeat_interval: Duration::from_secs(1),
            ..Config::default()
        };
        change(&mut config);
        let server = Server::bind(config).await?;
        Ok(Self { server, _data_dir: data_dir })
    }

    /// A client with a connection of its own.
    pub(crate) async fn client(&self) -> Client {
        connect(self.address()).await
    }

    /// Where it serves gRPC and the HTTP history.
    pub(crate) fn address(&self) -> SocketAddr {
        self.server.local_addr()
    }

    /// The server itself.
    pub(crate) fn server(&self) -> &Server {
        &self.server
    }

    /// Stops the instance and waits until it has.
    pub(crate) async fn shutdown(self) -> Result<(), unibus::Error> {
        Box::pin(self.server.shutdown()).await
    }
}

/// Shows the service's log lines when `RUST_LOG` asks for them.
fn log_if_asked() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if let Ok(filter) = EnvFilter::try_from_default_env() {
            let log = tracing_subscriber::fmt().with_env_filter(filter);
            log.with_writer(std::io::stderr).init();
        }
    });
}

/// A client of the service at this address, without credentials.
pub(crate) async fn connect(address: SocketAddr) -> Client {
    connect_with(address, Credentials::default()).await
}

/// A client of the service at this address, with these credentials.
pub(crate) async fn connect_with(address: SocketAddr, credentials: Credentials) -> Client {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an endpoint");
    let channel = endpoint.connect().await.expect("a connection");
    RoomServiceClient::with_interceptor(channel, credentials)
}

/// A client over this connection, without credentials.
pub(crate) fn over(channel: Channel) -> Client {
    RoomServiceClient::with_interceptor(channel, Credentials::default())
}
