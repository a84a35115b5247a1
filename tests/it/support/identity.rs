//! Issuers of tokens, services that ask for them, and clients that have one.

use std::{
    fs,
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use pkcs8::der::Encode;
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::{Request, Status, metadata::AsciiMetadataValue, service::Interceptor};
use unibus::{AuthMode, Config};

use super::{Client, Nats, Unibus, unibus::connect_with};

/// A private key that is not secret: ring makes no RSA keys.
const RSA_KEY: &str = include_str!("rsa.pem");

enum SigningKey {
    Ed25519(Ed25519KeyPair),
    P256(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

/// Somebody who signs tokens, with the public key in a file.
pub(crate) struct Issuer {
    key: SigningKey,
    dir: TempDir,
}

impl Issuer {
    /// Signs with `EdDSA`.
    pub(crate) fn new() -> Self {
        let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key");
        Self::with(SigningKey::Ed25519(Ed25519KeyPair::from_pkcs8(key.as_ref()).expect("a key")))
    }

    /// Signs with ES256.
    pub(crate) fn es256() -> Self {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let key = EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("a key");
        Self::with(SigningKey::P256(EcdsaKeyPair::from_pkcs8(algorithm, key.as_ref(), &random).expect("a key")))
    }

    /// Signs with RS256, always with the same key.
    pub(crate) fn rs256() -> Self {
        let (_, key) = pkcs8::SecretDocument::from_pem(RSA_KEY).expect("a PEM file");
        Self::with(SigningKey::Rsa(RsaKeyPair::from_pkcs8(key.as_bytes()).expect("a key")))
    }

    fn with(key: SigningKey) -> Self {
        let issuer = Self { key, dir: TempDir::new().expect("a temporary directory") };
        fs::write(issuer.public_key(), issuer.public_pem()).expect("a file");
        issuer
    }

    /// The PEM file of the public key.
    pub(crate) fn public_key(&self) -> PathBuf {
        self.dir.path().join("public.pem")
    }

    /// What the file holds.
    pub(crate) fn public_pem(&self) -> String {
        let der = STANDARD.encode(self.public_der());
        let lines: Vec<_> = der.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
    }

    /// The public key as a `SubjectPublicKeyInfo`.
    pub(crate) fn public_der(&self) -> Vec<u8> {
        use pkcs8::{
            ObjectIdentifier,
            der::asn1::{AnyRef, BitStringRef, Null},
        };
        let oid = ObjectIdentifier::new_unwrap;
        let p256 = oid("1.2.840.10045.3.1.7");
        let (algorithm, parameters) = match &self.key {
            SigningKey::Ed25519(_) => (oid("1.3.101.112"), None),
            SigningKey::P256(_) => (oid("1.2.840.10045.2.1"), Some(AnyRef::from(&p256))),
            SigningKey::Rsa(_) => (oid("1.2.840.113549.1.1.1"), Some(AnyRef::from(Null))),
        };
        let info = pkcs8::spki::SubjectPublicKeyInfoRef {
            algorithm: pkcs8::AlgorithmIdentifierRef { oid: algorithm, parameters },
            subject_public_key: BitStringRef::from_bytes(self.public_bytes()).expect("a bit string"),
        };
        info.to_der().expect("DER")
    }

    /// The public key as ring has it.
    pub(crate) fn public_bytes(&self) -> &[u8] {
        match &self.key {
            SigningKey::Ed25519(key) => key.public_key().as_ref(),
            SigningKey::P256(key) => key.public_key().as_ref(),
            SigningKey::Rsa(key) => key.public_key().as_ref(),
        }
    }

    /// The `alg` of its tokens.
    pub(crate) fn algorithm(&self) -> &'static str {
        match &self.key {
            SigningKey::Ed25519(_) => "EdDSA",
            SigningKey::P256(_) => "ES256",
            SigningKey::Rsa(_) => "RS256",
        }
    }

    /// A token for this endpoint that counts for an hour.
    pub(crate) fn token(&self, id: &str) -> String {
        self.sign(&claims(id))
    }

    /// A token with these claims.
    pub(crate) fn sign(&self, claims: &Value) -> String {
        self.sign_parts(&json!({ "typ": "JWT", "alg": self.algorithm() }).to_string(), &claims.to_string())
    }

    /// A token of these texts, whatever they are.
    pub(crate) fn sign_parts(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = self.signature(message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// The signature of a message.
    pub(crate) fn signature(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.key {
            SigningKey::Ed25519(key) => key.sign(message).as_ref().to_vec(),
            SigningKey::P256(key) => key.sign(&random, message).expect("a signature").as_ref().to_vec(),
            SigningKey::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).expect("a signature");
                signature
            }
        }
    }

    /// An instance in front of this nats-server that takes this issuer's tokens and no others, with what `change` sets.
    pub(crate) async fn guard(&self, nats: &Nats, change: impl FnOnce(&mut Config)) -> Unibus {
        guarded(nats, self.public_key(), change).await
    }

    /// A client with a connection of its own and a token for this endpoint.
    pub(crate) async fn client(&self, unibus: &Unibus, id: &str) -> Client {
        connect_with(unibus.address(), Credentials::bearer(&self.token(id))).await
    }
}

/// Claims for this endpoint that count for an hour.
pub(crate) fn claims(id: &str) -> Value {
    json!({ "sub": id, "exp": seconds_from_now(3600) })
}

/// The time in so many seconds, or so many ago, as tokens have it.
pub(crate) fn seconds_from_now(seconds: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    i64::try_from(now).expect("before the end of time") + seconds
}

/// What a client says of itself with every call.
#[derive(Clone, Debug, Default)]
pub(crate) struct Credentials(Option<AsciiMetadataValue>);

impl Credentials {
    /// A bearer token.
    pub(crate) fn bearer(token: &str) -> Self {
        Self::header(&format!("Bearer {token}"))
    }

    /// Whatever the header `authorization` shall be.
    pub(crate) fn header(value: &str) -> Self {
        Self(Some(value.parse().expect("a header value")))
    }
}

impl Interceptor for Credentials {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// An instance in front of this nats-server that takes tokens signed with this key, with what `change` sets.
pub(crate) async fn guarded(nats: &Nats, public_key: PathBuf, change: impl FnOnce(&mut Config)) -> Unibus {
    let url = nats.url();
    Unibus::configured(|config| {
        config.nats.url = Some(url);
        config.auth.mode = AuthMode::Enforce;
        config.auth.keys = vec![public_key];
        change(config);
    })
    .await
}
