//! Bounds the connections of each source address, and among them the connections without an identified caller.
//!
//! Beyond the second bound, a new connection ends the oldest connection without an identified caller: an honest caller
//! is identified soon after it connects.

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

/// Leading bits of an IPv6 address that name the network of one customer.
const IPV6_NETWORK_BITS: u32 = 64;

/// The source addresses of one listener's connections.
#[derive(Debug)]
pub(super) struct Addresses {
    /// Maximum number of connections from one address; `None` without a bound.
    max: Option<u32>,
    known: Mutex<HashMap<IpAddr, AddressConnections>>,
}

#[derive(Debug, Default)]
struct AddressConnections {
    connections: u32,
    /// Connections without an identified caller, by number, oldest first.
    unidentified: BTreeMap<u64, Arc<Eviction>>,
    next: u64,
}

/// Orders a connection to end, and wakes its task.
#[derive(Debug, Default)]
pub(super) struct Eviction {
    has_to_end: AtomicBool,
    connection: AtomicWaker,
}

impl Eviction {
    /// Orders the connection to end.
    pub(super) fn order(&self) {
        self.has_to_end.store(true, Ordering::Release);
        self.connection.wake();
    }

    /// Wakes the task of the connection to check its conditions again.
    pub(super) fn wake(&self) {
        self.connection.wake();
    }

    /// Whether the connection has to end. Registers `waker`, which [`order`](Self::order) and [`wake`](Self::wake)
    /// wake.
    pub(super) fn is_ordered(&self, waker: &Waker) -> bool {
        self.connection.register(waker);
        self.has_to_end.load(Ordering::Acquire)
    }
}

impl Addresses {
    pub(super) fn new(max: Option<u32>) -> Arc<Self> {
        Arc::new(Self { max, known: Mutex::default() })
    }

    /// Counts a connection of this address until the result is dropped; `None` when the address has too many
    /// connections.
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

    /// The maximum number of connections from one address; `None` without a bound.
    pub(super) fn max(&self) -> Option<u32> {
        self.max
    }
}

/// The address that is counted. For IPv6 it is the network, because one customer has the whole network.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> IPV6_NETWORK_BITS << IPV6_NETWORK_BITS).into(),
    }
}

/// Counts one connection of a source address, until it is dropped.
#[derive(Debug, Default)]
pub(super) struct SourceAddress {
    counted: Option<(Arc<Addresses>, IpAddr, u64)>,
    is_excess: bool,
    eviction: Arc<Eviction>,
}

impl SourceAddress {
    /// The order that ends the connection.
    pub(super) fn eviction(&self) -> Arc<Eviction> {
        Arc::clone(&self.eviction)
    }

    /// Records that a caller was identified: no new connection ends this one any more.
    pub(super) fn mark_identified(&self) {
        if let Some((all, address, number)) = &self.counted
            && let Some(known) = lock(&all.known).get_mut(address)
        {
            known.unidentified.remove(number);
        }
    }

    /// Whether the connection is beyond the bound. Its calls are refused with `LIMIT_REACHED`.
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
    fn an_address_has_as_many_connections_as_it_may_and_a_few_in_excess() {
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
        first.mark_identified();
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
