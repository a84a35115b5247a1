//! Bounds what one source address may take: connections, and among them those on which nobody was identified. A new connection without an identified caller ends the oldest one beyond the bound, since a caller that is meant
//! seriously is identified soon.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::Waker,
};

use futures_util::task::AtomicWaker;

use crate::{
    limits::{EXCESS_CONNECTIONS_PER_ADDRESS_MAX, UNIDENTIFIED_CONNECTIONS_PER_ADDRESS_MAX},
    sync::lock,
};

/// Bits of an IPv6 address that name a network of one customer.
const IPV6_NETWORK_BITS: u32 = 64;

/// The source addresses of one listener's connections.
#[derive(Debug)]
pub(super) struct Addresses {
    /// Connections of one address; `None` without a bound.
    max: Option<u32>,
    known: Mutex<HashMap<IpAddr, Known>>,
}

#[derive(Debug, Default)]
struct Known {
    connections: u32,
    /// Connections without an identified caller, in the order in which they came.
    unidentified: BTreeMap<u64, Arc<Eviction>>,
    next: u64,
}

/// Tells a connection that it has to end.
#[derive(Debug, Default)]
pub(super) struct Eviction {
    has_to_end: AtomicBool,
    connection: AtomicWaker,
}

impl Eviction {
    /// The connection has to end.
    pub(super) fn order(&self) {
        self.has_to_end.store(true, Ordering::Release);
        self.connection.wake();
    }

    /// Something has changed for the connection.
    pub(super) fn wake(&self) {
        self.connection.wake();
    }

    /// Whether the connection has to end; its task is woken when it has to.
    pub(super) fn is_ordered(&self, waker: &Waker) -> bool {
        self.connection.register(waker);
        self.has_to_end.load(Ordering::Acquire)
    }
}

impl Addresses {
    pub(super) fn new(max: Option<u32>) -> Arc<Self> {
        Arc::new(Self { max, known: Mutex::default() })
    }

    /// Counts a connection of this address until the source is dropped; `None` when the address has too many.
    pub(super) fn take(self: &Arc<Self>, address: IpAddr) -> Option<SourceAddress> {
        let Some(max) = self.max else { return Some(SourceAddress::default()) };
        let address = network(address);
        let mut all = lock(&self.known);
        let known = all.entry(address).or_default();
        if known.connections >= max.saturating_add(EXCESS_CONNECTIONS_PER_ADDRESS_MAX) {
            return None;
        }
        let is_excess = known.connections >= max;
        known.connections += 1;
        let (number, eviction) = (known.next, Arc::new(Eviction::default()));
        known.next += 1;
        known.unidentified.insert(number, Arc::clone(&eviction));
        if known.unidentified.len() > UNIDENTIFIED_CONNECTIONS_PER_ADDRESS_MAX
            && let Some((_, oldest)) = known.unidentified.pop_first()
        {
            oldest.order();
        }
        Some(SourceAddress { counted: Some((Arc::clone(self), address, number)), is_excess, eviction })
    }

    /// Connections of one address; `None` without a bound.
    pub(super) fn max(&self) -> Option<u32> {
        self.max
    }
}

/// The address as it is counted: IPv6 by network, since a customer has a whole one.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> IPV6_NETWORK_BITS << IPV6_NETWORK_BITS).into(),
    }
}

/// The share that one connection has of its source address.
#[derive(Debug, Default)]
pub(super) struct SourceAddress {
    counted: Option<(Arc<Addresses>, IpAddr, u64)>,
    is_excess: bool,
    eviction: Arc<Eviction>,
}

impl SourceAddress {
    /// What ends the connection.
    pub(super) fn eviction(&self) -> Arc<Eviction> {
        Arc::clone(&self.eviction)
    }

    /// A caller was identified on the connection: it is ended for no other's sake.
    pub(super) fn is_identified(&self) {
        if let Some((all, address, number)) = &self.counted
            && let Some(known) = lock(&all.known).get_mut(address)
        {
            known.unidentified.remove(number);
        }
    }

    /// Whether the connection is beyond the bound, and kept only to be told so.
    pub(super) fn is_excess(&self) -> bool {
        self.is_excess
    }
}

impl Drop for SourceAddress {
    fn drop(&mut self) {
        let Some((all, address, number)) = &self.counted else { return };
        let mut all = lock(&all.known);
        if let Some(known) = all.get_mut(address) {
            known.connections -= 1;
            known.unidentified.remove(number);
            if known.connections == 0 {
                all.remove(address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_as_many_connections_as_it_may_and_a_few_that_are_told_so() {
        let addresses = Addresses::new(Some(2));
        let mut taken: Vec<_> = std::iter::from_fn(|| addresses.take(address("192.0.2.1"))).collect();
        let excess = usize::try_from(EXCESS_CONNECTIONS_PER_ADDRESS_MAX).unwrap();
        assert_eq!(taken.len(), 2 + excess);
        assert_eq!(taken.iter().filter(|source| source.is_excess()).count(), excess);
        assert!(addresses.take(address("192.0.2.2")).is_some());
        assert!(addresses.take(address("::ffff:192.0.2.1")).is_none());
        taken.pop();
        assert!(addresses.take(address("192.0.2.1")).is_some());
        drop(taken);
        assert!(lock(&addresses.known).is_empty());
    }

    #[test]
    fn a_new_connection_ends_the_oldest_on_which_nobody_was_identified() {
        let addresses = Addresses::new(Some(1000));
        let take = || addresses.take(address("192.0.2.1")).unwrap();
        let first = take();
        first.is_identified();
        let others: Vec<_> = (0..UNIDENTIFIED_CONNECTIONS_PER_ADDRESS_MAX).map(|_| take()).collect();
        let has_to_end = |source: &SourceAddress| source.eviction.is_ordered(Waker::noop());
        assert!(!has_to_end(&first) && !others.iter().any(has_to_end));
        let last = take();
        assert!(!has_to_end(&first) && !has_to_end(&last));
        let ended: Vec<_> = others.iter().map(has_to_end).collect();
        assert_eq!(ended.iter().position(|ended| *ended), Some(0));
        assert_eq!(ended.iter().filter(|ended| **ended).count(), 1);
    }

    #[test]
    fn ipv6_is_counted_by_network() {
        assert_eq!(network(address("2001:db8:1:2:3:4:5:6")), address("2001:db8:1:2::"));
        assert_eq!(network(address("2001:db8:1:2::1")), address("2001:db8:1:2::"));
        assert_ne!(network(address("2001:db8:1:3::1")), address("2001:db8:1:2::"));
    }
}
