//! A public key and its one algorithm.

use jsonwebtoken::{Algorithm, DecodingKey};
use pkcs8::der::{
    self, Decode, Encode, Reader, SliceReader, Tag,
    asn1::{AnyRef, UintRef},
};

use crate::limits::{RSA_KEY_BITS_MAX, RSA_KEY_BITS_MIN};

/// A public key.
#[derive(Debug)]
pub(super) struct PublicKey {
    /// Its id in a key set; `None` in a PEM file.
    pub id: Option<String>,
    pub algorithm: Algorithm,
    pub public: DecodingKey,
}

impl PublicKey {
    /// Makes an Ed25519 key of 32 bytes.
    pub(super) fn ed25519(public: &[u8]) -> Result<Self, String> {
        if public.len() != 32 {
            return Err("an Ed25519 key has 32 bytes".to_owned());
        }
        Ok(Self { id: None, algorithm: Algorithm::EdDSA, public: DecodingKey::from_ed_der(public) })
    }

    /// Makes a key from an uncompressed point on P-256.
    pub(super) fn p256(point: &[u8]) -> Result<Self, String> {
        if point.len() != 65 || point.first() != Some(&4) {
            return Err("not an uncompressed point on P-256".to_owned());
        }
        Ok(Self { id: None, algorithm: Algorithm::ES256, public: DecodingKey::from_ec_der(point) })
    }

    /// Makes a key from an `RSAPublicKey` (RFC 8017, A.1.1) in DER.
    pub(super) fn rsa(der: &[u8]) -> Result<Self, String> {
        let bits = modulus_bits(der).map_err(|_| "not an RSA key".to_owned())?;
        if !(RSA_KEY_BITS_MIN..=RSA_KEY_BITS_MAX).contains(&bits) {
            return Err(format!("an RSA key of {bits} bits; {RSA_KEY_BITS_MIN} to {RSA_KEY_BITS_MAX} are allowed"));
        }
        Ok(Self { id: None, algorithm: Algorithm::RS256, public: DecodingKey::from_rsa_der(der) })
    }

    /// Makes a key from the modulus and exponent of a key set.
    pub(super) fn rsa_of(modulus: &[u8], exponent: &[u8]) -> Result<Self, String> {
        let encoded = || {
            let mut both = UintRef::new(modulus)?.to_der()?;
            UintRef::new(exponent)?.encode_to_vec(&mut both)?;
            AnyRef::new(Tag::Sequence, &both)?.to_der()
        };
        Self::rsa(&encoded().map_err(|_: der::Error| "not an RSA key".to_owned())?)
    }

    /// Whether this key can be the key of a token with this key id. A key without an id can be the key of any token.
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
