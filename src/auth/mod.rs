//! Authentication: verifies bearer tokens, and uses the client certificates that the TLS layer has verified. Refuses
//! to know tonic, and what a caller may do.

mod claims;
mod crypto;
mod fetch;
pub(crate) mod issue;
mod jwks;
mod keyring;
mod keys;
mod pem;
mod refused;
mod sources;
mod strict;
#[cfg(test)]
mod tests;
mod token;

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use ::http::{HeaderMap, header::AUTHORIZATION};
use clap::{Args, ValueEnum};
use tracing::{debug, warn};

pub(crate) use self::sources::Sources;
use self::{claims::ClaimRules, keyring::Keyring, refused::Refused};
use crate::{
    domain::{Caller, ClientCertificate, Identity, MemberId},
    error::{Error, Reason, Result, Violations},
    flags,
    limits::AUTH_LEEWAY_MAX,
    metrics::{AuthMetrics, CredentialsResult},
};

/// How callers are authenticated.
#[derive(Clone, Debug, Args)]
pub struct AuthConfig {
    /// Whether callers must authenticate: with `off` every caller may do everything, with `enforce` every call needs
    /// a token or a client certificate
    #[arg(long = "auth", env = "UNIBUS_AUTH", value_name = "MODE", value_enum, default_value_t = AuthMode::Off)]
    pub mode: AuthMode,

    /// PEM files with the public keys that verify tokens: Ed25519, ECDSA on P-256, or RSA
    #[arg(long = "auth-keys", env = "UNIBUS_AUTH_KEYS", value_name = "FILES", value_delimiter = ',')]
    pub keys: Vec<PathBuf>,

    /// Key set (JWKS) with the public keys that verify tokens: a file or a URL; a URL must be https, or http on this
    /// machine
    #[arg(long = "auth-jwks", env = "UNIBUS_AUTH_JWKS", value_name = "FILE|URL")]
    pub jwks: Option<String>,

    /// How often the key set at a URL is fetched
    #[arg(long = "auth-jwks-refresh", env = "UNIBUS_AUTH_JWKS_REFRESH", value_name = "DURATION", default_value = "5m", value_parser = flags::positive_duration)]
    pub jwks_refresh: Duration,

    /// How long keys stay valid after their file or URL can no longer be read
    #[arg(long = "auth-keys-max-age", env = "UNIBUS_AUTH_KEYS_MAX_AGE", value_name = "DURATION", default_value = "1h", value_parser = flags::positive_duration)]
    pub keys_max_age: Duration,

    /// The only accepted issuer (`iss`) of tokens; unset: every issuer that signs with one of the keys
    #[arg(long = "auth-issuer", env = "UNIBUS_AUTH_ISSUER", value_name = "NAME")]
    pub issuer: Option<String>,

    /// The required audience (`aud`) of tokens; unset: tokens with an audience are refused
    #[arg(long = "auth-audience", env = "UNIBUS_AUTH_AUDIENCE", value_name = "NAME")]
    pub audience: Option<String>,

    /// Allowed difference of clocks: a token is valid from this time before `nbf` until this time after `exp`; at
    /// most 5m
    #[arg(long = "auth-leeway", env = "UNIBUS_AUTH_LEEWAY", value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
    pub leeway: Duration,

    /// Ids of the administrators, who may do everything in every room
    #[arg(long = "auth-admins", env = "UNIBUS_AUTH_ADMINS", value_name = "IDS", value_delimiter = ',')]
    pub admins: Vec<String>,

    /// Claim that makes the holder of a token an administrator. `NAME`: the claim must be true. `NAME=VALUE`: the
    /// claim must be VALUE, or a list that contains VALUE
    #[arg(long = "auth-admin-claim", env = "UNIBUS_AUTH_ADMIN_CLAIM", value_name = "NAME[=VALUE]")]
    pub admin_claim: Option<String>,

    /// Allow `--auth off` on an address that other machines can reach
    #[arg(long = "auth-insecure", env = "UNIBUS_AUTH_INSECURE")]
    pub insecure: bool,
}

/// Whether callers must authenticate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AuthMode {
    /// Every caller may do everything. For development.
    Off,
    /// Every call except health and reflection needs a token or a client certificate.
    Enforce,
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self {
            mode: AuthMode::Off,
            keys: Vec::new(),
            jwks: None,
            jwks_refresh: Duration::from_secs(300),
            keys_max_age: Duration::from_secs(3600),
            issuer: None,
            audience: None,
            leeway: Duration::from_secs(30),
            admins: Vec::new(),
            admin_claim: None,
            insecure: false,
        }
    }
}

impl AuthConfig {
    /// Adds the fields with values that their flags refuse to `wrong`.
    pub(crate) fn check(&self, wrong: &mut Violations) {
        flags::check_positive("auth_jwks_refresh", self.jwks_refresh, wrong);
        flags::check_positive("auth_keys_max_age", self.keys_max_age, wrong);
    }
}

/// Identifies the caller of a call.
#[derive(Clone, Debug)]
pub(crate) struct Auth {
    /// `None`: authorisation is off.
    enforced: Option<Arc<Enforced>>,
}

#[derive(Debug)]
struct Enforced {
    keys: Arc<Keyring>,
    metrics: Arc<AuthMetrics>,
}

