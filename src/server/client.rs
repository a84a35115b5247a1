//! What the calls of one connection share: its place, its bounds, and whether anybody has been identified on it.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, OnceLock,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
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
    connections::{Bounds, Place, Places},
    intake::budgets::Budget,
};
use crate::{
    domain::ClientCertificate,
    limits::{
        STREAMS_AHEAD_MAX, STREAMS_AHEAD_MIN, UNIDENTIFIED_BYTES_MAX, UNIDENTIFIED_CALLS_MAX,
        UNIDENTIFIED_IDLE_TIMEOUT, UNIDENTIFIED_STREAMS_MAX,
    },
    sync::lock,
};

/// What the calls of a connection share.
#[derive(Debug)]
pub(super) struct Client {
    places: Arc<Places>,
    place: Mutex<Place>,
    /// Until the connection ends.
    source: Mutex<Option<SourceAddress>>,
    certificate: Option<ClientCertificate>,
    /// Whether its source address has too many connections.
    is_excess: bool,
    /// Bytes of requests that are being received, where callers have no names.
    budget: OnceLock<Arc<Budget>>,
    /// Calls that have no complete answer yet, refused ones included.
    arrived: AtomicUsize,
    /// HTTP/2 streams that are open: of calls that have arrived, of some that are about to, and of some whose answers were
    /// not written to the client yet.
    streams: AtomicUsize,
    /// Those that were opened so far, and the calls that have arrived so far.
    opened: AtomicUsize,
    begun: AtomicUsize,
    /// What the calls of the latter take of their callers' shares.
    unwritten: Mutex<Vec<callers::OpenCall>>,
    /// The caller that was identified first, and how many streams of the connection it was told of.
    caller: OnceLock<callers::StreamsAhead>,
    /// A stream waits until it may be opened.
    streams_wait: AtomicBool,
    /// Calls that were not refused.
    calls: AtomicU32,
    /// Those of them whose first request message is complete.
    busy: AtomicU32,
    /// When the last of these ended, or the connection began.
    quiet_since: Mutex<Instant>,
    /// Ends the connection, and wakes it when what it waits for has changed.
    eviction: Arc<Eviction>,
    is_identified: AtomicBool,
    unidentified: Unidentified,
}

/// What is counted until somebody is identified.
#[derive(Debug, Default)]
struct Unidentified {
    /// Calls of health and reflection on this connection.
    calls: AtomicU32,
    /// What the data frames cost that no call has read.
    unread: AtomicUsize,
    /// Bytes of all kinds that have come since the calls had read everything: they may share memory with what is unread.
    beside: AtomicUsize,
}

/// Whether a connection without an identified caller may be read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Gate {
    Open,
    /// Not until its calls have read what has come.
    Shut,
    /// Never again.
    Evicted,
}

impl Client {
    pub(super) fn new(
        places: Arc<Places>,
        place: Place,
        source: SourceAddress,
        certificate: Option<ClientCertificate>,
    ) -> Self {
        // with authentication off nobody is a stranger; who has shown a certificate is none either
        let is_identified = !places.bounds().identifies || certificate.is_some();
        if is_identified {
            source.is_identified();
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
            streams_wait: AtomicBool::new(false),
            unwritten: Mutex::default(),
            calls: AtomicU32::new(0),
            busy: AtomicU32::new(0),
            quiet_since: Mutex::new(Instant::now()),
            is_identified: AtomicBool::new(is_identified),
            eviction: source.eviction(),
            unidentified: Unidentified::default(),
            source: Mutex::new(Some(source)),
            certificate,
        }
    }

    /// Whether the connection has a place; takes one that became free meanwhile.
    pub(super) fn has_place(&self) -> bool {
        let mut place = lock(&self.place);
        if let Place::Excess(_) = *place {
            match self.places.regular() {
                Some(regular) => *place = regular,
                None => return false,
            }
        }
        true
    }

    /// Gives the place back. Calls may outlive their connection for a moment.
    pub(super) fn leave(&self) {
        *lock(&self.place) = Place::None;
        self.has_streams(0, 0);
        drop(lock(&self.source).take());
    }

    /// Whether the source address has too many connections.
    pub(super) fn is_excess(&self) -> bool {
        self.is_excess
    }

