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
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use ::http::{HeaderMap, header::AUTHORIZATION};
use tracing::debug;

pub(crate) use self::sources::Sources;
use self::{claims::ClaimRules, keyring::Keyring, refused::Refused};
use crate::{
    domain::{Caller, ClientCertificate, Identity, MemberId},
    error::{Error, Reason, Result, Violations},
    limits::AUTH_LEEWAY_MAX,
};

/// What is asked of callers' tokens.
#[derive(Clone, Debug, Default)]
pub(crate) struct TokenSettings {
    /// PEM files of public keys.
    pub keys: Vec<PathBuf>,
    /// File or URL of a key set.
    pub jwks: Option<String>,
    /// How often a key set at a URL is fetched.
    pub jwks_refresh: Duration,
    /// How long keys count that cannot be read again.
    pub keys_max_age: Duration,
    /// The only `iss`.
    pub issuer: Option<String>,
    /// The `aud` that must be among a token's.
    pub audience: Option<String>,
    /// Tolerated difference of clocks.
    pub leeway: Duration,
    /// Endpoint ids of administrators.
    pub admins: Vec<String>,
    /// `NAME` or `NAME=VALUE`.
    pub admin_claim: Option<String>,
    /// Client certificates say who calls, too: without keys for tokens they alone do.
    pub certificates: bool,
}

/// Identifies the caller of a call.
#[derive(Clone, Debug)]
pub(crate) struct Auth {
    /// `None`: authorisation is off.
    enforced: Option<Arc<Enforced>>,
}

#[derive(Debug)]
struct Enforced {
    rules: ClaimRules,
    keys: Arc<Keyring>,
}

impl Auth {
    /// Authorisation is off: no caller is identified.
    pub(crate) fn off() -> Self {
        Self { enforced: None }
    }

    /// Every caller is identified. The keys do not change until [`Sources::keep_fresh`] runs.
    ///
    /// # Errors
    /// `INVALID_FIELD` if a key cannot be read or cannot verify tokens, or if there is no key.
    pub(crate) async fn enforce(settings: &TokenSettings) -> Result<(Self, Sources)> {
        crypto::install();
        let mut wrong = Violations::default();
        if settings.leeway > AUTH_LEEWAY_MAX {
            wrong.add("auth_leeway", format!("must be at most {}s", AUTH_LEEWAY_MAX.as_secs()));
        }
        let rules = ClaimRules::new(settings, &mut wrong);
        let sources = Sources::open(settings, &mut wrong).await;
        wrong.finish()?;
        let enforced = Enforced { rules, keys: sources.keyring() };
        Ok((Self { enforced: Some(Arc::new(enforced)) }, sources))
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
            Ok(Some(token)) => enforced.keys.verified(token, &enforced.rules, now),
            Ok(None) => certificate.ok_or(Refused::Nothing).and_then(|certificate| enforced.holder(certificate)),
            Err(refused) => Err(refused),
        };
        let identity = identity.and_then(|identity| match identity.expires_at {
            Some(end) if end <= now => Err(Refused::Expired),
            _ => Ok(identity),
        });
        identity.map(Caller::Known).map_err(refusal)
    }
}

impl Enforced {
    fn holder(&self, certificate: &ClientCertificate) -> Result<Arc<Identity>, Refused> {
        let id = MemberId::parse("sub", certificate.id.as_str()).map_err(|_| Refused::Subject)?;
        let administrator = self.rules.is_administrator(&id);
        Ok(Arc::new(Identity { id, administrator, expires_at: Some(certificate.expires_at) }))
    }
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
