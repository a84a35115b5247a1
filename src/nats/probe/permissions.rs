//! Tries each permission that the service needs.
//!
//! The server reports a missing permission to the client, and does nothing else. A permission that exists must not have
//! an effect either: the subjects name a stream, a consumer and a key that do not exist, the requests have a body that
//! the server does not accept, and a header keeps a stream from storing them.

use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use tokio::time;

use super::Probe;

/// Name of the stream, the consumer, the key and the room, none of which exist.
const NOTHING: &str = "unibus_check";
/// What a request contains: the server cannot parse it.
const BODY: &[u8] = b"-";
/// How long the server may take to process everything.
const PROCESSED_TIMEOUT: Duration = Duration::from_secs(3);
/// The refusals have all arrived when no further one comes for this time.
const QUIET: Duration = Duration::from_millis(300);
/// Refusals that wait to be read. More than there are permissions.
pub(super) const REFUSALS_MAX: usize = 128;

/// Subjects that the service publishes to, as its NATS user needs them. `docs/nats.md` has the same list.
const PUBLISH: &[&str] = &[
    "unibus.room.>",
    "unibus.sys.>",
    "$KV.unibus_rooms.>",
    "$KV.unibus_names.>",
    "$KV.unibus_subscribers.>",
    "$KV.unibus_members.>",
    "$KV.unibus_secrets.>",
    "$JS.FC.>",
    "$JS.API.INFO",
    "$JS.API.STREAM.CREATE.*",
    "$JS.API.STREAM.INFO.*",
    "$JS.API.STREAM.UPDATE.*",
    "$JS.API.STREAM.DELETE.*",
    "$JS.API.STREAM.PURGE.*",
    "$JS.API.STREAM.MSG.GET.*",
    "$JS.API.STREAM.MSG.DELETE.*",
    "$JS.API.DIRECT.GET.>",
    "$JS.API.CONSUMER.CREATE.>",
    "$JS.API.CONSUMER.INFO.*.*",
    "$JS.API.CONSUMER.DELETE.*.*",
    "$JS.API.CONSUMER.RESET.*.*",
    "$JS.API.CONSUMER.LIST.*",
    "$JS.API.CONSUMER.MSG.NEXT.*.*",
];

/// Subjects that the service subscribes to.
const SUBSCRIBE: &[&str] = &["_INBOX_unibus.>", "unibus.room.>", "unibus.sys.>", "$JS.EVENT.ADVISORY.STREAM.>"];

/// The number of permissions that are tried.
pub(crate) const PERMISSIONS_TRIED: usize = PUBLISH.len() + SUBSCRIBE.len();

/// A permission that the service needs and its NATS user does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MissingPermission {
    /// `publish` or `subscribe`.
    pub operation: &'static str,
    /// The subject, as the permission has to name it.
    pub subject: &'static str,
}

/// The subject that is tried for a permission.
fn tried(permission: &str) -> String {
    // several tokens, as flow control and consumers have them
    permission.replace('*', NOTHING).replace('>', &format!("{NOTHING}.{NOTHING}"))
}

impl Probe {
    /// Tries every permission, and returns those that are missing.
    ///
    /// # Errors
    /// If the connection was lost meanwhile, so that nothing is known.
    pub(crate) async fn missing_permissions(&mut self) -> Result<Vec<MissingPermission>, async_nats::Error> {
        let client = self.nats.client.clone();
        // kept, so that they are not unsubscribed before the server has seen them
        let mut subscriptions = Vec::new();
        for permission in SUBSCRIBE {
            subscriptions.push(client.subscribe(tried(permission)).await?);
        }
        let mut headers = HeaderMap::new();
        headers.insert(async_nats::header::NATS_EXPECTED_STREAM, NOTHING);
        for permission in PUBLISH {
            client.publish_with_headers(tried(permission), headers.clone(), Bytes::from_static(BODY)).await?;
        }
        client.flush().await?;
        // without permission for the answer, this waits until the timeout, and the refusals have come by then
        let _answered = time::timeout(PROCESSED_TIMEOUT, self.nats.settled()).await;
        let mut refusals = Vec::new();
        while let Ok(Some(refusal)) = time::timeout(QUIET, self.refusals.recv()).await {
            refusals.push(refusal);
        }
        if !self.nats.is_connected() {
            return Err("the connection was lost".into());
        }
        let missing = [("publish", PUBLISH), ("subscribe", SUBSCRIBE)].into_iter().flat_map(|(operation, subjects)| {
            subjects.iter().map(move |subject| MissingPermission { operation, subject })
        });
        Ok(missing.filter(|needed| refusals.iter().any(|refusal| is_about(refusal, needed))).collect())
    }
}

/// Whether the server's refusal is about this permission, such as `Permissions Violation for Publish to "a.b"`.
fn is_about(refusal: &str, needed: &MissingPermission) -> bool {
    let operation = if needed.operation == "publish" { "Publish to" } else { "Subscription to" };
    refusal.contains(&format!("{operation} \"{}\"", tried(needed.subject)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{PUBLISH, SUBSCRIBE, tried};

    #[test]
    fn the_documented_permissions_are_tried() {
        // `room.>` is an example of the subjects that creators choose
        let documented = include_str!("../../../deploy/nats/permissions.conf");
        let lines = documented.lines().filter(|line| !line.trim_start().starts_with('#'));
        let documented: BTreeSet<_> = lines.flat_map(|line| line.split('"').skip(1).step_by(2)).collect();
        let tried: BTreeSet<_> = PUBLISH.iter().chain(SUBSCRIBE).copied().chain(["room.>"]).collect();
        assert_eq!(documented, tried);
    }

    #[test]
    fn what_is_tried_names_nothing_that_exists() {
        assert_eq!(tried("$JS.API.STREAM.DELETE.*"), "$JS.API.STREAM.DELETE.unibus_check");
        assert_eq!(tried("$KV.unibus_rooms.>"), "$KV.unibus_rooms.unibus_check.unibus_check");
        assert_eq!(tried("$JS.API.INFO"), "$JS.API.INFO");
    }
}
