//! The results of rows, the file that keeps them, and their tables.

use std::{collections::BTreeMap, fmt, fs, path::Path, process::Command, time::SystemTime};

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

    fn spread(&self) -> (f64, f64) {
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
    fn show(self, value: f64) -> String {
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

/// The bound of a claim. All variants except the last bound the ratio of our figure to the baseline.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Reach {
    AtLeast(f64),
    AtMost(f64),
    /// Our figure itself is below this value.
    Below(f64),
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

/// The result of a row.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub lines: Vec<Line>,
    pub costs: Vec<Cost>,
}

impl Outcome {
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

/// The tables, in Markdown.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.with {
            writeln!(f, "{name}: {value}")?;
        }
        if self.quick {
            writeln!(f, "\nA quick run: it shows that everything works; its figures mean nothing.")?;
        }
        writeln!(f, "\n| claim | ours | baseline | ratio | to reach | reached |\n|---|---|---|---|---|---|")?;
        for (_, line) in self.lines() {
            let cell = |figure: &Option<Figure>| figure.as_ref().map(|figure| show(line.unit, figure));
            let baseline = line.baseline.as_ref().map(|figure| format!("{}: {}", figure.what, show(line.unit, figure)));
            let ours = cell(&line.ours).or(line.note.clone()).unwrap_or_default();
            writeln!(
                f,
                "| {} | {ours} | {} | {} | {} | {} |",
                line.claim,
                baseline.unwrap_or_default(),
                line.ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default(),
                line.bound(),
                line.reached.map_or("", |reached| if reached { "yes" } else { "no" }),
            )?;
        }
        for row in self.rows.iter().filter(|row| row.failed.is_some()) {
            writeln!(f, "| {}: failed, {} | | | | | |", row.row, row.failed.as_deref().unwrap_or_default())?;
        }
        writeln!(f, "\n| CPU seconds for a million | side | service | NATS | bare server | load generator |")?;
        writeln!(f, "|---|---|---|---|---|---|")?;
        for cost in self.rows.iter().flat_map(|row| &row.outcome.costs) {
            let cell = |process: &str| cost.processes.get(process).map(|figure| format!("{:.2}", figure.median));
            let [service, nats, bare, generator] =
                ["service", "nats", "bare", "generator"].map(|process| cell(process).unwrap_or_default());
            writeln!(f, "| {} | {} | {service} | {nats} | {bare} | {generator} |", cost.what, cost.side)?;
        }
        Ok(())
    }
}

fn show(unit: Unit, figure: &Figure) -> String {
    let (low, high) = figure.spread();
    if figure.samples.len() < 2 {
        return unit.show(figure.median);
    }
    format!("{} ({} to {})", unit.show(figure.median), unit.show(low), unit.show(high))
}

/// The versions and the machine of this run.
fn surroundings() -> BTreeMap<String, String> {
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