impl Auth {
    /// Returns the authentication that `config` describes, and the sources of its keys, if it has any. The keys do not
    /// change until [`Sources::keep_fresh`] runs. Without authentication no caller is identified; on an address that
    /// other machines can reach this requires `insecure`. With `has_certificates` client certificates identify callers
    /// too, so that keys are not required.
    ///
    /// # Errors
    /// `INVALID_FIELD` if a key cannot be read or cannot verify tokens, if there is no key, or if authentication is off
    /// on an address that other machines can reach.
    pub(crate) async fn open(
        config: &AuthConfig,
        listen: SocketAddr,
        has_certificates: bool,
        metrics: &Arc<AuthMetrics>,
    ) -> Result<(Self, Option<Sources>)> {
        match config.mode {
            AuthMode::Enforce => {
                let (auth, sources) = Self::enforce(config, has_certificates, metrics).await?;
                Ok((auth, Some(sources)))
            }
            AuthMode::Off => Ok((Self::off(config, listen)?, None)),
        }
    }

    fn off(config: &AuthConfig, listen: SocketAddr) -> Result<Self> {
        let is_local = listen.ip().to_canonical().is_loopback();
        if !is_local && !config.insecure {
            return Err(Error::field(
                "auth",
                "is off, and other machines can reach --listen, so everybody could do everything; \
                 set --auth enforce, or --auth-insecure if that is intended",
            ));
        }
        warn!(is_local, "authentication is off: every client that reaches --listen may do everything");
        Ok(Self { enforced: None })
    }

    async fn enforce(
        config: &AuthConfig,
        has_certificates: bool,
        metrics: &Arc<AuthMetrics>,
    ) -> Result<(Self, Sources)> {
        crypto::install();
        let mut wrong = Violations::default();
        let rules = rules(config, &mut wrong);
        let sources = Sources::open(config, rules, has_certificates, metrics, &mut wrong).await;
        wrong.finish()?;
        let enforced = Enforced { keys: sources.keyring(), metrics: Arc::clone(metrics) };
        Ok((Self { enforced: Some(Arc::new(enforced)) }, sources))
    }

    /// Whether callers must authenticate.
    pub(crate) fn mode(&self) -> AuthMode {
        if self.enforced.is_some() { AuthMode::Enforce } else { AuthMode::Off }
    }

    /// Replaces the rules for claims and the administrators by those of `config`. They apply to the next call of every
    /// caller; an open call keeps the rights with which it began.
    ///
    /// # Errors
    /// `INVALID_FIELD` if a rule is wrong. The earlier rules then stay.
    pub(crate) fn set_rules(&self, config: &AuthConfig) -> Result<()> {
        let mut wrong = Violations::default();
        let rules = rules(config, &mut wrong);
        wrong.finish()?;
        if let Some(enforced) = &self.enforced {
            enforced.keys.replace_rules(rules);
        }
        Ok(())
    }

    /// Returns the caller that sends these headers over a connection with this client certificate. A token takes
    /// precedence over a certificate, and an invalid token is never ignored.
    ///
    /// # Errors
    /// `UNAUTHENTICATED`, without the cause; `CREDENTIALS_EXPIRED` for credentials that were valid earlier.
    pub(crate) fn identify(&self, headers: &HeaderMap, certificate: Option<&ClientCertificate>) -> Result<Caller> {
        let Some(enforced) = &self.enforced else { return Ok(Caller::Anyone) };
        let now = SystemTime::now();
        let identity = match bearer(headers) {
            Ok(Some(token)) => enforced.keys.verified(token, now),
            Ok(None) => certificate.ok_or(Refused::Nothing).and_then(|certificate| enforced.holder(certificate, now)),
            Err(refused) => Err(refused),
        };
        let identity = identity.and_then(|identity| match identity.expires_at {
            Some(end) if end <= now => Err(Refused::Expired),
            _ => Ok(identity),
        });
        identity.map(Caller::Known).map_err(|cause| {
            let is_expired = cause == Refused::Expired;
            let result = if is_expired { CredentialsResult::Expired } else { CredentialsResult::Refused };
            enforced.metrics.credentials.inc(result);
            refusal(cause)
        })
    }
}

impl Enforced {
    fn holder(&self, certificate: &ClientCertificate, now: SystemTime) -> Result<Arc<Identity>, Refused> {
        let id = MemberId::parse("sub", certificate.id.as_str()).map_err(|_| Refused::Subject)?;
        let administrator = self.keys.is_administrator(&id);
        if certificate.expires_at > now {
            self.metrics.credentials.inc(CredentialsResult::Certificate);
        }
        Ok(Arc::new(Identity { id, administrator, expires_at: Some(certificate.expires_at) }))
    }
}

/// The rules for claims. Invalid settings are added to `wrong`.
fn rules(config: &AuthConfig, wrong: &mut Violations) -> ClaimRules {
    if config.leeway > AUTH_LEEWAY_MAX {
        wrong.add("auth_leeway", format!("must be at most {}s", AUTH_LEEWAY_MAX.as_secs()));
    }
    ClaimRules::new(config, wrong)
}

/// Returns the bearer token (RFC 6750, 2.1). Only one header may hold it.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Refused> {
    let mut given = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = given.next() else { return Ok(None) };
    if given.next().is_some() {
        return Err(Refused::Header);
    }
    let (scheme, token) = value.to_str().ok().and_then(|value| value.split_once(' ')).ok_or(Refused::Header)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(Some(token)) } else { Err(Refused::Header) }
}

/// Returns the error for the caller, which does not tell the cause. The log gets the cause, but never the token.
fn refusal(cause: Refused) -> Error {
    debug!(%cause, "a caller was refused");
    match cause {
        Refused::Expired => Error::new(
            Reason::CredentialsExpired,
            "the token or client certificate has expired; call again with a new one",
        ),
        _ => Error::new(
            Reason::Unauthenticated,
            "the call needs a valid token in the header `authorization: Bearer ...`, or a valid client certificate",
        ),
    }
}
