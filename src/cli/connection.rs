//! The connection of a command to a service: TLS, credentials, time limits.

use std::{error::Error, fs, path::Path, sync::Arc, time::Duration};

use tokio::time;
use tonic::{
    Request, Status,
    metadata::AsciiMetadataValue,
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use unibus::v1::room_service_client::RoomServiceClient;

use super::{
    exit::Exit,
    failure::{CliResult, Failure},
    options::{Connecting, TokenFrom},
};

/// The largest response that a command reads: larger than the largest payload that a service can be told to accept.
pub(crate) const RESPONSE_BYTES_MAX: usize = 72 * 1024 * 1024;
/// How long the service may be silent before it gets a ping.
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// How long the service may take to answer a ping before the connection is closed.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection that adds the credentials of the caller to each call.
pub(crate) type CallChannel = InterceptedService<Channel, Bearer>;
/// The generated client, with the credentials of the caller.
pub(crate) type RoomClient = RoomServiceClient<CallChannel>;

/// Makes connections to one service.
#[derive(Clone, Debug)]
pub(crate) struct Connector {
    endpoint: Endpoint,
    bearer: Bearer,
    server: String,
    timeout: Duration,
}

impl Connector {
    /// Reads the files that the settings name. Nothing is sent.
    pub(super) fn new(settings: Connecting) -> CliResult<Self> {
        let has_tls_files = settings.ca.is_some() || settings.identity.is_some();
        let server = with_scheme(&settings.server, has_tls_files);
        let wrong = |error: &dyn std::fmt::Display| Failure::usage(format!("--server {server}: {error}"));
        let endpoint = Endpoint::from_shared(server.clone()).map_err(|error| wrong(&error))?;
        let is_tls = match endpoint.uri().scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(wrong(&"must begin with http:// or https://")),
        };
        if has_tls_files && !is_tls {
            return Err(wrong(&"must begin with https://, since --ca or --cert is given"));
        }
        let endpoint = endpoint
            .connect_timeout(settings.timeout)
            .http2_keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .user_agent(concat!("unibus/", env!("CARGO_PKG_VERSION")))
            .map_err(|error| wrong(&error))?;
        let endpoint = if is_tls {
            endpoint
                .tls_config(tls(&settings)?)
                .map_err(|error| Failure::usage(format!("--ca, --cert or --key: {}", innermost(&error))))?
        } else {
            endpoint
        };
        let bearer = Bearer(Arc::new(settings.token));
        bearer.header()?;
        Ok(Self { endpoint, bearer, server, timeout: settings.timeout })
    }

    /// The time limit of a call.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The URL of the service.
    pub(crate) fn server(&self) -> &str {
        &self.server
    }

    /// Whether a token goes to another machine over a connection that anyone on the way can read.
    pub(super) fn exposes_token(&self) -> bool {
        let uri = self.endpoint.uri();
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let is_loopback = host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
        *self.bearer.0 != TokenFrom::Nowhere && uri.scheme_str() == Some("http") && !is_loopback
    }

    /// Whether the token comes from a file, which another program can replace.
    pub(crate) fn has_token_file(&self) -> bool {
        matches!(*self.bearer.0, TokenFrom::File(_))
    }

    /// Opens a new connection.
    pub(crate) async fn connect(&self) -> CliResult<RoomClient> {
        Ok(client_of(self.channel().await?))
    }

    /// Opens a new connection, for calls of any kind.
    pub(crate) async fn channel(&self) -> CliResult<CallChannel> {
        let channel = time::timeout(self.timeout, self.endpoint.connect())
            .await
            .map_err(|_| self.unreachable("no answer within --timeout"))?;
        let channel = channel.map_err(|error| self.unreachable(&innermost(&error)))?;
        Ok(InterceptedService::new(channel, self.bearer.clone()))
    }

    fn unreachable(&self, cause: &str) -> Failure {
        let hint = if cause.contains("certificate") {
            "Give the authority of the service's certificate with --ca, and a client certificate with --cert and --key \
             if the service asks for one."
        } else if cause.contains("corrupt message") {
            "The service seems to have no TLS: its URL begins with http://."
        } else {
            "Is the service running? `unibus serve` starts one; --server or a profile names another one."
        };
        Failure::new(Exit::Unreachable, format!("cannot connect to {}: {cause}", self.server)).hint(hint)
    }
}

/// A client that uses this connection.
pub(crate) fn client_of(channel: CallChannel) -> RoomClient {
    RoomServiceClient::new(channel).max_decoding_message_size(RESPONSE_BYTES_MAX)
}

/// The last cause of an error, which is the most precise one.
pub(super) fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// The URL of the service. An address without a scheme is one without TLS, unless files of TLS are given.
fn with_scheme(server: &str, has_tls_files: bool) -> String {
    if server.contains("://") {
        return server.to_owned();
    }
    let scheme = if has_tls_files { "https" } else { "http" };
    format!("{scheme}://{server}")
}

fn tls(settings: &Connecting) -> CliResult<ClientTlsConfig> {
    let tls = ClientTlsConfig::new();
    let tls = match &settings.ca {
        Some(file) => tls.ca_certificate(Certificate::from_pem(read(file, "--ca")?)),
        None => tls.with_native_roots(),
    };
    Ok(match &settings.identity {
        Some((cert, key)) => tls.identity(Identity::from_pem(read(cert, "--cert")?, read(key, "--key")?)),
        None => tls,
    })
}

fn read(file: &Path, flag: &str) -> CliResult<Vec<u8>> {
    fs::read(file).map_err(|error| Failure::usage(format!("{flag} {}: {error}", file.display())))
}

/// Adds the token of the caller to each call.
#[derive(Clone, Debug)]
pub(crate) struct Bearer(Arc<TokenFrom>);

impl Bearer {
    fn header(&self) -> CliResult<Option<AsciiMetadataValue>> {
        let token = match &*self.0 {
            TokenFrom::Nowhere => return Ok(None),
            TokenFrom::Text(token) => token.clone(),
            TokenFrom::File(file) => fs::read_to_string(file)
                .map_err(|error| Failure::usage(format!("--token-file {}: {error}", file.display())))?,
        };
        let header = format!("Bearer {}", token.trim()).parse();
        header.map(Some).map_err(|_| Failure::usage("the token has characters that no token has"))
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let header = self.header().map_err(|failure| Status::failed_precondition(failure.summary()))?;
        if let Some(header) = header {
            request.metadata_mut().insert("authorization", header);
        }
        Ok(request)
    }
}
