//! What is exported for other checkers can be read by them.

mod fake;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use annals_checker::edn;
use annals_checker::history::{
    Append, Delivered, Digest, Direction, EventId, Expected, Fault, Final, Installed, Mode, Opened, Outcome, Proposed,
    Read, ReadOutcome, Record, Seen, Source, Subscription, Target, Write,
};

/// A value of EDN, as much of it as is written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Edn {
    Nil,
    Number(i64),
    Keyword(String),
    Text(String),
    Vector(Vec<Edn>),
    Map(BTreeMap<Edn, Edn>),
}

impl Edn {
    /// The value of a line, all of it.
    fn line(text: &str) -> BTreeMap<String, Edn> {
        let mut rest = text;
        let value = Edn::parse(&mut rest).unwrap_or_else(|| panic!("no EDN: {text}"));
        assert_eq!(rest, "", "something follows in {text}");
        let Edn::Map(map) = value else { panic!("no map: {text}") };
        let keyword = |key| match key {
            Edn::Keyword(name) => name,
            other => panic!("{other:?} is no keyword in {text}"),
        };
        map.into_iter().map(|(key, value)| (keyword(key), value)).collect()
    }

    fn parse(rest: &mut &str) -> Option<Edn> {
        *rest = rest.trim_start_matches([' ', ',']);
        let first = rest.chars().next()?;
        match first {
            '[' => Edn::items(rest, ']').map(Edn::Vector),
            '{' => {
                let items = Edn::items(rest, '}')?;
                assert_eq!(items.len() % 2, 0, "a map has pairs");
                let pairs = items.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone()));
                Some(Edn::Map(pairs.collect()))
            }
            '"' => {
                let mut text = String::new();
                let mut chars = rest[1..].char_indices();
                while let Some((at, c)) = chars.next() {
                    match c {
                        '"' => {
                            *rest = &rest[1 + at + 1..];
                            return Some(Edn::Text(text));
                        }
                        '\\' => text.push(chars.next()?.1),
                        c => text.push(c),
                    }
                }
                None
            }
            _ => {
                let end = rest.find([' ', ',', ']', '}']).unwrap_or(rest.len());
                let (word, after) = rest.split_at(end);
                *rest = after;
                match word.strip_prefix(':') {
                    Some(name) if !name.is_empty() => Some(Edn::Keyword(name.to_owned())),
                    _ if word == "nil" => Some(Edn::Nil),
                    _ => word.parse().ok().map(Edn::Number),
                }
            }
        }
    }

    fn items(rest: &mut &str, end: char) -> Option<Vec<Edn>> {
        *rest = &rest[1..];
        let mut items = Vec::new();
        loop {
            *rest = rest.trim_start_matches([' ', ',']);
            if let Some(after) = rest.strip_prefix(end) {
                *rest = after;
                return Some(items);
            }
            items.push(Edn::parse(rest)?);
        }
    }
}

type Dialect = fn(&[Record], &mut dyn std::io::Write) -> std::io::Result<()>;

const DIALECTS: [Dialect; 3] = [edn::list_append, edn::kafka, edn::set_full];

fn lines(dialect: Dialect, records: &[Record]) -> Vec<String> {
    let mut out = Vec::new();
    dialect(records, &mut out).expect("memory can be written");
    String::from_utf8(out).expect("it is text").lines().map(str::to_owned).collect()
}

#[test]
fn every_line_can_be_read_and_processes_do_one_thing_at_a_time() {
    for seed in 0..50 {
        let records = fake::history(seed, None);
        for dialect in DIALECTS {
            let lines = lines(dialect, &records);
            assert!(lines.len() > 10);
            let mut busy: BTreeMap<i64, Edn> = BTreeMap::new();
            let mut ended = BTreeSet::new();
            let mut now = 0;
            for (index, line) in (0i64..).zip(&lines) {
                let op = Edn::line(line);
                assert_eq!(op["index"], Edn::Number(index));
                let Edn::Number(time) = op["time"] else { panic!("no time in {line}") };
                assert!(time >= now, "time goes back at {line}");
                now = time;
                let (Edn::Keyword(kind), Edn::Keyword(_)) = (&op["type"], &op["f"]) else { panic!("{line}") };
                match (&op["process"], kind.as_str()) {
                    (Edn::Keyword(who), "info") => assert_eq!(who, "nemesis"),
                    (Edn::Number(process), "invoke") => {
                        assert!(!ended.contains(process), "seed {seed}: process {process} goes on: {line}");
                        assert_eq!(busy.insert(*process, op["f"].clone()), None, "seed {seed}: {line}");
                    }
                    (Edn::Number(process), "ok" | "fail" | "info") => {
                        assert_eq!(busy.remove(process).as_ref(), Some(&op["f"]), "seed {seed}: {line}");
                        if kind == "info" {
                            ended.insert(*process);
                        }
                    }
                    _ => panic!("{line}"),
                }
            }
            assert!(busy.is_empty(), "everything ends: {busy:?}");
        }
    }
}

