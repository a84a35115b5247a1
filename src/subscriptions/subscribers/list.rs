//! The durable subscribers of a room: where each stands, and whether it has an open subscription anywhere.

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, SystemTime},
};

use futures_util::{StreamExt, stream};

use super::{Key, Subscribers};
use crate::{
    domain::{NatsName, Room, RoomId, RoomState, SubscriberToken},
    error::Result,
    store::subscribers::{
        holders::Held,
        peers::{PeerReply, PeerRequest},
    },
};

/// Subscribers that another instance is asked about at once: far below what fits a message.
const ASKED_AT_ONCE: usize = 200;
/// Questions to other instances at the same time.
const QUESTIONS_AT_ONCE: usize = 16;

/// A durable subscriber.
#[derive(Clone, Debug)]
pub(crate) struct SubscriberState {
    pub name: String,
    /// The endpoint that bound it, if there was one.
    pub endpoint: Option<String>,
    /// The name of its consumer in NATS.
    pub consumer: String,
    /// Everything up to this sequence is processed.
    pub position: u64,
    /// Messages kept after the position.
    pub lag: u64,
    pub last_active_at: Option<SystemTime>,
    /// A subscription is open, on whatever instance.
    pub open: bool,
}

/// Subscribers by ascending name in NATS.
#[derive(Clone, Debug, Default)]
pub(crate) struct SubscriberPage {
    pub subscribers: Vec<SubscriberState>,
    /// If more follow.
    pub next: Option<SubscriberToken>,
}

/// Since when an open subscription stands where it stands.
type OpenSince = Option<SystemTime>;

impl Subscribers {
    /// Up to `limit` subscribers after `after` whose name in NATS is wanted. `state` is the room's, as it was a moment ago.
    pub(crate) async fn page(
        &self,
        room: &Room,
        after: Option<&SubscriberToken>,
        state: &RoomState,
        limit: usize,
        is_wanted: &(dyn Fn(&str) -> bool + Sync),
    ) -> Result<SubscriberPage> {
        let found = self.store.durables(room, after, state, limit, is_wanted).await?;
        // a native client's may have a name that no subscriber has
        let names: Vec<NatsName> =
            found.durables.iter().filter_map(|durable| NatsName::parse(durable.mapped.as_str()).ok()).collect();
        let held = self.store.holders.of(&room.room_id, &names).await?;
        let open = self.open_anywhere(&room.room_id, &held).await;
        let held: HashMap<&str, &Held> =
            held.iter().map(|held| (held.holding.subscriber.name.as_str(), held)).collect();
        let subscribers = found.durables.into_iter().map(|durable| {
            let held = held.get(durable.mapped.as_str());
            let bound = held.map(|held| &held.holding.subscriber);
            let given = durable.given.filter(|given| durable.mapped.starts_with(&NatsName::stem_of_subscriber(given)));
            let open_since = bound.and_then(|bound| open.get(&bound.name)).copied();
            SubscriberState {
                endpoint: match bound {
                    Some(bound) => bound.endpoint.as_ref().map(|endpoint| endpoint.as_str().to_owned()),
                    None => durable.endpoint,
                },
                consumer: format!("{}_{}", room.stream.room(), durable.mapped),
                name: bound.map(|bound| bound.id.as_str().to_owned()).or(given).unwrap_or(durable.mapped),
                position: durable.position,
                lag: durable.lag,
                last_active_at: durable.last_active_at.max(held.map(|held| held.changed_at)).max(open_since.flatten()),
                open: open_since.is_some(),
            }
        });
        Ok(SubscriberPage { subscribers: subscribers.collect(), next: found.next })
    }

    /// Those of `held` that have an open subscription. An instance that is gone has none, whatever the bucket says; one that
    /// does not answer is believed to have what the bucket says.
    async fn open_anywhere(&self, room: &RoomId, held: &[Held]) -> HashMap<NatsName, OpenSince> {
        let said_open = || held.iter().map(|held| &held.holding).filter(|holding| holding.session.is_some());
        let instances: BTreeSet<&str> = said_open().map(|holding| holding.instance.as_str()).collect();
        let mut questions = Vec::new();
        for instance in instances {
            let names: Vec<NatsName> = said_open()
                .filter(|holding| holding.instance == instance)
                .map(|holding| holding.subscriber.name.clone())
                .collect();
            questions.extend(names.chunks(ASKED_AT_ONCE).map(|names| (instance.to_owned(), names.to_vec())));
        }
        stream::iter(questions)
            .map(|(instance, names)| self.open_on(instance, room, names))
            .buffer_unordered(QUESTIONS_AT_ONCE)
            .flat_map(stream::iter)
            .collect()
            .await
    }

    async fn open_on(&self, instance: String, room: &RoomId, names: Vec<NatsName>) -> Vec<(NatsName, OpenSince)> {
        let answers: Vec<Option<OpenSince>> = if instance == self.store.instance() {
            {
                let since = names.iter().map(|name| self.open_since(&(room.clone(), name.clone())));
                since.map(|since| since.map(|since| Some(from_unix_ms(since)))).collect()
            }
        } else {
            let request = PeerRequest::Describe { room_id: room.clone(), names: names.clone() };
            match self.store.ask(&instance, &request).await {
                Ok(Some(PeerReply::Described(since))) => {
                    since.into_iter().map(|since| since.map(|since| Some(from_unix_ms(since)))).collect()
                }
                Ok(None) => Vec::new(),
                Ok(Some(_)) | Err(_) => names.iter().map(|_| Some(None)).collect(),
            }
        };
        names.into_iter().zip(answers).filter_map(|(name, since)| since.map(|since| (name, since))).collect()
    }

    /// For an open subscription of this instance: since when it stands where it stands, in milliseconds since 1970.
    pub(super) fn open_since(&self, key: &Key) -> Option<u64> {
        let open = self.sessions();
        let session = open.get(key);
        let session = session.filter(|session| !session.is_closed() && !session.is_ended())?;
        let since = session.moved_at().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Some(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

fn from_unix_ms(ms: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(ms)).unwrap_or(SystemTime::UNIX_EPOCH)
}
