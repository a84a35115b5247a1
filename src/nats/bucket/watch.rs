//! The watch of one key-value bucket. It detects within two seconds that no more messages come.
//!
//! The watch of async-nats 0.51 gets a heartbeat every five seconds and reports a missing one after ten; it cannot be
//! configured. This watch ends with an error as soon as a change may be missing, and its caller restarts it. Measured
//! with one of three NATS servers killed: the next change is reported after two seconds, or after seven if NATS first
//! places the new watch on the killed server.

use std::{error::Error as StdError, time::Duration};

use async_nats::jetstream::{
    self,
    consumer::{AckPolicy, DeliverPolicy, push},
    kv,
    message::Message,
};
use futures_util::StreamExt;

/// The interval of the server's heartbeats. A watch without messages for twice this interval has failed.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// The server deletes an abandoned consumer after this time.
const INACTIVE_THRESHOLD: Duration = Duration::from_secs(30);

type WatchResult<T> = std::result::Result<T, Box<dyn StdError + Send + Sync>>;

pub(crate) struct Watch {
    messages: push::Messages,
    bucket: String,
    prefix: String,
    /// The consumer's own number of the newest message.
    delivered: u64,
    is_current: bool,
}

impl Watch {
    /// Opens a watch that reports the newest value of every key, and then every change.
    pub(crate) async fn open(jetstream: &jetstream::Context, bucket: &str) -> WatchResult<Self> {
        let stream = jetstream.get_stream_no_info(format!("KV_{bucket}")).await?;
        let config = push::Config {
            deliver_subject: jetstream.client().new_inbox(),
            description: Some("unibus watch".to_owned()),
            deliver_policy: DeliverPolicy::LastPerSubject,
            ack_policy: AckPolicy::None,
            filter_subject: format!("$KV.{bucket}.>"),
            flow_control: true,
            idle_heartbeat: HEARTBEAT,
            inactive_threshold: INACTIVE_THRESHOLD,
            memory_storage: true,
            num_replicas: 1,
            ..push::Config::default()
        };
        let consumer = stream.create_consumer(config).await?;
        let messages = consumer.messages().await?;
        let (bucket, prefix) = (bucket.to_owned(), format!("$KV.{bucket}."));
        Ok(Self { messages, bucket, prefix, delivered: 0, is_current: false })
    }

    /// Waits for the next value or deletion.
    ///
    /// # Errors
    /// If a change may be missing, or no more messages come. The watch is then unusable.
    ///
    /// # Cancel safety
    /// May be dropped at any point without losing a change.
    pub(crate) async fn next(&mut self) -> Option<WatchResult<kv::Entry>> {
        let message = self.messages.next().await?;
        Some(message.map_err(Into::into).and_then(|message| self.entry(message)))
    }

    fn entry(&mut self, message: Message) -> WatchResult<kv::Entry> {
        let info = message.info()?;
        if info.consumer_sequence != self.delivered + 1 {
            return Err("the watch lost a change on its way".into());
        }
        self.delivered += 1;
        self.is_current |= info.pending == 0;
        let header = |name: &str| message.headers.as_ref().and_then(|headers| headers.get(name));
        let operation = match header("KV-Operation").map(async_nats::HeaderValue::as_str) {
            Some("DEL") => kv::Operation::Delete,
            Some("PURGE") => kv::Operation::Purge,
            // a value that has expired
            None if header("Nats-Marker-Reason").is_some() => kv::Operation::Purge,
            Some(_) | None => kv::Operation::Put,
        };
        Ok(kv::Entry {
            bucket: self.bucket.clone(),
            key: message.subject.strip_prefix(self.prefix.as_str()).unwrap_or_default().to_owned(),
            revision: info.stream_sequence,
            delta: info.pending,
            created: info.published,
            operation,
            seen_current: self.is_current,
            value: message.message.payload,
        })
    }
}
