//! The sweep against a search through every order, on random small histories.
//!
//! A history is made by letting a few operations happen to a world and telling
//! what came of them; then, mostly, something in it is spoilt. Whether it is
//! still linearizable afterwards nobody says but the two checkers, and they
//! must agree. What the sweep calls right must be right, and what it calls
//! wrong must be wrong in every order.

use std::sync::Arc;

use annals_checker::brute_force::{Answer, Shape, World, is_linearizable};
use annals_checker::history::{
    Append, Current, Delete, Digest, Direction, EventId, Expected, Final, Mode, Outcome, Proposed, Read, ReadOutcome,
    Reason, Record, Retention, Seen, Source, Target, Write,
};
use annals_checker::{Settings, Verdict, check};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

const HISTORIES: u64 = 100_000;
const THREADS: u64 = 2;

#[derive(Default)]
struct Tally {
    wrong: u64,
    refusals: u64,
    unknown: u64,
    limited: u64,
    deletions: u64,
    repeated: u64,
    /// The first few, and how many.
    disagreements: Vec<String>,
    disagreed: u64,
}

#[test]
fn the_sweep_and_the_search_agree_on_every_history() {
    let tallies: Vec<Tally> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || judge_share(thread))).collect();
        threads.into_iter().map(|thread| thread.join().expect("neither checker panics")).collect()
    });
    let sum = |of: fn(&Tally) -> u64| tallies.iter().map(of).sum::<u64>();
    let first: Vec<String> = tallies.iter().flat_map(|tally| tally.disagreements.clone()).collect();
    assert!(first.is_empty(), "{} disagreements, among them\n{}", sum(|t| t.disagreed), first.join("\n"));
    // A differential whose histories are all right proves nothing; one without
    // refusals says nothing about refusals.
    assert!(sum(|t| t.wrong) > HISTORIES / 10, "{} of {HISTORIES} histories are wrong", sum(|t| t.wrong));
    assert!(sum(|t| t.wrong) < HISTORIES * 9 / 10, "{} of {HISTORIES} histories are wrong", sum(|t| t.wrong));
    for (what, of) in [
        ("refused", (|t| t.refusals) as fn(&Tally) -> u64),
        ("unknown", |t| t.unknown),
        ("limited", |t| t.limited),
        ("deletions", |t| t.deletions),
        ("repeated", |t| t.repeated),
    ] {
        assert!(sum(of) > HISTORIES / 20, "only {} {what} in {HISTORIES} histories", sum(of));
    }
    println!("{} of {HISTORIES} histories were wrong", sum(|t| t.wrong));
}

fn judge_share(thread: u64) -> Tally {
    let mut tally = Tally::default();
    let settings = Settings::default();
    for seed in (0..HISTORIES).filter(|seed| seed % THREADS == thread) {
        let records = history(seed, &mut tally);
        let linearizable = is_linearizable(&records, &settings);
        let verdict = check(&records, &settings);
        if linearizable != verdict.is_valid() {
            tally.disagreed += 1;
            if tally.disagreements.len() < 3 {
                tally.disagreements.push(disagreement(seed, &records, linearizable, &verdict));
            }
        }
        tally.wrong += u64::from(!linearizable);
    }
    tally
}

fn disagreement(seed: u64, records: &[Record], linearizable: bool, verdict: &Verdict) -> String {
    let lines: Vec<String> = records.iter().map(|r| serde_json::to_string(r).expect("records are JSON")).collect();
    format!("seed {seed}: the search says {linearizable}\n{}\n{}", lines.join("\n"), verdict.table())
}

/// What is done, when, and when it takes effect.
struct Plan {
    record: Record,
    effect: u64,
    /// Whether it happens at all.
    happens: bool,
}

fn history(seed: u64, tally: &mut Tally) -> Vec<Record> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut plans = Vec::new();
    let mut next_id = 1;
    let span = rng.random_range(10..80);
    for process in 0..rng.random_range(3..=8) {
        let plan = plan(&mut rng, process, span, &mut next_id, &plans);
        plans.push(plan);
    }
    plans.sort_by_key(|plan| plan.effect);
    let mut world = World::default();
    let mut worlds = vec![world.clone()];
    for plan in plans.iter_mut().filter(|plan| plan.happens) {
        tell(&mut rng, &mut plan.record, &mut world, tally);
        if world.log.len() > worlds.last().map_or(0, |world| world.log.len()) {
            worlds.push(world.clone());
        }
    }
    let log = seen(&world);
    let mut records: Vec<Record> = plans.into_iter().map(|plan| plan.record).collect();
    for record in &mut records {
        fill(record, &log);
    }
    let mut log = log;
    if rng.random_bool(0.8) {
        for _ in 0..rng.random_range(1..=2) {
            spoil(&mut rng, &mut records, &mut log, &worlds);
        }
    }
    records.push(Record::Final(Final { node: 1, source: Source::Linearizable, events: log, complete: true }));
    records
}

