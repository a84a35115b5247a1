//! Lists the durable subscribers of a room, with their positions. Reports whether each has an open subscription on
//! any instance.

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, SystemTime},
};

use futures_util::{StreamExt, stream};

use super::{SubscriberKey, Subscribers};
use crate::{
    domain::{NatsName, Room, RoomId, RoomState, SubscriberToken},
    error::Result,
    store::subscribers::{
        holders::HolderEntry,
        peers::{PeerReply, PeerRequest},
    },
};

/// Maximum number of subscribers in one request to another instance. The request stays far below the maximum size of
/// a message.
const ASKED_AT_ONCE: usize = 200;
/// Maximum number of concurrent requests to other instances.
const QUESTIONS_AT_ONCE: usize = 16;

/// A durable subscriber, as the list reports it.
#[derive(Clone, Debug)]
pub(crate) struct SubscriberState {
    pub name: String,
    /// The endpoint that created the subscriber, if it is known.
    pub endpoint: Option<String>,
    /// The NATS name of the subscriber's consumer.
    pub consumer: String,
    /// Everything up to this sequence is processed.
    pub position: u64,
    /// Number of stored messages after the position.
    pub lag: u64,
    pub last_active_at: Option<SystemTime>,
    /// True if a subscription is open on any instance.
    pub open: bool,
}

/// A page of subscribers, by ascending NATS name.
#[derive(Clone, Debug, Default)]
pub(crate) struct SubscriberPage {
    pub subscribers: Vec<SubscriberState>,
    /// Present if more subscribers follow.
    pub next: Option<SubscriberToken>,
}

/// The time of the last move of an open subscription's position, if it is known.
type OpenSince = Option<SystemTime>;

impl Subscribers {
    /// Returns up to `limit` subscribers after `after` for whose NATS name `is_wanted` is true. `state` is a recent
    /// state of the room's log.
    pub(crate) async fn page(
        &self,
        room: &Room,
        after: Option<&SubscriberToken>,
        state: &RoomState,
        limit: usize,
        is_wanted: &(dyn Fn(&str) -> bool + Sync),
    ) -> Result<SubscriberPage> {
        let found = self.store.durables(room, after, state, limit, is_wanted).await?;
        // a native program's consumer may have a name that is not a valid NATS name of a subscriber
        let names: Vec<NatsName> =
            found.durables.iter().filter_map(|durable| NatsName::parse(durable.nats_name.as_str()).ok()).collect();
        let held = self.store.holders.of(&room.room_id, &names).await?;
        let open = self.open_anywhere(&room.room_id, &held).await;
        let held: HashMap<&str, &HolderEntry> =
            held.iter().map(|held| (held.holding.value.subscriber.name.as_str(), held)).collect();
        let subscribers = found.durables.into_iter().map(|durable| {
            let held = held.get(durable.nats_name.as_str());
            let bound = held.map(|held| &held.holding.value.subscriber);
            let given =
                durable.given.filter(|given| durable.nats_name.starts_with(&NatsName::stem_of_subscriber(given)));
            let open_since = bound.and_then(|bound| open.get(&bound.name)).copied();
            SubscriberState {
                endpoint: match bound {
                    Some(bound) => bound.endpoint.as_ref().map(|endpoint| endpoint.as_str().to_owned()),
                    None => durable.endpoint,
                },
                consumer: durable.consumer,
                name: bound.map(|bound| bound.id.as_str().to_owned()).or(given).unwrap_or(durable.nats_name),
                position: durable.position,
                lag: durable.lag,
                last_active_at: durable.last_active_at.max(held.map(|held| held.changed_at)).max(open_since.flatten()),
                open: open_since.is_some(),
            }
        });
        Ok(SubscriberPage { subscribers: subscribers.collect(), next: found.next })
    }

    /// Returns those of `held` that have an open subscription. An instance that has stopped has none, whatever the
    /// bucket says. If an instance does not answer, its entries in the bucket are used.
    async fn open_anywhere(&self, room: &RoomId, held: &[HolderEntry]) -> HashMap<NatsName, OpenSince> {
        let said_open = || held.iter().map(|held| &held.holding.value).filter(|holding| holding.session.is_some());
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
            match self.store.peers.ask(&instance, &request).await {
                Ok(Some(PeerReply::Described(since))) => {
                    since.into_iter().map(|since| since.map(|since| Some(from_unix_ms(since)))).collect()
                }
                Ok(None) => Vec::new(),
                Ok(Some(_)) | Err(_) => names.iter().map(|_| Some(None)).collect(),
            }
        };
        names.into_iter().zip(answers).filter_map(|(name, since)| since.map(|since| (name, since))).collect()
    }

    /// The time of the last move of an open subscription's position, in milliseconds since 1970. `None` if no
    /// subscription is open on this instance.
    pub(super) fn open_since(&self, key: &SubscriberKey) -> Option<u64> {
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
