//! A history of a real run's size: 200,000 writes and 100,000 reads, judged
//! whole, and one stale read in it is found.

use std::sync::Arc;

use annals_checker::history::{
    Append, Current, Digest, Direction, EventId, Expected, Final, Mode, Outcome, Proposed, Read, ReadOutcome, Reason,
    Record, Seen, Source, Target, Write,
};
use annals_checker::{Property, Settings, Verdict, check};

const WRITES: u64 = 200_000;
const STREAMS: u64 = 2_000;

/// Sixteen processes write and read by turns; every 20th write is refused.
fn history(stale: bool) -> Vec<Record> {
    let names: Vec<Arc<str>> = (0..STREAMS).map(|number| Arc::from(format!("stream-{number}"))).collect();
    let mut streams: Vec<Vec<Seen>> = vec![Vec::new(); names.len()];
    let mut log: Vec<Seen> = Vec::new();
    let mut records = Vec::new();
    for number in 0..WRITES {
        let at = usize::try_from(number * 7_919 % STREAMS).expect("small");
        // Each call overlaps the fifteen before it.
        let (invoke, complete, process) = (number * 100, number * 100 + 1_500, (number % 16) as u32);
        let revision = streams[at].len() as u64;
        let id = EventId(u128::from(number + 1) << 64 | u128::from(number * 0x9e37_79b9));
        let is_refused = number % 20 == 19 && revision > 0;
        let expected = if is_refused { Expected::NoStream } else { Expected::Any };
        let outcome = if is_refused {
            let current = Some(Current::Revision(revision - 1));
            let reason = Reason::WrongExpectation { stream: names[at].clone(), current };
            Outcome::Refused { reason, as_of: Some(log.len() as u64) }
        } else {
            let position = log.len() as u64 + 1;
            let (stream, digest) = (names[at].clone(), Digest(number));
            let seen = Seen { position, stream, revision, id, digest, created: number as i64, system: false };
            streams[at].push(seen.clone());
            log.push(seen);
            Outcome::Acked { position, revisions: vec![revision] }
        };
        let events = vec![Proposed { id, digest: Digest(number), sets: None }];
        let writes = vec![Write { stream: names[at].clone(), expected, events }];
        let complete = Some(complete);
        records.push(Record::Append(Append {
            process,
            node: 1,
            invoke,
            complete,
            call: "append".into(),
            writes,
            outcome,
        }));
        if number % 2 == 0 {
            let mut events = streams[at].clone();
            // The newest event of a stream was written just now. The one
            // before it was written 2,000 calls ago.
            let is_stale = stale && number == WRITES / 2;
            events.truncate(if is_stale { events.len() - 2 } else { events.len() });
            let as_of = (!is_stale).then_some(log.len() as u64);
            records.push(Record::Read(Read {
                process: 100 + process,
                node: 1,
                invoke,
                complete,
                target: Target::Stream(names[at].clone()),
                direction: Direction::Forwards,
                from: None,
                limit: u64::MAX,
                mode: Mode::Linearizable,
                outcome: ReadOutcome::Ok { events, as_of },
            }));
        }
    }
    records.push(Record::Final(Final { node: 1, source: Source::Linearizable, events: log, complete: true }));
    records
}

fn judge(stale: bool) -> Verdict {
    let records = history(stale);
    let start = std::time::Instant::now();
    let verdict = check(&records, &Settings::default());
    // For the reader; nothing depends on it.
    println!("{} records judged in {:?}", records.len(), start.elapsed());
    verdict
}

#[test]
fn a_large_history_is_judged_whole() {
    let verdict = judge(false);
    assert!(verdict.is_valid(), "{}", verdict.table());
    assert_eq!(verdict.counts.reads, WRITES / 2);
}

#[test]
fn one_stale_read_in_a_large_history_is_found() {
    let verdict = judge(true);
    assert_eq!(verdict.violated(), [Property::P8], "{}", verdict.table());
    assert_eq!(verdict.properties[&Property::P8].violations, 1);
}
