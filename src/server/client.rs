//! The state that the calls of one connection share: its place, its bounds, and whether a caller has been identified on
//! it.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, OnceLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    task::Context,
};

use tokio::{
    sync::OwnedSemaphorePermit,
    time::{self, Instant},
};

use super::{
    addresses::{Eviction, SourceAddress},
    callers,
    intake::budgets::Budget,
    places::{Bounds, ConnectionPlace, ConnectionPlaces},
};
use crate::{
    domain::ClientCertificate,
    limits::{
        STREAMS_AHEAD_MAX, STREAMS_AHEAD_MIN, UNIDENTIFIED_BYTES_MAX, UNIDENTIFIED_CALLS_MAX,
        UNIDENTIFIED_IDLE_TIMEOUT, UNIDENTIFIED_STREAMS_MAX,
    },
    sync::lock,
};

/// The shared state of one connection.
#[derive(Debug)]
pub(super) struct ClientConnection {
    places: Arc<ConnectionPlaces>,
    place: Mutex<ConnectionPlace>,
    /// `None` after the connection has ended.
    source: Mutex<Option<SourceAddress>>,
    certificate: Option<ClientCertificate>,
    /// Whether the connection is beyond the bound of its source address.
    is_excess: bool,
    /// The budget of request bytes for calls whose caller has no id.
    budget: OnceLock<Arc<Budget>>,
    /// Calls without a complete answer, including refused calls.
    arrived: AtomicUsize,
    /// Open HTTP/2 streams: of arrived calls, of calls that are about to arrive, and of answers that are not written
    /// yet.
    streams: AtomicUsize,
    /// The streams that were opened so far, and the calls that have arrived so far.
    opened: AtomicUsize,
    begun: AtomicUsize,
    /// Ended calls that still count for their callers, because their answers are not written yet.
    unwritten: Mutex<Vec<callers::CallerCall>>,
    /// The streams ahead that the connection has reported to its first identified caller.
    caller: OnceLock<callers::StreamsAhead>,
    /// Whether a new stream waits until the connection may open it.
    has_waiting_stream: AtomicBool,
    /// Calls that were begun and have not ended.
    calls: AtomicU32,
    /// The calls among them whose request, or its first message, is complete.
    busy: AtomicU32,
    /// When the last busy call ended, or the connection began.
    quiet_since: Mutex<Instant>,
    /// Ends the connection, and wakes its task when a condition that it waits for may have changed.
    eviction: Arc<Eviction>,
    is_identified: AtomicBool,
    unidentified: UnidentifiedCounts,
    /// Bytes that were written to the client so far.
    written: AtomicU64,
}

/// Counts that hold until a caller is identified.
#[derive(Debug, Default)]
struct UnidentifiedCounts {
    /// Open calls of health and reflection on this connection.
    calls: AtomicU32,
    /// The cost in memory, in bytes, of data frames that no call has read.
    unread: AtomicUsize,
    /// All bytes received since no data was unread. They may share memory with unread data.
    received_meanwhile: AtomicUsize,
}

/// Whether the service may read from a connection without an identified caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ReadPermission {
    Granted,
    /// Not until the calls have read the received data.
    Paused,
    /// Never again: the connection has to end.
    Evicted,
}

impl ClientConnection {
    pub(super) fn new(
        places: Arc<ConnectionPlaces>,
        place: ConnectionPlace,
        source: SourceAddress,
        certificate: Option<ClientCertificate>,
    ) -> Self {
        // with authentication off every caller is accepted; a verified certificate identifies the client
        let is_identified = !places.bounds().identifies || certificate.is_some();
        if is_identified {
            source.mark_identified();
        }
        Self {
            places,
            place: Mutex::new(place),
            is_excess: source.is_excess(),
            budget: OnceLock::new(),
            arrived: AtomicUsize::new(0),
            streams: AtomicUsize::new(0),
            opened: AtomicUsize::new(0),
            begun: AtomicUsize::new(0),
            caller: OnceLock::new(),
            has_waiting_stream: AtomicBool::new(false),
            unwritten: Mutex::default(),
            calls: AtomicU32::new(0),
            busy: AtomicU32::new(0),
            quiet_since: Mutex::new(Instant::now()),
            is_identified: AtomicBool::new(is_identified),
            eviction: source.eviction(),
            unidentified: UnidentifiedCounts::default(),
            written: AtomicU64::new(0),
            source: Mutex::new(Some(source)),
            certificate,
        }
    }

