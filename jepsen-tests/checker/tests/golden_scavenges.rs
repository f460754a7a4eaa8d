//! Histories of scavenges: one that is right, and what is wrong with others.

use annals_checker::history::{Digest, EventId};
use annals_checker::scavenge::{Record, Shown, judge};

const SECOND: u64 = 1_000_000_000;

fn event(position: u64, stream: &str, revision: u64) -> Shown {
    let content = Some((EventId(u128::from(position)), Digest(position)));
    Shown { position, stream: stream.into(), revision, content }
}

/// Three events of `a`, two of `b`.
fn log() -> Vec<Shown> {
    let places = [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2)];
    (1..).zip(places).map(|(position, (stream, revision))| event(position, stream, revision)).collect()
}

fn hidden(stream: &str, below: u64, invoke: u64, complete: u64) -> Record {
    Record::Hidden { stream: stream.into(), below, invoke: invoke * SECOND, complete: complete * SECOND }
}

fn scavenge(invoke: u64, complete: Option<u64>) -> Record {
    Record::Scavenge { invoke: invoke * SECOND, complete: complete.map(|complete| complete * SECOND) }
}

/// From `invoke` to a second later, without these positions.
fn view(node: u32, invoke: u64, without: &[u64]) -> Record {
    let events = log().into_iter().filter(|event| !without.contains(&event.position)).collect();
    Record::View { node, what: "$all".into(), invoke: invoke * SECOND, complete: (invoke + 1) * SECOND, events }
}

fn files(node: u32, digest: u64, reclaimed: &[u64]) -> Record {
    Record::Files { node, digest: Digest(digest), reclaimed: reclaimed.to_vec() }
}

/// Two events of `a` are hidden at 11, taken by the scavenge from 20 to 30, and their
/// stream is restored later.
fn good() -> Vec<Record> {
    let written = log().into_iter().map(|event| Record::Written { event, complete: SECOND });
    written
        .chain([
            view(1, 5, &[]),
            hidden("a", 2, 10, 11),
            view(2, 15, &[]),
            scavenge(20, Some(30)),
            view(3, 22, &[1]),
            view(1, 31, &[1, 3]),
            hidden("b", 1, 40, 41),
            hidden("b", 0, 42, 43),
            scavenge(45, Some(50)),
            view(2, 60, &[1, 3]),
            files(1, 7, &[1, 3]),
            files(2, 7, &[1, 3]),
        ])
        .collect()
}

/// What is wrong when one record of the good history is another one.
fn with(at: usize, other: Record) -> Vec<String> {
    let mut records = good();
    records[log().len() + at] = other;
    judge(&records).wrong
}

/// The only thing that is wrong says this.
#[track_caller]
fn says(wrong: &[String], what: &str) {
    assert!(wrong.len() == 1 && wrong[0].starts_with("P14: ") && wrong[0].contains(what), "{wrong:#?}");
}

#[test]
fn what_was_hidden_may_go_and_must_once_a_scavenge_is_through() {
    let judgement = judge(&good());
    assert_eq!(judgement.wrong, Vec::<String>::new());
    assert_eq!((judgement.written, judgement.gone, judgement.restored), (5, 2, 1));
    assert_eq!((judgement.scavenges, judgement.views), (2, 5));
}

#[test]
fn what_nothing_had_hidden_never_goes() {
    says(
        &with(9, view(2, 60, &[1, 3, 5])).into_iter().filter(|w| w.contains("$all")).collect::<Vec<_>>(),
        "nothing had hidden it",
    );
    // Of a stream that is not truncated so far.
    says(
        &with(5, view(1, 31, &[1, 3, 2])).into_iter().filter(|w| w.contains("gone")).collect::<Vec<_>>(),
        "nothing had hidden it",
    );
}

