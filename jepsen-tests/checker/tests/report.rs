//! The page about a run stands alone and shows what it was given.

mod fake;

use annals_checker::history::{Fault, Installed, Nanos, Outcome, Record, Run};
use annals_checker::{Settings, check, report};

fn page(records: &[Record]) -> String {
    report::html(records, &check(records, &Settings::default()))
}

/// A run of a minute, which is what charts are made for: the times of a fake
/// run, which takes milliseconds, stretched.
fn stretched(seed: u64) -> Vec<Record> {
    const BY: Nanos = 1_000;
    let mut records = fake::history(seed, None);
    for record in &mut records {
        match record {
            Record::Append(call) => {
                call.invoke *= BY;
                call.complete = call.complete.map(|time| time * BY);
            }
            Record::Fault(fault) => {
                fault.start *= BY;
                fault.end *= BY;
            }
            _ => {}
        }
    }
    records
}

#[test]
fn a_page_loads_nothing_and_runs_nothing() {
    for seed in 0..20 {
        let page = page(&fake::history(seed, None));
        for foreign in ["http", "src=", "href=", "@import", "url(", "<script", "onload"] {
            assert!(!page.contains(foreign), "seed {seed}: the page contains {foreign}");
        }
    }
}

#[test]
fn every_tag_is_closed() {
    for records in [stretched(4), fake::history(5, None), Vec::new()] {
        let page = page(&records);
        let mut open: Vec<&str> = Vec::new();
        for tag in page.split('<').skip(1) {
            let (tag, _) = tag.split_once('>').expect("a tag ends");
            let name = tag.split([' ', '/', '\n']).find(|part| !part.is_empty()).expect("a tag has a name");
            match tag {
                _ if tag.starts_with('/') => assert_eq!(open.pop(), Some(name), "{tag} closes another"),
                _ if tag.ends_with('/') || ["!doctype", "meta"].contains(&name) => {}
                _ => open.push(name),
            }
        }
        assert!(open.is_empty(), "{open:?} stay open");
    }
}

#[test]
fn what_a_history_says_never_becomes_markup() {
    const EVIL: &str = "<img src=x onerror='alert(1)'>\"&";
    let mut records = fake::history(2, None);
    records.retain(|record| !matches!(record, Record::Run(_)));
    records.push(Record::Run(Run { scenario: EVIL.into(), seeded_bug: Some(EVIL.into()), ..Run::default() }));
    records.push(Record::Fault(Fault {
        class: EVIL.into(),
        name: EVIL.into(),
        nodes: vec![1],
        start: 1,
        end: 2,
        installed: Installed::Installed,
        detail: EVIL.into(),
    }));
    for record in &mut records {
        if let Record::Append(append) = record {
            append.call = EVIL.into();
            append.writes.iter_mut().for_each(|write| write.stream = EVIL.into());
            if let Outcome::Unknown { why } = &mut append.outcome {
                *why = EVIL.into();
            }
        }
    }
    assert!(!page(&records).contains("<img"));
}

#[test]
fn a_page_shows_the_verdict_every_promise_and_every_class_of_faults() {
    let records: Vec<Record> = fake::history(11, None);
    let page = page(&records);
    for number in 1..=15 {
        assert!(page.contains(&format!("<strong>P{number}</strong>")), "P{number} is missing");
    }
    let mut classes = records.iter().filter_map(|record| match record {
        Record::Fault(fault) => Some(&fault.class),
        _ => None,
    });
    assert!(classes.all(|class| page.contains(&format!(">{class}<"))));
    assert_eq!(page.matches("<svg").count(), 4);
}

#[test]
fn an_empty_history_makes_a_page_too() {
    assert!(page(&[]).contains("history"));
}
