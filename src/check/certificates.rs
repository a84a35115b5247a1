//! The certificates of the main port and those for NATS: they can be used, and how long they are valid.

use std::time::{Duration, SystemTime};

use super::{Finding, of_error};
use crate::{
    error::Result,
    server::{
        config::Config,
        tls::inspect::{self, CertificateDates, CertificateFile},
    },
};

/// A certificate that ends within this time is reported.
const ENDS_SOON: Duration = Duration::from_secs(14 * 24 * 60 * 60);

pub(super) async fn check(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    match inspect::main_port(config.tls.clone()).await {
        Ok(files) => findings.extend(files.iter().flat_map(of_file)),
        Err(error) => findings.extend(of_error("--tls-certificate", &error)),
    }
    for checked in for_nats(config).await {
        match checked {
            Ok(file) => findings.extend(of_file(&file)),
            Err(error) => findings.extend(of_error("--nats-tls-certificate", &error)),
        }
    }
    findings
}

async fn for_nats(config: &Config) -> Vec<Result<CertificateFile>> {
    let mut checked = Vec::new();
    if let Some(path) = &config.nats.tls_ca {
        checked.push(inspect::certificates("nats_tls_ca", path).await);
    }
    if let (Some(certificate), Some(key)) = (&config.nats.tls_certificate, &config.nats.tls_key) {
        let pair = inspect::pair(("nats_tls_certificate", certificate), ("nats_tls_key", key)).await;
        checked.push(match pair {
            Ok(()) => inspect::certificates("nats_tls_certificate", certificate).await,
            Err(error) => Err(error),
        });
    }
    checked
}

/// What the dates of the certificates in one file say. One finding if all are valid for long.
fn of_file((field, certificates): &CertificateFile) -> Vec<Finding> {
    let flag = format!("--{}", field.replace('_', "-"));
    let now = SystemTime::now();
    let wrong: Vec<_> = certificates.iter().filter_map(|dates| of_dates(&flag, dates, now)).collect();
    if !wrong.is_empty() {
        return wrong;
    }
    let ends = certificates.iter().map(|dates| dates.ends).min().map(written).unwrap_or_default();
    vec![Finding::ok(&flag, format!("can be used, and is valid until {ends}"))]
}

fn of_dates(
    flag: &str,
    CertificateDates { subject, begins, ends }: &CertificateDates,
    now: SystemTime,
) -> Option<Finding> {
    let replace =
        "replace the file with a new certificate; the service reads the TLS files of --listen again by itself";
    if *ends <= now {
        return Some(Finding::fail(flag, format!("the certificate `{subject}` expired {}", written(*ends)), replace));
    }
    if *begins > now {
        let found = format!("the certificate `{subject}` is not valid before {}", written(*begins));
        return Some(Finding::fail(flag, found, "check the clock of this machine, or replace the file"));
    }
    (ends.duration_since(now).is_ok_and(|left| left < ENDS_SOON))
        .then(|| Finding::warn(flag, format!("the certificate `{subject}` expires {}", written(*ends)), replace))
}

fn written(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}
