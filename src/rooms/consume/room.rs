//! One room's subscription on a Consume stream, within its credit.

use std::{pin::pin, sync::Arc};

use async_stream::stream;
use futures_util::{Stream, StreamExt};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{self, Instant},
};

use super::{ConsumeEvent, Consumed, flow::Flow, queues::ConsumeQueues};
use crate::{
    domain::{Caller, Gap},
    error::Result,
    rooms::{Rooms, subscribe::SubscribeOptions},
    subscriptions::{
        ending::SubscriptionEnd, frame::Frame, subscribers::session::SubscriberSession,
        subscription::SubscriptionSource,
    },
    traces::{self, Parent},
};

/// Maximum encoded bytes of a room before the next room's turn. One message may exceed it.
const TURN_BYTES: usize = 8 * 1024;

/// The events of the subscription, which is opened as a step of `span`. `Closed` is the last. After it the room can be opened again.
pub(super) fn consumed(
    rooms: Rooms,
    caller: Caller,
    options: SubscribeOptions,
    flow: Arc<Flow>,
    turn: OwnedSemaphorePermit,
    queues: Arc<ConsumeQueues>,
    span: Option<Parent>,
) -> impl Stream<Item = Consumed> + Send {
    let room_id = options.room_id.clone();
    stream! {
        let closed = {
            let mut frames = pin!(frames(rooms, caller, options, &flow, turn, span));
            loop {
                match frames.next().await {
                    Some(Ok((frame, session))) => {
                        yield Consumed { room_id: Some(room_id.clone()), event: ConsumeEvent::Frame(frame, session) };
                    }
                    Some(Err(error)) => break Err(error),
                    None => break Ok(()),
                }
            }
        };
        queues.remove(&room_id);
        yield Consumed { room_id: Some(room_id), event: ConsumeEvent::Closed(closed) };
    }
}

/// The frames of the subscription. Messages are sent only within the credit. Ends without an error if the client
/// closed the room, or the subscription ended by itself.
fn frames(
    rooms: Rooms,
    caller: Caller,
    options: SubscribeOptions,
    flow: &Flow,
    turn: OwnedSemaphorePermit,
    span: Option<Parent>,
) -> impl Stream<Item = Result<(Frame, Option<Arc<SubscriberSession>>)>> + Send {
    stream! {
        let opening = async {
            let _turn = turn;
            rooms.subscribe(&caller, options).await
        };
        let subscription = tokio::select! {
            biased;
            () = flow.closed() => return,
            subscription = traces::under(span, opening) => match subscription {
                Ok(subscription) => subscription,
                Err(error) => {
                    yield Err(error);
                    return;
                }
            }
        };
        let session = subscription.auto_acks.clone();
        let ending = subscription.ending.clone();
        let heartbeat_interval = subscription.heartbeat_interval;
        let epoch = match &subscription.source {
            SubscriptionSource::Log(start) => Some(start.state.epoch),
            SubscriptionSource::Ephemeral(..) => None,
        };
        let mut frames = subscription.frames();
        let mut position = 0;
        'frames: loop {
            let next = tokio::select! {
                biased;
                () = flow.closed() => return,
                next = frames.next() => next,
            };
            let mut held = match next {
                Some(Ok(Frame::Messages(slice))) => Some(slice),
                Some(Ok(frame)) => {
                    position = reached(&frame, flow).unwrap_or(position);
                    yield Ok((frame, session.clone()));
                    None
                }
                Some(Err(error)) => {
                    yield Err(error);
                    return;
                }
                None => return,
            };
            while let Some(mut slice) = held.take() {
                // held messages stop the stream of frames, so heartbeats and the end are sent from here
                let mut heartbeat = Instant::now() + heartbeat_interval;
                let may_send = loop {
                    tokio::select! {
                        biased;
                        may_send = flow.may_send() => break may_send,
                        end = ending.wait(ending.seek_number()) => {
                            if matches!(end, SubscriptionEnd::Sought(_)) {
                                // the held messages are not at the subscriber's new position
                                continue 'frames;
                            }
                            yield Err(if epoch.is_some() { end.at(position) } else { end.into() });
                            return;
                        }
                        () = time::sleep_until(heartbeat) => {
                            yield Ok((Frame::Heartbeat { position }, session.clone()));
                            heartbeat = Instant::now() + heartbeat_interval;
                        }
                    }
                };
                if !may_send {
                    return;
                }
                // some messages may have been removed while they were held
                let removals = epoch.map(|epoch| ending.registered.removals(epoch, position)).unwrap_or_default();
                if let Some((to, reason)) = slice.skip_removed(&removals) {
                    let gap = Gap { from: position + 1, to, reason, dropped: 0 };
                    position = to;
                    yield Ok((Frame::Gap(gap), session.clone()));
                    if slice.messages() == 0 {
                        break;
                    }
                    held = Some(slice);
                    continue;
                }
                let removed = slice.split_off_removed(&removals);
                held = flow.spend(&mut slice, TURN_BYTES);
                if let Some(removed) = removed {
                    held.get_or_insert_with(|| removed.clone()).join(&removed);
                }
                if epoch.is_some() {
                    position = slice.last_sequence();
                    flow.record_reported(position);
                }
                yield Ok((Frame::Messages(slice), session.clone()));
            }
        }
    }
}

/// The position of a frame other than messages. Records the end of the log in `flow`.
fn reached(frame: &Frame, flow: &Flow) -> Option<u64> {
    match frame {
        Frame::Opened { position, last_sequence, .. } => {
            flow.record_reported(*last_sequence);
            Some(*position)
        }
        Frame::Gap(gap) => Some(gap.to),
        Frame::CaughtUp { position } | Frame::Heartbeat { position } => Some(*position),
        Frame::Messages(_) => None,
    }
}
