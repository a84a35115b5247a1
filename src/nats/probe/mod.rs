//! Asks a NATS server what it lets the service do, without changing anything. For `unibus check`.

mod account;
mod permissions;
mod registry;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::future::join_all;
use serde_json::Value;
use tokio::{
    sync::mpsc,
    time::{self, Instant},
};

use self::permissions::REFUSALS_MAX;
pub(crate) use self::{
    account::{Amount, JetStreamLimits},
    permissions::PERMISSIONS_TRIED,
};
use super::{
    Nats,
    connect::{self, NatsConfig},
    context,
    error::unavailable,
    links::Links,
    version::Version,
};
use crate::{error::Result, metrics::NatsMetrics};

/// How long one address may take to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);
/// How long the server may take to answer one question.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection to one address of `--nats-url`.
pub(crate) struct Probe {
    nats: Nats,
    refusals: mpsc::Receiver<String>,
}

/// What the greeting of a server says.
#[derive(Debug)]
pub(crate) struct Greeting {
    pub version: String,
    pub parsed_version: Version,
    /// The name of its cluster, if it is in one.
    pub cluster: Option<String>,
    pub payload_bytes_max: usize,
}

impl Probe {
    /// Connects to each address that the configuration names. The addresses are without user and password.
    ///
    /// # Errors
    /// `INVALID_FIELD` if the URL is malformed. An address that cannot be used has an error of its own.
    pub(crate) async fn each_address(config: &NatsConfig) -> Result<Vec<(String, Result<Self>)>> {
        let (addresses, credentials) = connect::addresses(config.url.as_deref().unwrap_or_default())?;
        let probes = addresses.iter().map(|address| {
            let shown = format!("{}:{}", address.host(), address.port());
            let mut config = config.clone();
            let host =
                if address.host().contains(':') { format!("[{}]", address.host()) } else { address.host().into() };
            config.url = Some(format!("{}://{host}:{}", address.scheme(), address.port()));
            config.connect_timeout = config.connect_timeout.min(CONNECT_TIMEOUT);
            if let (None, Some((user, password))) = (&config.user, credentials.clone()) {
                (config.user, config.password) = (Some(user), Some(password));
            }
            async move { (shown, Self::connect(&config).await) }
        });
        Ok(join_all(probes).await)
    }

    async fn connect(config: &NatsConfig) -> Result<Self> {
        let (sender, refusals) = mpsc::channel(REFUSALS_MAX);
        let deadline = Instant::now() + config.connect_timeout;
        let connecting = connect::connect_unchecked(config, "unibus check", deadline, Some(sender));
        let (client, connections) = match time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(connected) => connected?,
            Err(elapsed) => return Err(unavailable().because(elapsed)),
        };
        // nobody reads what a check counts
        let metrics = Arc::new(NatsMetrics::new());
        let links = Arc::new(Links::new(config, &metrics));
        let nats = Nats { jetstream: context(&client), client, connections, has_jetstream: true, links, metrics };
        Ok(Self { nats, refusals })
    }

    pub(crate) fn greeting(&self) -> Greeting {
        let info = self.nats.client.server_info();
        Greeting {
            parsed_version: Version::of_server(&info.version),
            version: info.version,
            cluster: info.cluster,
            payload_bytes_max: self.nats.payload_bytes_max(),
        }
    }

    /// The server's clock minus the clock of this machine, in seconds, and the greatest error of this number. `None` if
    /// the server does not tell its time.
    pub(crate) async fn clock_ahead(&self) -> Option<(f64, f64)> {
        for (subject, field) in [("$SYS.REQ.USER.INFO", "/server/time"), ("$JS.API.STREAM.INFO.KV_unibus_rooms", "/ts")]
        {
            let (sent, begun) = (SystemTime::now(), Instant::now());
            let Some(answer) = self.ask(subject).await else { continue };
            let error = begun.elapsed().as_secs_f64() / 2.0;
            let told = answer.pointer(field).and_then(Value::as_str);
            let Some(told) = told.and_then(|told| humantime::parse_rfc3339(told).ok()) else { continue };
            let ahead = match told.duration_since(sent) {
                Ok(ahead) => ahead.as_secs_f64(),
                Err(behind) => -behind.duration().as_secs_f64(),
            };
            return Some((ahead - error, error));
        }
        None
    }

    /// The answer to a request without a body. `None` without an answer in time.
    async fn ask(&self, subject: &str) -> Option<Value> {
        let request = self.nats.client.request(subject.to_owned(), Bytes::new());
        let answer = time::timeout(ANSWER_TIMEOUT, request).await.ok()?.ok()?;
        serde_json::from_slice(&answer.payload).ok()
    }
}
