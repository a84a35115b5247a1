//! The rows of the benchmark. A file has one row, or several of a kind.

use futures_util::future::LocalBoxFuture;

use crate::{measure::Scale, report::Outcome};

mod catch_up;
mod durables;
mod fan_out;
mod history;
mod idle;
mod json;
mod latency;
mod many_rooms;
mod own_connections;
mod publish_beside;
mod publish_many;
mod publish_one;
mod publish_stream;
mod publish_synced;
mod stalled;
mod start;
mod traces;
mod upstream;

pub(crate) use many_rooms::create as create_rooms;

/// Callers of the rows that keep many calls under way.
const CALLERS: usize = 256;

/// A row of the benchmark.
pub(crate) struct Row {
    pub name: &'static str,
    /// The approximate time of the row, in seconds.
    pub seconds: u32,
    pub what: &'static str,
    pub run: fn(Scale) -> LocalBoxFuture<'static, anyhow::Result<Outcome>>,
}

/// All rows, in the order in which they run.
pub(crate) const ROWS: &[Row] = &[
    Row { name: "start", seconds: 1, what: "from nothing to serving", run: |scale| Box::pin(start::run(scale)) },
    Row {
        name: "catch-up",
        seconds: 20,
        what: "one subscriber reads a stored log",
        run: |scale| Box::pin(catch_up::run(scale)),
    },
    Row {
        name: "fan-out",
        seconds: 150,
        what: "live messages to 10, 100 and 1000 subscribers of one room",
        run: |scale| Box::pin(fan_out::run(scale)),
    },
    Row {
        name: "one-live",
        seconds: 110,
        what: "one live message to the last of 1000 subscribers",
        run: |scale| Box::pin(fan_out::one_message(scale)),
    },
    Row {
        name: "one-live-own",
        seconds: 60,
        what: "one live message to the last of 1000 subscribers, each on its own connection",
        run: |scale| Box::pin(own_connections::run(scale)),
    },
    Row {
        name: "open-durable",
        seconds: 30,
        what: "opening 1000 durable subscribers",
        run: |scale| Box::pin(durables::open(scale)),
    },
    Row {
        name: "come-back",
        seconds: 30,
        what: "500 durable subscribers come back after a restart of the service",
        run: |scale| Box::pin(durables::come_back(scale)),
    },
    Row {
        name: "publish-beside",
        seconds: 50,
        what: "latency of Publish beside 100 and 1000 busy subscribers",
        run: |scale| Box::pin(publish_beside::run(scale)),
    },
    Row {
        name: "stalled",
        seconds: 40,
        what: "deliveries to 99 beside one that does not read",
        run: |scale| Box::pin(stalled::run(scale)),
    },
    Row {
        name: "idle",
        seconds: 120,
        what: "memory and CPU of 10,000 idle subscriptions",
        run: |scale| Box::pin(idle::run(scale)),
    },
    Row {
        name: "publish-one",
        seconds: 20,
        what: "latency of Publish, one call at a time",
        run: |scale| Box::pin(publish_one::run(scale)),
    },
    Row {
        name: "publish-many",
        seconds: 25,
        what: "rate of Publish, 256 calls under way",
        run: |scale| Box::pin(publish_many::run(scale)),
    },
    Row {
        name: "publish-stream",
        seconds: 130,
        what: "rate of PublishStream",
        run: |scale| Box::pin(publish_stream::run(scale)),
    },
    Row {
        name: "publish-synced",
        seconds: 70,
        what: "publishing on a server that syncs every write",
        run: |scale| Box::pin(publish_synced::run(scale)),
    },
    Row {
        name: "many-rooms",
        seconds: 70,
        what: "rate of PublishStream spread over 1, 1000 and 5000 rooms",
        run: |scale| Box::pin(many_rooms::run(scale)),
    },
    Row {
        name: "latency-publish",
        seconds: 280,
        what: "latency of Publish at fixed rates, written and synced",
        run: |scale| Box::pin(latency::publish(scale)),
    },
    Row {
        name: "latency-live",
        seconds: 130,
        what: "latency of live messages at fixed rates, to 10 and to 1000 subscribers",
        run: |scale| Box::pin(latency::live(scale)),
    },
    Row {
        name: "latency-history",
        seconds: 65,
        what: "latency of pages of history at a fixed rate",
        run: |scale| Box::pin(latency::history(scale)),
    },
    Row {
        name: "history",
        seconds: 110,
        what: "pages of history, one reader and 16",
        run: |scale| Box::pin(history::run(scale)),
    },
    Row {
        name: "json",
        seconds: 40,
        what: "calls and a stream in JSON beside gRPC",
        run: |scale| Box::pin(json::run(scale)),
    },
    Row {
        name: "traces",
        seconds: 130,
        what: "Publish and live fan-out with traces on and off",
        run: |scale| Box::pin(traces::run(scale)),
    },
    Row {
        name: "upstream",
        seconds: 100,
        what: "ways of following a stream, NATS alone",
        run: |scale| Box::pin(upstream::run(scale)),
    },
];