#[test]
fn a_value_is_appended_once_and_read_where_it_was_appended() {
    for seed in 0..50 {
        let mut appended: BTreeMap<(Edn, Edn), String> = BTreeMap::new();
        let mut read: Vec<(Edn, Edn)> = Vec::new();
        for line in lines(edn::list_append, &fake::history(seed, None)) {
            let op = Edn::line(&line);
            if op["process"] == Edn::Keyword("nemesis".into()) {
                continue;
            }
            let Edn::Vector(steps) = &op["value"] else { panic!("{line}") };
            let invoked = op["type"] == Edn::Keyword("invoke".into());
            for step in steps {
                let Edn::Vector(step) = step else { panic!("{line}") };
                match (&step[0], &step[1], &step[2]) {
                    (Edn::Keyword(f), key, value) if f == "append" && invoked => {
                        let before = appended.insert((key.clone(), value.clone()), line.clone());
                        assert_eq!(before, None, "appended twice");
                    }
                    (Edn::Keyword(f), key, Edn::Vector(values)) if f == "r" => {
                        read.extend(values.iter().map(|value| (key.clone(), value.clone())));
                    }
                    _ => {}
                }
            }
        }
        assert!(read.len() > 10);
        for pair in read {
            assert!(appended.contains_key(&pair), "seed {seed}: {pair:?} was never appended");
        }
    }
}

#[test]
fn reads_of_a_list_are_prefixes_of_the_longest() {
    for seed in 0..50 {
        let mut longest: BTreeMap<Edn, Vec<Edn>> = BTreeMap::new();
        for (_, step) in steps(edn::list_append, seed) {
            let [Edn::Keyword(f), key, Edn::Vector(values)] = &step[..] else { continue };
            assert_eq!(f, "r");
            let known = longest.entry(key.clone()).or_default();
            let shared = known.len().min(values.len());
            assert_eq!(known[..shared], values[..shared], "seed {seed}");
            if values.len() > known.len() {
                known.clone_from(values);
            }
        }
    }
}

#[test]
fn what_is_sent_to_an_offset_is_polled_from_it() {
    for seed in 0..50 {
        let mut at: BTreeMap<(Edn, Edn), Edn> = BTreeMap::new();
        let mut polled = 0;
        let mut see = |key: &Edn, pair: &Edn| {
            let Edn::Vector(pair) = pair else { return };
            let value = at.entry((key.clone(), pair[0].clone())).or_insert_with(|| pair[1].clone());
            assert_eq!(*value, pair[1], "seed {seed}: offset {:?} of {key:?}", pair[0]);
        };
        for (kind, step) in steps(edn::kafka, seed) {
            match &step[..] {
                [Edn::Keyword(f), key, pair] if f == "send" && kind == "ok" => see(key, pair),
                [Edn::Keyword(f), Edn::Map(streams)] if f == "poll" => {
                    for (key, pairs) in streams {
                        let Edn::Vector(pairs) = pairs else { panic!("no pairs: {pairs:?}") };
                        polled += pairs.len();
                        pairs.iter().for_each(|pair| see(key, pair));
                    }
                }
                _ => {}
            }
        }
        assert!(polled > 10, "seed {seed}");
    }
}

/// The steps of all transactions of a fake run, each with its line's type.
fn steps(dialect: Dialect, seed: u64) -> Vec<(String, Vec<Edn>)> {
    let mut steps = Vec::new();
    for line in lines(dialect, &fake::history(seed, None)) {
        let op = Edn::line(&line);
        let (Edn::Keyword(kind), Edn::Vector(all)) = (&op["type"], &op["value"]) else { continue };
        for step in all {
            if let Edn::Vector(step) = step {
                steps.push((kind.clone(), step.clone()));
            }
        }
    }
    steps
}

