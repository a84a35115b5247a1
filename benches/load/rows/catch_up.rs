//! Catch-up of one subscriber over a stored log of 256 B messages.
//!
//! Ours: one Subscribe call from the beginning until it has caught up, with the generated client, which decodes every
//! message. Baselines: the ordered pull and push consumers of async-nats on the same stream. They are created within
//! the turn, because the service creates its reader within the turn too. All connections are open before the turn,
//! which ends with the last message.

use std::time::Instant;

use anyhow::{Result, ensure};
use async_nats::jetstream::consumer::{pull, push};
use futures_util::{StreamExt, TryStreamExt};
use unibus::v1::{SubscribeRequest, subscribe_response::Frame};

use crate::{
    client::{self, Client, PAYLOAD_BYTES},
    measure::{Scale, Side, Turn, in_turns},
    native,
    processes::{Disk, Stand},
    report::{Line, Outcome, Reach, Unit},
};

const ROOM: &str = "log";

pub(crate) async fn run(scale: Scale) -> Result<Outcome> {
    let messages = scale.pick(200_000, 10_000);
    let stand = Stand::start(Disk::Interval).await?;
    let channel = client::channel(stand.service.url()).await?;
    client::create_room(&channel, ROOM).await?;
    let context = native::connect(&stand.nats).await?;
    native::fill(&context, &client::subject(ROOM), &client::payload(PAYLOAD_BYTES), messages).await?;

    let client = Client::new(channel);
    let ours = move || subscribe(client.clone(), messages);
    let stream = context.get_stream(client::stream_name(ROOM)).await?;
    let pulled = {
        let stream = stream.clone();
        move || {
            let stream = stream.clone();
            async move {
                let started = Instant::now();
                let consumer = stream.create_consumer(pull::OrderedConfig::default()).await?;
                let count = consumer.messages().await?.take(messages as usize);
                let count = count.try_fold(0, async |count, _| Ok(count + 1)).await?;
                ensure!(count == messages, "{count} messages instead of {messages}");
                Ok(Turn::rate(messages, started.elapsed()))
            }
        }
    };
    let client = context.client();
    let pushed = move || {
        let (stream, deliver_subject) = (stream.clone(), client.new_inbox());
        async move {
            let started = Instant::now();
            let config = push::OrderedConfig { deliver_subject, ..push::OrderedConfig::default() };
            let consumer = stream.create_consumer(config).await?;
            let count = consumer.messages().await?.take(messages as usize);
            let count = count.try_fold(0, async |count, _| Ok(count + 1)).await?;
            ensure!(count == messages, "{count} messages instead of {messages}");
            Ok(Turn::rate(messages, started.elapsed()))
        }
    };
    let sides = [
        Side::new("unibus", &stand.ours(), ours),
        Side::new("pulled", &stand.direct(), pulled),
        Side::new("pushed", &stand.direct(), pushed),
    ];
    let [ours, pulled, pushed] = in_turns(&scale, sides).await?;

    let claim = format!("catch-up over {messages} messages");
    let mut outcome = Outcome::default();
    outcome.spent(&claim, &[&ours, &pulled, &pushed]);
    for (what, direct, least) in
        [("ordered consumer, pulled", &pulled, 0.7), ("ordered consumer, pushed", &pushed, 0.8)]
    {
        let line = Line::new(&claim, Unit::PerSecond, ours.figure("rate")?, (what, direct.figure("rate")?));
        outcome.lines.push(line.reach(Reach::AtLeast(least)));
    }
    Ok(outcome)
}

async fn subscribe(mut client: Client, messages: u64) -> Result<Turn> {
    let started = Instant::now();
    let request = SubscribeRequest { room_id: ROOM.to_owned(), until_caught_up: true, ..SubscribeRequest::default() };
    let mut frames = client.subscribe(request).await?.into_inner();
    let mut count = 0;
    while let Some(frame) = frames.message().await? {
        count += u64::from(matches!(frame.frame, Some(Frame::Message(_))));
    }
    ensure!(count == messages, "{count} messages instead of {messages}");
    Ok(Turn::rate(messages, started.elapsed()))
}
