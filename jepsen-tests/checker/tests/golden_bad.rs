//! Bad histories, at least three for each property, each next to a good one
//! that differs in little. Each must be rejected for the property that it
//! breaks, and for no other.

mod golden;

use annals_checker::Property;
use annals_checker::history::{
    Current, Digest, Direction, EventId, Expected, Installed, Mode, Outcome, Read, ReadOutcome, Reason, Record,
    Retention, Seen, Source, Target,
};
use golden::*;

fn slice(from: usize, to: usize) -> Vec<Seen> {
    log()[from..to].to_vec()
}

fn a_events() -> Vec<Seen> {
    log().into_iter().filter(|event| *event.stream == *"a").collect()
}

#[test]
fn p1_a_position_holds_one_event() {
    let all_of = |events: &[Seen]| four_and([Record::Read(read(80, 90, all(), saw(events, Some(4))))]);
    good("a read that agrees", &all_of(&log()));

    let mut other = log();
    (other[1].id, other[1].digest, other[1].revision) = (EventId(4), Digest(4), 1);
    bad(Property::P1, "a position is another event's", &all_of(&other));

    let mut other = log();
    other[1].revision = 5;
    bad(Property::P1, "a revision differs", &all_of(&other));

    let mut other = log();
    other[2].system = true;
    bad(Property::P1, "a type differs", &all_of(&other));

    let mut records = four();
    records[3] = append(60, 70, "a", 4, acked(9, &[2]));
    bad(Property::P1, "an acknowledgement names another position", &end(records, &log()));

    let mut records = four();
    records[3] = append(60, 70, "a", 4, acked(4, &[3]));
    bad(Property::P1, "an acknowledgement names another revision", &end(records, &log()));
}

#[test]
fn p2_what_is_seen_was_sent() {
    let mut phantom = log();
    phantom.push(event(5, "a", 3, 99));
    bad(Property::P2, "an event that nobody sent", &end(four(), &phantom));

    let busy = || refused(Reason::NotTaken { why: "busy".into() });
    let mut records = four();
    records.push(append(80, 90, "a", 99, unknown()));
    good("the event was sent", &end(records.clone(), &phantom));
    records[4] = append(80, 90, "a", 99, busy());
    bad(Property::P2, "an event that was refused", &end(records.clone(), &phantom));
    records.push(append(100, 110, "a", 99, unknown()));
    good("refused once, sent again", &end(records, &phantom));

    let mut rotten = log();
    rotten[2].digest = Digest(77);
    bad(Property::P2, "bit rot in the log", &end(four(), &rotten));
    bad(Property::P2, "bit rot in a read", &four_and([Record::Read(read(80, 90, all(), saw(&rotten, Some(4))))]));

    let early = |complete| {
        let read = read(12, complete, all(), saw(&slice(0, 2), None));
        four_and([with_mode(read, Mode::Local)])
    };
    good("seen while it was written", &early(22));
    bad(Property::P2, "seen before it was sent", &early(15));

    let mut deleted = log();
    deleted.push(event(5, "$$a", 0, 50));
    bad(Property::P2, "a deletion that nobody asked for", &end(four(), &deleted));
    let mut records = four();
    records.push(delete(80, 90, "a", false, unknown()));
    good("the deletion may have happened", &end(records, &deleted));
}

#[test]
fn p3_nothing_acknowledged_is_lost() {
    let lost = &log()[..3];
    bad(Property::P3, "an acknowledged event is not in the log", &end(four(), lost));
    let mut records = four();
    records[3] = append(60, 70, "a", 4, unknown());
    good("nobody knew of it", &end(records.clone(), lost));

    records.push(with_mode(read(80, 90, all(), saw(&log(), Some(4))), Mode::Local));
    bad(Property::P3, "an event that was seen is not in the log", &end(records, lost));

    let mut records = four();
    records.push(delete(80, 90, "b", false, acked(5, &[])));
    bad(Property::P3, "an acknowledged deletion is not in the log", &end(records.clone(), &log()));
    let mut deleted = log();
    deleted.push(event(5, "$$b", 0, 50));
    good("the deletion is in the log", &end(records, &deleted));

    let claims = |as_of| {
        let nothing = ReadOutcome::NoStream { as_of: Some(as_of) };
        four_and([with_mode(read(80, 90, stream("c"), nothing), Mode::Local)])
    };
    good("as of the end of the log", &claims(4));
    bad(Property::P3, "as of a position that is gone", &claims(5));
}

