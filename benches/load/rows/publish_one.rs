//! Latency of Publish, one call at a time on one connection, 256 B. This is a closed loop: a call begins when the one
//! before has ended. `latency.rs` has the open loop.
//!
//! Ours: the generated client calls Publish. Baselines: async-nats publishes to the same stream and waits for the
//! acknowledgement; the generated client calls the bare server, which decodes the same request and answers. A call of
//! the service does the work of both, so it is compared with their sum.

use anyhow::Result;

use crate::{
    client::{self, PAYLOAD_BYTES},
    measure::{Scale, Side, in_turns, one_at_a_time},
    native,
    processes::{Disk, Stand},
    report::{Line, Outcome, Reach, Unit},
};

pub(crate) async fn run(scale: Scale) -> Result<Outcome> {
    let stand = Stand::start(Disk::Interval).await?;
    let channel = client::channel(stand.service.url()).await?;
    client::create_room(&channel, "one").await?;
    compare(&stand, &scale, "Publish, one at a time, p50", 1.3).await
}

/// Compares the closed loop with the sum of a publish and an echo. It is to take at most `most` times as long.
pub(super) async fn compare(stand: &Stand, scale: &Scale, claim: &str, most: f64) -> Result<Outcome> {
    let [ours, direct, echo] = in_turns(scale, sides(stand, scale).await?).await?;
    let mut outcome = Outcome::default();
    outcome.spent(claim.trim_end_matches(", p50"), &[&ours, &direct, &echo]);
    let pairs = direct.figure("p50")?.into_iter().zip(echo.figure("p50")?);
    let sum = pairs.map(|(direct, echo)| direct + echo).collect();
    outcome.lines = vec![
        Line::new(claim, Unit::Seconds, ours.figure("p50")?, ("async-nats publish + bare echo", sum))
            .reach(Reach::AtMost(most)),
        Line::new(claim, Unit::Seconds, ours.figure("p50")?, ("async-nats publish", direct.figure("p50")?)),
        Line::new(claim, Unit::Seconds, ours.figure("p50")?, ("bare echo", echo.figure("p50")?)),
    ];
    Ok(outcome)
}

/// Publish into the room `one`, the same message directly, and the bare echo.
async fn sides(stand: &Stand, scale: &Scale) -> Result<[Side; 3]> {
    let turn = scale.turn / 2;
    let payload = client::payload(PAYLOAD_BYTES);
    let message = client::message("one", &payload);
    let context = native::connect(&stand.nats).await?;
    let calls = |service: client::Client| {
        let message = message.clone();
        move || {
            let (service, message) = (service.clone(), message.clone());
            one_at_a_time(turn, move || {
                let (mut service, message) = (service.clone(), message.clone());
                async move { client::publish(&mut service, message).await }
            })
        }
    };
    let ours = calls(client::Client::new(client::channel(stand.service.url()).await?));
    let echo = calls(client::Client::new(client::channel(stand.baseline.url()).await?));
    let direct = move || {
        let (context, payload) = (context.clone(), payload.clone());
        one_at_a_time(turn, move || {
            let (context, payload) = (context.clone(), payload.clone());
            async move { native::publish(&context, "unibus.room.one", &payload).await }
        })
    };
    Ok([
        Side::new("unibus", &stand.ours(), ours),
        Side::new("async-nats publish", &stand.direct(), direct),
        Side::new("bare echo", &stand.bare(), echo),
    ])
}
