//! The table of results, printed at the end.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    time::SystemTime,
};

use crate::{
    episode::Verdict,
    oracle::Counts,
    plan::{Plan, Setup},
};

#[derive(Default)]
struct Row {
    episodes: usize,
    counts: Counts,
    /// Broken promises. Each counts once for each episode.
    broken: usize,
}

/// Rows by set-up and fault. An episode counts in the row of each of its faults.
#[derive(Default)]
pub(crate) struct Report {
    rows: BTreeMap<(Setup, &'static str), Row>,
    total: Row,
    promises: BTreeMap<&'static str, Vec<u64>>,
    not_run: Vec<String>,
}

impl Row {
    fn add(&mut self, verdict: &Verdict) {
        self.episodes += 1;
        let promises: BTreeSet<_> = verdict.violations.iter().map(|violation| violation.promise).collect();
        self.broken += promises.len();
        self.counts.acknowledged += verdict.counts.acknowledged;
        self.counts.deliveries += verdict.counts.deliveries;
        self.counts.gaps += verdict.counts.gaps;
        self.counts.subscriptions += verdict.counts.subscriptions;
        self.counts.pages += verdict.counts.pages;
    }

    fn cells(&self) -> [String; 7] {
        let counts = &self.counts;
        [
            self.episodes,
            counts.acknowledged,
            counts.subscriptions,
            counts.deliveries,
            counts.gaps,
            counts.pages,
            self.broken,
        ]
        .map(|number| number.to_string())
    }
}

impl Report {
    pub(crate) fn add(&mut self, plan: &Plan, verdict: &Verdict) {
        let mut names: Vec<_> = plan.faults.iter().map(|timed| timed.fault.name()).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            self.rows.entry((plan.setup, name)).or_default().add(verdict);
        }
        self.total.add(verdict);
        for violation in &verdict.violations {
            let seeds = self.promises.entry(violation.promise).or_default();
            if seeds.last() != Some(&plan.seed) {
                seeds.push(plan.seed);
            }
        }
    }

    pub(crate) fn not_run(&mut self, plan: &Plan, why: &str) {
        self.not_run.push(format!("{plan}: {why}"));
    }

    pub(crate) fn broken(&self) -> usize {
        self.total.broken
    }

    /// The episodes that could not be run, with the cause.
    pub(crate) fn missing(&self) -> &[String] {
        &self.not_run
    }

    /// The table as Markdown.
    pub(crate) fn table(&self, versions: &str) -> String {
        let date = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let date = date.split('T').next().unwrap_or_default();
        let mut table = format!("{date}, {versions}\n\n");
        table += "| set-up | fault | episodes | publishes acknowledged | subscriptions | deliveries | gaps checked | pages | promises broken |\n";
        table += "|---|---|--:|--:|--:|--:|--:|--:|--:|\n";
        for ((setup, fault), row) in &self.rows {
            let _ = writeln!(table, "| {} | {fault} | {} |", setup.name(), row.cells().join(" | "));
        }
        let _ = writeln!(table, "| all | episodes, each once | {} |", self.total.cells().join(" | "));
        for (promise, seeds) in &self.promises {
            let _ = write!(table, "\nbroken: {promise}; seeds {seeds:?}\n");
        }
        table
    }
}
