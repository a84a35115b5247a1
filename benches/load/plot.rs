//! The plot of a report: how far each claim is from its bound.

use anyhow::{Result, anyhow};
use plotters::{
    coord::Shift,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use crate::report::{Line, Reach, Report};

const WIDTH: i32 = 1100;
const LINE_HEIGHT: i32 = 22;
const TOP: i32 = 56;
const BOTTOM: i32 = 16;
/// Where the bars begin and end.
const BARS: (i32, i32) = (560, 1000);
/// The factors at the ends of the logarithmic scale: from a tenth of the bound to ten times the bound.
const DECADES: f64 = 1.0;

const GOOD: RGBColor = RGBColor(46, 125, 50);
const BAD: RGBColor = RGBColor(198, 93, 33);
const LIGHT: RGBColor = RGBColor(220, 220, 220);
const GREY: RGBColor = RGBColor(128, 128, 128);

/// The plot as SVG. Each bar is one claim. It extends to the right of the middle by the factor by which the claim is
/// better than its bound, and to the left by the factor by which it is worse.
pub(crate) fn svg(report: &Report) -> Result<String> {
    let claims: Vec<(&Line, f64)> = report.lines().filter_map(|(_, line)| Some((line, margin(line)?))).collect();
    let height = TOP + BOTTOM + LINE_HEIGHT * i32::try_from(claims.len())?;
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH.unsigned_abs(), height.unsigned_abs())).into_drawing_area();
        draw(&area, &claims, height).map_err(|error| anyhow!("the plot: {error}"))?;
    }
    Ok(svg)
}

/// By which factor a claim is better than its bound; below 1 it is missed.
fn margin(line: &Line) -> Option<f64> {
    let factor = match line.reach? {
        Reach::AtLeast(least) => line.ratio? / least,
        Reach::AtMost(most) => most / line.ratio?,
        Reach::Below(bound) => bound / line.ours.as_ref()?.median,
        Reach::Above(bound) => line.ours.as_ref()?.median / bound,
    };
    (factor.is_finite() && factor > 0.0).then_some(factor)
}

pub(crate) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
pub(crate) type Drawn<'a> = Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

fn draw<'a>(area: &Area<'a>, claims: &[(&Line, f64)], height: i32) -> Drawn<'a> {
    area.fill(&WHITE)?;
    let middle = i32::midpoint(BARS.0, BARS.1);
    let at = |factor: f64| {
        let share = (factor.log10() / DECADES).clamp(-1.0, 1.0);
        middle + (share * f64::from(BARS.1 - BARS.0) / 2.0).round() as i32
    };
    write(area, "each claim beside what it is to reach (logarithmic)", (16, 18), HPos::Left, BLACK)?;
    for (factor, name, colour) in [
        (0.1, "0.1 x", LIGHT),
        (0.5, "0.5 x", LIGHT),
        (1.0, "reached", BLACK),
        (2.0, "2 x", LIGHT),
        (10.0, "10 x", LIGHT),
    ] {
        let x = at(factor);
        write(area, name, (x, TOP - 16), HPos::Center, GREY)?;
        area.draw(&PathElement::new(vec![(x, TOP - 6), (x, height - BOTTOM)], colour))?;
    }
    for (row, (line, factor)) in (0_i32..).zip(claims) {
        let y = TOP + row * LINE_HEIGHT;
        let baseline = line.baseline.as_ref().map(|baseline| format!(" / {}", baseline.what)).unwrap_or_default();
        write(area, &format!("{}{baseline}", line.claim), (BARS.0 - 12, y + 10), HPos::Right, BLACK)?;
        let colour = if *factor >= 1.0 { GOOD } else { BAD };
        let (left, right) = (at(*factor).min(middle), at(*factor).max(middle));
        area.draw(&Rectangle::new([(left, y + 3), (right.max(left + 1), y + LINE_HEIGHT - 5)], colour.filled()))?;
        let value = line.ratio.map(|ratio| format!("{ratio:.2} ({})", line.bound()));
        write(area, &value.unwrap_or_else(|| line.bound()), (BARS.1 + 8, y + 10), HPos::Left, colour)?;
    }
    area.present()
}

/// Writes a text that ends, begins or has its middle at a point.
pub(crate) fn write<'a>(area: &Area<'a>, text: &str, at: (i32, i32), side: HPos, colour: RGBColor) -> Drawn<'a> {
    let style = TextStyle::from(("sans-serif", 12).into_font()).color(&colour).pos(Pos::new(side, VPos::Center));
    area.draw(&Text::new(text.to_owned(), at, style))
}