#[test]
fn p4_there_are_no_gaps() {
    let mut gap = log();
    gap[3].position = 5;
    let mut records = four();
    records[3] = append(60, 70, "a", 4, acked(5, &[2]));
    bad(Property::P4, "a position is missing", &end(records, &gap));

    let mut gap = log();
    gap[3].revision = 3;
    let mut records = four();
    records[3] = append(60, 70, "a", 4, acked(4, &[3]));
    bad(Property::P4, "a revision is missing", &end(records, &gap));

    let shown = |events: Vec<Seen>, change: fn(&mut Read)| {
        let mut read = read(80, 90, all(), saw(&events, None));
        change(&mut read);
        four_and([Record::Read(read)])
    };
    good("a whole read", &shown(log(), |_| {}));
    good("a limited read", &shown(slice(0, 2), |read| read.limit = 2));
    good("a read from the middle", &shown(slice(2, 4), |read| read.from = Some(3)));
    let backwards: Vec<Seen> = log().into_iter().rev().collect();
    good("a read backwards", &shown(backwards.clone(), |read| read.direction = Direction::Backwards));
    bad(Property::P4, "a read leaves out one", &shown([slice(0, 1), slice(2, 4)].concat(), |_| {}));
    bad(Property::P4, "a read begins late", &shown(slice(1, 4), |_| {}));
    bad(Property::P4, "a read begins early", &shown(slice(1, 4), |read| read.from = Some(3)));
    bad(Property::P4, "a read repeats one", &shown([slice(0, 2), slice(1, 4)].concat(), |_| {}));
    bad(Property::P4, "a read is out of order", &shown(backwards, |_| {}));
    bad(Property::P4, "a read exceeds its limit", &shown(log(), |read| read.limit = 3));
    bad(
        Property::P4,
        "a filtered read shows what it should not",
        &shown(log(), |read| read.target = Target::All { prefixes: vec!["a".into()] }),
    );
    good("a filtered read", &shown(a_events(), |read| read.target = Target::All { prefixes: vec!["a".into()] }));

    let of_a = |events: &[Seen]| four_and([Record::Read(read(80, 90, stream("a"), saw(events, None)))]);
    good("a read of a stream", &of_a(&a_events()));
    bad(Property::P4, "a read of a stream leaves out one", &of_a(&[a_events()[0].clone(), a_events()[2].clone()]));
    bad(Property::P4, "a read of a stream shows another", &of_a(&log()));
}

#[test]
fn p5_every_event_is_there_once() {
    let mut twice = log();
    twice.push(event(5, "a", 3, 4));
    bad(Property::P5, "an id is in the log twice", &end(four(), &twice));

    let again = |outcome| four_and([append(80, 90, "a", 4, outcome)]);
    good("a repetition is acknowledged as the first time", &again(acked(4, &[2])));
    bad(Property::P5, "a repetition is acknowledged elsewhere", &again(acked(5, &[3])));
    bad(Property::P5, "a repetition is acknowledged as another event", &again(acked(2, &[1])));

    let mut twice = log();
    twice.push(event(5, "$$a", 0, 50));
    let mut records = four();
    records.push(delete(80, 90, "a", false, acked(5, &[])));
    good("a deletion is in the log", &end(records.clone(), &twice));
    records.push(delete(100, 110, "a", false, acked(5, &[])));
    bad(Property::P5, "two deletions are one event", &end(records, &twice));
}

