//! The plot of the latencies of open loops: for each row the distribution of each side.

use anyhow::{Result, anyhow};
use plotters::{prelude::*, style::text_anchor::HPos};

use crate::{
    plot::{Area, Drawn, write},
    report::{Distribution, Report, Unit},
};

const WIDTH: i32 = 1100;
const PANEL: i32 = 250;
/// Where the curves begin and end inside a panel.
const LEFT: i32 = 70;
const RIGHT: i32 = 780;
const TOP: i32 = 34;
const BOTTOM: i32 = 214;
/// The share of calls at the right end, as the number of its nines.
const NINES: f64 = 4.5;

const COLOURS: [RGBColor; 4] =
    [RGBColor(25, 90, 170), RGBColor(46, 125, 50), RGBColor(198, 93, 33), RGBColor(120, 60, 150)];
const LIGHT: RGBColor = RGBColor(225, 225, 225);
const GREY: RGBColor = RGBColor(128, 128, 128);

/// The plot as SVG, or nothing for a report without open loops.
pub(crate) fn svg(report: &Report) -> Result<Option<String>> {
    let mut panels: Vec<(&str, Vec<&Distribution>)> = Vec::new();
    for distribution in report.rows.iter().flat_map(|row| &row.outcome.distributions) {
        match panels.iter_mut().find(|(what, _)| *what == distribution.what) {
            Some((_, sides)) => sides.push(distribution),
            None => panels.push((&distribution.what, vec![distribution])),
        }
    }
    if panels.is_empty() {
        return Ok(None);
    }
    let height = PANEL * i32::try_from(panels.len())?;
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH.unsigned_abs(), height.unsigned_abs())).into_drawing_area();
        draw(&area, &panels).map_err(|error| anyhow!("the plot: {error}"))?;
    }
    Ok(Some(svg))
}

fn draw<'a>(area: &Area<'a>, panels: &[(&str, Vec<&Distribution>)]) -> Drawn<'a> {
    area.fill(&WHITE)?;
    for (number, (what, sides)) in (0_i32..).zip(panels) {
        panel(area, number * PANEL, what, sides)?;
    }
    area.present()
}

/// One panel: shares of calls to the right, times upwards, both logarithmic.
fn panel<'a>(area: &Area<'a>, top: i32, what: &str, sides: &[&Distribution]) -> Drawn<'a> {
    let times = || sides.iter().flat_map(|side| &side.points).map(|(_, time)| time.max(1e-6).log10());
    let low = times().fold(f64::INFINITY, f64::min).floor();
    let high = times().fold(f64::NEG_INFINITY, f64::max).ceil().max(low + 1.0);
    let x = |share: f64| LEFT + ((-(1.0 - share).log10()).min(NINES) / NINES * f64::from(RIGHT - LEFT)).round() as i32;
    let y = |decade: f64| top + BOTTOM - ((decade - low) / (high - low) * f64::from(BOTTOM - TOP)).round() as i32;
    write(area, &format!("{what}: time below which a share of the calls lies"), (16, top + 14), HPos::Left, BLACK)?;
    for (share, name) in
        [(0.0, "0 %"), (0.5, "50 %"), (0.9, "90 %"), (0.99, "99 %"), (0.999, "99.9 %"), (0.9999, "99.99 %")]
    {
        let at = x(share);
        area.draw(&PathElement::new(vec![(at, top + TOP), (at, top + BOTTOM)], LIGHT))?;
        write(area, name, (at, top + BOTTOM + 12), HPos::Center, GREY)?;
    }
    for decade in low as i32..=high as i32 {
        let at = y(f64::from(decade));
        area.draw(&PathElement::new(vec![(LEFT, at), (RIGHT, at)], LIGHT))?;
        write(area, &Unit::Seconds.show(10_f64.powi(decade)), (LEFT - 6, at), HPos::Right, GREY)?;
    }
    for ((number, side), colour) in (0_i32..).zip(sides).zip(COLOURS.iter().cycle()) {
        let curve: Vec<_> = side.points.iter().map(|(share, time)| (x(*share), y(time.max(1e-6).log10()))).collect();
        area.draw(&PathElement::new(curve, colour.stroke_width(2)))?;
        let at = top + TOP + 10 + number * 18;
        write(area, &format!("{} ({} calls)", side.side, side.calls), (RIGHT + 14, at), HPos::Left, *colour)?;
    }
    Ok(())
}
