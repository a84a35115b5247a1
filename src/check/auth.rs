//! Who may call: the authentication, and the keys for tokens.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Finding, of_error};
use crate::{
    auth::{Auth, AuthMode},
    metrics::AuthMetrics,
    server::config::Config,
};

/// The mode bits of a file that give rights to all users of the machine.
const ALL_USERS: u32 = 0o007;

pub(super) async fn check(config: &Config) -> Vec<Finding> {
    let mut findings = authentication(config).await;
    findings.extend(secrets(config));
    findings
}

async fn authentication(config: &Config) -> Vec<Finding> {
    let has_certificates = config.tls.client_ca.is_some();
    // nobody reads what a check counts
    let metrics = Arc::new(AuthMetrics::new());
    if let Err(error) = Auth::open(&config.auth, config.listen, has_certificates, &metrics).await {
        return of_error("--auth", &error);
    }
    let is_local = config.listen.ip().to_canonical().is_loopback();
    vec![match config.auth.mode {
        AuthMode::Enforce => Finding::ok("--auth", "callers must authenticate, and the keys for tokens can be used"),
        AuthMode::Off if is_local => Finding::ok("--auth", "off: every program on this machine may do everything"),
        AuthMode::Off => Finding::warn(
            "--auth",
            "off: everybody who reaches --listen may do everything",
            "set --auth enforce with keys for tokens; docs/security.md says how",
        ),
    }]
}

/// Warns of secrets that every user of the machine can use.
fn secrets(config: &Config) -> impl Iterator<Item = Finding> {
    let files: [(&str, Option<&PathBuf>); 4] = [
        ("--tls-key", config.tls.key.as_ref()),
        ("--nats-credentials", config.nats.credentials.as_ref()),
        ("--nats-nkey-file", config.nats.nkey_file.as_ref()),
        ("--nats-tls-key", config.nats.tls_key.as_ref()),
    ];
    let exposed = |path: &Path| std::fs::metadata(path).is_ok_and(|file| file.mode() & ALL_USERS != 0);
    files.into_iter().filter_map(move |(flag, path)| {
        let path = path.filter(|path| exposed(path))?;
        let found = format!("every user of this machine can use the secret in {}", path.display());
        Some(Finding::warn(flag, found, format!("run chmod o= {}", path.display())))
    })
}
