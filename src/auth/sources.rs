//! The sources of the keys. Files are checked for changes at intervals, and a key set at a URL is fetched at
//! intervals. The keys of a source that cannot be read stay valid for `--auth-keys-max-age`, and are then removed.

use std::{fmt, mem, path::PathBuf, sync::Arc, time::Duration};

use jsonwebtoken::Algorithm;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{
    AuthConfig,
    claims::ClaimRules,
    fetch::{self, KeySetUrl},
    jwks,
    keyring::Keyring,
    keys::PublicKey,
    pem,
};
use crate::{
    error::Violations,
    limits::{AUTH_FILES_INTERVAL, AUTH_KEYS_MAX, AUTH_KEYS_TRIED_MAX, JWKS_FETCH_INTERVAL_MIN},
    metrics::AuthMetrics,
};

/// One source of keys.
#[derive(Debug)]
enum KeyLocation {
    Pem(PathBuf),
    SetInFile(PathBuf),
    SetAtUrl(Box<KeySetUrl>),
}

impl KeyLocation {
    async fn read(&self) -> Result<Vec<u8>, String> {
        match self {
            Self::Pem(path) | Self::SetInFile(path) => fetch::file(path).await,
            Self::SetAtUrl(page) => page.read().await,
        }
    }

    fn keys(&self, document: &[u8]) -> Result<Vec<PublicKey>, String> {
        let keys = match self {
            Self::Pem(_) => pem::parse(document),
            Self::SetInFile(_) | Self::SetAtUrl(_) => jwks::parse(document),
        }?;
        if keys.len() > AUTH_KEYS_MAX {
            return Err(format!("holds {} keys; at most {AUTH_KEYS_MAX} are allowed", keys.len()));
        }
        Ok(keys)
    }

    fn is_url(&self) -> bool {
        matches!(self, Self::SetAtUrl(_))
    }
}

/// The name of the source for the operator. A URL may contain a secret, so it is not shown.
impl fmt::Display for KeyLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pem(path) | Self::SetInFile(path) => path.display().fmt(f),
            Self::SetAtUrl(_) => f.write_str("the key set at the URL"),
        }
    }
}

/// A source, and the document that was last read from it.
#[derive(Debug)]
struct KeySource {
    place: KeyLocation,
    document: Option<Vec<u8>>,
    keys: Vec<Arc<PublicKey>>,
    read_at: Instant,
    failing: bool,
}

impl KeySource {
    fn new(place: KeyLocation) -> Self {
        Self { place, document: None, keys: Vec::new(), read_at: Instant::now(), failing: false }
    }

    /// Reads the source. Returns whether its keys have changed.
    async fn read(&mut self) -> Result<bool, String> {
        let document = self.place.read().await?;
        if self.document.as_ref() == Some(&document) {
            self.read_at = Instant::now();
            return Ok(false);
        }
        self.keys = self.place.keys(&document)?.into_iter().map(Arc::new).collect();
        self.document = Some(document);
        self.read_at = Instant::now();
        Ok(true)
    }

    /// As [`Self::read`], after the start. A failure is logged once, and the keys stay valid for `age_max`.
    async fn read_again(&mut self, age_max: Duration) -> bool {
        match self.read().await {
            Ok(changed) => {
                if mem::take(&mut self.failing) {
                    info!(place = %self.place, "the keys for tokens can be read again");
                }
                if changed {
                    info!(place = %self.place, keys = self.keys.len(), "the keys for tokens have changed");
                }
                changed
            }
            Err(problem) => {
                if !mem::replace(&mut self.failing, true) {
                    warn!(
                        place = %self.place, problem,
                        "the keys for tokens cannot be read; the earlier keys stay valid for --auth-keys-max-age"
                    );
                }
                let over = self.read_at.elapsed() >= age_max && self.document.take().is_some();
                if over {
                    error!(
                        place = %self.place,
                        "the keys for tokens could not be read for --auth-keys-max-age; tokens that need them are refused"
                    );
                    self.keys.clear();
                }
                over
            }
        }
    }
}

/// All sources of keys, and the keyring that gets their keys.
#[derive(Debug)]
pub(crate) struct Sources {
    sources: Vec<KeySource>,
    keyring: Arc<Keyring>,
    refresh: Duration,
    age_max: Duration,
}

