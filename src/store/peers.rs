//! Requests between the instances of the service, over core NATS. A request to an instance that has stopped fails at
//! once, because nothing subscribes to its subject.

use std::{marker::PhantomData, pin::pin, sync::Arc};

use async_nats::{Client, RequestErrorKind};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use serde::{Serialize, de::DeserializeOwned};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    error::{Error, Reason, Result},
    limits::TAKE_OVER_TIMEOUT,
    nats::{Nats, listening::Listening},
};

/// A kind of request that instances send to each other.
pub(crate) trait PeerCall: Serialize + DeserializeOwned {
    /// The answer.
    type Reply: Serialize + DeserializeOwned;

    /// The subject of the requests to one instance.
    fn subject(instance: &str) -> String;
}

/// A request of another instance, with the means to answer it.
#[derive(Debug)]
pub(crate) struct IncomingRequest<C> {
    pub request: C,
    client: Client,
    reply_to: async_nats::Subject,
}

impl<C: PeerCall> IncomingRequest<C> {
    pub(crate) async fn answer(self, reply: &C::Reply) {
        let Ok(body) = serde_json::to_vec(reply) else { return };
        if let Err(error) = self.client.publish(self.reply_to, body.into()).await {
            warn!(%error, "a reply to another instance could not be sent");
        }
    }
}

/// Receives the requests of other instances.
#[derive(Debug)]
pub(crate) struct PeerListener<C> {
    requests: Listening,
    kind: PhantomData<fn() -> C>,
}

impl<C: PeerCall> PeerListener<C> {
    /// Answers requests until `stop`, at most `at_once` concurrently.
    pub(crate) async fn serve<F: Future<Output = ()>>(
        mut self,
        at_once: usize,
        stop: CancellationToken,
        answer: impl Fn(IncomingRequest<C>) -> F,
    ) {
        let requests = stream::poll_fn(move |cx| pin!(self.next()).poll(cx).map(Some));
        tokio::select! {
            () = stop.cancelled() => {}
            () = requests.for_each_concurrent(at_once, answer) => {}
        }
    }

    /// Returns the next request.
    ///
    /// # Cancel safety
    /// May be dropped at any point.
    async fn next(&mut self) -> IncomingRequest<C> {
        loop {
            let message = self.requests.next().await;
            let Some(reply_to) = message.reply else { continue };
            match serde_json::from_slice(&message.payload) {
                Ok(request) => return IncomingRequest { request, client: self.requests.client().clone(), reply_to },
                Err(error) => warn!(%error, "a request of another instance cannot be read"),
            }
        }
    }
}

/// The other instances of the service, and the requests that they send to this one.
#[derive(Clone, Debug)]
pub(crate) struct Peers {
    nats: Nats,
    instance: Arc<str>,
}

impl Peers {
    pub(super) fn new(nats: &Nats, instance: &Arc<str>) -> Self {
        Self { nats: nats.clone(), instance: Arc::clone(instance) }
    }

    /// Receives the requests of this kind to this instance. Must be called before another instance can learn the name of
    /// this one.
    ///
    /// # Errors
    /// `NATS_UNAVAILABLE`.
    pub(crate) async fn listen<C: PeerCall>(&self) -> Result<PeerListener<C>> {
        let requests = Listening::open(&self.nats, vec![C::subject(&self.instance)]).await?;
        Ok(PeerListener { requests, kind: PhantomData })
    }

    /// Sends a request to another instance. Returns `None` if that instance has stopped.
    ///
    /// # Errors
    /// `TIMEOUT`, `NATS_UNAVAILABLE`.
    pub(crate) async fn ask<C: PeerCall>(&self, instance: &str, request: &C) -> Result<Option<C::Reply>> {
        self.nats.ready().await?;
        let body = Bytes::from(serde_json::to_vec(request).map_err(|error| Error::internal().because(error))?);
        let request = async_nats::Request::new().payload(body).timeout(Some(TAKE_OVER_TIMEOUT));
        match self.nats.client.send_request(C::subject(instance), request).await {
            Ok(message) => {
                serde_json::from_slice(&message.payload).map(Some).map_err(|error| Error::internal().because(error))
            }
            Err(error) if error.kind() == RequestErrorKind::NoResponders => Ok(None),
            Err(error) => {
                Err(Error::new(Reason::Timeout, "another instance did not answer in time; calling again is safe")
                    .because(error))
            }
        }
    }
}