#[test]
fn p6_an_append_is_whole() {
    let both = |outcome| {
        let writes = vec![write("a", Expected::Any, &[5, 6]), write("c", Expected::Any, &[7])];
        appends(80, 90, writes, outcome)
    };
    let with = |outcome, events: &[Seen]| {
        let mut records = four();
        records.push(both(outcome));
        end(records, &[log(), events.to_vec()].concat())
    };
    let whole = [event(5, "a", 3, 5), event(6, "a", 4, 6), event(7, "c", 0, 7)];
    good("all of it", &with(acked(7, &[4, 0]), &whole));
    good("nothing of it", &with(unknown(), &[]));
    bad(Property::P6, "its first half", &with(unknown(), &whole[..2]));
    bad(Property::P6, "its second half", &with(unknown(), &[event(5, "c", 0, 7)]));
    let mut records = with(unknown(), &[whole[0].clone(), event(6, "b", 1, 8), event(7, "a", 4, 6)]);
    records.push(append(80, 90, "b", 8, acked(6, &[1])));
    bad(Property::P6, "another between", &records);

    let read_after = |outcome, mode| {
        let mut records = with(acked(7, &[4, 0]), &whole);
        records.push(with_mode(read(82, 88, stream("a"), outcome), mode));
        records
    };
    let half = [a_events(), whole[..1].to_vec()].concat();
    let all_of_a = [a_events(), whole[..2].to_vec()].concat();
    good("a read of all of it", &read_after(saw(&all_of_a, Some(7)), Mode::Local));
    bad(Property::P6, "a read of half of it", &read_after(saw(&half, None), Mode::Local));
    bad(Property::P6, "a linearizable read of half of it", &read_after(saw(&half, None), Mode::Linearizable));
    bad(Property::P6, "a claim in the middle of it", &read_after(saw(&a_events(), Some(5)), Mode::Local));
}

#[test]
fn p7_appends_keep_the_order_of_time() {
    let two = |second_invoke: u64| {
        let records = vec![append(0, 10, "a", 1, acked(2, &[0])), append(second_invoke, 40, "b", 2, acked(1, &[0]))];
        end(records, &[event(1, "b", 0, 2), event(2, "a", 0, 1)])
    };
    good("two at the same time", &two(10));
    bad(Property::P7, "the second comes first", &two(11));

    let late = |invoke| {
        let records = vec![append(0, 10, "a", 1, acked(2, &[0])), append(invoke, 0, "b", 2, unknown())];
        end(records, &[event(1, "b", 0, 2), event(2, "a", 0, 1)])
    };
    good("an unknown one at the same time", &late(5));
    bad(Property::P7, "an unknown one before what was over", &late(15));

    let deleted = |invoke| {
        let records = vec![
            append(0, 10, "a", 1, acked(1, &[0])),
            append(20, 30, "b", 2, acked(3, &[0])),
            delete(invoke, invoke + 20, "a", false, acked(2, &[])),
        ];
        end(records, &[event(1, "a", 0, 1), event(2, "$$a", 0, 50), event(3, "b", 0, 2)])
    };
    good("a deletion at the same time", &deleted(25));
    bad(Property::P7, "a deletion before what was over", &deleted(35));

    let repeated = |first| {
        let records = vec![
            append(first, 0, "b", 2, unknown()),
            append(20, 30, "a", 1, acked(2, &[0])),
            append(40, 50, "b", 2, acked(1, &[0])),
        ];
        end(records, &[event(1, "b", 0, 2), event(2, "a", 0, 1)])
    };
    good("a repetition of what was sent before", &repeated(0));
    bad(Property::P7, "a repetition before what was over", &repeated(35));
}

#[test]
fn p8_reads_are_linearizable() {
    let at = |invoke, complete, outcome| four_and([Record::Read(read(invoke, complete, all(), outcome))]);
    good("a read during the last append", &at(55, 65, saw(&slice(0, 3), Some(3))));
    good("the same without its claim", &at(55, 65, saw(&slice(0, 3), None)));
    bad(Property::P8, "a stale read", &at(75, 85, saw(&slice(0, 3), Some(3))));
    bad(Property::P8, "a stale read without its claim", &at(75, 85, saw(&slice(0, 3), None)));
    bad(Property::P8, "a stale read that lies", &at(75, 85, saw(&slice(0, 3), Some(4))));
    bad(Property::P8, "a read that claims too little", &at(75, 85, saw(&log(), Some(3))));

    let nothing = |invoke| {
        let outcome = ReadOutcome::NoStream { as_of: None };
        four_and([Record::Read(read(invoke, invoke + 5, stream("b"), outcome))])
    };
    good("no stream before it was written", &nothing(45));
    bad(Property::P8, "no stream after it was written", &nothing(55));

    // Of an unknown append the first read tells, and the second must know.
    let pair = |second: &[Seen]| {
        let mut records = four();
        records[3] = append(60, 0, "a", 4, unknown());
        records.push(Record::Read(read(65, 75, all(), saw(&log(), None))));
        records.push(Record::Read(read(80, 90, all(), saw(second, None))));
        end(records, &log())
    };
    good("seen and seen again", &pair(&log()));
    bad(Property::P8, "seen and seen no more", &pair(&slice(0, 3)));

    let limited = |limit| {
        let read = Read { limit, ..read(75, 85, stream("a"), saw(&a_events()[..2], None)) };
        four_and([Record::Read(read)])
    };
    good("stopped by its limit", &limited(2));
    bad(Property::P8, "stopped although its limit is higher", &limited(3));
}

