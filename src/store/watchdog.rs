//! Detects through JetStream's advisories that another program changed or deleted a room's stream, and repairs the
//! stream.

use std::{collections::HashSet, time::Duration};

use tokio::time;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{log::high_water_marks::HighWaterMarks, registry::Registry};
use crate::{
    domain::StreamName,
    error::{Reason, Result},
    nats::{Nats, listening::Listening},
};

/// Advisories are gathered for this long: a native program updates the stream with every publish.
const SETTLE: Duration = Duration::from_millis(250);

/// Listens to advisories about streams.
#[derive(Debug)]
pub(super) struct Watchdog {
    registry: Registry,
    marks: HighWaterMarks,
    advisories: Listening,
}

impl Watchdog {
    pub(super) async fn new(nats: &Nats, registry: &Registry, marks: &HighWaterMarks) -> Result<Self> {
        let advisories = Listening::open(nats, vec!["$JS.EVENT.ADVISORY.STREAM.*.*".to_owned()]).await?;
        Ok(Self { registry: registry.clone(), marks: marks.clone(), advisories })
    }

    /// Runs until `stop`.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut changed: HashSet<StreamName> = HashSet::new();
        loop {
            let wait =
                async { if changed.is_empty() { std::future::pending().await } else { time::sleep(SETTLE).await } };
            tokio::select! {
                () = stop.cancelled() => return,
                advisory = self.advisories.next() => changed.extend(stream_name(&advisory.subject)),
                () = wait => {
                    for name in changed.drain() {
                        self.look_after(&name).await;
                    }
                }
            }
        }
    }

    async fn look_after(&self, name: &StreamName) {
        let Some(known) = self.registry.known_by_stream(name).filter(|known| known.room.persist) else { return };
        match self.marks.ensure(&known.room).await {
            // deleted by another instance
            Err(error) if error.reason() == Reason::RoomNotFound => {}
            Err(error) => {
                warn!(room = %known.room.room_id, error = error.with_causes(), "the stream of the room could not be checked");
            }
            Ok(_) => {}
        }
    }
}

/// The room's stream in the last token of an advisory's subject.
fn stream_name(subject: &str) -> Option<StreamName> {
    StreamName::try_from(subject.rsplit('.').next()?.to_owned()).ok()
}
