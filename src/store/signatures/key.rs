//! A signing key, as the bucket of secrets stores it.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use ring::{
    hmac,
    rand::{SecureRandom, SystemRandom},
};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Bytes of a key. As many as the digest has, as RFC 2104 advises.
const KEY_BYTES: usize = 32;

/// A signing key of the instances. Never shown.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "KeyRecord", into = "KeyRecord")]
pub(super) struct SigningKey {
    bytes: [u8; KEY_BYTES],
    pub hmac: hmac::Key,
}

/// The key in the bucket's JSON.
#[derive(Serialize, Deserialize)]
struct KeyRecord {
    /// 32 bytes in standard base64.
    key: String,
}

impl SigningKey {
    /// Generates a random key.
    ///
    /// # Errors
    /// `INTERNAL` if the system returns no random numbers.
    pub(super) fn generate() -> Result<Self> {
        let mut bytes = [0; KEY_BYTES];
        SystemRandom::new().fill(&mut bytes).map_err(|_| Error::internal())?;
        Ok(Self::new(bytes))
    }

    pub(super) fn new(bytes: [u8; KEY_BYTES]) -> Self {
        Self { bytes, hmac: hmac::Key::new(hmac::HMAC_SHA256, &bytes) }
    }
}

impl PartialEq for SigningKey {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(..)")
    }
}

impl TryFrom<KeyRecord> for SigningKey {
    // the error never contains the value, because it is logged
    type Error = &'static str;

    fn try_from(record: KeyRecord) -> Result<Self, Self::Error> {
        let bytes = STANDARD.decode(record.key).map_err(|_| "the key is not base64")?;
        Ok(Self::new(bytes.try_into().map_err(|_| "the key does not have 32 bytes")?))
    }
}

impl From<SigningKey> for KeyRecord {
    fn from(key: SigningKey) -> Self {
        Self { key: STANDARD.encode(key.bytes) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_key_survives_its_writing_and_is_never_shown() {
        let key = SigningKey::generate().unwrap();
        let json = serde_json::to_string(&key).unwrap();
        assert!(serde_json::from_str::<SigningKey>(&json).unwrap() == key);
        assert!(SigningKey::generate().unwrap() != key);
        assert_eq!(format!("{key:?}"), "SigningKey(..)");
    }

    #[test]
    fn what_is_no_key_is_refused_without_being_repeated() {
        for json in [r#"{"key":"canary"}"#, r#"{"key":"Y2FuYXJ5"}"#, r#"{"key":""}"#, "{}"] {
            let error = serde_json::from_str::<SigningKey>(json).unwrap_err().to_string();
            assert!(!error.contains("canary") && !error.contains("Y2FuYXJ5"), "{error}");
        }
    }
}