    /// What requests are charged to where callers have no names.
    pub(super) fn budget(&self) -> Arc<Budget> {
        Arc::clone(self.budget.get_or_init(|| Arc::new(Budget::of_one())))
    }

    /// What the client's verified certificate says, if it has shown one.
    pub(super) fn certificate(&self) -> Option<&ClientCertificate> {
        self.certificate.as_ref()
    }

    /// The bounds that are in force.
    pub(super) fn bounds(&self) -> Bounds {
        self.places.bounds()
    }

    /// Whether a caller was identified on the connection.
    pub(super) fn is_identified(&self) -> bool {
        self.is_identified.load(Ordering::Acquire)
    }

    /// A caller was identified.
    pub(super) fn identify(&self) {
        if !self.is_identified() {
            self.is_identified.store(true, Ordering::Release);
            if let Some(source) = &*lock(&self.source) {
                source.is_identified();
            }
            self.eviction.wake();
        }
    }

    /// Counts a call until its answer was taken, whether it is refused or not.
    pub(super) fn arrive(self: &Arc<Self>) -> Arrived {
        self.arrived.fetch_add(1, Ordering::SeqCst);
        self.begun.fetch_add(1, Ordering::SeqCst);
        self.tell_caller();
        self.let_streams_in();
        Arrived(Arc::clone(self))
    }

    /// HTTP/2 streams that may be opened now. Beyond those of calls that have arrived few are open: the HTTP library bounds
    /// neither the calls that it has not handed over nor the answers that it has not written.
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

    /// Whether a further stream has to wait. The task is woken when it may be different.
    pub(super) fn has_to_wait(&self, cx: &Context<'_>) -> bool {
        if self.new_streams_max() > 0 {
            return false;
        }
        self.eviction.is_ordered(cx.waker());
        self.streams_wait.store(true, Ordering::SeqCst);
        self.new_streams_max() == 0
    }

    /// No longer waits for calls that have not begun: the HTTP library has refused their streams by itself.
    pub(super) fn forgive_streams(&self) {
        self.begun.fetch_add(self.not_begun(), Ordering::SeqCst);
    }

    fn let_streams_in(&self) {
        if self.streams_wait.load(Ordering::SeqCst) && self.streams_wait.swap(false, Ordering::SeqCst) {
            self.eviction.wake();
        }
    }

    /// This many HTTP/2 streams are open now, and so many were opened so far.
    pub(super) fn has_streams(&self, count: usize, opened: usize) {
        self.streams.store(count, Ordering::Release);
        self.opened.store(opened, Ordering::SeqCst);
        self.tell_caller();
        self.let_streams_in();
        let mut unwritten = lock(&self.unwritten);
        if !unwritten.is_empty() {
            unwritten.truncate(self.streams_ahead());
        }
    }

    fn tell_caller(&self) {
        if let Some(caller) = self.caller.get() {
            caller.are(self.streams_ahead());
        }
    }

    /// Open streams without a call that has arrived and has no answer.
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

    /// Counts a call that is served until the guard is dropped; `None` when the connection has as many as it may.
    pub(super) fn begin_call(self: &Arc<Self>) -> Option<Call> {
        let open = self.calls.fetch_add(1, Ordering::AcqRel);
        let call =
            Call { client: Arc::clone(self), is_busy: AtomicBool::new(false), open: None, of_caller: OnceLock::new() };
        (open < self.bounds().calls_max).then_some(call)
    }

    /// Counts a call of health or reflection; `None` when the connection has as many as it may before anybody is identified.
    pub(super) fn begin_open_call(self: &Arc<Self>, is_reflection: bool) -> Option<OpenCall> {
        if self.is_identified() {
            return Some(OpenCall { client: None, reflection: None });
        }
        let open = self.unidentified.calls.fetch_add(1, Ordering::AcqRel);
        let mut call = OpenCall { client: Some(Arc::clone(self)), reflection: None };
        if open >= UNIDENTIFIED_CALLS_MAX {
            return None;
        }
        if is_reflection {
            call.reflection = Some(self.places.reflection()?);
        }
        Some(call)
    }

