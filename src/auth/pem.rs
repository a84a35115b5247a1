//! Public keys from PEM files.

use pkcs8::{
    ObjectIdentifier,
    der::Decode,
    spki::{AlgorithmIdentifierRef, SubjectPublicKeyInfoRef},
};
use rustls_pki_types::pem::{PemObject, SectionKind};

use super::keys::PublicKey;

pub(super) const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");

/// Returns every key of a file, which must hold only public keys. The error says what is wrong with the file.
pub(super) fn parse(text: &[u8]) -> Result<Vec<PublicKey>, String> {
    let mut keys = Vec::new();
    for section in <(SectionKind, Vec<u8>) as PemObject>::pem_slice_iter(text) {
        let (kind, der) = section.map_err(|_| "not a PEM file".to_owned())?;
        match kind {
            SectionKind::PublicKey => keys.push(key(&der)?),
            SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey => {
                return Err(
                    "holds a private key, which only the issuer may have; give the file of the public key".to_owned()
                );
            }
            _ => return Err("holds a PEM block that is not a public key; give only BEGIN PUBLIC KEY blocks".to_owned()),
        }
    }
    if keys.is_empty() { Err("holds no public key; give a BEGIN PUBLIC KEY block".to_owned()) } else { Ok(keys) }
}

fn key(der: &[u8]) -> Result<PublicKey, String> {
    let info = SubjectPublicKeyInfoRef::from_der(der).map_err(|_| "a public key is malformed".to_owned())?;
    let bits = info.subject_public_key.as_bytes().ok_or("a public key is malformed")?;
    match info.algorithm.oid {
        ED25519 => PublicKey::ed25519(bits),
        EC if curve(info.algorithm) == Some(P256) => PublicKey::p256(bits),
        RSA => PublicKey::rsa(bits),
        _ => Err("a public key is neither Ed25519, nor ECDSA on P-256, nor RSA".to_owned()),
    }
}

fn curve(algorithm: AlgorithmIdentifierRef<'_>) -> Option<ObjectIdentifier> {
    algorithm.parameters?.decode_as().ok()
}