fn wrong(current: Option<Current>) -> Reason {
    Reason::WrongExpectation { stream: "a".into(), current }
}

#[test]
fn p9_expectations_are_kept() {
    let acked_with = |expected| {
        let mut records = four();
        records[3] = expect(60, 70, "a", 4, expected, acked(4, &[2]));
        end(records, &log())
    };
    good("acknowledged at the expected revision", &acked_with(Expected::Revision(1)));
    good("acknowledged where the stream exists", &acked_with(Expected::Exists));
    bad(Property::P9, "acknowledged at another revision", &acked_with(Expected::Revision(0)));
    bad(Property::P9, "acknowledged though there is a stream", &acked_with(Expected::NoStream));

    let mut records = four();
    records[2] = expect(40, 50, "b", 3, Expected::Exists, acked(3, &[0]));
    bad(Property::P9, "acknowledged though there is no stream", &end(records, &log()));

    let refused_at =
        |invoke, expected, current| four_and([expect(invoke, invoke + 5, "a", 9, expected, refused(wrong(current)))]);
    let at = |revision| Some(Current::Revision(revision));
    good("refused at another revision", &refused_at(32, Expected::Revision(0), at(1)));
    bad(Property::P9, "refused at the expected revision", &refused_at(32, Expected::Revision(1), None));
    bad(Property::P9, "refused with a stale revision", &refused_at(75, Expected::Revision(7), at(1)));
    bad(Property::P9, "refused with a revision that never was", &refused_at(75, Expected::Revision(7), at(8)));
    bad(Property::P9, "refused without any condition", &refused_at(75, Expected::Any, None));
    bad(Property::P9, "refused as not there", &refused_at(75, Expected::Exists, Some(Current::NoStream)));
    let other = |stream: &str| {
        let reason = Reason::WrongExpectation { stream: stream.into(), current: None };
        four_and([expect(75, 80, "a", 9, Expected::Revision(0), refused(reason))])
    };
    good("refused because of its own stream", &other("a"));
    bad(Property::P9, "refused because of a stream it does not write", &other("b"));

    let again = |expected| {
        let mut records = four();
        records[3] = expect(60, 0, "a", 4, Expected::Revision(1), unknown());
        records.push(expect(80, 90, "a", 4, expected, refused(wrong(at(2)))));
        end(records, &log())
    };
    good("something else with the same id is refused", &again(Expected::Revision(0)));
    bad(Property::P9, "a repetition is refused after it happened", &again(Expected::Revision(1)));
}

#[test]
fn p10_local_reads_show_a_prefix() {
    let local = |mode, target, outcome| four_and([with_mode(read(80, 90, target, outcome), mode)]);
    good("an old prefix", &local(Mode::Local, all(), saw(&slice(0, 2), Some(2))));
    bad(Property::P10, "less than it claims", &local(Mode::Local, all(), saw(&slice(0, 2), Some(3))));
    bad(Property::P10, "more than it claims", &local(Mode::Local, all(), saw(&slice(0, 3), Some(2))));
    bad(
        Property::P10,
        "less of a stream than it claims",
        &local(Mode::Local, stream("a"), saw(&a_events()[..2], Some(4))),
    );
    bad(Property::P10, "more of a stream than it claims", &local(Mode::Local, stream("a"), saw(&a_events(), Some(2))));

    good("as much as was asked for", &local(Mode::AtLeast(3), all(), saw(&slice(0, 3), Some(3))));
    bad(Property::P10, "less than was asked for", &local(Mode::AtLeast(3), all(), saw(&slice(0, 2), Some(2))));
    bad(
        Property::P10,
        "less than was asked for, without a claim",
        &local(Mode::AtLeast(4), stream("a"), saw(&a_events()[..2], None)),
    );

    let two = |second: u64, node| {
        let first = with_mode(read(80, 90, all(), saw(&slice(0, 3), Some(3))), Mode::Local);
        let events = slice(0, usize::try_from(second).expect("small"));
        let second = Read { node, mode: Mode::Local, ..read(100, 110, all(), saw(&events, Some(second))) };
        vec![first, Record::Read(second)]
    };
    good("a node that goes on", &four_and(two(4, 2)));
    good("another node that is behind", &four_and(two(2, 3)));
    bad(Property::P10, "a node that goes back", &four_and(two(2, 2)));
    let mut restarted = two(2, 2);
    restarted.push(fault("F1", "kill-follower", 92, 95, Installed::Installed));
    good("a node that was restarted", &four_and(restarted));
}