#[test]
fn nothing_goes_before_it_is_hidden() {
    let wrong = with(0, view(1, 5, &[1]));
    assert!(wrong.iter().any(|wrong| wrong.contains("nothing had hidden it")), "{wrong:#?}");
}

#[test]
fn nothing_goes_after_it_was_restored() {
    let wrong = with(9, view(2, 60, &[1, 2, 3]));
    // It may have gone between 40 and 43: nobody looked.
    assert!(wrong.iter().all(|wrong| wrong.contains("the files")), "{wrong:#?}");
    let mut records = good();
    let end = records.len();
    records.insert(end - 2, view(3, 62, &[1, 2, 3]));
    let wrong = judge(&records).wrong;
    assert!(wrong.iter().any(|wrong| wrong.contains("nothing had hidden it")), "{wrong:#?}");
}

#[test]
fn nothing_goes_without_a_scavenge() {
    let mut records = good();
    records.retain(|record| !matches!(record, Record::Scavenge { .. }));
    let wrong = judge(&records).wrong;
    assert!(wrong.iter().any(|wrong| wrong.contains("nobody had asked for a scavenge")), "{wrong:#?}");
}

#[test]
fn what_a_scavenge_had_to_take_is_there_no_more() {
    let mut records = good();
    let end = records.len();
    records[log().len() + 4] = view(3, 22, &[]);
    records[log().len() + 5] = view(1, 31, &[1]);
    records[log().len() + 9] = view(2, 60, &[1]);
    for at in [end - 2, end - 1] {
        records[at] = files(1, 7, &[1]);
    }
    let wrong = judge(&records).wrong;
    assert!(wrong.len() == 2 && wrong.iter().all(|wrong| wrong.contains("had to take it")), "{wrong:#?}");
}

#[test]
fn a_scavenge_that_was_stopped_need_not_have_taken_anything() {
    let mut records = good();
    for record in &mut records {
        match record {
            Record::Scavenge { complete, .. } => *complete = None,
            Record::View { events, .. } => *events = log(),
            Record::Files { reclaimed, .. } => reclaimed.clear(),
            Record::Written { .. } | Record::Hidden { .. } => {}
        }
    }
    assert_eq!(judge(&records).wrong, Vec::<String>::new());
}

#[test]
fn what_is_gone_stays_gone() {
    let wrong = with(5, view(1, 31, &[3]));
    assert!(wrong.iter().any(|wrong| wrong.contains("is back")), "{wrong:#?}");
}

#[test]
fn what_is_shown_is_what_was_written_in_order_and_once() {
    let shown = |events: Vec<Shown>| {
        let (invoke, complete) = (5 * SECOND, 6 * SECOND);
        with(0, Record::View { node: 1, what: "$ce-x".into(), invoke, complete, events })
    };
    let mut doubled = log();
    doubled.insert(2, doubled[1].clone());
    says(&shown(doubled), "comes after");
    let mut turned = log();
    turned.swap(1, 2);
    says(&shown(turned), "comes after");
    let mut emptied = log();
    emptied[4].content = Some((EventId(5), Digest(0)));
    says(&shown(emptied), "is not what was written there");
    let mut index = log();
    index.iter_mut().for_each(|entry| entry.content = None);
    assert_eq!(shown(index.clone()), Vec::<String>::new(), "an index says where events are");
    index[4].revision = 1;
    says(&shown(index), "is not what was written there");
    let mut more = log();
    more.push(event(6, "a", 3));
    says(&shown(more), "was never written");
}

#[test]
fn the_files_of_all_nodes_are_the_same_and_say_what_the_views_say() {
    says(&with(11, files(2, 8, &[1, 3])), "differs");
    says(&with(11, files(2, 7, &[1, 2, 3])), "or the other way round");
    says(&with(10, files(1, 7, &[1])), "or the other way round");
}

#[test]
fn views_at_the_same_time_tell_nothing_of_each_other() {
    says(&with(1 + 1, view(2, 5, &[])), "nothing can be said");
}
