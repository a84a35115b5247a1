//! Clients that speak TLS, and what they see of it.

use std::{fs, io, net::SocketAddr, path::Path, sync::Arc};

use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore, SupportedProtocolVersion,
        crypto::ring,
        pki_types::{CertificateDer, pem::PemObject},
        version::{TLS12, TLS13},
    },
};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use super::{Client, certificates::Certified, unibus::over};

/// The endpoint of a service whose certificate is of this authority, for a client that shows this certificate.
pub(crate) fn tls_endpoint(address: SocketAddr, authority: &Path, shown: Option<&Certified>) -> Endpoint {
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(fs::read(authority).expect("a file")));
    if let Some(shown) = shown {
        let read = |path| fs::read(path).expect("a file");
        tls = tls.identity(Identity::from_pem(read(&shown.certificate), read(&shown.key)));
    }
    let endpoint = Endpoint::from_shared(format!("https://{address}")).expect("an endpoint");
    endpoint.tls_config(tls).expect("a configuration")
}

/// A client that may not be let in: with TLS 1.3 it learns so only when it reads.
pub(crate) async fn try_tls_client(
    address: SocketAddr,
    authority: &Path,
    shown: Option<&Certified>,
) -> Result<Client, tonic::transport::Error> {
    let channel: Channel = tls_endpoint(address, authority, shown).connect().await?;
    Ok(over(channel))
}

/// A client that shows no certificate.
pub(crate) async fn tls_client(address: SocketAddr, authority: &Path) -> Client {
    try_tls_client(address, authority, None).await.expect("a connection")
}

/// A connection below HTTP.
pub(crate) struct TlsSocket {
    address: SocketAddr,
    config: ClientConfig,
}

impl TlsSocket {
    /// For the service at this address, whose certificate is of this authority.
    pub(crate) fn new(address: SocketAddr, authority: &Path) -> Self {
        Self::with_versions(address, authority, &[&TLS12, &TLS13])
    }

    /// With TLS 1.2 alone.
    pub(crate) fn tls12(address: SocketAddr, authority: &Path) -> Self {
        Self::with_versions(address, authority, &[&TLS12])
    }

    /// With TLS 1.3 alone.
    pub(crate) fn tls13(address: SocketAddr, authority: &Path) -> Self {
        Self::with_versions(address, authority, &[&TLS13])
    }

    fn with_versions(address: SocketAddr, authority: &Path, versions: &[&'static SupportedProtocolVersion]) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(authority).expect("a certificate")).expect("an authority");
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_protocol_versions(versions).expect("versions");
        let config = config.with_root_certificates(roots).with_no_client_auth();
        Self { address, config }
    }

    /// Offers these protocols inside.
    pub(crate) fn alpn(mut self, protocols: &[&str]) -> Self {
        self.config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        self
    }

    /// Makes the handshake.
    pub(crate) async fn connect(self) -> io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await?;
        let name = self.address.ip().into();
        TlsConnector::from(Arc::new(self.config)).connect(name, stream).await
    }
}

/// The certificate that the service shows to a new connection.
pub(crate) async fn shown_certificate(address: SocketAddr, authority: &Path) -> Result<Vec<u8>, String> {
    let stream = TlsSocket::new(address, authority).connect().await.map_err(|error| error.to_string())?;
    let (_, session) = stream.get_ref();
    let certificate = session.peer_certificates().and_then(<[_]>::first).ok_or("no certificate")?;
    Ok(certificate.to_vec())
}

/// The certificate of a file as it is shown.
pub(crate) fn certificate_in(file: &Path) -> Vec<u8> {
    CertificateDer::from_pem_file(file).expect("a certificate").to_vec()
}
