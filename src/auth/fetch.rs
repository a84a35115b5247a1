//! Reads key documents from the places that the operator chose, within bounds of size and time.

use std::{net::IpAddr, path::Path, sync::Arc};

use ::http::{StatusCode, Uri, uri::Scheme};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::{fs::File, io::AsyncReadExt, time::timeout};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

use crate::limits::{AUTH_KEYS_BYTES_MAX, JWKS_TIMEOUT};

/// A URL of a key set.
#[derive(Debug)]
pub(super) struct KeySetUrl {
    url: Uri,
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
}

impl KeySetUrl {
    /// Whether the text is a URL and not the path of a file.
    pub(super) fn is_url(given: &str) -> bool {
        given.contains("://")
    }

    /// Checks a URL. Plain http is only allowed for this machine, since a machine in between could replace the keys.
    pub(super) fn new(given: &str) -> Result<Self, String> {
        let url: Uri = given.parse().map_err(|_| "not a URL".to_owned())?;
        let is_encrypted = url.scheme() == Some(&Scheme::HTTPS);
        let is_near = url.scheme() == Some(&Scheme::HTTP) && url.host().is_some_and(is_this_machine);
        if !is_encrypted && !is_near {
            return Err("must begin with https://; http:// is only allowed for a host on this machine".to_owned());
        }
        if url.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err("must not contain a user name or password".to_owned());
        }
        let mut trusted = RootCertStore::empty();
        trusted.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(trusted)
            .with_no_client_auth();
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
        Ok(Self { url, client: Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector) })
    }

    /// Fetches the document. A redirect is not followed.
    pub(super) async fn read(&self) -> Result<Vec<u8>, String> {
        let read = async {
            let response = self.client.get(self.url.clone()).await.map_err(|error| innermost(&error))?;
            if response.status() != StatusCode::OK {
                return Err(format!("the server answered with the HTTP status {}", response.status().as_u16()));
            }
            let body = Limited::new(response.into_body(), AUTH_KEYS_BYTES_MAX).collect().await;
            Ok(body.map_err(|error| innermost(&*error))?.to_bytes().to_vec())
        };
        timeout(JWKS_TIMEOUT, read).await.map_err(|_| "the server did not send the whole key set in time".to_owned())?
    }
}

fn is_this_machine(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.to_canonical().is_loopback())
}

/// Returns the innermost error, without the URL that was tried.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// Reads a file.
pub(super) async fn file(path: &Path) -> Result<Vec<u8>, String> {
    let problem = |error: std::io::Error| error.to_string();
    let mut document = Vec::new();
    let bound = AUTH_KEYS_BYTES_MAX as u64 + 1;
    File::open(path).await.map_err(problem)?.take(bound).read_to_end(&mut document).await.map_err(problem)?;
    if document.len() > AUTH_KEYS_BYTES_MAX {
        return Err(format!("has more than {AUTH_KEYS_BYTES_MAX} bytes"));
    }
    Ok(document)
}