fn plan(rng: &mut StdRng, process: u32, span: u64, next_id: &mut u128, before: &[Plan]) -> Plan {
    let invoke = rng.random_range(0..span);
    let complete = invoke + rng.random_range(1..30);
    let is_unknown = rng.random_bool(0.2);
    // A write that nobody heard of again may happen much later.
    let effect = rng.random_range(invoke..if is_unknown { complete + 40 } else { complete + 1 });
    let outcome = match is_unknown {
        true => Outcome::Unknown { why: "timed out".into() },
        false => Outcome::Acked { position: 0, revisions: Vec::new() },
    };
    let complete = (!is_unknown).then_some(complete);
    let base = Append { process, node: 1, invoke, complete, call: "append".into(), writes: Vec::new(), outcome };
    let record = match rng.random_range(0..100) {
        0..45 => {
            let earlier: Vec<&Append> = before.iter().filter_map(|plan| as_append(&plan.record)).collect();
            let writes = if !earlier.is_empty() && rng.random_bool(0.25) {
                earlier[rng.random_range(0..earlier.len())].writes.clone()
            } else {
                writes(rng, next_id)
            };
            Record::Append(Append { writes, ..base })
        }
        45..53 => {
            let Append { outcome, .. } = base;
            let (stream, expected, hard) = (stream(rng), expected(rng), rng.random_bool(0.25));
            Record::Delete(Delete { process, node: 1, invoke, complete, stream, expected, hard, outcome })
        }
        _ => Record::Read(read(rng, process, invoke, complete)),
    };
    let happens = !is_unknown || rng.random_bool(0.6);
    Plan { record, effect, happens }
}

fn as_append(record: &Record) -> Option<&Append> {
    match record {
        Record::Append(append) => Some(append),
        _ => None,
    }
}

fn stream(rng: &mut StdRng) -> Arc<str> {
    if rng.random_bool(0.6) { "a".into() } else { "b".into() }
}

fn expected(rng: &mut StdRng) -> Expected {
    match rng.random_range(0..10) {
        0..4 => Expected::Any,
        4..6 => Expected::NoStream,
        6..7 => Expected::Exists,
        _ => Expected::Revision(rng.random_range(0..3)),
    }
}

fn writes(rng: &mut StdRng, next_id: &mut u128) -> Vec<Write> {
    let mut events = |rng: &mut StdRng, sets: bool| {
        let count = if sets { 1 } else { rng.random_range(1..=2) };
        let mut event = |rng: &mut StdRng| {
            *next_id += 1;
            let sets = sets.then(|| Retention {
                max_count: rng.random_bool(0.5).then(|| rng.random_range(1..3)),
                truncate_before: rng.random_bool(0.5).then(|| rng.random_range(1..4)),
            });
            Proposed { id: EventId(*next_id), digest: Digest(7), sets }
        };
        (0..count).map(|_| event(rng)).collect::<Vec<_>>()
    };
    if rng.random_bool(0.1) {
        let stream: Arc<str> = format!("$${}", stream(rng)).into();
        let expected = if rng.random_bool(0.8) { Expected::Any } else { expected(rng) };
        return vec![Write { stream, expected, events: events(rng, true) }];
    }
    let first = Write { stream: stream(rng), expected: expected(rng), events: events(rng, false) };
    if rng.random_bool(0.8) {
        return vec![first];
    }
    let stream: Arc<str> = if *first.stream == *"a" { "b".into() } else { "a".into() };
    let second = Write { stream, expected: expected(rng), events: events(rng, false) };
    vec![first, second]
}

