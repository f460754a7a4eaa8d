//! The frame of a chart: axes, fault windows, and where things go.

use std::fmt::Write as _;

use super::escape::Escaped;
use super::time::Span;
use crate::history::{Fault, Installed, Nanos};

/// The size of a chart, in the units of its picture.
pub(super) const WIDTH: f64 = 1080.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 14.0;
/// Room for the names of faults.
const TOP: f64 = 20.0;
const HEIGHT: f64 = 190.0;
const BOTTOM: f64 = 24.0;

/// How numbers become heights.
pub(super) enum Scale {
    /// From 0 to this.
    Linear(f64),
    /// Powers of ten, from one exponent to another.
    Log(i32, i32),
}

impl Scale {
    /// From 0 to a round number that is no less than this.
    pub(super) fn up_to(most: f64) -> Self {
        let power = 10f64.powf(most.max(1.0).log10().floor());
        // Of which a quarter is round as well.
        let steps = [1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0];
        Scale::Linear(steps.map(|step| step * power).into_iter().find(|top| *top >= most).unwrap_or(10.0 * power))
    }

    /// All decades that hold these numbers.
    pub(super) fn decades(least: f64, most: f64) -> Self {
        let from = least.max(1.0).log10().floor() as i32;
        let to = most.max(1.0).log10().ceil() as i32;
        Scale::Log(from, to.max(from + 1))
    }

    fn share(&self, value: f64) -> f64 {
        match self {
            Scale::Linear(top) => value / top,
            Scale::Log(from, to) => (value.max(1.0).log10() - f64::from(*from)) / f64::from(to - from),
        }
    }
}

/// A chart in the making.
pub(super) struct Chart {
    svg: String,
    length: Nanos,
    scale: Scale,
}

impl Chart {
    /// The frame of a chart over a run of this length.
    pub(super) fn new(label: &str, length: Nanos, scale: Scale) -> Self {
        let height = TOP + HEIGHT + BOTTOM;
        let mut svg = String::new();
        let _ = writeln!(
            svg,
            "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\" class=\"chart\">",
            Escaped(label)
        );
        Chart { svg, length: length.max(1), scale }
    }

    /// The horizontal place of a time.
    pub(super) fn x(&self, time: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * (time / self.length as f64).clamp(0.0, 1.0)
    }

    /// The vertical place of a value.
    pub(super) fn y(&self, value: f64) -> f64 {
        TOP + HEIGHT * (1.0 - self.scale.share(value).clamp(0.0, 1.0))
    }

    /// Adds markup.
    pub(super) fn push(&mut self, markup: &str) {
        self.svg.push_str(markup);
        self.svg.push('\n');
    }

    /// Shades when faults were in force, with the names of their classes where
    /// there is room.
    pub(super) fn windows(&mut self, faults: &[&Fault]) {
        let mut free = LEFT;
        for fault in faults.iter().filter(|fault| fault.installed != Installed::Skipped) {
            let (from, to) = (self.x(fault.start as f64), self.x(fault.end as f64));
            let width = (to - from).max(2.0);
            let hue = hue(&fault.class);
            let about = format!(
                "{} {} on {}, {} at {}",
                fault.class,
                fault.name,
                fault.nodes.iter().map(|node| format!("n{node}")).collect::<Vec<_>>().join(" "),
                Span(fault.end.saturating_sub(fault.start)),
                Span(fault.start)
            );
            self.push(&format!(
                "<g class=\"f{hue}\"><title>{}</title><rect class=\"window\" x=\"{from:.1}\" y=\"{TOP}\" \
                 width=\"{width:.1}\" height=\"{HEIGHT}\"/><rect class=\"cap\" x=\"{from:.1}\" y=\"{:.1}\" \
                 width=\"{width:.1}\" height=\"4\"/></g>",
                Escaped(&about),
                TOP - 4.0
            ));
            let room = 7.5 * fault.class.chars().count() as f64;
            let at = from.min(WIDTH - RIGHT - room);
            if at >= free {
                self.push(&format!(
                    "<text class=\"class\" x=\"{at:.1}\" y=\"{:.1}\">{}</text>",
                    TOP - 7.0,
                    Escaped(&fault.class)
                ));
                free = at + room + 3.0;
            }
        }
    }

    /// Grid lines with the values at the left and the time below.
    pub(super) fn axes(&mut self, label: impl Fn(f64) -> String) {
        let values: Vec<f64> = match self.scale {
            Scale::Linear(top) => (0u8..=4).map(|quarter| top * f64::from(quarter) / 4.0).collect(),
            Scale::Log(from, to) => (from..=to).map(|power| 10f64.powi(power)).collect(),
        };
        for value in values {
            let y = self.y(value);
            let text = label(value);
            self.push(&format!(
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text class=\"tick end\" x=\"{}\" y=\"{:.1}\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 8.0,
                y + 4.0,
                Escaped(&text)
            ));
        }
        let step = step(self.length);
        let mut time = 0;
        while time <= self.length {
            let x = self.x(time as f64);
            let anchor = if time + step > self.length && x > WIDTH - RIGHT - 30.0 { "end" } else { "middle" };
            self.push(&format!(
                "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{}\" y2=\"{}\"/>\
                 <text class=\"tick {anchor}\" x=\"{x:.1}\" y=\"{}\">{}</text>",
                TOP + HEIGHT,
                TOP + HEIGHT + 4.0,
                TOP + HEIGHT + 18.0,
                tick(time, self.length)
            ));
            time += step;
        }
    }

    /// A place over the whole height that tells its numbers when pointed at.
    pub(super) fn hint(&mut self, from: f64, to: f64, text: &str) {
        let (from, to) = (self.x(from), self.x(to));
        self.push(&format!(
            "<rect class=\"hint\" x=\"{from:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{HEIGHT}\"><title>{}</title></rect>",
            (to - from).max(1.0),
            Escaped(text)
        ));
    }

    /// The whole picture.
    pub(super) fn finish(mut self) -> String {
        self.svg.push_str("</svg>\n");
        self.svg
    }
}

/// The number of a class's colour: by its number, so that it is the same in
/// all pictures and reports.
pub(super) fn hue(class: &str) -> u64 {
    class.trim_start_matches('F').parse::<u64>().unwrap_or(0) % 6
}

/// A time below the chart: minutes as a clock shows them in a long run.
fn tick(time: Nanos, length: Nanos) -> String {
    let seconds = time / 1_000_000_000;
    match (length / 1_000_000_000, seconds / 3600) {
        (0..120, _) => Span(time).to_string(),
        (_, 0) => format!("{}:{:02}", seconds / 60, seconds % 60),
        (_, hours) => format!("{hours}:{:02}:{:02}", seconds / 60 % 60, seconds % 60),
    }
}

/// A round step that divides a length into about ten parts.
fn step(length: Nanos) -> Nanos {
    const SECOND: Nanos = 1_000_000_000;
    let round = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1_200, 1_800, 3_600].map(|seconds| seconds * SECOND);
    if let Some(step) = round.into_iter().find(|step| length / step <= 12 && length >= 4 * SECOND) {
        return step;
    }
    let mut step = if length < 4 * SECOND { 1 } else { 7_200 * SECOND };
    let mut factors = [2, 5, 10].into_iter().cycle();
    let mut power = step;
    while length / step > 12 {
        let factor = factors.next().unwrap_or(2);
        step = power * factor;
        if factor == 10 {
            power = step;
        }
    }
    step
}
