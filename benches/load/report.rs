//! The results of rows, and the file that keeps them.

use std::{collections::BTreeMap, fs, path::Path, process::Command, time::SystemTime};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::measure::Measured;

/// Several samples of one figure.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Figure {
    /// The side or process that the figure belongs to.
    pub what: String,
    pub median: f64,
    /// In the order in which they were measured.
    pub samples: Vec<f64>,
}

impl Figure {
    pub(crate) fn new(what: impl Into<String>, samples: Vec<f64>) -> Self {
        let mut sorted = samples.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = |at: usize| sorted.get(at).copied().unwrap_or(f64::NAN);
        let median = f64::midpoint(middle(sorted.len().saturating_sub(1) / 2), middle(sorted.len() / 2));
        Self { what: what.into(), median, samples }
    }

    /// The least and the greatest sample.
    pub(crate) fn spread(&self) -> (f64, f64) {
        let low = self.samples.iter().copied().fold(f64::INFINITY, f64::min);
        (low, self.samples.iter().copied().fold(f64::NEG_INFINITY, f64::max))
    }
}

/// The unit of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Unit {
    PerSecond,
    Seconds,
    /// CPU seconds per million messages.
    CpuSeconds,
    Bytes,
    /// Percent of one core.
    Percent,
    /// A ratio of two other figures.
    Ratio,
}

impl Unit {
    pub(crate) fn show(self, value: f64) -> String {
        let scaled = |steps: &[(f64, &str)]| {
            let (scale, unit) =
                steps.iter().find(|(scale, _)| value.abs() >= *scale).or(steps.last()).unwrap_or(&(1.0, ""));
            let value = value / scale;
            if value.abs() < 10.0 { format!("{value:.2} {unit}") } else { format!("{value:.0} {unit}") }
        };
        match self {
            Self::PerSecond => scaled(&[(1e6, "M/s"), (1e3, "k/s"), (1.0, "/s")]),
            Self::Seconds => scaled(&[(1.0, "s"), (1e-3, "ms"), (1e-6, "us")]),
            Self::CpuSeconds => format!("{value:.2} s"),
            Self::Bytes => scaled(&[(1024.0 * 1024.0, "MiB"), (1024.0, "KiB"), (1.0, "B")]),
            Self::Percent => format!("{value:.1} %"),
            Self::Ratio => format!("{value:.2}"),
        }
    }
}

/// The bound of a claim. `AtLeast` and `AtMost` bound the ratio of our figure to the baseline.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Reach {
    AtLeast(f64),
    AtMost(f64),
    /// Our figure itself is below this value.
    Below(f64),
    /// Our figure itself is above this value.
    Above(f64),
}

/// One claim, compared with one baseline.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Line {
    pub claim: String,
    pub unit: Unit,
    pub ours: Option<Figure>,
    pub baseline: Option<Figure>,
    /// The median of our figure divided by the median of the baseline.
    pub ratio: Option<f64>,
    pub reach: Option<Reach>,
    pub reached: Option<bool>,
    pub note: Option<String>,
}

impl Line {
    /// A figure of the service, compared with a figure of a baseline.
    pub(crate) fn new(
        claim: impl Into<String>,
        unit: Unit,
        ours: Vec<f64>,
        (what, baseline): (&str, Vec<f64>),
    ) -> Self {
        let (ours, baseline) = (Figure::new("unibus", ours), Figure::new(what, baseline));
        let ratio = Some(ours.median / baseline.median).filter(|ratio| ratio.is_finite());
        let (ours, baseline) = (Some(ours), Some(baseline));
        Self { claim: claim.into(), unit, ours, baseline, ratio, reach: None, reached: None, note: None }
    }

    /// A figure without a baseline.
    pub(crate) fn alone(claim: impl Into<String>, unit: Unit, ours: Vec<f64>) -> Self {
        let ours = Some(Figure::new("unibus", ours));
        Self { claim: claim.into(), unit, ours, baseline: None, ratio: None, reach: None, reached: None, note: None }
    }

    /// A claim that cannot be measured in this version.
    pub(crate) fn missing(claim: impl Into<String>, why: &str) -> Self {
        Self {
            claim: claim.into(),
            unit: Unit::Ratio,
            ours: None,
            baseline: None,
            ratio: None,
            reach: None,
            reached: None,
            note: Some(why.to_owned()),
        }
    }

    pub(crate) fn reach(mut self, reach: Reach) -> Self {
        self.reached = match reach {
            Reach::AtLeast(least) => self.ratio.map(|ratio| ratio >= least),
            Reach::AtMost(most) => self.ratio.map(|ratio| ratio <= most),
            Reach::Below(bound) => self.ours.as_ref().map(|ours| ours.median < bound),
            Reach::Above(bound) => self.ours.as_ref().map(|ours| ours.median > bound),
        };
        self.reach = Some(reach);
        self
    }

