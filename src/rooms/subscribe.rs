//! Subscribing: one loop that joins what is read, what the client has taken, and what ends a subscription.

use std::{sync::Arc, time::Duration};

use async_stream::stream;
use futures_util::Stream;
use tokio::time;
use tokio_util::sync::CancellationToken;

use super::{
    Frame, Rooms,
    ending::{Ending, draining, unavailable},
    live_feed::LiveFeed,
    log_frames::LogFrames,
    start::check_end,
    subscribers::Session,
};
use crate::{
    domain::{AckMode, Room, RoomId, RoomState, Start, SubscriberId},
    error::{Error, Reason, Result},
    store::{Reader, Registered, Store},
};

/// What a subscriber asks for.
#[derive(Clone, Debug)]
pub(crate) struct SubscribeOptions {
    pub room_id: RoomId,
    /// Durable, if given.
    pub subscriber: Option<SubscriberId>,
    pub ack_mode: AckMode,
    pub start: Start,
    pub until_caught_up: bool,
}

/// An open subscription. Dropping it ends it.
pub(crate) struct Subscription {
    pub room: Room,
    /// One life of the room's log; `None` in an ephemeral room.
    pub epoch: Option<i64>,
    /// To be told what the client's stream has taken, if the position moves by itself. The subscription closes when its
    /// holders and the frames are dropped.
    pub auto_acks: Option<Arc<Session>>,
    source: Source,
    session: Option<Arc<Session>>,
    registered: Arc<Registered>,
    heartbeat_interval: Duration,
    until_caught_up: bool,
    draining: CancellationToken,
    store: Store,
}

enum Source {
    Log { reader: Box<Reader>, state: RoomState, position: u64 },
    Live(LiveFeed),
}

impl Rooms {
    /// Opens a subscription.
    ///
    /// # Errors
    /// As the contract lists them; nothing was changed.
    pub(crate) async fn subscribe(&self, options: SubscribeOptions) -> Result<Subscription> {
        if self.draining.is_cancelled() {
            return Err(draining(None));
        }
        let registered = self.store.registry.find(&options.room_id).await?;
        let (source, session, epoch) = if registered.room.persist {
            self.open_log(&registered, &options).await?
        } else {
            check_ephemeral(&options)?;
            (Source::Live(LiveFeed::open(&self.store, &registered.room, &self.tasks).await?), None, None)
        };
        let session = session.map(Arc::new);
        let auto_acks = session.clone().filter(|_| options.ack_mode == AckMode::Auto);
        Ok(Subscription {
            room: registered.room.clone(),
            epoch,
            auto_acks,
            source,
            session,
            registered,
            heartbeat_interval: self.heartbeat_interval,
            until_caught_up: options.until_caught_up,
            draining: self.draining.clone(),
            store: self.store.clone(),
        })
    }

    /// Everything up to and including `sequence` is processed; answers with the position.
    ///
    /// # Errors
    /// `ROOM_NOT_FOUND`, `ROOM_NOT_PERSISTED`, `SUBSCRIBER_NOT_FOUND`, `POSITION_AFTER_END`.
    pub(crate) async fn acknowledge(&self, id: &RoomId, subscriber: &SubscriberId, sequence: u64) -> Result<u64> {
        let registered = self.persisted(id).await?;
        let state = self.store.log_state(&registered.room).await?;
        check_end("sequence", sequence, &state)?;
        self.subscribers.acknowledge(&registered.room, subscriber, sequence).await
    }

    async fn open_log(
        &self,
        registered: &Arc<Registered>,
        options: &SubscribeOptions,
    ) -> Result<(Source, Option<Session>, Option<i64>)> {
        let room = &registered.room;
        let state = self.store.log_state(room).await?;
        let start = || self.start_position(room, state, options.start.clone());
        let (session, position) = match &options.subscriber {
            Some(subscriber) => {
                let session = self.subscribers.open(registered, subscriber, start).await?;
                // messages may have been stored while the subscriber was bound
                let position = session.position;
                (Some(session), position)
            }
            None => (None, start().await?),
        };
        let state = if position > state.last_sequence { self.store.log_state(room).await? } else { state };
        let position = position.min(state.last_sequence);
        let reader = self.store.reader(room, state.epoch, position.max(state.first_sequence - 1));
        Ok((Source::Log { reader: Box::new(reader), state, position }, session, Some(state.epoch)))
    }
}

impl Subscription {
    /// The frames: `Opened` first, messages in ascending order and each once. Ends with an error that carries the
    /// position, or without one after `CaughtUp` if that was asked for. A slow reader of a log loses nothing; one of an
    /// ephemeral room is told how much it lost.
    pub(crate) fn frames(self) -> impl Stream<Item = Result<Frame>> + Send {
        let Self { source, session, registered, heartbeat_interval, until_caught_up, draining, store, .. } = self;
        let ending = Ending { session, registered, draining };
        let resumed = ending.session.as_ref().is_some_and(|session| session.resumed);
        stream! {
            match source {
                Source::Log { reader, state, position } => {
                    let room = ending.registered.room.clone();
                    let mut log = LogFrames::new(reader, room, store, position, &state);
                    yield Ok(Frame::Opened {
                        position,
                        first_sequence: state.first_sequence,
                        last_sequence: state.last_sequence,
                        heartbeat_interval,
                        resumed,
                    });
                    loop {
                        for frame in log.take_ready() {
                            let last = until_caught_up && matches!(frame, Frame::CaughtUp { .. });
                            yield Ok(frame);
                            if last {
                                return;
                            }
                        }
                        let position = log.position();
                        // kept over heartbeats: a reader that is slow to begin is not begun again and again
                        let mut read = std::pin::pin!(log.read());
                        let read = loop {
                            tokio::select! {
                                biased;
                                error = ending.wait(Some(position)) => {
                                    yield Err(error);
                                    return;
                                }
                                read = &mut read => break read,
                                () = time::sleep(heartbeat_interval) => yield Ok(Frame::Heartbeat { position }),
                            }
                        };
                        if let Err(error) = read {
                            yield Err(ending.explain(error, position).await);
                            return;
                        }
                    }
                }
                Source::Live(feed) => {
                    yield Ok(Frame::Opened {
                        position: 0,
                        first_sequence: 0,
                        last_sequence: 0,
                        heartbeat_interval,
                        resumed,
                    });
                    yield Ok(Frame::CaughtUp { position: 0 });
                    if until_caught_up {
                        return;
                    }
                    loop {
                        while let Some(frame) = feed.pop() {
                            yield Ok(frame);
                        }
                        tokio::select! {
                            biased;
                            error = ending.wait(None) => {
                                yield Err(error);
                                return;
                            }
                            () = feed.closed() => {
                                yield Err(unavailable());
                                return;
                            }
                            () = feed.filled() => {}
                            () = time::sleep(heartbeat_interval) => yield Ok(Frame::Heartbeat { position: 0 }),
                        }
                    }
                }
            }
        }
    }
}

fn check_ephemeral(options: &SubscribeOptions) -> Result<()> {
    if options.subscriber.is_none() && matches!(options.start, Start::Default | Start::New) {
        return Ok(());
    }
    Err(Error::new(
        Reason::RoomNotPersisted,
        "the room is ephemeral: leave subscriber empty, and start unset or `new`, or create the room with persist",
    ))
}