#[test]
fn p11_subscriptions_deliver_everything_once() {
    let whole = |steps: Vec<Record>| four_and([vec![subscription(all())], steps].concat());
    let e = |from, to| slice(from, to);
    good(
        "over two connections",
        &whole(vec![
            opened(0, 5, None),
            delivered(0, 35, &e(0, 2)),
            caught_up(0, 36, 2),
            dropped(0, 37, false),
            opened(1, 38, Some(2)),
            delivered(1, 80, &e(2, 4)),
            closed(100, true),
        ]),
    );
    let once = |events: Vec<Seen>| whole(vec![opened(0, 5, None), delivered(0, 80, &events), closed(100, false)]);
    good("some", &once(e(0, 3)));
    bad(Property::P11, "a gap", &once([e(0, 1), e(2, 4)].concat()));
    bad(Property::P11, "a repetition", &once([e(0, 2), e(1, 4)].concat()));
    bad(Property::P11, "out of order", &once([e(1, 2), e(0, 1), e(2, 4)].concat()));
    let resumed = |after, events: Vec<Seen>| {
        whole(vec![opened(0, 5, None), delivered(0, 35, &e(0, 2)), opened(1, 40, after), delivered(1, 80, &events)])
    };
    good("resumed", &resumed(Some(2), e(2, 4)));
    bad(Property::P11, "resumed at the last one instead of after it", &resumed(Some(2), e(1, 4)));
    bad(Property::P11, "a gap at the seam", &resumed(Some(2), e(3, 4)));
    bad(Property::P11, "resumed at the wrong place", &resumed(Some(3), e(3, 4)));
    let caught_up_with = |upto| whole(vec![opened(0, 5, None), delivered(0, 80, &e(0, 3)), caught_up(0, 81, upto)]);
    good("caught up with what was delivered", &caught_up_with(3));
    bad(Property::P11, "caught up with more", &caught_up_with(4));
    let ends = |ended_ok| whole(vec![opened(0, 5, None), delivered(0, 80, &e(0, 3)), dropped(0, 82, ended_ok)]);
    good("ended with an error", &ends(false));
    bad(Property::P11, "ended as if all were well", &ends(true));
    let drained = |events: Vec<Seen>| whole(vec![opened(0, 5, None), delivered(0, 80, &events), closed(100, true)]);
    good("drained", &drained(e(0, 4)));
    bad(Property::P11, "drained without the last", &drained(e(0, 3)));

    let of_a = |target: Target, events: &[Seen]| {
        four_and([subscription(target), opened(0, 5, None), delivered(0, 80, events), closed(100, true)])
    };
    good("of a stream", &of_a(stream("a"), &a_events()));
    bad(Property::P11, "of a stream, without the first", &of_a(stream("a"), &a_events()[1..]));
    good("with a filter", &of_a(Target::All { prefixes: vec!["a".into()] }, &a_events()));
    bad(Property::P11, "with a filter that fails", &of_a(Target::All { prefixes: vec!["a".into()] }, &log()));
}

