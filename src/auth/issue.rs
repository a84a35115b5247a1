//! Makes keys and tokens, to try the service and for operators without an issuer of tokens.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use pkcs8::{
    AlgorithmIdentifierRef, LineEnding, PrivateKeyInfo, SecretDocument, der,
    der::{
        Decode, Encode,
        asn1::{BitStringRef, OctetStringRef},
        zeroize::Zeroizing,
    },
    spki::SubjectPublicKeyInfoRef,
};
use ring::{
    rand::{SecureRandom, SystemRandom},
    signature::{Ed25519KeyPair, KeyPair},
};
use serde_json::{Map, Value};

use super::{crypto, pem::ED25519};
use crate::error::{Error, Result};

/// Bytes of an Ed25519 private key (RFC 8032, 5.1.5).
const SEED_BYTES: usize = 32;
/// The mode bits of a file that give rights to its group and to all other users.
const OTHERS: u32 = 0o077;

/// Both halves of a key, as PEM files.
pub(crate) struct KeyFiles {
    /// PKCS #8 in version 1, which every program reads (RFC 8410, 7).
    pub private: Zeroizing<String>,
    /// The public key, with which the service verifies tokens.
    pub public: String,
}

/// Makes an Ed25519 key.
///
/// # Errors
/// `INTERNAL` if the system gives no random numbers.
pub(crate) fn new_key() -> Result<KeyFiles> {
    let mut seed = Zeroizing::new([0; SEED_BYTES]);
    SystemRandom::new().fill(&mut *seed).map_err(|_| Error::internal().because("no random numbers"))?;
    let pair = Ed25519KeyPair::from_seed_unchecked(&*seed).map_err(|_| Error::internal().because("no key"))?;
    encoded(&seed, pair.public_key().as_ref()).map_err(|error| Error::internal().because(error))
}

fn encoded(seed: &[u8; SEED_BYTES], public: &[u8]) -> Result<KeyFiles, pkcs8::Error> {
    let algorithm = AlgorithmIdentifierRef { oid: ED25519, parameters: None };
    let seed = Zeroizing::new(OctetStringRef::new(seed)?.to_der()?);
    let private = SecretDocument::try_from(PrivateKeyInfo::new(algorithm, &seed))?;
    let public = SubjectPublicKeyInfoRef { algorithm, subject_public_key: BitStringRef::from_bytes(public)? };
    let public = der::Document::encode_msg(&public)?;
    Ok(KeyFiles {
        private: private.to_pem("PRIVATE KEY", LineEnding::LF)?,
        public: public.to_pem("PUBLIC KEY", LineEnding::LF)?,
    })
}

/// Makes a token with these claims, signed with the private key of a PEM file. [`new_key`] or openssl made the key.
///
/// # Errors
/// `INVALID_FIELD` if the file holds no Ed25519 private key, or if other users can read the file.
pub(crate) fn sign(key: &Path, claims: &Map<String, Value>) -> Result<String> {
    let wrong = |problem: &str| Error::field("key", format!("{}: {problem}", key.display()));
    if fs::metadata(key).is_ok_and(|file| file.mode() & OTHERS != 0) {
        return Err(wrong(
            "other users of this machine can read the file; make a new key, or run chmod 600 if nobody has read it",
        ));
    }
    let (label, document) =
        SecretDocument::read_pem_file(key).map_err(|_| wrong("cannot be read as a PEM file of a private key"))?;
    let is_ed25519 = PrivateKeyInfo::from_der(document.as_bytes()).is_ok_and(|key| key.algorithm.oid == ED25519);
    if label != "PRIVATE KEY" || !is_ed25519 {
        return Err(wrong("is not an Ed25519 private key (BEGIN PRIVATE KEY)"));
    }
    crypto::install();
    let secret = EncodingKey::from_ed_der(document.as_bytes());
    encode(&Header::new(Algorithm::EdDSA), claims, &secret).map_err(|_| wrong("does not sign"))
}