#[test]
fn all_files_are_written_to_a_directory() {
    let directory = tempfile::tempdir().expect("a directory");
    let target = directory.path().join("edn");
    edn::export(&fake::history(3, None), &target).expect("it can be written");
    for name in ["list-append.edn", "kafka.edn", "set-full.edn"] {
        let text = std::fs::read_to_string(target.join(name)).expect("the file is there");
        assert!(text.lines().count() > 10, "{name}");
    }
    let faults = std::fs::read_to_string(target.join("nemesis.json")).expect("the file is there");
    serde_json::from_str::<Vec<Fault>>(&faults).expect("these are faults");
}

fn write(stream: &str, ids: &[u128]) -> Write {
    let event = |id: &u128| Proposed { id: EventId(*id), digest: Digest(0), sets: None };
    Write { stream: stream.into(), expected: Expected::Any, events: ids.iter().map(event).collect() }
}

fn append(process: u32, times: (u64, Option<u64>), writes: Vec<Write>, outcome: Outcome) -> Record {
    let (invoke, complete) = times;
    Record::Append(Append { process, node: 1, invoke, complete, call: "append".into(), writes, outcome })
}

fn seen(position: u64, stream: &str, revision: u64, id: u128) -> Seen {
    let stream: Arc<str> = stream.into();
    Seen { position, stream, revision, id: EventId(id), digest: Digest(0), created: 0, system: false }
}

fn read(process: u32, times: (u64, u64), target: Target, outcome: ReadOutcome) -> Record {
    Record::Read(Read {
        process,
        node: 1,
        invoke: times.0,
        complete: Some(times.1),
        target,
        direction: Direction::Forwards,
        from: None,
        limit: 100,
        mode: Mode::Linearizable,
        outcome,
    })
}

/// Process 0 appends two events and then one to two streams, of which the
/// fate is unknown; process 1 sends that again. Stream `cut` has metadata.
fn small() -> Vec<Record> {
    let unknown = || Outcome::Unknown { why: "deadline".into() };
    let both = || vec![write("a", &[0xc]), write("b\"", &[0xd])];
    let everything = vec![seen(1, "a", 0, 0xa), seen(2, "a", 1, 0xb), seen(3, "a", 2, 0xc), seen(4, "b\"", 0, 0xd)];
    vec![
        append(0, (10, Some(20)), vec![write("a", &[0xa, 0xb])], Outcome::Acked { position: 2, revisions: vec![1] }),
        append(0, (30, None), both(), unknown()),
        append(1, (40, Some(50)), both(), Outcome::Acked { position: 4, revisions: vec![2, 0] }),
        append(0, (60, None), vec![write("a", &[0xe])], unknown()),
        append(0, (70, None), vec![write("$$cut", &[0xf]), write("cut", &[0x10])], unknown()),
        read(
            1,
            (60, 65),
            Target::Stream("a".into()),
            ReadOutcome::Ok { events: everything[..3].to_vec(), as_of: Some(4) },
        ),
        read(1, (66, 69), Target::Stream("b\"".into()), ReadOutcome::Failed { why: "reset".into() }),
        read(
            1,
            (70, 72),
            Target::All { prefixes: Vec::new() },
            ReadOutcome::Ok { events: everything.clone(), as_of: Some(4) },
        ),
        Record::Subscription(Subscription { subscription: 0, target: Target::Stream("a".into()), after: None }),
        Record::Opened(Opened { subscription: 0, connection: 0, node: 2, time: 15, after: None }),
        Record::Delivered(Delivered { subscription: 0, connection: 0, time: 35, events: everything[..2].to_vec() }),
        Record::Fault(Fault {
            class: "F1".into(),
            name: "kill leader".into(),
            nodes: vec![1, 3],
            start: 45,
            end: 55,
            installed: Installed::Installed,
            detail: "said \"no\"".into(),
        }),
        Record::Final(Final { node: 1, source: Source::Linearizable, events: everything, complete: true }),
    ]
}

#[test]
fn a_small_history_for_list_append() {
    assert_eq!(lines(edn::list_append, &small()), GOLDEN_LIST_APPEND.lines().collect::<Vec<_>>());
}

#[test]
fn a_small_history_for_kafka() {
    assert_eq!(lines(edn::kafka, &small()), GOLDEN_KAFKA.lines().collect::<Vec<_>>());
}

#[test]
fn a_small_history_for_set_full() {
    assert_eq!(lines(edn::set_full, &small()), GOLDEN_SET_FULL.lines().collect::<Vec<_>>());
}

const GOLDEN_LIST_APPEND: &str = include_str!("edn/list-append.edn");
const GOLDEN_KAFKA: &str = include_str!("edn/kafka.edn");
const GOLDEN_SET_FULL: &str = include_str!("edn/set-full.edn");
