//! Unary Publish with many calls under way, 256 B.
//!
//! Ours: 256 callers on 4 connections, each with one call under way. Baseline: the same load on the bare server, which
//! decodes the requests and answers them.

use anyhow::Result;

use super::CALLERS;
use crate::{
    client::{self, Client, PAYLOAD_BYTES},
    measure::{Scale, Side, Turn, in_turns, together},
    native,
    processes::{Disk, Stand},
    report::{Line, Outcome, Reach, Unit},
};

const CONNECTIONS: usize = 4;

pub(crate) async fn run(scale: Scale) -> Result<Outcome> {
    let stand = Stand::start(Disk::Interval).await?;
    client::create_room(&client::channel(stand.service.url()).await?, "many").await?;
    let rooms = vec!["many".to_owned()];
    let sides = [
        Side::new("unibus", &stand.ours(), callers(stand.service.url(), rooms.clone(), scale).await?),
        Side::new("bare echo", &stand.bare(), callers(stand.baseline.url(), rooms, scale).await?),
    ];
    let [ours, echo] = in_turns(&scale, sides).await?;
    let mut outcome = Outcome::default();
    let claim = format!("Publish, {CALLERS} under way on {CONNECTIONS} connections");
    outcome.spent(&claim, &[&ours, &echo]);
    let line = Line::new(claim, Unit::PerSecond, ours.figure("rate")?, ("bare echo", echo.figure("rate")?));
    outcome.lines.push(line.reach(Reach::AtLeast(0.75)));
    Ok(outcome)
}

/// A turn of many callers, who publish to one room after the other.
pub(super) async fn callers(
    url: &str,
    rooms: Vec<String>,
    scale: Scale,
) -> Result<impl FnMut() -> futures_util::future::BoxFuture<'static, Result<Turn>> + use<>> {
    let clients: Vec<Client> = client::clients(url, CONNECTIONS).await?;
    let payload = client::payload(PAYLOAD_BYTES);
    let messages: Vec<_> = rooms.iter().map(|room| client::message(room, &payload)).collect();
    let shared = std::sync::Arc::new((clients, messages));
    Ok(move || {
        let shared = std::sync::Arc::clone(&shared);
        let turn = together(CALLERS, scale.turn, move |caller, number| {
            let shared = std::sync::Arc::clone(&shared);
            async move {
                let (clients, messages) = &*shared;
                let client = clients.get(caller % clients.len().max(1));
                let message = messages.get(native::spread(caller, number, messages.len()));
                if let (Some(client), Some(message)) = (client, message) {
                    client::publish(&mut client.clone(), message.clone()).await?;
                }
                Ok(())
            }
        });
        Box::pin(turn) as futures_util::future::BoxFuture<'static, Result<Turn>>
    })
}
