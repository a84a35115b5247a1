//! The tables of a report, in Markdown, and those that compare two reports.

use std::{collections::BTreeMap, fmt};

use crate::report::{Figure, Line, Report, Unit};

/// The tables of a run. With an earlier run beside it, the first table has a last column for what each claim was before.
pub(crate) struct Tables<'a> {
    pub report: &'a Report,
    pub before: Option<&'a Report>,
}

impl fmt::Display for Tables<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = self.report;
        for (name, value) in &report.with {
            writeln!(f, "{name}: {value}")?;
        }
        if report.quick {
            writeln!(f, "\nA quick run: it shows that everything works; its figures mean nothing.")?;
        }
        let more = if self.before.is_some() { [" before |", "---|"] } else { ["", ""] };
        writeln!(f, "\n| claim | ours | baseline | ratio | to reach | reached |{}", more[0])?;
        writeln!(f, "|---|---|---|---|---|---|{}", more[1])?;
        for (_, line) in report.lines() {
            let baseline = line.baseline.as_ref().map(|figure| format!("{}: {}", figure.what, show(line.unit, figure)));
            let ours = line.ours.as_ref().map(|figure| show(line.unit, figure)).or(line.note.clone());
            write!(
                f,
                "| {} | {} | {} | {} | {} | {} |",
                line.claim,
                ours.unwrap_or_default(),
                baseline.unwrap_or_default(),
                line.ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default(),
                line.bound(),
                line.reached.map_or("", |reached| if reached { "yes" } else { "no" }),
            )?;
            match self.before {
                Some(before) => writeln!(f, " {} |", earlier(before, line))?,
                None => writeln!(f)?,
            }
        }
        for row in report.rows.iter().filter(|row| row.failed.is_some()) {
            writeln!(f, "| {}: failed, {} | | | | | |", row.row, row.failed.as_deref().unwrap_or_default())?;
        }
        writeln!(f, "\n| CPU seconds for a million | side | service | NATS | bare server | load generator |")?;
        writeln!(f, "|---|---|---|---|---|---|")?;
        for cost in report.rows.iter().flat_map(|row| &row.outcome.costs) {
            let cell = |process: &str| cost.processes.get(process).map(|figure| format!("{:.2}", figure.median));
            let [service, nats, bare, generator] =
                ["service", "nats", "bare", "generator"].map(|process| cell(process).unwrap_or_default());
            writeln!(f, "| {} | {} | {service} | {nats} | {bare} | {generator} |", cost.what, cost.side)?;
        }
        Ok(())
    }
}

/// Our figure and the ratio of this claim in an earlier run.
fn earlier(before: &Report, line: &Line) -> String {
    let what = |line: &Line| line.baseline.as_ref().map(|figure| figure.what.clone());
    let same = before.lines().map(|(_, earlier)| earlier);
    let mut same = same.filter(|earlier| earlier.claim == line.claim);
    let Some(first) = same.next() else { return "new".to_owned() };
    let ours = first.ours.as_ref().map(|figure| first.unit.show(figure.median)).unwrap_or_default();
    let ratio = std::iter::once(first).chain(same).find(|earlier| what(earlier) == what(line));
    match ratio.and_then(|earlier| earlier.ratio) {
        Some(ratio) => format!("{ours}, {ratio:.2}"),
        None => ours,
    }
}

/// A figure with its spread.
pub(crate) fn show(unit: Unit, figure: &Figure) -> String {
    let (low, high) = figure.spread();
    if figure.samples.len() < 2 {
        return unit.show(figure.median);
    }
    format!("{} ({} to {})", unit.show(figure.median), unit.show(low), unit.show(high))
}

/// Every figure of a run that an earlier run also has, before and after.
pub(crate) struct Comparison<'a> {
    pub before: &'a Report,
    pub after: &'a Report,
}

impl fmt::Display for Comparison<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n| figure | of | before | after | after / before | |\n|---|---|---|---|---|---|")?;
        let before: BTreeMap<_, _> = figures(self.before).into_iter().map(|entry| (entry.key(), entry)).collect();
        let mut without = 0;
        for after in figures(self.after) {
            let Some(before) = before.get(&after.key()) else {
                without += 1;
                continue;
            };
            let change = after.figure.median / before.figure.median;
            writeln!(
                f,
                "| {} | {} | {} | {} | {change:.2} | {} |",
                after.claim,
                after.of,
                show(after.unit, &before.figure),
                show(after.unit, &after.figure),
                verdict(&before.figure, &after.figure, after.more_is_better),
            )?;
        }
        writeln!(f, "\nFigures that the earlier run does not have: {without}.")
    }
}

/// A figure of a run.
struct Entry {
    claim: String,
    /// The side, or the ratio, or the process.
    of: String,
    unit: Unit,
    more_is_better: bool,
    figure: Figure,
}

impl Entry {
    fn key(&self) -> (String, String) {
        (self.claim.clone(), self.of.clone())
    }
}

/// All figures of a run, each once.
fn figures(report: &Report) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut add = |entry: Entry| {
        if !entries.iter().any(|other| other.claim == entry.claim && other.of == entry.of) {
            entries.push(entry);
        }
    };
    for (_, line) in report.lines() {
        let more_is_better = matches!(line.unit, Unit::PerSecond | Unit::Ratio);
        let entry = |of: String, unit, figure| Entry { claim: line.claim.clone(), of, unit, more_is_better, figure };
        for figure in [&line.ours, &line.baseline].into_iter().flatten() {
            add(entry(figure.what.clone(), line.unit, figure.clone()));
        }
        if let (Some(ours), Some(baseline)) = (&line.ours, &line.baseline) {
            // the sides take turns, so a ratio of each round is known
            let pairs = ours.samples.iter().zip(&baseline.samples);
            let samples = pairs.map(|(ours, baseline)| ours / baseline).filter(|ratio| ratio.is_finite()).collect();
            let figure = Figure { median: line.ratio.unwrap_or(f64::NAN), ..Figure::new("ratio", samples) };
            add(entry(format!("ratio to {}", baseline.what), Unit::Ratio, figure));
        }
    }
    for cost in report.rows.iter().flat_map(|row| &row.outcome.costs) {
        for (process, figure) in &cost.processes {
            let (claim, of) = (format!("{}, CPU for a million", cost.what), format!("{}: {process}", cost.side));
            add(Entry { claim, of, unit: Unit::CpuSeconds, more_is_better: false, figure: figure.clone() });
        }
    }
    entries
}

/// Two figures differ if their spreads do not overlap.
fn verdict(before: &Figure, after: &Figure, more_is_better: bool) -> &'static str {
    if before.samples.len() < 2 || after.samples.len() < 2 {
        return "one sample";
    }
    let ((low_before, high_before), (low_after, high_after)) = (before.spread(), after.spread());
    if low_after <= high_before && low_before <= high_after {
        return "within noise";
    }
    if (low_after > high_before) == more_is_better { "better" } else { "worse" }
}
