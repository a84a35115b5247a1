//! Checks PEM files without serving. For `unibus check`.

use std::path::Path;

use tokio_rustls::rustls::{
    crypto::ring,
    pki_types::{PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};

pub(crate) use super::certificate::CertificateDates;
use super::{
    certificate,
    files::{self, TlsConfig, TlsFiles},
};
use crate::error::{Error, Result};

/// The certificates of one file, and the field of the configuration that names the file.
pub(crate) type CertificateFile = (&'static str, Vec<CertificateDates>);

/// Reads the files of the main port, and checks that they can be used together.
///
/// # Errors
/// `INVALID_FIELD`, as for a start of the service.
pub(crate) async fn main_port(config: TlsConfig) -> Result<Vec<CertificateFile>> {
    let Some(files) = TlsFiles::of(config)? else { return Ok(Vec::new()) };
    let contents = files.read().await?;
    files.in_use(&contents)?;
    let mut found = vec![("tls_certificate", dates("tls_certificate", &contents.certificate)?)];
    if let Some(authorities) = &contents.client_ca {
        found.push(("tls_client_ca", dates("tls_client_ca", authorities)?));
    }
    Ok(found)
}

/// Reads a file of certificates.
///
/// # Errors
/// `INVALID_FIELD` if the file cannot be read, or holds no certificate.
pub(crate) async fn certificates(field: &'static str, path: &Path) -> Result<CertificateFile> {
    let pem = files::read(field, path).await?;
    Ok((field, dates(field, &pem)?))
}

/// Checks that a key belongs to a certificate.
///
/// # Errors
/// `INVALID_FIELD`.
pub(crate) async fn pair(certificate: (&str, &Path), key: (&str, &Path)) -> Result<()> {
    let chain = files::certificates(certificate.0, &files::read(certificate.0, certificate.1).await?)?;
    let pem = files::read(key.0, key.1).await?;
    let no_key = "the file holds no private key in PEM; give a BEGIN PRIVATE KEY block";
    let private = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| Error::field(key.0, no_key).because(error))?;
    CertifiedKey::from_der(chain, private, &ring::default_provider()).map(drop).map_err(|error| {
        Error::field(key.0, format!("the key does not belong to the certificate, or cannot be used: {error}"))
            .because(error)
    })
}

fn dates(field: &str, pem: &[u8]) -> Result<Vec<CertificateDates>> {
    let unknown = || Error::field(field, "the file holds a certificate that cannot be parsed");
    files::certificates(field, pem)?.iter().map(|der| certificate::dates(der).ok_or_else(unknown)).collect()
}
