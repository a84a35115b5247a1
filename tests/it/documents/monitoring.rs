//! The table of metrics, the dashboard and the alerts name metrics that there are, and the alerts lead to text that says what to
//! do.
//!
//! With `UNIBUS_WRITE_DOCS=1` the table is written instead of compared.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use serde_json::Value;

use super::tables::assert_marked;
use crate::support::{Frames, Scrape, Unibus, create_ephemeral, create_room};

const DECLARATIONS: &str = include_str!("../../../src/metrics/mod.rs");
const DASHBOARD: &str = include_str!("../../../deploy/grafana/unibus.json");
const ALERTS: &str = include_str!("../../../deploy/prometheus/alerts.yml");
const ALERT_TESTS: &str = include_str!("../../../deploy/prometheus/alerts_test.yml");
const OPERATIONS: &str = include_str!("../../../docs/operations.md");

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

/// The metrics that a text names, without the suffixes of a histogram's series.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| is_name(word));
    let metric = |word: &str| {
        let suffix = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| word.strip_suffix(suffix));
        suffix.filter(|base| declared().contains(base)).unwrap_or(word).to_owned()
    };
    words.map(metric).collect()
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

#[test]
fn the_dashboard_and_the_alerts_name_declared_metrics() {
    // Goal: no panel stays empty and no alert silent because a metric has another name. Method: every word in them that looks
    // like a metric is declared.
    for (what, text, at_least) in
        [("the dashboard", DASHBOARD, 35), ("the alerts", ALERTS, 12), ("the tests of the alerts", ALERT_TESTS, 12)]
    {
        let named = named(text);
        let unknown: Vec<_> = named.iter().filter(|name| !declared().contains(name.as_str())).collect();
        assert!(unknown.is_empty(), "{what}: {unknown:?}");
        assert!(named.len() >= at_least, "{what} names {} metrics", named.len());
    }
    let invented = named("sum(rate(unibus_no_such_metric_total[5m])) / unibus_rooms");
    assert_eq!(invented.iter().filter(|name| !declared().contains(name.as_str())).count(), 1);
}

/// The alerts, each with its annotations and labels as lines.
fn alerts() -> BTreeMap<&'static str, &'static str> {
    let rules = ALERTS.split("- alert: ").skip(1);
    rules.map(|rule| rule.split_once('\n').expect("a rule")).collect()
}

/// The anchor that a heading gets.
fn anchor(heading: &str) -> String {
    let letters = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    letters.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

#[test]
fn every_alert_says_what_to_do_and_is_tested() {
    // Goal: whoever is woken by an alert finds what it means and what to do. Method: each alert has a severity, a summary and a
    // runbook, which is a heading of the page of operations with its name; the page has no others; promtool tests each.
    let (_, section) = OPERATIONS.split_once("\n## Alerts\n").expect("a section");
    let section = section.split("\n## ").next().expect("a section");
    let headings: BTreeSet<_> = section.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let alerts = alerts();
    assert!(alerts.len() >= 10, "{}", alerts.len());
    assert_eq!(headings, alerts.keys().copied().collect());
    for (name, rule) in &alerts {
        assert!(rule.contains("severity: page") || rule.contains("severity: ticket"), "{name}");
        assert!(rule.contains("summary: "), "{name}");
        let runbook =
            format!("runbook_url: https://github.com/unibus-rs/unibus/blob/main/docs/operations.md#{}", anchor(name));
        assert!(rule.contains(&runbook), "{name}: {runbook}");
        let tested = ALERT_TESTS.contains(&format!("alertname: {name}\n"));
        assert!(tested, "{name} has no test");
    }
}

#[test]
fn every_panel_of_the_dashboard_shows_something() {
    // Goal: the dashboard can be read by people. Method: each panel has a title, a description, a place of its own and queries
    // with a legend; rows have no queries.
    let dashboard: Value = serde_json::from_str(DASHBOARD).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let mut places = BTreeSet::new();
    for panel in panels {
        let title = panel["title"].as_str().filter(|title| !title.is_empty()).expect("a title");
        let place = &panel["gridPos"];
        assert!(places.insert((place["y"].as_u64(), place["x"].as_u64())), "{title} lies on another panel");
        if panel["type"] == "row" {
            continue;
        }
        assert!(panel["description"].as_str().is_some_and(|text| !text.is_empty()), "{title}");
        let targets = panel["targets"].as_array().expect("queries");
        assert!(!targets.is_empty(), "{title}");
        for target in targets {
            assert!(target["expr"].as_str().is_some_and(|query| !named(query).is_empty()), "{title}");
            assert!(target["legendFormat"].is_string(), "{title}");
        }
    }
    assert!(panels.len() > 20, "{}", panels.len());
}
