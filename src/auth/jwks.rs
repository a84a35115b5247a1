//! Public keys from a key set (RFC 7517).

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{
    Algorithm,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse},
};
use serde_json::Value;
use tracing::warn;

use super::{keys::PublicKey, strict::Object};

/// Returns every key of a set that can verify tokens. Other keys are ignored and logged. The error says why the text
/// is not a key set.
pub(super) fn parse(document: &[u8]) -> Result<Vec<PublicKey>, String> {
    let Object(mut set) = serde_json::from_slice(document).map_err(|_| "not a JSON object".to_owned())?;
    let Some(Value::Array(entries)) = set.remove("keys") else {
        return Err("is not a key set: it has no `keys`".to_owned());
    };
    let mut keys = Vec::new();
    for (index, entry) in entries.into_iter().enumerate() {
        match key(entry) {
            Ok(key) => keys.push(key),
            Err(problem) => warn!(index, problem, "a key of the key set cannot verify tokens and is ignored"),
        }
    }
    Ok(keys)
}

fn key(entry: Value) -> Result<PublicKey, String> {
    if entry.get("d").is_some() {
        return Err("is a private key; only the issuer may have it".to_owned());
    }
    let jwk: Jwk = serde_json::from_value(entry).map_err(|_| "is malformed".to_owned())?;
    let key = match &jwk.algorithm {
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
            PublicKey::ed25519(&decoded(&pair.x)?)
        }
        AlgorithmParameters::EllipticCurve(point) if point.curve == EllipticCurve::P256 => {
            PublicKey::p256(&[&[4], &*decoded(&point.x)?, &*decoded(&point.y)?].concat())
        }
        AlgorithmParameters::RSA(rsa) => PublicKey::rsa_of(&decoded(&rsa.n)?, &decoded(&rsa.e)?),
        AlgorithmParameters::OctetKey(_) => Err("is a symmetric key, which could also sign tokens".to_owned()),
        _ => Err("is neither Ed25519, nor ECDSA on P-256, nor RSA".to_owned()),
    }?;
    if !matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature)) {
        return Err("is not for signatures (`use`)".to_owned());
    }
    if jwk.common.key_operations.is_some_and(|operations| !operations.contains(&KeyOperations::Verify)) {
        return Err("is not for verifying (`key_ops`)".to_owned());
    }
    if jwk.common.key_algorithm.is_some_and(|given| Algorithm::try_from(given).ok() != Some(key.algorithm)) {
        return Err("is for another algorithm (`alg`)".to_owned());
    }
    Ok(PublicKey { id: jwk.common.key_id, ..key })
}

fn decoded(value: &str) -> Result<Vec<u8>, String> {
    URL_SAFE_NO_PAD.decode(value).map_err(|_| "not base64url".to_owned())
}
