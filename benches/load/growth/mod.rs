//! Growth: how figures change with the number of rooms, with the number of subscribers of a room, and with the number
//! of messages in a room. Each axis has a file. A figure is measured at every size of its axis, and an exponent is
//! fitted to the medians: 0 means that the figure does not grow, 1 that it grows as fast as the size.

mod messages;
mod probe;
mod rooms;
mod subscribers;

use std::{collections::BTreeMap, fmt, fs, path::Path};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::{
    report::{Figure, Unit, surroundings},
    tables::show,
};

/// A figure grows faster than linearly if its exponent, or that of its last step, is above this: noise moves it.
const LINEAR: f64 = 1.15;
/// A figure that must not grow has at most this exponent.
const FLAT: f64 = 0.1;
/// Medians of each figure at each size.
const SAMPLES: usize = 5;

/// How fast a figure may grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Allowed {
    Linear,
    Flat,
}

/// A figure at every size of an axis.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Series {
    pub what: String,
    pub unit: Unit,
    pub allowed: Allowed,
    pub points: Vec<(f64, Figure)>,
    /// The slope of a line through the logarithms of sizes and medians (least squares).
    pub exponent: Option<f64>,
    /// The same of the last two sizes only.
    pub last_step: Option<f64>,
}

impl Series {
    fn fit(&mut self) {
        let points = self.points.iter().map(|(at, figure)| (at.ln(), figure.median.ln()));
        let points: Vec<_> = points.filter(|(x, y)| x.is_finite() && y.is_finite()).collect();
        self.exponent = slope(&points);
        self.last_step = slope(points.get(points.len().saturating_sub(2)..).unwrap_or_default());
    }

    /// Whether the figure grows faster than it may.
    pub(crate) fn is_too_fast(&self) -> bool {
        let above = |most| move |exponent: f64| exponent > most;
        match self.allowed {
            Allowed::Linear => self.exponent.is_some_and(above(LINEAR)) || self.last_step.is_some_and(above(LINEAR)),
            Allowed::Flat => self.exponent.is_some_and(above(FLAT)),
        }
    }
}

/// The slope of a line through these points, by least squares.
fn slope(points: &[(f64, f64)]) -> Option<f64> {
    if points.len() < 2 {
        return None;
    }
    let count = points.len() as f64;
    let mean_x = points.iter().map(|(x, _)| x).sum::<f64>() / count;
    let mean_y = points.iter().map(|(_, y)| y).sum::<f64>() / count;
    let along: f64 = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    let across: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    Some(along / across).filter(|slope| slope.is_finite())
}

/// The figures of one axis.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Axis {
    pub axis: String,
    pub sizes: Vec<u64>,
    pub series: Vec<Series>,
}

impl Axis {
    fn new(axis: &str, sizes: &[u64]) -> Self {
        Self { axis: axis.to_owned(), sizes: sizes.to_vec(), series: Vec::new() }
    }

    /// Adds a figure that may grow as fast as the size.
    fn add(&mut self, size: u64, what: &str, unit: Unit, samples: Vec<f64>) {
        self.add_as(size, (what, unit, Allowed::Linear), samples);
    }

    fn add_as(&mut self, size: u64, (what, unit, allowed): (&str, Unit, Allowed), samples: Vec<f64>) {
        let figure = Figure::new("unibus", samples);
        eprintln!("  {} {}: {what}: {}", size, self.axis, show(unit, &figure));
        match self.series.iter_mut().find(|series| series.what == what) {
            Some(series) => series.points.push((size as f64, figure)),
            None => self.series.push(Series {
                what: what.to_owned(),
                unit,
                allowed,
                points: vec![(size as f64, figure)],
                exponent: None,
                last_step: None,
            }),
        }
    }
}

/// The growth along all axes: one file under `benches/results`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Growth {
    pub quick: bool,
    pub with: BTreeMap<String, String>,
    pub axes: Vec<Axis>,
}

impl Growth {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        Ok(serde_json::from_str(&text)?)
    }

    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        fs::write(path, serde_json::to_string_pretty(self)? + "\n").with_context(|| path.display().to_string())
    }
}

/// Measures the growth along these axes, or along all.
pub(crate) async fn measure(quick: bool, only: &[String]) -> Result<Growth> {
    let mut growth = Growth { quick, with: surroundings(), axes: Vec::new() };
    let wanted = |name: &str| only.is_empty() || only.iter().any(|axis| axis == name);
    if wanted("rooms") {
        growth.axes.push(rooms::measure(quick).await.context("rooms")?);
    }
    if wanted("subscribers") {
        growth.axes.push(subscribers::measure(quick).await.context("subscribers")?);
    }
    if wanted("messages") {
        growth.axes.push(messages::measure(quick).await.context("messages")?);
    }
    for series in growth.axes.iter_mut().flat_map(|axis| &mut axis.series) {
        series.fit();
    }
    Ok(growth)
}

/// A table for each axis, in Markdown.
impl fmt::Display for Growth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.with {
            writeln!(f, "{name}: {value}")?;
        }
        if self.quick {
            writeln!(f, "\nA quick run: it shows that everything works; its figures mean nothing.")?;
        }
        for axis in &self.axes {
            let sizes: Vec<_> = axis.sizes.iter().map(u64::to_string).collect();
            writeln!(f, "\n| {} | {} | exponent | last step | |", axis.axis, sizes.join(" | "))?;
            writeln!(f, "|---|{}---|---|---|", "---|".repeat(sizes.len()))?;
            for series in &axis.series {
                let cells: Vec<_> = axis.sizes.iter().map(|size| cell(series, *size)).collect();
                let exponent = |value: Option<f64>| value.map(|value| format!("{value:.2}")).unwrap_or_default();
                writeln!(
                    f,
                    "| {} | {} | {} | {} | {} |",
                    series.what,
                    cells.join(" | "),
                    exponent(series.exponent),
                    exponent(series.last_step),
                    match (series.is_too_fast(), series.allowed) {
                        (false, _) => "",
                        (true, Allowed::Linear) => "**faster than linear**",
                        (true, Allowed::Flat) => "**must not grow**",
                    },
                )?;
            }
        }
        Ok(())
    }
}

fn cell(series: &Series, size: u64) -> String {
    let point = series.points.iter().find(|(at, _)| at.to_bits() == (size as f64).to_bits());
    point.map(|(_, figure)| series.unit.show(figure.median)).unwrap_or_default()
}