    /// Whether the connection has a regular place. A connection in excess takes a regular place if one is free now.
    pub(super) fn has_place(&self) -> bool {
        let mut place = lock(&self.place);
        if let ConnectionPlace::Excess(_) = *place {
            match self.places.regular() {
                Some(regular) => *place = regular,
                None => return false,
            }
        }
        true
    }

    /// Gives back the place and the share of the source address when the connection ends. Its calls may outlive it for
    /// a moment.
    pub(super) fn leave(&self) {
        *lock(&self.place) = ConnectionPlace::Closed;
        self.set_streams(0, 0);
        drop(lock(&self.source).take());
    }

    /// Whether the connection is beyond the bound of its source address.
    pub(super) fn is_excess(&self) -> bool {
        self.is_excess
    }

    /// The budget of request bytes for calls whose caller has no id.
    pub(super) fn budget(&self) -> Arc<Budget> {
        Arc::clone(self.budget.get_or_init(|| Arc::new(Budget::for_caller())))
    }

    /// The client's verified certificate, if the client has one.
    pub(super) fn certificate(&self) -> Option<&ClientCertificate> {
        self.certificate.as_ref()
    }

    pub(super) fn bounds(&self) -> Bounds {
        self.places.bounds()
    }

    /// Whether a caller has been identified on the connection.
    pub(super) fn is_identified(&self) -> bool {
        self.is_identified.load(Ordering::Acquire)
    }

    /// Records that a caller was identified on the connection.
    pub(super) fn identify(&self) {
        if !self.is_identified() {
            self.is_identified.store(true, Ordering::Release);
            if let Some(source) = &*lock(&self.source) {
                source.mark_identified();
            }
            self.eviction.wake();
        }
    }

