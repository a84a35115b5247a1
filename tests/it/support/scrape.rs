//! The metrics of a service, as a monitoring system reads them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use super::Unibus;

/// One scrape.
#[derive(Clone, Debug)]
pub(crate) struct Scrape {
    /// The metrics in the order of the text: name, type, help.
    pub(crate) metrics: Vec<(String, String, String)>,
    samples: Vec<Sample>,
}

/// One line with a value.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
}

impl Scrape {
    /// The metrics of this instance now.
    pub(crate) async fn of(unibus: &Unibus) -> Self {
        Self::at(unibus.server().admin_addr()).await
    }

    /// The metrics at this admin address now.
    pub(crate) async fn at(address: SocketAddr) -> Self {
        let response = reqwest::get(format!("http://{address}/metrics")).await.expect("an answer");
        assert_eq!(response.status(), reqwest::StatusCode::OK);
        Self::parse(&response.text().await.expect("a text"))
    }

    /// Parses the text format of Prometheus. Panics where the text is malformed.
    pub(crate) fn parse(text: &str) -> Self {
        let (mut metrics, mut helps, mut samples) = (Vec::new(), BTreeMap::new(), Vec::new());
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, help) = help.split_once(' ').expect("a help text");
                assert!(helps.insert(name.to_owned(), help.to_owned()).is_none(), "{name} is there twice");
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').expect("a type");
                metrics.push((name.to_owned(), kind.to_owned(), helps[name].clone()));
            } else {
                assert!(!line.starts_with('#'), "{line}");
                samples.push(Sample::parse(line));
            }
        }
        Self { metrics, samples }
    }

    /// The series of a metric; for a histogram those of its buckets, sum and count.
    pub(crate) fn series_of(&self, metric: &str) -> Vec<&Sample> {
        let is_of = |name: &str| {
            let suffix = name.strip_prefix(metric);
            suffix.is_some_and(|suffix| ["", "_bucket", "_sum", "_count"].contains(&suffix))
        };
        self.samples.iter().filter(|sample| is_of(&sample.name)).collect()
    }

    /// Name and labels of every series.
    pub(crate) fn all_series(&self) -> BTreeSet<(String, BTreeMap<String, String>)> {
        let all: BTreeSet<_> = self.samples.iter().map(|sample| (sample.name.clone(), sample.labels.clone())).collect();
        assert_eq!(all.len(), self.samples.len(), "a series is there twice");
        all
    }

    /// The sum of the series with this name and these labels; other labels may have any value. Panics when there is none.
    pub(crate) fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.try_value(name, labels).unwrap_or_else(|| panic!("there is no {name} {labels:?}"))
    }

    /// As [`Self::value`]; `None` when there is no such series.
    pub(crate) fn try_value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let has =
            |sample: &&Sample, (label, value): &(&str, &str)| sample.labels.get(*label).is_some_and(|is| is == value);
        let found = self.samples.iter().filter(|sample| sample.name == name);
        let mut found = found.filter(|sample| labels.iter().all(|label| has(sample, label))).peekable();
        found.peek()?;
        Some(found.map(|sample| sample.value).sum())
    }

    /// By how much a counter has grown since `before`.
    #[allow(clippy::cast_possible_truncation, reason = "the counts of tests are small")]
    pub(crate) fn since(&self, before: &Self, name: &str, labels: &[(&str, &str)]) -> i64 {
        (self.value(name, labels) - before.value(name, labels)) as i64
    }
}

impl Sample {
    fn parse(line: &str) -> Self {
        let (series, value) = line.rsplit_once(' ').expect("a value");
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let labels = labels.strip_suffix('}').expect("the end of the labels");
        let pairs = labels.split("\",").filter(|pair| !pair.is_empty());
        let pairs = pairs.map(|pair| pair.split_once("=\"").expect("a label"));
        let labels = pairs.map(|(label, value)| (label.to_owned(), value.trim_end_matches('"').to_owned()));
        Self { name: name.to_owned(), labels: labels.collect(), value: value.parse().expect("a number") }
    }
}