#[test]
fn p13_replicas_are_identical() {
    good("equal hashes", &four_and([hash(1, 3, "x"), hash(2, 3, "x"), hash(2, 4, "y")]));
    bad(Property::P13, "different hashes", &four_and([hash(1, 3, "x"), hash(2, 3, "y")]));

    good("equal states", &four_and([held(2, Source::Local, &log()), held(2, Source::Offline, &log())]));
    let mut other = log();
    (other[2].id, other[2].digest) = (EventId(8), Digest(8));
    bad(Property::P13, "another event on one node", &four_and([held(2, Source::Local, &other)]));
    let mut swapped = log();
    swapped.swap(1, 2);
    bad_for(&[Property::P3, Property::P13], "out of order on one node", &four_and([held(2, Source::Local, &swapped)]));
    let mut more = log();
    more.push(event(5, "a", 3, 9));
    bad(Property::P13, "more on one node", &four_and([held(2, Source::Local, &more)]));
    bad(Property::P13, "more in the files", &four_and([held(2, Source::Offline, &more)]));

    // Nodes that stop say how far their groups have come, after the last reads.
    let parting = |id| [log(), vec![event(5, "$persistentsubscription-a::g-checkpoint", 0, id)]].concat();
    good("checkpoints in the files of one node", &four_and([held(2, Source::Offline, &parting(9))]));
    let two = |other| four_and([held(2, Source::Offline, &parting(9)), held(3, Source::Offline, &parting(other))]);
    good("the same checkpoint in the files of two", &two(9));
    bad(Property::P13, "another checkpoint in the files of one", &two(8));
    bad(Property::P13, "a checkpoint that one node shows", &four_and([held(2, Source::Local, &parting(9))]));
    bad_for(
        &[Property::P3, Property::P13],
        "less on one node, and acknowledged",
        &four_and([held(2, Source::Local, &log()[..3])]),
    );
    let mut records = four();
    records[3] = append(60, 0, "a", 4, unknown());
    records.push(held(2, Source::Local, &log()[..3]));
    bad(Property::P13, "less on one node, and not acknowledged", &end(records, &log()));
    bad_for(
        &[Property::P3, Property::P13],
        "less in the files than was shown",
        &four_and([held(2, Source::Local, &log()), held(2, Source::Offline, &log()[..3])]),
    );
}

/// "a" has three events, then only the newest is kept.
fn kept_one() -> (Vec<Record>, Vec<Seen>) {
    let mut records = four();
    let sets = Retention { max_count: Some(1), truncate_before: None };
    records.push(appends(80, 90, vec![metadata("a", 50, sets)], acked(5, &[0])));
    (records, [log(), vec![event(5, "$$a", 0, 50)]].concat())
}

/// "a" has three events, is deleted, and written to again.
fn begun_anew() -> (Vec<Record>, Vec<Seen>) {
    let mut records = four();
    records.push(delete(80, 90, "a", false, acked(5, &[])));
    records.push(expect(100, 110, "a", 6, Expected::NoStream, acked(6, &[3])));
    let more = vec![event(5, "$$a", 0, 50), event(6, "a", 3, 6), event(7, "$$a", 1, 51)];
    (records, [log(), more].concat())
}

/// "a" has three events, and has ended.
fn ended() -> (Vec<Record>, Vec<Seen>) {
    let mut records = four();
    records.push(delete(80, 90, "a", true, acked(5, &[])));
    (records, [log(), vec![event(5, "a", END, 50)]].concat())
}

fn reading((mut records, log): (Vec<Record>, Vec<Seen>), invoke: u64, outcome: ReadOutcome) -> Vec<Record> {
    records.push(Record::Read(read(invoke, invoke + 5, stream("a"), outcome)));
    end(records, &log)
}

#[test]
fn p14_what_is_hidden_stays_hidden_and_nothing_else() {
    let newest = &a_events()[2..];
    good("only what is kept", &reading(kept_one(), 95, saw(newest, Some(5))));
    bad(Property::P14, "what is not kept", &reading(kept_one(), 95, saw(&a_events(), Some(5))));
    bad(Property::P14, "less than what is kept", &reading(kept_one(), 95, saw(&[], None)));
    bad(Property::P14, "hidden too much", &reading(begun_anew(), 75, saw(&a_events()[1..], None)));

    let anew = [event(6, "a", 3, 6)];
    let whole = [a_events(), anew.to_vec()].concat();
    good("begun anew", &reading(begun_anew(), 115, saw(&anew, Some(7))));
    good("deleted", &reading(begun_anew(), 92, ReadOutcome::NoStream { as_of: Some(5) }));
    bad(Property::P14, "what was deleted shows again", &reading(begun_anew(), 115, saw(&whole, None)));
    bad(Property::P14, "shown as of after its deletion", &reading(begun_anew(), 92, saw(&a_events(), Some(5))));

    good("ended", &reading(ended(), 95, ReadOutcome::Tombstoned { as_of: Some(5) }));
    bad(Property::P14, "shown after its end", &reading(ended(), 95, saw(&a_events(), Some(5))));
    bad(Property::P14, "ended without an end", &reading(kept_one(), 95, ReadOutcome::Tombstoned { as_of: None }));
    let (mut records, mut log) = ended();
    records.push(append(100, 110, "a", 6, acked(6, &[3])));
    log.push(event(6, "a", 3, 6));
    bad(Property::P14, "written after its end", &end(records, &log));
    let (records, mut log) = begun_anew();
    log.pop();
    bad(Property::P14, "not made visible again", &end(records, &log));
}