    /// Whether a call has no complete answer yet, refused ones included.
    pub(super) fn has_calls(&self) -> bool {
        self.arrived.load(Ordering::Acquire) > 0
    }

    /// Whether a call is open whose request has come.
    pub(super) fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Acquire) > 0
    }

    /// Waits until the connection has not been busy for as long as it may be idle.
    ///
    /// # Cancel safety
    /// May be dropped at any point.
    pub(super) async fn is_idle(&self) {
        loop {
            let now = Instant::now();
            let since = if self.is_busy() { now } else { *self.quiet_since() };
            let idle_timeout = self.bounds().idle_timeout;
            let allowed = if self.is_identified() { idle_timeout } else { idle_timeout.min(UNIDENTIFIED_IDLE_TIMEOUT) };
            let left = allowed.saturating_sub(now - since);
            if left.is_zero() {
                return;
            }
            time::sleep(left).await;
        }
    }

    /// Whether more may be read before anybody is identified. The task is woken when that changes.
    pub(super) fn gate(&self, cx: &mut Context<'_>) -> Gate {
        if self.eviction.is_ordered(cx.waker()) {
            return Gate::Evicted;
        }
        if self.arrived() == 0 {
            // what came for calls that have ended is gone
            self.unidentified.unread.store(0, Ordering::Release);
        }
        let unread = self.unidentified.unread.load(Ordering::Acquire);
        if unread == 0 {
            self.unidentified.beside.store(0, Ordering::Release);
            return Gate::Open;
        }
        let waiting = unread + self.unidentified.beside.load(Ordering::Acquire);
        if waiting < UNIDENTIFIED_BYTES_MAX { Gate::Open } else { Gate::Shut }
    }

    /// So many bytes have come, with data frames of this cost.
    pub(super) fn has_come(&self, bytes: usize, cost: usize) {
        self.unidentified.beside.fetch_add(bytes, Ordering::AcqRel);
        self.unidentified.unread.fetch_add(cost, Ordering::AcqRel);
    }

    /// A call has read a data frame.
    pub(super) fn was_read(&self, cost: usize) {
        let lessened = |unread: usize| Some(unread.saturating_sub(cost));
        // it cannot fail: there is always a value
        let _ = self.unidentified.unread.fetch_update(Ordering::AcqRel, Ordering::Acquire, lessened);
        self.eviction.wake();
    }

    fn quiet_since(&self) -> MutexGuard<'_, Instant> {
        lock(&self.quiet_since)
    }
}

/// A call without a complete answer. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Arrived(Arc<Client>);

impl Drop for Arrived {
    fn drop(&mut self) {
        let Self(client) = self;
        if client.arrived.fetch_sub(1, Ordering::SeqCst) == 1 && !client.is_identified() {
            client.eviction.wake();
        }
        client.let_streams_in();
    }
}

/// A call that is served. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Call {
    client: Arc<Client>,
    is_busy: AtomicBool,
    open: Option<OpenCall>,
    of_caller: OnceLock<callers::OpenCall>,
}

impl Call {
    /// Holds what the call takes of its caller's share.
    pub(super) fn hold(&self, of_caller: callers::OpenCall) {
        self.client.caller.get_or_init(|| of_caller.streams_ahead());
        // there is one caller of a call
        let _ = self.of_caller.set(of_caller);
    }

    /// The same, with what a call of health or reflection holds.
    pub(super) fn holding(self, open: OpenCall) -> Self {
        let mut call = self;
        call.open = Some(open);
        call
    }

    /// The call's request has come, or its first message: the connection is not idle while it lasts.
    pub(super) fn is_under_way(&self) {
        if !self.is_busy.swap(true, Ordering::AcqRel) {
            self.client.busy.fetch_add(1, Ordering::AcqRel);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.is_busy.load(Ordering::Acquire) {
            // before the count: who sees no call sees since when
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

/// A call of health or reflection, counted until somebody is identified.
#[derive(Debug)]
pub(super) struct OpenCall {
    client: Option<Arc<Client>>,
    reflection: Option<OwnedSemaphorePermit>,
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        if let Some(client) = &self.client {
            client.unidentified.calls.fetch_sub(1, Ordering::AcqRel);
        }
    }
}
