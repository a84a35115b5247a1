//! The calls that are timed at each size. Each is a closed loop: one call after the other.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use tokio::time;
use unibus::v1::{
    AckMode, GetRoomRequest, ListRoomsRequest, Start, SubscribeRequest, start::At, subscribe_response::Frame,
};

use super::{Allowed, Axis, SAMPLES};
use crate::{
    client::{self, Client},
    measure::resident_bytes,
    processes::{Nats, Service},
    report::Unit,
};

/// Medians of calls in seconds: [`SAMPLES`] of them, each of `calls` calls.
pub(super) async fn timed<F>(calls: usize, call: impl Fn() -> F) -> Result<Vec<f64>>
where
    F: Future<Output = Result<Duration>>,
{
    let mut medians = Vec::with_capacity(SAMPLES);
    for _ in 0..SAMPLES {
        let mut times = Vec::with_capacity(calls);
        for _ in 0..calls {
            times.push(call().await?);
        }
        times.sort_unstable();
        medians.push(times.get(times.len() / 2).context("a call")?.as_secs_f64());
    }
    Ok(medians)
}

/// The time of a call.
pub(super) async fn time<T>(call: impl Future<Output = Result<T>>) -> Result<Duration> {
    let started = Instant::now();
    call.await?;
    Ok(started.elapsed())
}

pub(super) async fn publish(client: &Client, room: &str, payload: &Bytes) -> Result<Duration> {
    let message = client::message(room, payload);
    time(client::publish(&mut client.clone(), message)).await
}

/// Where a timed subscription starts.
#[derive(Clone, Copy, Debug)]
pub(super) enum From {
    New,
    Beginning,
}

/// The time from the call until the subscription has caught up, or from the beginning until its first message.
pub(super) async fn open(client: &Client, room: &str, subscriber: String, from: From) -> Result<Duration> {
    let start = match from {
        From::New => At::New(()),
        From::Beginning => At::All(()),
    };
    let request = SubscribeRequest {
        room_id: room.to_owned(),
        subscriber,
        ack_mode: AckMode::Auto.into(),
        start: Some(Start { at: Some(start) }),
        ..SubscribeRequest::default()
    };
    let started = Instant::now();
    let mut frames = client.clone().subscribe(request).await?.into_inner();
    loop {
        let frame = frames.message().await?.context("a subscription that ended")?.frame;
        if matches!((from, frame), (From::New, Some(Frame::CaughtUp(_))) | (From::Beginning, Some(Frame::Message(_)))) {
            return Ok(started.elapsed());
        }
    }
}

/// Opens subscriptions of a room without a name, and new durable subscribers.
pub(super) async fn opens(axis: &mut Axis, size: u64, calls: usize, client: &Client, room: &str) -> Result<()> {
    static NAMES: AtomicU64 = AtomicU64::new(0);

    let allowed = if axis.axis == "messages" { Allowed::Flat } else { Allowed::Linear };
    let unnamed = timed(calls, || open(client, room, String::new(), From::New)).await?;
    axis.add_as(size, ("opening a subscription", Unit::Seconds, allowed), unnamed);
    let durable = timed(calls, || {
        let name = format!("probe-{}", NAMES.fetch_add(1, Relaxed));
        open(client, room, name, From::New)
    })
    .await?;
    axis.add_as(size, ("opening a new durable subscriber", Unit::Seconds, allowed), durable);
    Ok(())
}

/// `GetRoom` and a page of `ListRooms`.
pub(super) async fn lookups(axis: &mut Axis, size: u64, calls: usize, client: &Client, room: &str) -> Result<()> {
    let get = || {
        let (mut client, request) = (client.clone(), GetRoomRequest { room_id: room.to_owned() });
        async move { time(async { Ok(client.get_room(request).await?) }).await }
    };
    axis.add(size, "GetRoom", Unit::Seconds, timed(calls, get).await?);
    let list = || {
        let mut client = client.clone();
        async move { time(async { Ok(client.list_rooms(ListRoomsRequest::default()).await?) }).await }
    };
    axis.add(size, "ListRooms, a page of 100", Unit::Seconds, timed(calls, list).await?);
    Ok(())
}

/// Starts the service anew, a few times: the time until it listens, and its memory then.
pub(super) async fn restart(axis: &mut Axis, size: u64, nats: &Nats, service: Service) -> Result<Service> {
    let mut running = service;
    let (mut times, mut memory) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        running.stop().await?;
        let started = Instant::now();
        running = Service::with_nats(nats).await?;
        times.push(started.elapsed().as_secs_f64());
        time::sleep(Duration::from_millis(500)).await;
        memory.push(resident_bytes(running.id())?);
    }
    axis.add(size, "start of the service", Unit::Seconds, times);
    axis.add(size, "memory of the service after its start", Unit::Bytes, memory);
    Ok(running)
}

/// The memory of both processes.
pub(super) fn memory(axis: &mut Axis, size: u64, when: &str, nats: &Nats, service: &Service) -> Result<()> {
    let bytes = [resident_bytes(service.id())?, resident_bytes(nats.id())?];
    ensure!(bytes.iter().all(|bytes| *bytes > 0.0), "a process without memory");
    axis.add(size, &format!("memory of the service {when}"), Unit::Bytes, vec![bytes[0]]);
    axis.add(size, &format!("memory of nats-server {when}"), Unit::Bytes, vec![bytes[1]]);
    Ok(())
}
