//! The valid keys, the rules for claims, and the tokens that were verified with them.

use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock},
    time::SystemTime,
};

use quick_cache::sync::Cache;
use ring::digest::{SHA256, digest};
use tokio::sync::Notify;

use super::{claims::ClaimRules, keys::PublicKey, refused::Refused, token};
use crate::{
    domain::{Identity, MemberId},
    limits::AUTH_TOKENS_MAX,
    metrics::{AuthMetrics, CredentialsResult},
};

/// Keys and rules, and the tokens that were verified with exactly these. Other keys or rules get another set without
/// verified tokens.
struct Set {
    keys: Vec<Arc<PublicKey>>,
    rules: Arc<ClaimRules>,
    verified: Cache<[u8; 32], Arc<Identity>>,
}

impl Set {
    fn new(keys: Vec<Arc<PublicKey>>, rules: Arc<ClaimRules>) -> Arc<Self> {
        Arc::new(Self { keys, rules, verified: Cache::new(AUTH_TOKENS_MAX) })
    }
}

/// The set in use, until it is replaced.
pub(super) struct Keyring {
    set: RwLock<Arc<Set>>,
    missed: Notify,
    metrics: Arc<AuthMetrics>,
}

impl Keyring {
    pub(super) fn new(keys: Vec<Arc<PublicKey>>, rules: ClaimRules, metrics: &Arc<AuthMetrics>) -> Self {
        let set = RwLock::new(Set::new(keys, Arc::new(rules)));
        Self { set, missed: Notify::new(), metrics: Arc::clone(metrics) }
    }

    /// Replaces the keys. Every token is then verified again.
    pub(super) fn replace(&self, keys: Vec<Arc<PublicKey>>) {
        let mut set = self.set.write().unwrap_or_else(PoisonError::into_inner);
        *set = Set::new(keys, Arc::clone(&set.rules));
    }

    /// Replaces the rules. Every token is then verified again.
    pub(super) fn replace_rules(&self, rules: ClaimRules) {
        let mut set = self.set.write().unwrap_or_else(PoisonError::into_inner);
        *set = Set::new(set.keys.clone(), Arc::new(rules));
    }

    fn set(&self) -> Arc<Set> {
        Arc::clone(&self.set.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether the id is in the list of administrators.
    pub(super) fn is_administrator(&self, id: &MemberId) -> bool {
        self.set().rules.is_administrator(id)
    }

    /// Completes when a token names an unknown key. Many such tokens complete it once.
    ///
    /// # Cancel safety
    /// May be dropped at any point.
    pub(super) async fn missed(&self) {
        self.missed.notified().await;
    }

    /// Returns the identity of the token. The caller checks whether the token has expired since it was verified.
    pub(super) fn verified(&self, token: &str, now: SystemTime) -> Result<Arc<Identity>, Refused> {
        let set = self.set();
        let mut name = [0; 32];
        name.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        if let Some(identity) = set.verified.get(&name) {
            if identity.expires_at.is_none_or(|end| end > now) {
                self.metrics.credentials.inc(CredentialsResult::Cached);
            }
            return Ok(identity);
        }
        let verified = token::verify(token, &set.keys, &set.rules, now);
        if let Err(Refused::NoKey) = verified {
            self.missed.notify_one();
        }
        let identity = Arc::new(verified?);
        self.metrics.credentials.inc(CredentialsResult::Verified);
        set.verified.insert(name, Arc::clone(&identity));
        Ok(identity)
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring").finish_non_exhaustive()
    }
}
