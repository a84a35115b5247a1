//! Reads names and dates from a certificate. The handshake has already verified it.

use std::time::{Duration, SystemTime};

use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

use crate::domain::ClientCertificate;

/// The name and the end of a client's certificate; `None` when it has no name or cannot be parsed.
pub(super) fn read(der: &[u8]) -> Option<ClientCertificate> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    Some(ClientCertificate { id: name(&certificate)?, expires_at: end(&certificate)? })
}

/// The end of a certificate's validity.
pub(super) fn expires_at(der: &[u8]) -> Option<SystemTime> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    end(&certificate)
}

/// The first URI of the subject alternative names, else the first DNS name, else the common name.
fn name(certificate: &X509Certificate<'_>) -> Option<String> {
    let names = certificate.subject_alternative_name().ok()?;
    let names = names.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
    let uri = names.iter().find_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None });
    let dns = names.iter().find_map(|name| if let GeneralName::DNSName(dns) = name { Some(*dns) } else { None });
    let common = || certificate.subject().iter_common_name().next()?.as_str().ok();
    uri.or(dns).or_else(common).map(str::to_owned)
}

/// A certificate in a file, and when it is valid.
#[derive(Debug)]
pub(crate) struct CertificateDates {
    /// The distinguished name of its holder.
    pub subject: String,
    pub begins: SystemTime,
    pub ends: SystemTime,
}

/// When a certificate is valid. `None` if it cannot be parsed.
pub(super) fn dates(der: &[u8]) -> Option<CertificateDates> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let begins = u64::try_from(certificate.validity().not_before.timestamp()).unwrap_or_default();
    let begins = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(begins))?;
    Some(CertificateDates { subject: certificate.subject().to_string(), begins, ends: end(&certificate)? })
}

fn end(certificate: &X509Certificate<'_>) -> Option<SystemTime> {
    let seconds = u64::try_from(certificate.validity().not_after.timestamp()).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn signed(common: Option<&str>, names: &[SanType]) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        if let Some(common) = common {
            params.distinguished_name.push(DnType::CommonName, common);
        }
        params.subject_alt_names = names.to_vec();
        params.not_after = rcgen::date_time_ymd(2031, 2, 3);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn a_certificate_names_by_uri_then_dns_then_common_name() {
        let uri = |name: &str| SanType::URI(name.try_into().unwrap());
        let dns = |name: &str| SanType::DnsName(name.try_into().unwrap());
        let address = SanType::IpAddress([127, 0, 0, 1].into());
        for (common, names, expected) in [
            (Some("ann"), vec![dns("d.test"), uri("spiffe://t/one"), uri("spiffe://t/two")], Some("spiffe://t/one")),
            (Some("ann"), vec![address.clone(), dns("d.test"), dns("e.test")], Some("d.test")),
            (Some("ann"), vec![address.clone()], Some("ann")),
            (Some("ann"), vec![], Some("ann")),
            (None, vec![dns("d.test")], Some("d.test")),
            (None, vec![address], None),
        ] {
            let read = read(&signed(common, &names));
            assert_eq!(read.as_ref().map(|read| read.id.as_str()), expected, "{common:?} {names:?}");
        }
    }

    #[test]
    fn a_certificate_says_when_it_ends() {
        let end = humantime::parse_rfc3339("2031-02-03T00:00:00Z").unwrap();
        let der = signed(Some("ann"), &[]);
        assert_eq!(read(&der).unwrap().expires_at, end);
        assert_eq!(expires_at(&der), Some(end));
    }

    #[test]
    fn what_is_no_certificate_says_nothing() {
        let der = signed(Some("ann"), &[]);
        assert_eq!(read(der.get(..der.len() - 1).unwrap()), None);
        assert_eq!(read(b""), None);
    }
}
