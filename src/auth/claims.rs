//! The rules for the claims of a token, and the identity that the claims give.

use std::{
    collections::HashSet,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use jsonwebtoken::Validation;
use serde_json::Value;

use super::{AuthConfig, refused::Refused, strict::Object};
use crate::{
    domain::{Identity, MemberId},
    error::Violations,
};

/// The end of the year 9999. A larger number is not a valid time.
const TIME_MAX: f64 = 253_402_300_799.0;

/// The rules for claims.
#[derive(Debug)]
pub(super) struct ClaimRules {
    issuer: Option<String>,
    audience: Option<String>,
    leeway: Duration,
    admins: HashSet<MemberId>,
    admin_claim: Option<AdminClaim>,
}

/// The claim that makes the holder of a token an administrator.
#[derive(Debug)]
struct AdminClaim {
    name: String,
    /// `None`: the claim must be true.
    value: Option<String>,
}

impl AdminClaim {
    fn parse(given: &str) -> Option<Self> {
        let (name, value) = match given.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (given, None),
        };
        let whole = !name.is_empty() && value.as_ref().is_none_or(|value| !value.is_empty());
        whole.then(|| Self { name: name.to_owned(), value })
    }

    fn is_in(&self, Object(claims): &Object) -> bool {
        match (&self.value, claims.get(&self.name)) {
            (None, Some(Value::Bool(true))) => true,
            (Some(value), Some(Value::String(given))) => given == value,
            (Some(value), Some(Value::Array(given))) => given.iter().any(|given| given.as_str() == Some(value)),
            _ => false,
        }
    }
}

impl ClaimRules {
    /// Returns the rules of the config. Invalid settings are added to `wrong`.
    pub(super) fn new(config: &AuthConfig, wrong: &mut Violations) -> Self {
        let admins = config.admins.iter();
        let admins = admins.filter_map(|id| wrong.check(MemberId::parse("auth_admins", id.as_str()))).collect();
        let admin_claim = config.admin_claim.as_deref().and_then(|given| {
            let claim = AdminClaim::parse(given);
            if claim.is_none() {
                wrong.add("auth_admin_claim", "must have the form NAME or NAME=VALUE, where NAME is a claim");
            }
            claim
        });
        let AuthConfig { issuer, audience, leeway, .. } = config.clone();
        Self { issuer, audience, leeway, admins, admin_claim }
    }

    /// Sets what the library checks beside the signature. A token with an audience is refused unless this service
    /// belongs to it (RFC 7519, 4.1.3), even if the service has no audience.
    pub(super) fn demand(&self, validation: &mut Validation) {
        let mut required = vec!["exp", "sub"];
        validation.leeway = self.leeway.as_secs() + u64::from(self.leeway.subsec_nanos() > 0);
        validation.validate_nbf = true;
        if let Some(issuer) = &self.issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        if let Some(audience) = &self.audience {
            validation.set_audience(&[audience]);
            required.push("aud");
        }
        validation.set_required_spec_claims(&required);
    }

    /// Returns the identity of verified claims, if they are valid now.
    pub(super) fn identity(&self, claims: &Object, now: SystemTime) -> Result<Identity, Refused> {
        let expires_at = time(claims, "exp")?.ok_or(Refused::Claims)? + self.leeway;
        for claim in ["nbf", "iat"] {
            if time(claims, claim)?.is_some_and(|begin| begin > now + self.leeway) {
                return Err(Refused::TooEarly);
            }
        }
        // the issuer must be one name (RFC 7519, 4.1.1): the library accepts a list that contains the right name
        if claims.0.get("iss").is_some_and(|issuer| !issuer.is_string()) {
            return Err(Refused::Claims);
        }
        let id = claims.0.get("sub").and_then(Value::as_str).ok_or(Refused::Subject)?;
        let id = MemberId::parse("sub", id).map_err(|_| Refused::Subject)?;
        let administrator =
            self.is_administrator(&id) || self.admin_claim.as_ref().is_some_and(|claim| claim.is_in(claims));
        Ok(Identity { id, administrator, expires_at: Some(expires_at) })
    }

    /// Whether the id is in the list of administrators.
    pub(super) fn is_administrator(&self, id: &MemberId) -> bool {
        self.admins.contains(id)
    }
}

/// Parses a `NumericDate` (RFC 7519, 2): a number, possibly with a fraction.
fn time(Object(claims): &Object, name: &str) -> Result<Option<SystemTime>, Refused> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let seconds = value.as_f64().filter(|seconds| (0.0..=TIME_MAX).contains(seconds)).ok_or(Refused::Claims)?;
    Ok(Some(UNIX_EPOCH + Duration::from_secs_f64(seconds)))
}
