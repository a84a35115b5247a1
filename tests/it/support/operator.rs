//! A NATS operator with accounts and users, all of them JWTs signed here.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use nkeys::KeyPair;
use serde_json::{Value, json};
use uuid::Uuid;

/// An operator with one account that may use JetStream without limits, and a system account.
pub(crate) struct Operator {
    account: KeyPair,
    config: String,
}

impl Operator {
    /// New keys all the way down.
    pub(crate) fn new() -> Self {
        let operator = KeyPair::new_operator();
        let (account, system) = (KeyPair::new_account(), KeyPair::new_account());
        let mut limits = json!({ "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "conn": -1,
            "leaf": -1, "wildcards": true });
        let system_claims = json!({ "type": "account", "version": 2, "limits": &limits });
        for name in ["mem_storage", "disk_storage", "streams", "consumer"] {
            limits[name] = json!(-1);
        }
        let account_claims = json!({ "type": "account", "version": 2, "limits": limits });
        let itself = sign(&operator, &operator.public_key(), "operator", &json!({ "type": "operator", "version": 2 }));
        let config = format!(
            "operator: {itself}\nsystem_account: {}\nresolver: MEMORY\nresolver_preload {{\n  {}: {}\n  {}: {}\n}}\n",
            system.public_key(),
            system.public_key(),
            sign(&operator, &system.public_key(), "system", &system_claims),
            account.public_key(),
            sign(&operator, &account.public_key(), "account", &account_claims),
        );
        Self { account, config }
    }

    /// What makes a nats-server trust this operator and know its accounts.
    pub(crate) fn config(&self) -> &str {
        &self.config
    }

    /// The contents of a credentials file for a new user of the account.
    pub(crate) fn credentials(&self) -> String {
        let user = KeyPair::new_user();
        let claims =
            json!({ "type": "user", "version": 2, "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1 });
        let jwt = sign(&self.account, &user.public_key(), "user", &claims);
        let seed = user.seed().expect("a seed");
        format!(
            "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        )
    }
}

/// What `issuer` says about the holder of the key `subject`.
fn sign(issuer: &KeyPair, subject: &str, name: &str, claims: &Value) -> String {
    let header = json!({ "typ": "JWT", "alg": "ed25519-nkey" });
    let body = json!({ "jti": Uuid::new_v4().simple().to_string(), "iat": 1_700_000_000, "iss": issuer.public_key(),
        "sub": subject, "name": name, "nats": claims });
    let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
    let signed = format!("{}.{}", encode(&header), encode(&body));
    let signature = issuer.sign(signed.as_bytes()).expect("a signature");
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}
