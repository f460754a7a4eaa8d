//! Bad histories of consumer groups, each next to a good one that differs in
//! little.

mod golden;

use annals_checker::Property::P11;
use annals_checker::history::{Answer, GroupSource, Record};
use annals_checker::{Settings, Validity, check};
use golden::groups::*;
use golden::{bad, event, four_and, good, log};

/// The log has events 1, 2 and 4 of stream `a`, at its revisions 0, 1 and 2.
fn whole(steps: Vec<Record>) -> Vec<Record> {
    four_and(steps)
}

/// A group that handed all of stream `a` to consumer 1, who did this.
fn after(steps: Vec<Record>, upto: u64) -> Vec<Record> {
    let mut all = vec![group(on_a(), false), joined(1, 5, 1)];
    all.extend([(100, 0), (101, 1), (102, 3)].map(|(time, at)| handed(1, time, &log()[at])));
    all.extend(steps);
    all.push(ended(upto));
    whole(all)
}

#[test]
fn nothing_is_lost() {
    let acks = |positions: &[u64]| -> Vec<Record> { positions.iter().map(|at| acked(1, 110, *at)).collect() };
    let with = |positions: &[u64], more: Vec<Record>| after([acks(positions), more].concat(), 4);
    good("all are acked", &with(&[1, 2, 4], vec![parked(&[], 0)]));
    good("one is skipped", &with(&[1, 4], vec![answered(1, 111, 2, Answer::Skip), parked(&[], 0)]));
    good("one is parked", &with(&[1, 4], vec![answered(1, 111, 2, Answer::Park), parked(&[(1, 1)], 0)]));
    good("one that is parked was delivered again and acked", &with(&[1, 2, 4], vec![parked(&[(1, 1)], 1)]));
    bad(P11, "handed out and never answered for", &with(&[1, 4], vec![parked(&[], 0)]));
    bad(P11, "to be retried, and forgotten", &with(&[1, 4], vec![answered(1, 111, 2, Answer::Retry), parked(&[], 0)]));
    bad(P11, "said to be parked, and not", &with(&[1, 4], vec![answered(1, 111, 2, Answer::Park), parked(&[], 0)]));
    bad(P11, "parked, asked for and forgotten", &with(&[1, 4], vec![parked(&[(1, 1)], 1)]));
    good("what was appended after the end", &after([acks(&[1, 2]), vec![parked(&[], 0)]].concat(), 2));
    bad(
        P11,
        "never handed out",
        &whole(vec![
            group(on_a(), false),
            joined(1, 5, 1),
            handed(1, 100, &log()[0]),
            acked(1, 101, 1),
            parked(&[], 0),
            ended(4),
        ]),
    );
}

#[test]
fn every_kind_of_source_counts_its_places_in_its_own_way() {
    let log = vec![event(1, "a-1", 0, 1), event(2, "b-1", 0, 2), event(3, "a-2", 0, 3), event(4, "a-1", 1, 4)];
    let history = |source: GroupSource, upto, positions: &[u64]| {
        let mut records = vec![
            golden::append(0, 10, "a-1", 1, golden::acked(1, &[0])),
            golden::append(20, 30, "b-1", 2, golden::acked(2, &[0])),
            golden::append(40, 50, "a-2", 3, golden::acked(3, &[0])),
            golden::append(60, 70, "a-1", 4, golden::acked(4, &[1])),
            group(source, true),
            joined(1, 5, 1),
        ];
        for (time, position) in (100..).step_by(10).zip(positions) {
            records.push(handed(1, time, &log[*position as usize - 1]));
            records.push(acked(1, time + 5, *position));
        }
        records.extend([parked(&[], 0), ended(upto)]);
        golden::end(records, &log)
    };
    let category = || GroupSource::Category("a".into());
    good("a category", &history(category(), 2, &[1, 3, 4]));
    bad(P11, "a category, without its last", &history(category(), 2, &[1, 3]));
    bad(P11, "a category, with another's", &history(category(), 2, &[1, 2, 3, 4]));
    let stream = || GroupSource::Stream("a-1".into());
    good("a stream", &history(stream(), 1, &[1, 4]));
    bad(P11, "a stream, without its last", &history(stream(), 1, &[1]));
    let filtered = || GroupSource::All { prefixes: vec!["b".into(), "a-2".into()] };
    good("a filter", &history(filtered(), 3, &[2, 3]));
    bad(P11, "a filter, without its first", &history(filtered(), 3, &[3]));
}

#[test]
fn what_is_done_stays_done() {
    let rejoined = |term, seen_in, place, at: usize| {
        after(
            vec![
                acked(1, 110, 1),
                acked(1, 111, 2),
                acked(1, 112, 4),
                checkpoint(120, seen_in, place),
                left(1, 125, false),
                joined(2, 130, term),
                handed(2, 140, &log()[at]),
                acked(2, 141, log()[at].position),
                parked(&[], 0),
            ],
            4,
        )
    };
    good("what is above the checkpoint comes again", &rejoined(2, 1, 2, 3));
    bad(P11, "what is at the checkpoint comes again", &rejoined(2, 1, 2, 1));
    bad(P11, "what is below it, from the same leader", &rejoined(1, 1, 4, 0));
    good("a leader that was replaced does not know", &rejoined(1, 2, 4, 0));
    let twice = |first, second| after(vec![checkpoint(90, 1, first), checkpoint(95, 1, second), acked(1, 110, 1)], 1);
    let parked_none = |mut records: Vec<Record>| {
        records.push(parked(&[], 0));
        records
    };
    good("a checkpoint goes on", &parked_none(twice(1, 2)));
    bad(P11, "a checkpoint goes back", &parked_none(twice(2, 1)));
}

