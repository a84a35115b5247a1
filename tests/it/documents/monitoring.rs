//! The table of metrics names every metric that there is.
//!
//! With `UNIBUS_WRITE_DOCS=1` the table is written instead of compared.

use std::{collections::BTreeSet, fmt::Write};

use super::tables::assert_marked;
use crate::support::{Frames, Scrape, Unibus, create_ephemeral, create_room};

const DECLARATIONS: &str = include_str!("../../../src/metrics/mod.rs");

/// Beginnings of the names of all metrics.
const PREFIXES: [&str; 3] = ["unibus_", "grpc_server_", "process_"];

/// The names of the metrics that are declared.
fn declared() -> BTreeSet<&'static str> {
    let names = DECLARATIONS.split("= \"").skip(1).filter_map(|rest| rest.split_once("\",").map(|(name, _)| name));
    let names: Vec<_> = names.filter(|name| is_name(name)).collect();
    let set: BTreeSet<_> = names.iter().copied().collect();
    assert_eq!(set.len(), names.len(), "a name is declared twice");
    assert!(set.len() > 50, "{}", set.len());
    set
}

fn is_name(word: &str) -> bool {
    PREFIXES.iter().any(|prefix| word.starts_with(prefix)) && !word.ends_with('_')
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_declared_metric_is_there_and_in_the_table() {
    // Goal: an operator finds every metric in the page, with its labels, and in a scrape. Method: a service with everything that a
    // service can have, in use; the metrics of its scrape are the declared ones, each with a series, and make the table.
    let unibus = Unibus::embedded().await;
    let client = unibus.client().await;
    create_room(&client, "lobby").await;
    Frames::transient(&client, "lobby").await.until_caught_up().await;
    create_ephemeral(&client, "live").await;
    Frames::transient(&client, "live").await.until_caught_up().await;
    let scrape = Scrape::of(&unibus).await;
    let found: BTreeSet<_> = scrape.metrics.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!(found, declared());
    let mut table = String::from("| metric | type | labels | meaning |\n|---|---|---|---|\n");
    for (name, kind, help) in &scrape.metrics {
        let series = scrape.series_of(name);
        assert!(!series.is_empty(), "{name} has no series");
        assert!(help.ends_with('.') && !help.ends_with(".."), "{name}: {help}");
        let labels: BTreeSet<_> = series.iter().flat_map(|sample| sample.labels.keys()).collect();
        let labels: Vec<_> =
            labels.into_iter().filter(|label| *label != "le").map(|label| format!("`{label}`")).collect();
        let labels = if labels.is_empty() { String::new() } else { format!(" {}", labels.join(", ")) };
        writeln!(table, "| `{name}` | {kind} |{labels} | {help} |").unwrap();
    }
    assert_marked("docs/metrics.md", "metrics", &table);
    unibus.shutdown().await.unwrap();
}
