//! Reads the PEM files of TLS and makes the configuration of handshakes from them.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::{Args, ValueEnum};
use tokio_rustls::rustls::{
    self, RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject},
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
};

use super::certificate;
use crate::error::{Error, Result};

/// The application protocols that the service offers, in its order of preference.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// The TLS of the main port.
#[derive(Clone, Debug, Args)]
pub struct TlsConfig {
    /// PEM file with the service's certificate chain; the service then accepts only TLS connections. A changed file
    /// is read again
    #[arg(long = "tls-certificate", env = "UNIBUS_TLS_CERTIFICATE", value_name = "FILE", requires = "key")]
    pub certificate: Option<PathBuf>,

    /// PEM file with the private key of `--tls-certificate`
    #[arg(long = "tls-key", env = "UNIBUS_TLS_KEY", value_name = "FILE", requires = "certificate")]
    pub key: Option<PathBuf>,

    /// PEM file with the authorities that sign client certificates; the service then asks clients for a certificate
    #[arg(long = "tls-client-ca", env = "UNIBUS_TLS_CLIENT_CA", value_name = "FILE", requires = "certificate")]
    pub client_ca: Option<PathBuf>,

    /// Whether a client must present a certificate if `--tls-client-ca` is set; an invalid certificate is always
    /// refused
    #[arg(long = "tls-client-auth", env = "UNIBUS_TLS_CLIENT_AUTH", value_name = "MODE", value_enum, default_value_t = ClientAuth::Required)]
    pub client_auth: ClientAuth,
}

/// Whether clients must present a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ClientAuth {
    /// A connection without a client certificate is refused.
    Required,
    /// A client may present a certificate.
    Optional,
}

impl Default for TlsConfig {
    fn default() -> Self {
        Self { certificate: None, key: None, client_ca: None, client_auth: ClientAuth::Required }
    }
}

/// The paths of the TLS files. The certificate and the key are required.
#[derive(Debug)]
pub(super) struct TlsFiles {
    certificate: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
    client_auth: ClientAuth,
}

impl TlsFiles {
    /// The files that the configuration names; `None` without TLS.
    ///
    /// # Errors
    /// `INVALID_FIELD` when the certificate or the key is missing.
    pub(super) fn of(config: TlsConfig) -> Result<Option<Self>> {
        let TlsConfig { certificate, key, client_ca, client_auth } = config;
        let missing = |field, problem| Err(Error::field(field, problem));
        match (certificate, key) {
            (Some(certificate), Some(key)) => Ok(Some(Self { certificate, key, client_ca, client_auth })),
            (Some(_), None) => missing("tls_key", "is missing; set it together with tls_certificate"),
            (None, Some(_)) => missing("tls_certificate", "is missing; set it together with tls_key"),
            (None, None) if client_ca.is_some() => {
                missing("tls_certificate", "is missing; tls_client_ca needs tls_certificate and tls_key")
            }
            (None, None) => Ok(None),
        }
    }
}

/// The configuration in use: for new handshakes, and to verify the certificates of connected clients again.
#[derive(Debug)]
pub(super) struct TlsInUse {
    pub config: Arc<ServerConfig>,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
}

impl TlsInUse {
    /// Whether the verifier still accepts a client with this chain, the client's own certificate first.
    pub(super) fn verifies(&self, shown: &[CertificateDer<'_>]) -> bool {
        match (&self.verifier, shown) {
            (Some(verifier), [own, others @ ..]) => verifier.verify_client_cert(own, others, UnixTime::now()).is_ok(),
            (None, _) | (Some(_), []) => true,
        }
    }
}

/// The contents of the files at one time.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Contents {
    pub certificate: Vec<u8>,
    pub key: Vec<u8>,
    pub client_ca: Option<Vec<u8>>,
}

// written by hand, so that no log contains the key
impl std::fmt::Debug for Contents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contents").finish_non_exhaustive()
    }
}

impl Contents {
    /// The time at which the service's certificate expires, formatted for the log.
    pub(super) fn certificate_ends(&self) -> Option<String> {
        let own = CertificateDer::pem_slice_iter(&self.certificate).next()?.ok()?;
        certificate::expires_at(&own).map(|end| humantime::format_rfc3339_seconds(end).to_string())
    }
}

impl TlsFiles {
    pub(super) async fn read(&self) -> Result<Contents> {
        Ok(Contents {
            certificate: read("tls_certificate", &self.certificate).await?,
            key: read("tls_key", &self.key).await?,
            client_ca: match &self.client_ca {
                Some(path) => Some(read("tls_client_ca", path).await?),
                None => None,
            },
        })
    }

    /// Makes the configuration from `contents`.
    pub(super) fn in_use(&self, contents: &Contents) -> Result<TlsInUse> {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(rustls::ALL_VERSIONS)
            .map_err(|error| Error::internal().because(error))?;
        let mut client_verifier = None;
        let builder = match &contents.client_ca {
            None => builder.with_no_client_auth(),
            Some(pem) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities(pem)?), provider);
                let verifier = match self.client_auth {
                    ClientAuth::Required => verifier,
                    ClientAuth::Optional => verifier.allow_unauthenticated(),
                };
                let verifier = verifier.build().map_err(|error| {
                    Error::field("tls_client_ca", format!("the authorities cannot be used: {error}")).because(error)
                })?;
                client_verifier = Some(Arc::clone(&verifier));
                builder.with_client_cert_verifier(verifier)
            }
        };
        let chain = certificates("tls_certificate", &contents.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&contents.key).map_err(|error| {
            Error::field("tls_key", "the file holds no private key in PEM; give a BEGIN PRIVATE KEY block")
                .because(error)
        })?;
        let mut config = builder.with_single_cert(chain, key).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                Error::field("tls_key", "the key does not belong to the certificate").because(error)
            }
            error => Error::field("tls_certificate", format!("the certificate or its key cannot be used: {error}"))
                .because(error),
        })?;
        config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
        if contents.client_ca.is_some() {
            // a resumed session would accept a client whose certificate has expired since
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        Ok(TlsInUse { config: Arc::new(config), verifier: client_verifier })
    }
}

pub(super) async fn read(field: &str, path: &Path) -> Result<Vec<u8>> {
    tokio::fs::read(path).await.map_err(|error| {
        Error::field(field, format!("the file {} cannot be read: {error}", path.display())).because(error)
    })
}

/// All certificates of a PEM file; at least one.
pub(super) fn certificates(field: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(Error::field(field, "the file holds no certificate in PEM; give a BEGIN CERTIFICATE block")),
        Err(error) => Err(Error::field(field, "the file is not valid PEM").because(error)),
    }
}

fn authorities(pem: &[u8]) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for authority in certificates("tls_client_ca", pem)? {
        roots.add(authority).map_err(|error| {
            Error::field("tls_client_ca", "the file holds a certificate that is not the certificate of an authority")
                .because(error)
        })?;
    }
    Ok(roots)
}