#[test]
fn what_was_parked_may_come_again_below_the_checkpoint() {
    let history = |messages: &[(u64, i64)]| {
        after(
            vec![
                acked(1, 110, 1),
                acked(1, 111, 2),
                acked(1, 112, 4),
                checkpoint(120, 1, 4),
                joined(2, 130, 1),
                handed(2, 140, &log()[0]),
                acked(2, 141, 1),
                parked(messages, 1),
            ],
            4,
        )
    };
    good("it was parked", &history(&[(0, 1)]));
    bad(P11, "another was parked", &history(&[(1, 1)]));
}

#[test]
fn the_order_of_a_stream_is_kept() {
    let history = |steps: Vec<Record>| {
        let mut all = vec![group(on_a(), true), joined(1, 5, 1), joined(2, 6, 1), joined(3, 7, 2)];
        all.extend(steps);
        all.push(parked(&[], 0));
        all.push(ended(2));
        whole(all)
    };
    let [first, second] = [&log()[0], &log()[1]];
    good(
        "one after the other",
        &history(vec![handed(1, 100, first), acked(1, 110, 1), handed(2, 120, second), acked(2, 130, 2)]),
    );
    bad(
        P11,
        "the next while one is with a consumer",
        &history(vec![handed(1, 100, first), handed(2, 105, second), acked(1, 110, 1), acked(2, 130, 2)]),
    );
    bad(
        P11,
        "the second before the first",
        &history(vec![handed(1, 100, second), acked(1, 110, 2), handed(2, 120, first), acked(2, 130, 1)]),
    );
    bad(
        P11,
        "the next after one that failed",
        &history(vec![
            handed(1, 100, first),
            answered(1, 102, 1, Answer::Retry),
            handed(2, 105, second),
            acked(2, 107, 2),
            handed(1, 110, first),
            acked(1, 111, 1),
        ]),
    );
    // A new leader knows of no ack: it begins anew, and in order.
    let again = |then: Vec<Record>| {
        let before = vec![handed(1, 100, first), acked(1, 110, 1), handed(2, 120, second), acked(2, 130, 2)];
        history([before, vec![handed(3, 200, first)], then].concat())
    };
    good("again in order", &again(vec![acked(3, 210, 1), handed(3, 220, second), acked(3, 230, 2)]));
    bad(P11, "the next again while one is", &again(vec![handed(3, 205, second), acked(3, 210, 1), acked(3, 230, 2)]));
}

#[test]
fn an_event_is_parked_once_each_time() {
    const SECOND: i64 = 10_000_000;
    let acks = || vec![acked(1, 110, 1), acked(1, 111, 2), acked(1, 112, 4)];
    let with =
        |messages: &[(u64, i64)], more: Vec<Record>| after([acks(), more, vec![parked(messages, 0)]].concat(), 4);
    good("two events", &with(&[(0, 1), (1, 2)], Vec::new()));
    bad(P11, "one event twice", &with(&[(0, 1), (0, 2)], Vec::new()));
    good("asked for in between", &with(&[(0, 1), (0, 4)], vec![replay(2 * SECOND, 3 * SECOND)]));
    bad(P11, "asked for before", &with(&[(0, 3), (0, 4)], vec![replay(SECOND, 2 * SECOND)]));
    bad(P11, "asked for after", &with(&[(0, 1), (0, 2)], vec![replay(3 * SECOND, 4 * SECOND)]));
    bad(P11, "an event that there is not", &with(&[(7, 1)], Vec::new()));
}

#[test]
fn what_does_not_belong_or_end_so_is_seen() {
    let with = |more: Vec<Record>| {
        let acks = vec![acked(1, 110, 1), acked(1, 111, 2), acked(1, 112, 4), parked(&[], 0)];
        after([acks, more].concat(), 4)
    };
    good("gone", &with(vec![left(1, 130, false)]));
    bad(P11, "ended as if all were well", &with(vec![left(1, 130, true)]));
    bad(P11, "an event of another stream", &with(vec![handed(1, 120, &log()[2])]));
}

#[test]
fn a_group_that_was_not_drained_proves_nothing() {
    let records = whole(vec![group(on_a(), false), joined(1, 5, 1), handed(1, 100, &log()[0])]);
    let verdict = check(&records, &Settings::default());
    assert_eq!(verdict.validity, Validity::Unknown, "{}", verdict.table());
}

/// What a group writes is in the log and was sent by nobody.
#[test]
fn the_groups_own_streams_are_no_phantoms() {
    let own = |position, stream: &str| event(position, stream, 0, 90 + u128::from(position));
    let mut log = log();
    log.push(own(5, "$persistentSubscriptionConfig"));
    log.push(own(6, "$persistentsubscription-a::g-checkpoint"));
    log.push(own(7, "$$$persistentsubscription-a::g-parked"));
    good("its own", &golden::end(golden::four(), &log));
    log.push(own(8, "$persistent"));
    bad(annals_checker::Property::P2, "not its own", &golden::end(golden::four(), &log));
}