impl Sources {
    /// Reads every source. Errors are added to `wrong`.
    pub(super) async fn open(
        config: &AuthConfig,
        rules: ClaimRules,
        has_certificates: bool,
        metrics: &Arc<AuthMetrics>,
        wrong: &mut Violations,
    ) -> Self {
        let mut sources: Vec<_> = config.keys.iter().cloned().map(KeyLocation::Pem).map(KeySource::new).collect();
        match config.jwks.as_deref() {
            None => {}
            Some(given) if !KeySetUrl::is_url(given) => {
                sources.push(KeySource::new(KeyLocation::SetInFile(given.into())));
            }
            Some(given) => match KeySetUrl::new(given) {
                Ok(page) => sources.push(KeySource::new(KeyLocation::SetAtUrl(Box::new(page)))),
                Err(problem) => wrong.add("auth_jwks", problem),
            },
        }
        if config.keys.is_empty() && config.jwks.is_none() && !has_certificates {
            wrong.add(
                "auth_keys",
                "--auth enforce needs keys: set --auth-keys or --auth-jwks, or --tls-client-ca for client certificates",
            );
        }
        for source in &mut sources {
            let field = if matches!(source.place, KeyLocation::Pem(_)) { "auth_keys" } else { "auth_jwks" };
            match source.read().await {
                Ok(_) if source.keys.is_empty() => wrong.add(field, format!("{}: holds no usable key", source.place)),
                Ok(_) => {}
                Err(problem) => wrong.add(field, format!("{}: {problem}", source.place)),
            }
        }
        let without_id = |algorithm| {
            let keys = sources.iter().flat_map(|source| &source.keys);
            keys.filter(|key| key.id.is_none() && key.algorithm == algorithm).count()
        };
        for algorithm in [Algorithm::EdDSA, Algorithm::ES256, Algorithm::RS256] {
            let count = without_id(algorithm);
            if count > AUTH_KEYS_TRIED_MAX {
                let problem = format!(
                    "hold {count} {algorithm:?} keys without an id; at most {AUTH_KEYS_TRIED_MAX} are allowed, \
                     give a key set with ids (`kid`)"
                );
                wrong.add("auth_keys", problem);
            }
        }
        let keyring = Arc::new(Keyring::new(keys(&sources), rules, metrics));
        Self { sources, keyring, refresh: config.jwks_refresh, age_max: config.keys_max_age }
    }

    /// Returns the keyring that holds the keys.
    pub(super) fn keyring(&self) -> Arc<Keyring> {
        Arc::clone(&self.keyring)
    }

    /// Keeps the keys up to date until the service stops.
    pub(crate) async fn keep_fresh(mut self, stop: CancellationToken) {
        stop.run_until_cancelled(self.follow()).await;
    }

    async fn follow(&mut self) {
        let mut fetched = Instant::now();
        let mut look = Instant::now() + AUTH_FILES_INTERVAL;
        let mut fetch = fetched + self.refresh;
        loop {
            tokio::select! {
                () = sleep_until(look) => {
                    self.read(|place| !place.is_url()).await;
                    look = Instant::now() + AUTH_FILES_INTERVAL;
                }
                () = sleep_until(fetch) => {
                    fetched = Instant::now();
                    let pause = if self.read(KeyLocation::is_url).await {
                        self.refresh
                    } else {
                        self.refresh.min(JWKS_FETCH_INTERVAL_MIN)
                    };
                    fetch = fetched + pause;
                }
                // strangers can cause this fetch too, so the interval is a lower bound
                () = self.keyring.missed() => fetch = fetch.min(fetched + JWKS_FETCH_INTERVAL_MIN),
            }
        }
    }

    /// Reads some of the sources. Returns whether all of them could be read.
    async fn read(&mut self, chosen: impl Fn(&KeyLocation) -> bool) -> bool {
        let mut changed = false;
        let mut whole = true;
        for source in self.sources.iter_mut().filter(|source| chosen(&source.place)) {
            changed |= source.read_again(self.age_max).await;
            whole &= !source.failing;
        }
        if changed {
            self.keyring.replace(keys(&self.sources));
        }
        whole
    }
}

fn keys(sources: &[KeySource]) -> Vec<Arc<PublicKey>> {
    sources.iter().flat_map(|source| &source.keys).cloned().collect()
}
