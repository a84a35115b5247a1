//! A native program that sees the requests to JetStream's API.

use std::time::Duration;

use async_nats::jetstream;
use futures_util::StreamExt;

use super::Nats;

const SOON: Duration = Duration::from_secs(10);

/// Sees every request to JetStream's API.
pub struct Spy {
    client: async_nats::Client,
    requests: async_nats::Subscriber,
}

impl Spy {
    pub async fn start(nats: &Nats) -> Self {
        let client = nats.client().await;
        let requests = client.subscribe("$JS.API.>").await.unwrap();
        let mut spy = Self { client, requests };
        // its answer shows that the server knows the subscription
        spy.seen().await;
        spy
    }

    /// The subjects of the requests since the last call.
    pub async fn seen(&mut self) -> Vec<String> {
        // what the spy asks itself comes last
        jetstream::new(self.client.clone()).get_stream("KV_unibus_rooms").await.unwrap();
        let mut seen = Vec::new();
        loop {
            let next = tokio::time::timeout(SOON, self.requests.next()).await;
            let subject = next.expect("the spy's own request").unwrap().subject.to_string();
            if subject == "$JS.API.STREAM.INFO.KV_unibus_rooms" {
                return seen;
            }
            seen.push(subject);
        }
    }

    /// As [`Self::seen`]: those about the stream of the room `lobby`.
    pub async fn seen_of_lobby(&mut self) -> Vec<String> {
        let mut seen = self.seen().await;
        seen.retain(|subject| subject.split('.').any(|token| token == "UNIBUS_lobby"));
        seen
    }
}