    /// Counts a call, refused or not, until the client has received its answer.
    pub(super) fn arrive(self: &Arc<Self>) -> Arrived {
        // never above `opened`: a call whose stream was forgiven may begin after all
        let next = |begun: usize| (begun < self.opened.load(Ordering::SeqCst)).then_some(begun + 1);
        let _ = self.begun.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next);
        self.keep_open()
    }

    /// Counts a call without a complete answer until the returned guard is dropped. No new call begins with it.
    pub(super) fn keep_open(self: &Arc<Self>) -> Arrived {
        self.arrived.fetch_add(1, Ordering::SeqCst);
        self.report_streams_ahead();
        self.wake_waiting_stream();
        Arrived(Arc::clone(self))
    }

    /// The number of HTTP/2 streams that may be opened now. Only a few streams are open beyond those of arrived calls: the
    /// HTTP library bounds neither the calls that it has not handed over, nor the answers that it has not written.
    pub(super) fn new_streams_max(&self) -> usize {
        if !self.is_identified() {
            let not_begun = self.not_begun();
            let calls = self.arrived() + not_begun;
            let new_max = UNIDENTIFIED_STREAMS_MAX.saturating_sub(calls.max(self.streams.load(Ordering::Acquire)));
            return new_max.min(STREAMS_AHEAD_MIN.saturating_sub(not_begun));
        }
        let of_others = self.caller.get().map_or(0, callers::StreamsAhead::of_other_connections);
        let max = STREAMS_AHEAD_MAX.saturating_sub(of_others).max(STREAMS_AHEAD_MIN);
        max.saturating_sub(self.streams_ahead())
    }

    /// Whether a new stream has to wait. Wakes the task of `cx` when the answer may have changed.
    pub(super) fn must_wait(&self, cx: &Context<'_>) -> bool {
        if self.new_streams_max() > 0 {
            return false;
        }
        self.eviction.is_ordered(cx.waker());
        self.has_waiting_stream.store(true, Ordering::SeqCst);
        self.new_streams_max() == 0
    }

    /// Stops waiting for calls that have not begun: the HTTP library has refused their streams by itself.
    pub(super) fn forgive_streams(&self) {
        self.begun.fetch_add(self.not_begun(), Ordering::SeqCst);
    }

    fn wake_waiting_stream(&self) {
        if self.has_waiting_stream.load(Ordering::SeqCst) && self.has_waiting_stream.swap(false, Ordering::SeqCst) {
            self.eviction.wake();
        }
    }

    /// Records that `count` HTTP/2 streams are open now, and that `opened` were opened so far.
    pub(super) fn set_streams(&self, count: usize, opened: usize) {
        self.streams.store(count, Ordering::Release);
        self.opened.store(opened, Ordering::SeqCst);
        self.report_streams_ahead();
        self.wake_waiting_stream();
        let mut unwritten = lock(&self.unwritten);
        if !unwritten.is_empty() {
            unwritten.truncate(self.streams_ahead());
        }
    }

    fn report_streams_ahead(&self) {
        if let Some(caller) = self.caller.get() {
            caller.set(self.streams_ahead());
        }
    }

    /// The number of open streams beyond those of arrived calls without a complete answer.
    fn streams_ahead(&self) -> usize {
        self.streams.load(Ordering::Acquire).saturating_sub(self.arrived()).max(self.not_begun())
    }

    /// Streams that the HTTP library was given and whose calls have not begun, those included that their client has reset.
    fn not_begun(&self) -> usize {
        self.opened.load(Ordering::SeqCst).saturating_sub(self.begun.load(Ordering::SeqCst))
    }

    fn arrived(&self) -> usize {
        self.arrived.load(Ordering::SeqCst)
    }

    /// Counts a call until the returned guard is dropped; `None` when the connection has `calls_max` open calls.
    pub(super) fn begin_call(self: &Arc<Self>) -> Option<Call> {
        let open = self.calls.fetch_add(1, Ordering::AcqRel);
        let call =
            Call { client: Arc::clone(self), is_busy: AtomicBool::new(false), open: None, of_caller: OnceLock::new() };
        (open < self.bounds().connections.max_streams).then_some(call)
    }

    /// Counts a call of health or reflection until the returned guard is dropped. Before a caller is identified,
    /// returns `None` when the connection has `UNIDENTIFIED_CALLS_MAX` such calls, or when all places of reflection are
    /// taken.
    pub(super) fn begin_open_call(self: &Arc<Self>, is_reflection: bool) -> Option<UnidentifiedCall> {
        if self.is_identified() {
            return Some(UnidentifiedCall { client: None, reflection: None });
        }
        let open = self.unidentified.calls.fetch_add(1, Ordering::AcqRel);
        let mut call = UnidentifiedCall { client: Some(Arc::clone(self)), reflection: None };
        if open >= UNIDENTIFIED_CALLS_MAX {
            return None;
        }
        if is_reflection {
            call.reflection = Some(self.places.reflection()?);
        }
        Some(call)
    }

    /// Whether a call, refused or not, has no complete answer yet.
    pub(super) fn has_calls(&self) -> bool {
        self.arrived() > 0
    }

    /// Whether a call is open whose request, or its first message, is complete.
    pub(super) fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Acquire) > 0
    }

    /// Counts bytes that were written to the client.
    pub(super) fn count_written(&self, bytes: usize) {
        self.written.fetch_add(bytes.try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Bytes that were written to the client so far.
    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Waits until the connection has been idle for its idle timeout.
    ///
    /// # Cancel safety
    /// May be dropped at any point.
    pub(super) async fn until_idle(&self) {
        loop {
            let now = Instant::now();
            let since = if self.is_busy() { now } else { *self.quiet_since() };
            let idle_timeout = self.bounds().keepalive.idle_timeout;
            let allowed = if self.is_identified() { idle_timeout } else { idle_timeout.min(UNIDENTIFIED_IDLE_TIMEOUT) };
            let left = allowed.saturating_sub(now - since);
            if left.is_zero() {
                return;
            }
            time::sleep(left).await;
        }
    }

    /// Whether the service may read more before a caller is identified. Wakes the task of `cx` when the answer may have
    /// changed.
    pub(super) fn read_permission(&self, cx: &mut Context<'_>) -> ReadPermission {
        if self.eviction.is_ordered(cx.waker()) {
            return ReadPermission::Evicted;
        }
        if self.arrived() == 0 {
            // data of ended calls is no longer in memory
            self.unidentified.unread.store(0, Ordering::Release);
        }
        let unread = self.unidentified.unread.load(Ordering::Acquire);
        if unread == 0 {
            self.unidentified.received_meanwhile.store(0, Ordering::Release);
            return ReadPermission::Granted;
        }
        let waiting = unread + self.unidentified.received_meanwhile.load(Ordering::Acquire);
        if waiting < UNIDENTIFIED_BYTES_MAX { ReadPermission::Granted } else { ReadPermission::Paused }
    }

    /// Counts received `bytes`, and the `cost` in memory of the data frames that begin in them.
    pub(super) fn count_received(&self, bytes: usize, cost: usize) {
        self.unidentified.received_meanwhile.fetch_add(bytes, Ordering::AcqRel);
        self.unidentified.unread.fetch_add(cost, Ordering::AcqRel);
    }

    /// Takes back the `cost` of a data frame that a call has read.
    pub(super) fn count_read(&self, cost: usize) {
        let lessened = |unread: usize| Some(unread.saturating_sub(cost));
        // it cannot fail: `lessened` always returns a value
        let _ = self.unidentified.unread.fetch_update(Ordering::AcqRel, Ordering::Acquire, lessened);
        self.eviction.wake();
    }

    fn quiet_since(&self) -> MutexGuard<'_, Instant> {
        lock(&self.quiet_since)
    }
}

