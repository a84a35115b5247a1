//! Finds the subscriber that a call means, when several endpoints use one id.

use async_nats::jetstream::consumer::Info;

use super::{
    durables,
    holders::{Holders, Holding},
    subscriber::Subscriber,
};
use crate::{
    domain::{MemberId, NatsName, Room, SubscriberId},
    error::Result,
    nats::{Nats, bucket::Versioned},
    store::names::{METADATA_ENDPOINT, METADATA_SUBSCRIBER},
};

/// Selects a subscriber when several endpoints use one id.
#[derive(Clone, Debug)]
pub(crate) struct SubscriberSelector {
    /// Prefer the subscriber of this endpoint. `None` while authorisation is off.
    pub endpoint: Option<MemberId>,
    /// Accept another endpoint's subscriber.
    pub includes_foreign: bool,
}

impl SubscriberSelector {
    /// Returns true if no other subscriber can fit better than `found`.
    pub(crate) fn is_exact(&self, found: &Subscriber) -> bool {
        if self.endpoint.is_some() { found.endpoint == self.endpoint } else { self.includes_foreign }
    }

    fn may_be(&self, endpoint: Option<&MemberId>) -> bool {
        self.includes_foreign || endpoint.is_none() || endpoint == self.endpoint.as_ref()
    }

    /// Returns the subscriber that fits best, and its entry. Of two equally good ones, the one whose entry changed
    /// longer ago.
    fn pick(&self, found: Vec<Versioned<Holding>>) -> Option<(Subscriber, Versioned<Holding>)> {
        let rank = |subscriber: &Subscriber| (!self.is_exact(subscriber), subscriber.endpoint.is_some());
        let fitting = found.into_iter().filter(|found| self.may_be(found.value.subscriber.endpoint.as_ref()));
        let entry = fitting.min_by_key(|found| (rank(&found.value.subscriber), found.revision))?;
        let best = entry.value.subscriber.clone();
        let endpoint = best.endpoint.clone().or_else(|| self.endpoint.clone());
        Some((Subscriber { endpoint, ..best }, entry))
    }

    /// Returns true if this subscriber can use a consumer that has no entry in the bucket.
    fn may_adopt(&self, info: &Info, id: &SubscriberId, is_preferred: bool) -> bool {
        let metadata = &info.config.metadata;
        match metadata.get(METADATA_SUBSCRIBER) {
            Some(given) => {
                let endpoint =
                    metadata.get(METADATA_ENDPOINT).map(|endpoint| MemberId::parse("endpoint", endpoint.as_str()));
                given == id.as_str()
                    && endpoint.is_none_or(|endpoint| endpoint.is_ok_and(|found| self.may_be(Some(&found))))
            }
            // a native program created it: its name is the name of its endpoint, not of another endpoint's device
            None => is_preferred && self.endpoint.as_ref().is_none_or(|endpoint| endpoint.as_str() == id.as_str()),
        }
    }
}

/// The subscriber that a call means, and what was read to find it.
#[derive(Clone, Debug)]
pub(crate) struct Resolved {
    pub subscriber: Subscriber,
    /// The bucket's entry of the subscriber. `None`: there is none, or it was not read.
    pub entry: Option<Versioned<Holding>>,
    /// Neither an entry nor a consumer of the subscriber exists.
    pub is_new: bool,
}

/// The durable subscriber with this id. If it does not exist, the result has the NATS name that it gets when it is bound.
pub(in crate::store) async fn resolve(
    nats: &Nats,
    holders: &Holders,
    room: &Room,
    id: &SubscriberId,
    selector: &SubscriberSelector,
) -> Result<Resolved> {
    let names = NatsName::of_subscriber(id, selector.endpoint.as_ref());
    let [preferred, hashed, reserved] = &names;
    let first = holders.named(&room.room_id, preferred).await?;
    if let Some(found) = &first
        && found.value.subscriber.id == *id
        && selector.is_exact(&found.value.subscriber)
    {
        return Ok(Resolved { subscriber: found.value.subscriber.clone(), entry: first, is_new: false });
    }
    let mut others = vec![hashed.clone(), reserved.clone()];
    for endpoint in endpoints(id) {
        let [.., reserved] = NatsName::of_subscriber(id, endpoint.as_ref());
        if !others.contains(&reserved) {
            others.push(reserved);
        }
    }
    let others = holders.of(&room.room_id, &others).await?;
    let found: Vec<_> = first.into_iter().chain(others.into_iter().map(|entry| entry.holding)).collect();
    let taken: Vec<_> = found.iter().map(|found| found.value.subscriber.name.clone()).collect();
    let same = found.into_iter().filter(|found| found.value.subscriber.id == *id).collect();
    if let Some((subscriber, entry)) = selector.pick(same) {
        return Ok(Resolved { subscriber, entry: Some(entry), is_new: false });
    }
    let mut chosen = None;
    for candidate in [preferred, hashed].into_iter().filter(|name| !taken.contains(name)) {
        let info = durables::named(nats, room, candidate).await?;
        let is_new = info.is_none();
        if info.is_none_or(|info| selector.may_adopt(&info, id, candidate == preferred)) {
            chosen = Some((candidate, is_new));
            break;
        }
    }
    let (name, is_new) = match chosen {
        Some(chosen) => chosen,
        None => (reserved, durables::named(nats, room, reserved).await?.is_none()),
    };
    let subscriber = Subscriber {
        room_id: room.room_id.clone(),
        id: id.clone(),
        endpoint: selector.endpoint.clone(),
        name: name.clone(),
    };
    Ok(Resolved { subscriber, entry: None, is_new })
}

/// The endpoints that can have bound a subscriber with this id: the endpoint with the same name, the endpoint whose
/// device it is, or a caller without an id.
fn endpoints(id: &SubscriberId) -> impl Iterator<Item = Option<MemberId>> {
    let parent = id.as_str().rsplit_once('/').map(|(parent, _)| parent);
    let named = [Some(id.as_str()), parent].into_iter().flatten();
    named.filter_map(|id| MemberId::parse("endpoint", id).ok()).map(Some).chain([None])
}