fn read(rng: &mut StdRng, process: u32, invoke: u64, complete: Option<u64>) -> Read {
    let target = match rng.random_range(0..10) {
        0..3 => Target::All { prefixes: Vec::new() },
        3..4 => Target::All { prefixes: vec!["b".into()] },
        4..5 => Target::Stream("$$a".into()),
        _ => Target::Stream(stream(rng)),
    };
    let direction = if rng.random_bool(0.7) { Direction::Forwards } else { Direction::Backwards };
    let from = rng.random_bool(0.3).then(|| rng.random_range(0..5));
    let limit = if rng.random_bool(0.4) { rng.random_range(0..4) } else { u64::MAX };
    let outcome = ReadOutcome::Failed { why: "cancelled".into() };
    Read { process, node: 1, invoke, complete, target, direction, from, limit, mode: Mode::Linearizable, outcome }
}

fn current(rng: &mut StdRng, shape: Shape) -> Option<Current> {
    if rng.random_bool(0.3) {
        return None;
    }
    match shape {
        Shape::Nothing | Shape::Ended => Some(Current::NoStream),
        Shape::At(last) => Some(Current::Revision(last)),
        Shape::SoftlyDeleted(last) => {
            Some(if rng.random_bool(0.5) { Current::NoStream } else { Current::Revision(last) })
        }
    }
}

/// Lets a write happen, and tells what came of it.
fn tell(rng: &mut StdRng, record: &mut Record, world: &mut World, tally: &mut Tally) {
    let known = world.log.len();
    let (answer, outcome) = match record {
        Record::Append(append) => (world.append(&append.writes), &mut append.outcome),
        Record::Delete(delete) => {
            tally.deletions += 1;
            (world.delete(&delete.stream, delete.expected, delete.hard), &mut delete.outcome)
        }
        Record::Read(read) => {
            tally.limited += u64::from(read.limit < 4);
            let as_of = rng.random_bool(0.5).then_some(known as u64);
            read.outcome = observe(read, world, as_of);
            return;
        }
        _ => return,
    };
    if matches!(outcome, Outcome::Unknown { .. }) {
        tally.unknown += 1;
        return;
    }
    *outcome = match answer {
        Answer::Done(position, revisions) => {
            tally.repeated += u64::from(world.log.len() == known);
            Outcome::Acked { position, revisions }
        }
        Answer::Not(because) => {
            tally.refusals += 1;
            let (stream, expected, shape) = because[rng.random_range(0..because.len())].clone();
            let softly = matches!(shape, Shape::SoftlyDeleted(_)) && expected == Expected::Exists;
            let reason = if shape == Shape::Ended || (softly && rng.random_bool(0.5)) {
                Reason::Tombstoned { stream }
            } else {
                Reason::WrongExpectation { stream, current: current(rng, shape) }
            };
            let as_of = rng.random_bool(0.5).then_some(known as u64);
            Outcome::Refused { reason, as_of }
        }
    };
}

/// What a read sees. Its events are filled in when the log is known.
fn observe(read: &Read, world: &World, as_of: Option<u64>) -> ReadOutcome {
    match world.read(&read.target, read.direction, read.from, read.limit) {
        Ok(positions) => {
            let blank = |position| Seen {
                position,
                stream: "".into(),
                revision: 0,
                id: EventId(0),
                digest: Digest(0),
                created: 0,
                system: false,
            };
            ReadOutcome::Ok { events: positions.into_iter().map(blank).collect(), as_of }
        }
        Err(Shape::Ended) => ReadOutcome::Tombstoned { as_of },
        Err(Shape::Nothing | Shape::SoftlyDeleted(_) | Shape::At(_)) => ReadOutcome::NoStream { as_of },
    }
}

fn seen(world: &World) -> Vec<Seen> {
    let entries = (1u64..).zip(&world.log);
    entries
        .map(|(position, entry)| Seen {
            position,
            stream: entry.stream.clone(),
            revision: entry.revision,
            id: entry.proposed.as_ref().map_or(EventId(1_000_000 + u128::from(position)), |proposed| proposed.id),
            digest: Digest(if entry.proposed.is_some() { 7 } else { 8 }),
            created: 5,
            system: entry.proposed.is_none() || entry.stream.starts_with("$$"),
        })
        .collect()
}

fn fill(record: &mut Record, log: &[Seen]) {
    if let Record::Read(Read { outcome: ReadOutcome::Ok { events, .. }, .. }) = record {
        for event in events {
            *event = log[usize::try_from(event.position - 1).expect("a small log")].clone();
        }
    }
}

