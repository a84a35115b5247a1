//! The public keys, each with the one algorithm that it is for, and the tokens that were verified with them.

use std::{fmt, sync::Arc, time::SystemTime};

use jsonwebtoken::{Algorithm, DecodingKey};
use pkcs8::der::{self, Decode, Reader, SliceReader, asn1::UintRef};
use quick_cache::sync::Cache;
use ring::digest::{SHA256, digest};

use super::{
    claims::Rules,
    token::{self, Refused},
};
use crate::{
    domain::Identity,
    limits::{AUTH_TOKENS_MAX, RSA_KEY_BITS_MAX, RSA_KEY_BITS_MIN},
};

/// A public key.
#[derive(Debug)]
pub(super) struct Key {
    /// Its name in a key set; `None` in a PEM file.
    pub id: Option<String>,
    pub algorithm: Algorithm,
    pub public: DecodingKey,
}

impl Key {
    /// A key of 32 bytes.
    pub(super) fn ed25519(public: &[u8]) -> Result<Self, String> {
        if public.len() != 32 {
            return Err("an Ed25519 key has 32 bytes".to_owned());
        }
        Ok(Self { id: None, algorithm: Algorithm::EdDSA, public: DecodingKey::from_ed_der(public) })
    }

    /// An uncompressed point on P-256.
    pub(super) fn p256(point: &[u8]) -> Result<Self, String> {
        if point.len() != 65 || point.first() != Some(&4) {
            return Err("not an uncompressed point on P-256".to_owned());
        }
        Ok(Self { id: None, algorithm: Algorithm::ES256, public: DecodingKey::from_ec_der(point) })
    }

    /// An `RSAPublicKey` (RFC 8017, A.1.1) in DER.
    pub(super) fn rsa(der: &[u8]) -> Result<Self, String> {
        let bits = modulus_bits(der).map_err(|_| "not an RSA key".to_owned())?;
        if !(RSA_KEY_BITS_MIN..=RSA_KEY_BITS_MAX).contains(&bits) {
            return Err(format!("an RSA key of {bits} bits; {RSA_KEY_BITS_MIN} to {RSA_KEY_BITS_MAX} are allowed"));
        }
        Ok(Self { id: None, algorithm: Algorithm::RS256, public: DecodingKey::from_rsa_der(der) })
    }

    /// Whether a token of this key id can be signed with it: a key without an id may be any.
    pub(super) fn may_be(&self, id: Option<&str>) -> bool {
        match (&self.id, id) {
            (Some(own), Some(given)) => own == given,
            (None, _) | (_, None) => true,
        }
    }
}

fn modulus_bits(der: &[u8]) -> der::Result<usize> {
    let mut reader = SliceReader::new(der)?;
    let bits = reader.sequence(|reader| {
        let modulus = UintRef::decode(reader)?;
        UintRef::decode(reader)?;
        let bytes = modulus.as_bytes();
        let first = bytes.first().map_or(0, |first| first.leading_zeros() as usize);
        Ok(bytes.len() * 8 - first)
    })?;
    reader.finish(bits)
}

/// Keys, and what was verified with exactly these: with other keys comes another set, which has verified nothing yet.
pub(super) struct KeySet {
    keys: Vec<Key>,
    verified: Cache<[u8; 32], Arc<Identity>>,
}

impl KeySet {
    pub(super) fn new(keys: Vec<Key>) -> Self {
        Self { keys, verified: Cache::new(AUTH_TOKENS_MAX) }
    }

    /// Whom the token names. The caller looks whether it has expired meanwhile.
    pub(super) fn verified(&self, token: &str, rules: &Rules, now: SystemTime) -> Result<Arc<Identity>, Refused> {
        let mut name = [0; 32];
        name.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        if let Some(identity) = self.verified.get(&name) {
            return Ok(identity);
        }
        let identity = Arc::new(token::verify(token, &self.keys, rules, now)?);
        self.verified.insert(name, Arc::clone(&identity));
        Ok(identity)
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeySet").field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}