#[test]
fn p15_time_never_goes_back() {
    let timed = |times: [i64; 4]| {
        let mut log = log();
        for (event, created) in log.iter_mut().zip(times) {
            event.created = created;
        }
        log
    };
    good("equal times", &end(four(), &timed([5, 5, 5, 6])));
    bad(Property::P15, "back by one", &end(four(), &timed([5, 5, 4, 6])));
    bad(Property::P15, "back at the end", &end(four(), &timed([5, 6, 7, -7])));
    let seen = |events: &[Seen]| Record::Read(read(80, 90, all(), saw(events, Some(4))));
    bad(Property::P15, "another time in a read", &four_and([seen(&timed([1, 2, 3, 9]))]));
    let delivered = delivered(0, 80, &timed([1, 2, 2, 4]));
    bad(
        Property::P15,
        "another time in a subscription",
        &four_and([subscription(all()), opened(0, 5, None), delivered]),
    );
}

/// The append that began "a" anew is sent again after another deletion and
/// another beginning: `events` are what that left in the log.
fn begun_twice(outcome: Outcome, events: &[Seen]) -> Vec<Record> {
    let (mut records, mut log) = begun_anew();
    records.push(delete(120, 130, "a", false, acked(8, &[])));
    records.push(append(140, 150, "a", 7, acked(9, &[4])));
    log.extend([event(8, "$$a", 2, 52), event(9, "a", 4, 7), event(10, "$$a", 3, 53)]);
    records.push(expect(160, 170, "a", 6, Expected::NoStream, outcome));
    log.extend_from_slice(events);
    end(records, &log)
}

#[test]
fn what_began_a_stream_anew_is_recognised_for_ever() {
    good("acknowledged as the first time", &begun_twice(acked(6, &[3]), &[]));
    let current = Some(Current::Revision(4));
    bad(Property::P9, "refused after it happened", &begun_twice(refused(wrong(current)), &[]));

    let (mut records, mut log) = begun_anew();
    records.push(delete(120, 130, "a", false, acked(8, &[])));
    records.push(expect(140, 150, "a", 6, Expected::NoStream, acked(9, &[4])));
    log.extend([event(8, "$$a", 2, 52), event(9, "a", 4, 6), event(10, "$$a", 3, 53)]);
    bad(Property::P5, "written a second time", &end(records, &log));
}

#[test]
fn two_streams_are_made_visible_again_in_any_order() {
    let both = |order: [&str; 2]| {
        let mut records = four();
        records.push(delete(80, 90, "a", false, acked(5, &[])));
        records.push(delete(100, 110, "b", false, acked(6, &[])));
        let writes = vec![write("a", Expected::NoStream, &[7]), write("b", Expected::Any, &[8])];
        records.push(appends(120, 130, writes, acked(8, &[3, 1])));
        let mut log = [log(), vec![event(5, "$$a", 0, 50), event(6, "$$b", 0, 51)]].concat();
        log.extend([event(7, "a", 3, 7), event(8, "b", 1, 8)]);
        log.extend([event(9, order[0], 1, 52), event(10, order[1], 1, 53)]);
        end(records, &log)
    };
    good("in the order of the writes", &both(["$$a", "$$b"]));
    good("in another order", &both(["$$b", "$$a"]));
}

#[test]
fn a_refusal_that_says_nothing_of_the_stream_is_true_of_one_that_has_ended() {
    let refused_with = |current| {
        let (mut records, log) = ended();
        records.push(expect(100, 110, "a", 6, Expected::Exists, refused(wrong(current))));
        end(records, &log)
    };
    good("not as expected", &refused_with(None));
    bad(Property::P9, "not there", &refused_with(Some(Current::Revision(2))));
}

#[test]
fn a_filtered_subscription_may_be_resumed_after_what_was_examined() {
    let resumed = |after| {
        let b_only = Target::All { prefixes: vec!["b".into()] };
        four_and([subscription(b_only), opened(0, 5, None), opened(1, 35, Some(after)), closed(100, false)])
    };
    good("where nothing is left out", &resumed(2));
    bad(Property::P11, "where something is left out", &resumed(3));
}
