//! Changes that an instance sends to all others over core NATS. A change takes effect on them even while their watch
//! hangs.
//!
//! The buckets stay authoritative. An instance sends a change after it has written the change to a bucket, with the
//! revision. The watches report the same change later. Revisions order all reports, so a late or repeated report
//! changes nothing. Every notice is signed with a key that only the instances have. Another program that may publish
//! on these subjects cannot grant or revoke access.
//!
//! Instances announce their presence, so an instance that revokes access knows which instances must confirm.

mod listener;
mod notice;
mod presence;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
};

use async_nats::{HeaderMap, Request, RequestErrorKind};
use bytes::Bytes;
use futures_util::future::join_all;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout, timeout_at},
};
use tracing::{debug, warn};

pub(in crate::store) use self::{listener::Listener, notice::Change};
use self::{
    notice::{Envelope, Notice},
    presence::Presence,
};
use crate::{
    limits::{CHANGE_ASK_AFTER, CHANGE_TIMEOUT},
    nats::Nats,
    store::{
        names::{NOTICES, SIGNATURE_HEADER, notices_to},
        signatures::Signatures,
    },
    sync::lock,
};

/// The prefix of the signed bytes. It separates these signatures from all others.
const PURPOSE: &[u8] = b"unibus notice 1";

/// Sends changes to the other instances. Cheap to clone.
#[derive(Clone, Debug)]
pub(in crate::store) struct Changes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    nats: Nats,
    signatures: Signatures,
    instance: Arc<str>,
    state: Mutex<ChangesState>,
}

#[derive(Debug, Default)]
struct ChangesState {
    others: Presence,
    /// The number of the newest change that was sent.
    number: u64,
    waiting: HashMap<u64, UnconfirmedChange>,
}

/// A change that not every instance has confirmed.
#[derive(Debug)]
struct UnconfirmedChange {
    missing: HashSet<String>,
    done: Option<oneshot::Sender<()>>,
}

impl ChangesState {
    /// Records that the instance knows the change, or is gone.
    fn settle(&mut self, number: u64, instance: &str) {
        let Some(waiting) = self.waiting.get_mut(&number) else { return };
        waiting.missing.remove(instance);
        if waiting.missing.is_empty()
            && let Some(done) = waiting.done.take()
        {
            let _ = done.send(());
        }
    }
}

/// A change that was sent. The other instances confirm it.
#[derive(Debug)]
#[must_use]
pub(in crate::store) struct SentChange {
    changes: Changes,
    number: u64,
    until: Instant,
    done: oneshot::Receiver<()>,
}

impl Drop for SentChange {
    fn drop(&mut self) {
        lock(&self.changes.0.state).waiting.remove(&self.number);
    }
}

impl SentChange {
    /// Waits until every present instance knows the change, is unreachable, or has not confirmed in time.
    pub(in crate::store) async fn confirmed(mut self) {
        if timeout(CHANGE_ASK_AFTER, &mut self.done).await.is_ok() {
            return;
        }
        // a request to an instance that is gone fails at once, because nothing subscribes to its subject
        let missing = self.missing();
        let asking = join_all(missing.iter().map(|instance| self.changes.ask(instance, self.number, self.until)));
        let done = async {
            // instances that are gone are no longer awaited
            let _ = futures_util::future::join(asking, &mut self.done).await;
        };
        if timeout_at(self.until, done).await.is_err() {
            for instance in self.missing() {
                warn!(
                    instance,
                    "another instance did not confirm a change in time; it will get the change from its watch of the registry"
                );
            }
        }
    }

    fn missing(&self) -> Vec<String> {
        let state = lock(&self.changes.0.state);
        let waiting = state.waiting.get(&self.number);
        waiting.map(|waiting| waiting.missing.iter().cloned().collect()).unwrap_or_default()
    }
}

impl Changes {
    pub(in crate::store) fn new(nats: &Nats, signatures: &Signatures, instance: &Arc<str>) -> Self {
        let (nats, signatures, instance) = (nats.clone(), signatures.clone(), Arc::clone(instance));
        Self(Arc::new(Inner { nats, signatures, instance, state: Mutex::default() }))
    }

    /// Sends the change to all other instances. They can confirm it.
    pub(in crate::store) async fn send_change(&self, change: Change) -> SentChange {
        let until = Instant::now() + CHANGE_TIMEOUT;
        let (send, done) = oneshot::channel();
        let number = {
            let mut state = lock(&self.0.state);
            state.number += 1;
            let number = state.number;
            let missing: HashSet<String> = state.others.present(Instant::now()).into_iter().collect();
            let mut waiting = UnconfirmedChange { missing, done: Some(send) };
            if waiting.missing.is_empty() {
                waiting.done.take().map(|done| done.send(()));
            }
            state.waiting.insert(number, waiting);
            number
        };
        // created before the notice is sent, so that a dropped call leaves nothing behind
        let unconfirmed = SentChange { changes: self.clone(), number, until, done };
        self.send(NOTICES.to_owned(), Notice::Change { number, change }).await;
        unconfirmed
    }

    /// Sends a notice. Does nothing without JetStream, because the instances then share nothing.
    async fn send(&self, subject: String, notice: Notice) {
        if !self.0.nats.has_jetstream() {
            return;
        }
        let envelope = Envelope { from: self.0.instance.to_string(), subject, notice };
        let Ok(body) = serde_json::to_vec(&envelope) else { return };
        let Some(signature) = self.0.signatures.sign(PURPOSE, &body) else {
            debug!("a notice is not sent: the key that signs it is not known yet");
            return;
        };
        let mut headers = HeaderMap::new();
        headers.insert(SIGNATURE_HEADER, signature);
        if let Err(error) = self.0.nats.client.publish_with_headers(envelope.subject, headers, body.into()).await {
            warn!(
                %error,
                "a change could not be sent to the other instances; they will get it from their watch of the registry"
            );
        }
    }

    /// Asks whether the instance is present. If it is not, its confirmation is no longer awaited.
    async fn ask(&self, instance: &str, number: u64, until: Instant) {
        let left = until.saturating_duration_since(Instant::now());
        let request = Request::new().payload(Bytes::new()).timeout(Some(left));
        match self.0.nats.client.send_request(notices_to(instance), request).await {
            Err(error) if error.kind() == RequestErrorKind::NoResponders => {
                let mut state = lock(&self.0.state);
                state.others.remove(instance);
                state.settle(number, instance);
            }
            Ok(_) | Err(_) => {}
        }
    }
}
