//! A private certificate authority and what it has signed, as PEM files.

use std::{fs, path::PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

/// One certificate authority in a directory of its own, which goes with it.
pub(crate) struct Certificates {
    dir: TempDir,
    authority: Issuer<'static, KeyPair>,
}

/// A certificate and its key.
pub(crate) struct Certified {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Certificates {
    /// A new authority, which nobody trusts yet.
    pub(crate) fn new() -> Self {
        let dir = TempDir::new().expect("a temporary directory");
        let key = KeyPair::generate().expect("a key");
        let mut params = named("test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("a certificate");
        fs::write(dir.path().join("ca.pem"), certificate.pem()).expect("a file");
        Self { dir, authority: Issuer::new(params, key) }
    }

    /// The authority's own certificate.
    pub(crate) fn authority(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// A certificate for a server on 127.0.0.1.
    pub(crate) fn server(&self) -> Certified {
        let mut params = named("server");
        params.subject_alt_names = vec![rcgen::SanType::IpAddress([127, 0, 0, 1].into())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign("server", &params)
    }

    /// A certificate for a client.
    pub(crate) fn client(&self) -> Certified {
        let mut params = named("client");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign("client", &params)
    }

    /// A certificate for a client that ended long ago.
    pub(crate) fn expired_client(&self) -> Certified {
        let mut params = named("expired");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        self.sign("expired", &params)
    }

    fn sign(&self, name: &str, params: &CertificateParams) -> Certified {
        let key_pair = KeyPair::generate().expect("a key");
        let signed = params.signed_by(&key_pair, &self.authority).expect("a certificate");
        let file = |kind: &str| self.dir.path().join(format!("{name}-{kind}.pem"));
        let (certificate, key) = (file("certificate"), file("key"));
        fs::write(&certificate, signed.pem()).expect("a file");
        fs::write(&key, key_pair.serialize_pem()).expect("a file");
        Certified { certificate, key }
    }
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}
