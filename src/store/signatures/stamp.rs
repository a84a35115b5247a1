//! Signs and verifies the notices between instances, with the keys that sign messages.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::hmac;

use super::{LOOK_INTERVAL, Signatures};
use crate::sync::lock;

/// The result of a verification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Verification {
    Right,
    Wrong,
    /// The signature names a key that this instance does not know. [`Signatures::learn`] the key, and verify again.
    UnknownKey(u64),
}

impl Signatures {
    /// Signs with the newest key: `<key id>.<MAC in URL-safe base64>`. `None` while there is no key.
    pub(in crate::store) fn sign(&self, purpose: &[u8], bytes: &[u8]) -> Option<String> {
        let (id, key) = lock(&self.known).keys.last_key_value().map(|(id, key)| (*id, key.clone()))?;
        let mac = hmac::sign(&key.hmac, &signed(purpose, bytes));
        Some(format!("{id}.{}", URL_SAFE_NO_PAD.encode(mac)))
    }

    pub(in crate::store) fn verify(&self, purpose: &[u8], bytes: &[u8], signature: &str) -> Verification {
        let parts = signature.split_once('.');
        let read = parts.and_then(|(id, mac)| Some((id.parse().ok()?, URL_SAFE_NO_PAD.decode(mac).ok()?)));
        let Some((id, mac)) = read else { return Verification::Wrong };
        let key = {
            let known = lock(&self.known);
            match known.keys.get(&id) {
                Some(key) => key.clone(),
                None if known.looked_at.is_some_and(|at| at.elapsed() < LOOK_INTERVAL) => return Verification::Wrong,
                None => return Verification::UnknownKey(id),
            }
        };
        let is_right = hmac::verify(&key.hmac, &signed(purpose, bytes), &mac).is_ok();
        if is_right { Verification::Right } else { Verification::Wrong }
    }
}

/// The purpose, preceded by its length, so that a signature for one purpose is invalid for another.
fn signed(purpose: &[u8], bytes: &[u8]) -> Vec<u8> {
    [&(purpose.len() as u64).to_be_bytes(), purpose, bytes].concat()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use super::*;
    use crate::{nats::bucket::Bucket, store::signatures::key::SigningKey};

    fn instance(keys: &[(u64, u8)]) -> Signatures {
        let signatures = Signatures { bucket: Bucket::in_memory(), known: Arc::default() };
        for (id, byte) in keys {
            signatures.remember(*id, SigningKey::new([*byte; 32]));
        }
        signatures
    }

    #[test]
    fn only_the_holder_of_a_key_signs_and_only_this_for_this_purpose() {
        let (one, other) = (instance(&[(1, 1), (2, 2)]), instance(&[(1, 1), (2, 2), (3, 3)]));
        let signature = one.sign(b"purpose", b"bytes").unwrap();
        assert_eq!(other.verify(b"purpose", b"bytes", &signature), Verification::Right);
        assert_eq!(other.verify(b"purpose", b"byte", &signature), Verification::Wrong);
        assert_eq!(other.verify(b"purposeb", b"ytes", &signature), Verification::Wrong);
        let newer = other.sign(b"purpose", b"bytes").unwrap();
        assert_eq!(one.verify(b"purpose", b"bytes", &newer), Verification::UnknownKey(3));
        let foreign = instance(&[(2, 7)]).sign(b"purpose", b"bytes").unwrap();
        assert_eq!(one.verify(b"purpose", b"bytes", &foreign), Verification::Wrong);
        for broken in ["", ".", "2", "2.", "2.!", "x.AAAA", "2.AAAA"] {
            assert_eq!(one.verify(b"purpose", b"bytes", broken), Verification::Wrong, "{broken:?}");
        }
        assert_eq!(instance(&[]).sign(b"purpose", b"bytes"), None);
    }
}
