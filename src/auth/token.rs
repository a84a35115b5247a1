//! Reads a JWT as RFC 8725 recommends: the key determines the algorithm, and everything unknown is refused.

use std::{sync::Arc, time::SystemTime};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, Validation, decode, errors::ErrorKind};

use super::{claims::ClaimRules, keys::PublicKey, refused::Refused, strict::Object};
use crate::{
    domain::Identity,
    limits::{AUTH_KEYS_TRIED_MAX, TOKEN_BYTES_MAX},
};

/// The header of a token. Fields that could provide a key (`jwk`, `jku`, `x5u`, `x5c`) are ignored.
struct Header {
    algorithm: Algorithm,
    key_id: Option<String>,
}

/// Verifies a token with a few keys of its algorithm. If a key has the key id of the token, keys without an id are
/// not tried. For a token without a key id, keys without an id are tried first.
pub(super) fn verify(
    token: &str,
    keys: &[Arc<PublicKey>],
    rules: &ClaimRules,
    now: SystemTime,
) -> Result<Identity, Refused> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(Refused::TooLong);
    }
    let header = header(token)?;
    let fits = |key: &&Arc<PublicKey>| key.algorithm == header.algorithm && key.may_be(header.key_id.as_deref());
    let named = header.key_id.is_some() && keys.iter().any(|key| key.id == header.key_id);
    let mut refused = Refused::NoKey;
    let (without_id, with_id): (Vec<_>, Vec<_>) = keys.iter().filter(fits).partition(|key| key.id.is_none());
    let tried = without_id.into_iter().filter(|_| !named).chain(with_id).take(AUTH_KEYS_TRIED_MAX);
    for key in tried {
        match claims(token, key, rules) {
            Ok(claims) => return rules.identity(&claims, now),
            Err(Refused::Signature) => refused = Refused::Signature,
            Err(other) => return Err(other),
        }
    }
    Err(refused)
}

fn header(token: &str) -> Result<Header, Refused> {
    let mut parts = token.split('.');
    let (Some(header), Some(claims), Some(signature), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Refused::Form);
    };
    if claims.is_empty() || signature.is_empty() {
        return Err(Refused::Form);
    }
    let header = URL_SAFE_NO_PAD.decode(header).map_err(|_| Refused::Form)?;
    let Object(header) = serde_json::from_slice(&header).map_err(|_| Refused::TokenHeader)?;
    // RFC 7515, 4.1.11: a token with an unknown critical extension must be refused, and no extension is known here
    if header.contains_key("crit") {
        return Err(Refused::TokenHeader);
    }
    let text = |name: &str| match header.get(name) {
        None => Ok(None),
        Some(value) => value.as_str().map(Some).ok_or(Refused::TokenHeader),
    };
    if !text("typ")?.is_none_or(is_access_token) {
        return Err(Refused::Type);
    }
    let algorithm = match text("alg")? {
        Some("EdDSA") => Algorithm::EdDSA,
        Some("ES256") => Algorithm::ES256,
        Some("RS256") => Algorithm::RS256,
        _ => return Err(Refused::TokenHeader),
    };
    Ok(Header { algorithm, key_id: text("kid")?.map(str::to_owned) })
}

/// The two types of access tokens (RFC 7519, 5.1; RFC 9068, 2.1). Other types have other purposes (RFC 8725, 3.11).
fn is_access_token(kind: &str) -> bool {
    let kind = kind.to_ascii_lowercase();
    matches!(kind.strip_prefix("application/").unwrap_or(&kind), "jwt" | "at+jwt")
}

/// Returns the claims, if this key signed them and they are valid for this service now.
fn claims(token: &str, key: &PublicKey, rules: &ClaimRules) -> Result<Object, Refused> {
    let mut validation = Validation::new(key.algorithm);
    rules.demand(&mut validation);
    match decode::<Object>(token, &key.public, &validation) {
        Ok(token) => Ok(token.claims),
        Err(error) => Err(match error.kind() {
            ErrorKind::InvalidSignature | ErrorKind::InvalidAlgorithm => Refused::Signature,
            ErrorKind::ExpiredSignature => Refused::Expired,
            ErrorKind::ImmatureSignature => Refused::TooEarly,
            ErrorKind::InvalidIssuer => Refused::Issuer,
            ErrorKind::InvalidAudience => Refused::Audience,
            ErrorKind::MissingRequiredClaim(_) | ErrorKind::InvalidClaimFormat(_) | ErrorKind::Json(_) => {
                Refused::Claims
            }
            _ => Refused::Form,
        }),
    }
}
