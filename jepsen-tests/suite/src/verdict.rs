//! What came of a run, for people.

use annals_checker::{Property, Validity};

use crate::harness::Report;

/// A few lines per run: the counts, and every property that did not hold.
pub(crate) fn print(report: &Report) {
    let word = match report.verdict.as_ref().map(|verdict| verdict.validity) {
        _ if !report.complaints.is_empty() => "WRONG",
        None | Some(Validity::Valid) => "valid",
        Some(Validity::Invalid) => "INVALID",
        Some(Validity::Unknown) => "UNKNOWN",
    };
    println!("{word}: {} seed {} in {:.0} s", report.scenario, report.seed, report.seconds);
    if let Some(verdict) = &report.verdict {
        for property in Property::ALL {
            let Some(finding) = verdict.properties.get(&property) else { continue };
            if finding.violations > 0 {
                println!("  {property} {}: {} violations", property.title(), finding.violations);
                for violation in finding.first.iter().take(3) {
                    println!("    {}", violation.text);
                }
            }
        }
        for missing in &verdict.unknown {
            println!("  not known: {missing}");
        }
        println!("  {}", serde_json::to_string(&verdict.counts).unwrap_or_default());
    }
    for complaint in &report.complaints {
        println!("  {complaint}");
    }
}
