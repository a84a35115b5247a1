//! The tables of a report, in Markdown.

use std::fmt;

use crate::report::{Figure, Report, Unit};

/// The tables of a run.
pub(crate) struct Tables<'a>(pub &'a Report);

impl fmt::Display for Tables<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = self.0;
        for (name, value) in &report.with {
            writeln!(f, "{name}: {value}")?;
        }
        if report.quick {
            writeln!(f, "\nA quick run: it shows that everything works; its figures mean nothing.")?;
        }
        writeln!(f, "\n| claim | ours | baseline | ratio | to reach | reached |")?;
        writeln!(f, "|---|---|---|---|---|---|")?;
        for (_, line) in report.lines() {
            let baseline = line.baseline.as_ref().map(|figure| format!("{}: {}", figure.what, show(line.unit, figure)));
            let ours = line.ours.as_ref().map(|figure| show(line.unit, figure)).or(line.note.clone());
            writeln!(
                f,
                "| {} | {} | {} | {} | {} | {} |",
                line.claim,
                ours.unwrap_or_default(),
                baseline.unwrap_or_default(),
                line.ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default(),
                line.bound(),
                line.reached.map_or("", |reached| if reached { "yes" } else { "no" }),
            )?;
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

/// A figure with its spread.
pub(crate) fn show(unit: Unit, figure: &Figure) -> String {
    let (low, high) = figure.spread();
    if figure.samples.len() < 2 {
        return unit.show(figure.median);
    }
    format!("{} ({} to {})", unit.show(figure.median), unit.show(low), unit.show(high))
}