/// Makes something untrue, perhaps.
fn spoil(rng: &mut StdRng, records: &mut [Record], log: &mut Vec<Seen>, worlds: &[World]) {
    let at = rng.random_range(0..records.len());
    match rng.random_range(0..10) {
        // Time: before or after what it was.
        0..3 => {
            let later = rng.random_range(0..40);
            let earlier = rng.random_range(0..40);
            let shift = |time: u64| (time + later).saturating_sub(earlier);
            let (invoke, complete) = match &mut records[at] {
                Record::Append(append) => (&mut append.invoke, &mut append.complete),
                Record::Delete(delete) => (&mut delete.invoke, &mut delete.complete),
                Record::Read(read) => (&mut read.invoke, &mut read.complete),
                other => unreachable!("not made here: {other:?}"),
            };
            *invoke = shift(*invoke);
            *complete = complete.map(|complete| shift(complete).max(*invoke));
        }
        // The log at the end.
        3 => {
            if rng.random_bool(0.5) {
                log.pop();
            } else if log.len() > 1 {
                let first = rng.random_range(0..log.len() - 1);
                let (a, b) = (log[first].position, log[first + 1].position);
                log.swap(first, first + 1);
                (log[first].position, log[first + 1].position) = (a, b);
                if log[first].stream == log[first + 1].stream {
                    let (a, b) = (log[first + 1].revision, log[first].revision);
                    (log[first].revision, log[first + 1].revision) = (a, b);
                }
            }
        }
        // What was told.
        _ => match &mut records[at] {
            Record::Read(read) => spoil_read(rng, read, log, worlds),
            Record::Append(append) => {
                let streams: Vec<Arc<str>> = append.writes.iter().map(|write| write.stream.clone()).collect();
                if rng.random_bool(0.2) {
                    append.writes[0].expected = expected(rng);
                } else {
                    spoil_outcome(rng, &mut append.outcome, streams, log.len());
                }
            }
            Record::Delete(delete) => {
                let streams = vec![delete.stream.clone()];
                if rng.random_bool(0.2) {
                    delete.expected = expected(rng);
                } else {
                    spoil_outcome(rng, &mut delete.outcome, streams, log.len());
                }
            }
            other => unreachable!("not made here: {other:?}"),
        },
    }
}

fn spoil_read(rng: &mut StdRng, read: &mut Read, log: &[Seen], worlds: &[World]) {
    match rng.random_range(0..4) {
        // Another state of the world, stale or of the future.
        0..2 => {
            let world = &worlds[rng.random_range(0..worlds.len())];
            let as_of = rng.random_bool(0.3).then_some(world.log.len() as u64);
            if world.log.len() <= log.len() {
                read.outcome = observe(read, world, as_of);
                let mut record = Record::Read(read.clone());
                fill(&mut record, log);
                if let Record::Read(filled) = record {
                    *read = filled;
                }
            }
        }
        2 => {
            if let ReadOutcome::Ok { events, .. } = &mut read.outcome
                && !events.is_empty()
            {
                let at = rng.random_range(0..events.len());
                events.remove(at);
            }
        }
        _ => {
            let claim = Some(rng.random_range(0..=log.len() as u64));
            match &mut read.outcome {
                ReadOutcome::Ok { as_of, .. } | ReadOutcome::NoStream { as_of } | ReadOutcome::Tombstoned { as_of } => {
                    *as_of = claim;
                }
                ReadOutcome::Failed { .. } => {}
            }
        }
    }
}

fn spoil_outcome(rng: &mut StdRng, outcome: &mut Outcome, streams: Vec<Arc<str>>, events: usize) {
    let stream = streams[rng.random_range(0..streams.len())].clone();
    *outcome = match (rng.random_range(0..4), outcome.clone()) {
        (0, _) => {
            let current = match rng.random_range(0..3) {
                0 => None,
                1 => Some(Current::NoStream),
                _ => Some(Current::Revision(rng.random_range(0..4))),
            };
            Outcome::Refused { reason: Reason::WrongExpectation { stream, current }, as_of: None }
        }
        (1, Outcome::Acked { revisions, .. }) => {
            Outcome::Acked { position: rng.random_range(1..=events.max(1) as u64), revisions }
        }
        (1, _) => Outcome::Refused { reason: Reason::Tombstoned { stream }, as_of: None },
        (2, Outcome::Acked { position, mut revisions }) => {
            if let Some(revision) = revisions.first_mut() {
                *revision = rng.random_range(0..4);
            }
            Outcome::Acked { position, revisions }
        }
        (2, outcome) => outcome,
        (_, _) => Outcome::Refused { reason: Reason::NotTaken { why: "busy".into() }, as_of: None },
    };
}
