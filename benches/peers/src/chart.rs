//! Bar charts, one for each figure that has a bar, as SVG that can be read on a
//! light and on a dark page.

use std::fmt::Write as _;

use crate::contestant::Contestant;
use crate::report::{figure_title, number};
use crate::results::{RowResults, Spread};
use crate::rows::{Figure, Row};

const WIDTH: f64 = 760.0;
const LABELS: f64 = 170.0;
/// Room for the value behind the longest bar.
const VALUES: f64 = 90.0;
const TOP: f64 = 56.0;
const LINE: f64 = 30.0;
const THICKNESS: f64 = 18.0;

const STYLE: &str = "
    text { font: 13px system-ui, sans-serif; fill: #24292f }
    .title { font-weight: 600; font-size: 15px }
    .unit { fill: #57606a }
    .peer { fill: #8c959f } .annals { fill: #0969da } .spread { stroke: #24292f; stroke-width: 1.5 }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3 } .unit { fill: #9198a1 }
      .peer { fill: #6e7681 } .annals { fill: #4493f8 } .spread { stroke: #e6edf3 }
    }";

/// None if nobody has this figure.
pub(crate) fn svg(row: &Row, measured: &RowResults, figure: Figure) -> Option<String> {
    let bars: Vec<(Contestant, Spread)> =
        row.contestants.iter().filter_map(|one| Some((*one, measured.spread(*one, figure)?))).collect();
    let longest = bars.iter().map(|(_, spread)| spread.max).reduce(f64::max)?;
    let height = TOP + LINE * bars.len() as f64 + 10.0;
    let direction = if figure == Figure::Rate { "more is better" } else { "less is better" };
    let mut text = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img">
  <title>{title}</title>
  <style>{STYLE}
  </style>
  <text class="title" x="8" y="22">{title}</text>
  <text class="unit" x="8" y="42">{unit}, {direction}; the line spans all rounds</text>
"#,
        title = row.title,
        unit = figure_title(figure, row.unit),
    );
    let scale = (WIDTH - LABELS - VALUES) / longest;
    for (turn, (contestant, spread)) in bars.iter().enumerate() {
        text.push_str(&bar(*contestant, *spread, TOP + LINE * turn as f64, scale));
    }
    text.push_str("</svg>\n");
    Some(text)
}

fn bar(contestant: Contestant, spread: Spread, y: f64, scale: f64) -> String {
    let class = if contestant == Contestant::Annals { "annals" } else { "peer" };
    let (x, length) = (LABELS, spread.median * scale);
    let (from, to) = (LABELS + spread.min * scale, LABELS + spread.max * scale);
    let (middle, baseline) = (y + THICKNESS / 2.0, y + THICKNESS - 4.0);
    let mut text = String::new();
    let _ = writeln!(
        text,
        r#"  <text x="{label:.1}" y="{baseline:.1}" text-anchor="end">{name}</text>
  <rect class="{class}" x="{x:.1}" y="{y:.1}" width="{length:.1}" height="{THICKNESS}" rx="2"/>
  <line class="spread" x1="{from:.1}" y1="{middle:.1}" x2="{to:.1}" y2="{middle:.1}"/>
  <text x="{value:.1}" y="{baseline:.1}">{median}</text>"#,
        label = LABELS - 8.0,
        name = contestant.title(),
        value = to.max(x + length) + 8.0,
        median = number(spread.median),
    );
    text
}
