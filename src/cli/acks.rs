//! Acknowledges what was printed: one call at a time, always for the newest position.

use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time;
use tonic::{Response, Status};
use unibus::v1::{AcknowledgeRequest, AcknowledgeResponse, Opened};

use super::{
    connection::RoomClient,
    exit::Exit,
    failure::{CliResult, Failure},
};

type AckCall = BoxFuture<'static, Result<Response<AcknowledgeResponse>, Status>>;

/// The acknowledgements of one subscription.
pub(super) struct PrintedAcks {
    client: RoomClient,
    room_id: String,
    /// `None`: nothing is acknowledged.
    subscriber: Option<String>,
    timeout: Duration,
    /// The generation of the subscription, if the service numbers them.
    generation: Option<u64>,
    /// The newest position that was printed.
    printed: u64,
    /// The newest position that a call names.
    asked: u64,
    /// The newest position that the service has confirmed.
    confirmed: u64,
    call: Option<AckCall>,
}

impl PrintedAcks {
    /// Acknowledges for this subscriber.
    pub(super) fn new(client: RoomClient, room_id: String, subscriber: Option<String>, timeout: Duration) -> Self {
        let (generation, call) = (None, None);
        Self { client, room_id, subscriber, timeout, generation, printed: 0, asked: 0, confirmed: 0, call }
    }

    /// The subscriber is at this position, since it was opened or moved there.
    pub(super) fn at(&mut self, opened: &Opened) {
        self.generation = Some(opened.generation).filter(|generation| *generation > 0);
        (self.printed, self.asked, self.confirmed) = (opened.position, opened.position, opened.position);
    }

    /// The newest position that the service has.
    pub(super) fn confirmed(&self) -> u64 {
        self.confirmed
    }

    /// Everything up to this position was printed.
    pub(super) fn printed(&mut self, position: u64) {
        self.printed = position;
        self.start();
    }

    /// Starts a call, if there is something to acknowledge and no call is open.
    fn start(&mut self) {
        let Some(subscriber) = self.subscriber.clone().filter(|_| self.call.is_none() && self.printed > self.asked)
        else {
            return;
        };
        self.asked = self.printed;
        let (room_id, sequence, generation) = (self.room_id.clone(), self.printed, self.generation);
        let request = AcknowledgeRequest { room_id, subscriber, sequence, generation };
        let (mut client, timeout) = (self.client.clone(), self.timeout);
        self.call = Some(Box::pin(async move {
            let acknowledged = time::timeout(timeout, client.acknowledge(request)).await;
            acknowledged.unwrap_or_else(|_| Err(Status::cancelled("no answer in time")))
        }));
    }

    /// Waits for the end of the open call; for ever if there is none.
    ///
    /// # Cancel safety
    /// May be dropped at any point: the call goes on with the next wait.
    pub(super) async fn next(&mut self) -> CliResult {
        let Some(call) = &mut self.call else { return std::future::pending().await };
        let acknowledged = call.await;
        self.call = None;
        let acknowledged = acknowledged
            .map_err(|status| Failure::call(&format!("acknowledge messages of {}", self.room_id), &status))?;
        self.confirmed = acknowledged.into_inner().position;
        self.start();
        Ok(())
    }

    /// Acknowledges everything that was printed.
    pub(super) async fn finish(&mut self) -> CliResult {
        self.start();
        let timeout = self.timeout;
        let all = async {
            while self.call.is_some() {
                self.next().await?;
            }
            Ok(())
        };
        let late = || Failure::new(Exit::Timeout, "the last messages were printed, but not acknowledged in time");
        time::timeout(timeout, all).await.unwrap_or_else(|_| Err(late()))
    }
}
