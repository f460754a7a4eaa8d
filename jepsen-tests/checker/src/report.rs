//! A verdict and its history for people: one page of HTML.
//!
//! The page stands alone. Styles and pictures are in it, it loads nothing and
//! runs nothing, so that it can be kept next to the history for years and be
//! opened from a mail. Everything that comes from a history is escaped.

mod chart;
mod charts;
mod counts;
mod escape;
mod properties;
mod series;
mod time;

use std::fmt::Write as _;

use crate::Verdict;
use crate::history::{Record, Run};
use crate::verdict::Validity;
use escape::Escaped;
use time::{Date, Span, run_length};

/// A page that shows the verdict and what happened when.
pub fn html(records: &[Record], verdict: &Verdict) -> String {
    let none = Run::default();
    let run = records.iter().find_map(|record| match record {
        Record::Run(run) => Some(run),
        _ => None,
    });
    let run = run.unwrap_or(&none);
    let name = if run.scenario.is_empty() { "history" } else { &run.scenario };
    let mut page = String::from("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    page.push_str("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
    let _ = writeln!(page, "<title>{}: {}</title>", Escaped(name), word(verdict.validity));
    let _ = write!(page, "<style>\n{}</style>\n</head>\n<body>\n<main>\n", include_str!("report/style.css"));
    header(&mut page, run, name, records, verdict);
    properties::section(&mut page, verdict);
    charts::section(&mut page, records);
    counts::sections(&mut page, records, verdict);
    page.push_str("</main>\n</body>\n</html>\n");
    page
}

fn word(validity: Validity) -> &'static str {
    match validity {
        Validity::Valid => "valid",
        Validity::Invalid => "invalid",
        Validity::Unknown => "unknown",
    }
}

fn header(page: &mut String, run: &Run, name: &str, records: &[Record], verdict: &Verdict) {
    let (class, sign, says) = match verdict.validity {
        Validity::Valid => ("good", "✓", "every promise was kept"),
        Validity::Invalid => ("bad", "✕", "a promise was broken"),
        Validity::Unknown => ("open", "?", "nothing was found, but not enough is known"),
    };
    let _ = write!(
        page,
        "<header>\n<div class=\"title\"><h1>{}</h1><span class=\"badge {class} large\">{sign} {}</span>\
         <span class=\"soft\">{says}</span></div>\n<dl class=\"facts\">\n",
        Escaped(name),
        word(verdict.validity)
    );
    let mut fact = |name: &str, value: &dyn std::fmt::Display| {
        let value = value.to_string();
        let _ = writeln!(page, "<div><dt>{}</dt><dd>{}</dd></div>", Escaped(name), Escaped(&value));
    };
    fact("seed", &run.seed);
    fact("nodes", &run.nodes);
    fact("duration", &Span(run_length(records)));
    if run.started > 0 {
        fact("started", &Date(run.started));
    }
    if let Some(bug) = &run.seeded_bug {
        fact("seeded bug", bug);
    }
    for (what, version) in &run.versions {
        fact(what, version);
    }
    page.push_str("</dl>\n");
    if !verdict.unknown.is_empty() {
        page.push_str("<div class=\"note\"><strong>Why this cannot be called valid</strong><ul>\n");
        for reason in &verdict.unknown {
            let _ = writeln!(page, "<li>{}</li>", Escaped(reason));
        }
        page.push_str("</ul></div>\n");
    }
    page.push_str("</header>\n");
}