/// Counts a call without a complete answer, until it is dropped.
#[derive(Debug)]
pub(super) struct Arrived(Arc<ClientConnection>);

impl Drop for Arrived {
    fn drop(&mut self) {
        let Self(client) = self;
        if client.arrived.fetch_sub(1, Ordering::SeqCst) == 1 && !client.is_identified() {
            client.eviction.wake();
        }
        client.wake_waiting_stream();
    }
}

/// Counts an admitted call, until it is dropped.
#[derive(Debug)]
pub(super) struct Call {
    client: Arc<ClientConnection>,
    is_busy: AtomicBool,
    open: Option<UnidentifiedCall>,
    of_caller: OnceLock<callers::CallerCall>,
}

impl Call {
    /// Keeps the count of the call among its caller's calls for as long as the call lasts.
    pub(super) fn keep_count(&self, of_caller: callers::CallerCall) {
        self.client.caller.get_or_init(|| of_caller.streams_ahead());
        // it cannot fail: a call has one caller
        let _ = self.of_caller.set(of_caller);
    }

    /// Keeps the count of a call of health or reflection for as long as the call lasts.
    pub(super) fn with_open_call(self, open: UnidentifiedCall) -> Self {
        let mut call = self;
        call.open = Some(open);
        call
    }

    /// Records that the request, or its first message, is complete. The connection is busy until the call ends.
    pub(super) fn mark_busy(&self) {
        if !self.is_busy.swap(true, Ordering::AcqRel) {
            self.client.busy.fetch_add(1, Ordering::AcqRel);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.is_busy.load(Ordering::Acquire) {
            // before `busy` falls: a reader that sees no busy call also sees the new time
            *self.client.quiet_since() = Instant::now();
            self.client.busy.fetch_sub(1, Ordering::AcqRel);
        }
        self.client.calls.fetch_sub(1, Ordering::AcqRel);
        if let Some(of_caller) = self.of_caller.take()
            && self.client.streams_ahead() > 0
        {
            lock(&self.client.unwritten).push(of_caller);
        }
    }
}

/// Counts a call of health or reflection, until it is dropped. Holds nothing when a caller was already identified.
#[derive(Debug)]
pub(super) struct UnidentifiedCall {
    client: Option<Arc<ClientConnection>>,
    reflection: Option<OwnedSemaphorePermit>,
}

impl Drop for UnidentifiedCall {
    fn drop(&mut self) {
        if let Some(client) = &self.client {
            client.unidentified.calls.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::places::{ConnectionsConfig, KeepaliveConfig};

    #[test]
    fn only_calls_that_begin_make_space_for_others() {
        let bounds = Bounds {
            connections: ConnectionsConfig { max: 1, max_per_address: None, max_streams: 1 },
            excess_max: 0,
            identifies: true,
            keepalive: KeepaliveConfig::default(),
        };
        let client = ClientConnection::new(
            ConnectionPlaces::new(bounds),
            ConnectionPlace::Closed,
            SourceAddress::default(),
            None,
        );
        let client = Arc::new(client);
        client.set_streams(3, 3);
        assert_eq!(client.not_begun(), 3);
        // requests that are discarded after their answers
        (0..10).for_each(|_| drop(client.keep_open()));
        assert_eq!(client.not_begun(), 3);
        // calls whose streams were forgiven, and that begin after all
        client.forgive_streams();
        (0..3).for_each(|_| drop(client.arrive()));
        client.set_streams(2, 5);
        assert_eq!(client.not_begun(), 2);
    }
}
