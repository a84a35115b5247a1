//! Who makes a call: verifies bearer tokens, and takes the word of the TLS layer for client certificates. Refuses to know
//! tonic, and what a caller may do.

mod claims;
mod crypto;
mod keys;
mod pem;
mod strict;
mod token;

use std::{path::PathBuf, sync::Arc, time::SystemTime};

use ::http::{HeaderMap, header::AUTHORIZATION};
use tracing::debug;

use self::{claims::Rules, keys::KeySet, token::Refused};
use crate::{
    domain::{Caller, Identity, MemberId},
    error::{Error, Reason, Result, Violations},
    limits::{AUTH_KEYS_MAX, AUTH_LEEWAY_MAX},
};

/// What is asked of callers' tokens.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    /// PEM files of public keys.
    pub keys: Vec<PathBuf>,
    /// The only `iss`.
    pub issuer: Option<String>,
    /// The `aud` that must be among a token's.
    pub audience: Option<String>,
    /// Tolerated difference of clocks.
    pub leeway: std::time::Duration,
    /// Endpoint ids of administrators.
    pub admins: Vec<String>,
    /// `NAME` or `NAME=VALUE`.
    pub admin_claim: Option<String>,
}

/// What a verified client certificate says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Certificate<'a> {
    /// Its subject's name.
    pub id: &'a str,
    /// The end of its validity.
    pub expires_at: SystemTime,
}

/// Says who makes a call.
#[derive(Clone, Debug)]
pub(crate) struct Auth {
    /// `None`: everybody is welcome.
    enforced: Option<Arc<Enforced>>,
}

#[derive(Debug)]
struct Enforced {
    rules: Rules,
    keys: KeySet,
}

impl Auth {
    /// Nobody is asked.
    pub(crate) fn off() -> Self {
        Self { enforced: None }
    }

    /// Everybody is asked.
    ///
    /// # Errors
    /// `INVALID_FIELD` when a key cannot be read or is not fit to verify tokens, or there is none.
    pub(crate) fn enforce(settings: &Settings) -> Result<Self> {
        crypto::install();
        let mut wrong = Violations::default();
        let mut keys = Vec::new();
        for file in &settings.keys {
            match pem::read(file) {
                Ok(read) => keys.extend(read),
                Err(problem) => wrong.add("auth_keys", format!("{}: {problem}", file.display())),
            }
        }
        if settings.keys.is_empty() {
            wrong.add("auth_keys", "enforcement needs at least one public key");
        }
        if keys.len() > AUTH_KEYS_MAX {
            wrong.add("auth_keys", format!("holds {} keys; at most {AUTH_KEYS_MAX} are allowed", keys.len()));
        }
        if settings.leeway > AUTH_LEEWAY_MAX {
            wrong.add("auth_leeway", format!("must be at most {} seconds", AUTH_LEEWAY_MAX.as_secs()));
        }
        let rules = Rules::new(settings, &mut wrong);
        wrong.finish()?;
        Ok(Self { enforced: Some(Arc::new(Enforced { rules, keys: KeySet::new(keys) })) })
    }

    /// Who sends these headers over a connection with this client certificate. A token comes before a certificate, and an
    /// invalid one is never passed over.
    ///
    /// # Errors
    /// `UNAUTHENTICATED`, with no more than that for the caller; `CREDENTIALS_EXPIRED` for a proof that was valid once.
    pub(crate) fn identify(&self, headers: &HeaderMap, certificate: Option<Certificate<'_>>) -> Result<Caller> {
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
    fn holder(&self, certificate: Certificate<'_>) -> Result<Arc<Identity>, Refused> {
        let id = MemberId::parse("sub", certificate.id).map_err(|_| Refused::Subject)?;
        let administrator = self.rules.is_administrator(&id);
        Ok(Arc::new(Identity { id, administrator, expires_at: Some(certificate.expires_at) }))
    }
}

/// The bearer token (RFC 6750, 2.1): in one header, and nowhere else.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Refused> {
    let mut given = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = given.next() else { return Ok(None) };
    if given.next().is_some() {
        return Err(Refused::Header);
    }
    let (scheme, token) = value.to_str().ok().and_then(|value| value.split_once(' ')).ok_or(Refused::Header)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(Some(token)) } else { Err(Refused::Header) }
}

/// The caller hears one thing, whatever is wrong; the log has the cause, and never the token.
fn refusal(cause: Refused) -> Error {
    debug!(%cause, "a caller was refused");
    match cause {
        Refused::Expired => {
            Error::new(Reason::CredentialsExpired, "the token or certificate has expired; call again with a new one")
        }
        _ => Error::new(
            Reason::Unauthenticated,
            "the call needs a valid token, in the header `authorization: Bearer ...`, or a client certificate",
        ),
    }
}