    /// The bound as text.
    pub(crate) fn bound(&self) -> String {
        match self.reach {
            Some(Reach::AtLeast(least)) => format!(">= {least} x"),
            Some(Reach::AtMost(most)) if most < 0.1 => format!("<= 1/{:.0} x", 1.0 / most),
            Some(Reach::AtMost(most)) => format!("<= {most} x"),
            Some(Reach::Below(bound)) => format!("below {}", self.unit.show(bound)),
            Some(Reach::Above(bound)) => format!("above {}", self.unit.show(bound)),
            None => String::new(),
        }
    }
}

/// The CPU time that the processes of one side spent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Cost {
    pub what: String,
    pub side: String,
    /// CPU seconds per million messages, by process.
    pub processes: BTreeMap<String, Figure>,
}

/// The latencies of one side of an open loop, over all rounds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Distribution {
    pub what: String,
    pub side: String,
    pub calls: u64,
    /// Shares of the calls, and the seconds below which they lie.
    pub points: Vec<(f64, f64)>,
}

/// The result of a row.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub lines: Vec<Line>,
    pub costs: Vec<Cost>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub distributions: Vec<Distribution>,
}

impl Outcome {
    /// Appends another outcome of the same row.
    pub(crate) fn extend(&mut self, other: Self) {
        self.lines.extend(other.lines);
        self.costs.extend(other.costs);
        self.distributions.extend(other.distributions);
    }

    /// Records the latencies of these sides, if their turns are open loops.
    pub(crate) fn distributed(&mut self, what: &str, measured: &[&Measured]) {
        self.distributions.extend(measured.iter().filter_map(|side| {
            let latencies = side.latencies.as_ref()?;
            let (what, side) = (what.to_owned(), side.side.to_owned());
            Some(Distribution { what, side, calls: latencies.count(), points: latencies.points() })
        }));
    }

    /// Records the CPU time that the processes of each side spent on `what`.
    pub(crate) fn spent(&mut self, what: &str, measured: &[&Measured]) {
        for side in measured {
            let processes = side
                .cpu
                .iter()
                .map(|(process, samples)| ((*process).to_owned(), Figure::new(*process, samples.clone())));
            let cost = Cost { what: what.to_owned(), side: side.side.to_owned(), processes: processes.collect() };
            self.costs.push(cost);
        }
    }
}

/// One row of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    pub row: String,
    pub measured_at: String,
    /// How long the row took.
    pub seconds: f64,
    /// The error, if the row has no outcome.
    pub failed: Option<String>,
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// A run: one file under `benches/results`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Whether this was a quick run, whose figures mean nothing.
    pub quick: bool,
    pub with: BTreeMap<String, String>,
    pub rows: Vec<Row>,
}

impl Report {
    pub(crate) fn new(quick: bool) -> Self {
        Self { quick, with: surroundings(), rows: Vec::new() }
    }

    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        Ok(serde_json::from_str(&text)?)
    }

    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        fs::write(path, serde_json::to_string_pretty(self)? + "\n").with_context(|| path.display().to_string())
    }

    /// Replaces the row with the same name, or appends the row.
    pub(crate) fn put(&mut self, row: Row) {
        match self.rows.iter_mut().find(|older| older.row == row.row) {
            Some(older) => *older = row,
            None => self.rows.push(row),
        }
    }

    pub(crate) fn lines(&self) -> impl Iterator<Item = (&str, &Line)> {
        self.rows.iter().flat_map(|row| row.outcome.lines.iter().map(|line| (row.row.as_str(), line)))
    }
}

/// The versions and the machine of this run.
pub(crate) fn surroundings() -> BTreeMap<String, String> {
    let lock = include_str!("../../Cargo.lock");
    let version = |name: &str| {
        let entry = lock.split("[[package]]").find(|entry| entry.contains(&format!("\nname = \"{name}\"\n")))?;
        Some(entry.split("version = \"").nth(1)?.split('"').next()?.to_owned())
    };
    let output = |program: &str| {
        let output = Command::new(program).arg("--version").output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let nats_server = std::env::var("UNIBUS_NATS_SERVER").unwrap_or_default();
    let cpu = fs::read_to_string("/proc/cpuinfo").ok().and_then(|info| {
        let model = info.lines().find_map(|line| line.strip_prefix("model name"))?;
        Some(model.trim_start_matches(['\t', ' ', ':']).to_owned())
    });
    let cores = std::thread::available_parallelism().map(|cores| cores.to_string()).ok();
    let build = if cfg!(debug_assertions) { "not optimised: the figures mean nothing" } else { "release" };
    [
        ("unibus", Some(env!("CARGO_PKG_VERSION").to_owned())),
        ("async-nats", version("async-nats")),
        ("tonic", version("tonic")),
        ("nats-server", output(&nats_server).map(|line| line.replace("nats-server: ", ""))),
        ("rustc", output("rustc")),
        ("cpu", cpu),
        ("cores", cores),
        ("build", Some(build.to_owned())),
        ("date", Some(now())),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name.to_owned(), value?)))
    .collect()
}

pub(crate) fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}
