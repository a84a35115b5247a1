//! What an instance changes, told to all others over core NATS, so that it takes effect there also while a watch hangs.
//!
//! The buckets stay the truth: what is told is what was written to them, with its revision, and the watches tell the same
//! later. Revisions order all of it, so that what comes late or twice changes nothing. Every notice is signed with a key that
//! only the instances have: whoever else may publish on these subjects can neither grant nor take anything.
//!
//! Instances say that they are there, so that one that takes something away knows for whose confirmation to wait.

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

/// What is signed begins with this, so that it is taken for nothing else.
const PURPOSE: &[u8] = b"unibus notice 1";

/// Tells the other instances. Cheap to clone.
#[derive(Clone, Debug)]
pub(in crate::store) struct Changes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    nats: Nats,
    signatures: Signatures,
    instance: Arc<str>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    others: Presence,
    /// The number of the newest change that was told.
    number: u64,
    waiting: HashMap<u64, Waiting>,
}

/// A change that not every instance has confirmed.
#[derive(Debug)]
struct Waiting {
    missing: HashSet<String>,
    done: Option<oneshot::Sender<()>>,
}

impl State {
    /// The instance knows of the change, or is gone.
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

/// A change that was told; the others confirm it.
#[derive(Debug)]
#[must_use]
pub(in crate::store) struct Told {
    changes: Changes,
    number: u64,
    until: Instant,
    done: oneshot::Receiver<()>,
}

impl Drop for Told {
    fn drop(&mut self) {
        lock(&self.changes.0.state).waiting.remove(&self.number);
    }
}

impl Told {
    /// Returns when every instance that is there knows of the change, or is not reached by NATS, or has not said so in time.
    pub(in crate::store) async fn heard(mut self) {
        if timeout(CHANGE_ASK_AFTER, &mut self.done).await.is_ok() {
            return;
        }
        // an instance that is gone answers at once: nobody listens
        let missing = self.missing();
        let asking = join_all(missing.iter().map(|instance| self.changes.ask(instance, self.number, self.until)));
        let done = async {
            // each that is gone is not missed any more
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

    /// Tells all other instances, which may confirm it.
    pub(in crate::store) async fn tell(&self, change: Change) -> Told {
        let until = Instant::now() + CHANGE_TIMEOUT;
        let (send, done) = oneshot::channel();
        let number = {
            let mut state = lock(&self.0.state);
            state.number += 1;
            let number = state.number;
            let missing: HashSet<String> = state.others.present(Instant::now()).into_iter().collect();
            let mut waiting = Waiting { missing, done: Some(send) };
            if waiting.missing.is_empty() {
                waiting.done.take().map(|done| done.send(()));
            }
            state.waiting.insert(number, waiting);
            number
        };
        // made before it is sent: a call that is dropped meanwhile leaves nothing behind
        let told = Told { changes: self.clone(), number, until, done };
        self.send(NOTICES.to_owned(), Notice::Change { number, change }).await;
        told
    }

    /// Without JetStream instances have nothing in common.
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
            warn!(%error, "a change could not be sent to the other instances; they will get it from their watch of the registry");
        }
    }

    /// Asks whether the instance is there. If it is not, it is not waited for.
    async fn ask(&self, instance: &str, number: u64, until: Instant) {
        let left = until.saturating_duration_since(Instant::now());
        let request = Request::new().payload(Bytes::new()).timeout(Some(left));
        match self.0.nats.client.send_request(notices_to(instance), request).await {
            Err(error) if error.kind() == RequestErrorKind::NoResponders => {
                let mut state = lock(&self.0.state);
                state.others.gone(instance);
                state.settle(number, instance);
            }
            Ok(_) | Err(_) => {}
        }
    }
}
