//! Groups under every order of what can happen to them.

use proptest::prelude::*;
use proptest::strategy::Strategy as _;
use uuid::Uuid;

use super::{Strategy, *};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn id(number: u64) -> EventId {
    EventId::new(Uuid::from_u128(u128::from(number) + 1)).expect("not nil")
}

fn message(at: u64, key: u64) -> Message {
    Message { place: Place::Source(at), id: id(at), key, retries: 0 }
}

fn group(settings: Settings) -> Group {
    Group::new(settings, None, seconds(0))
}

fn with(strategy: Strategy) -> Settings {
    Settings { strategy, max_retries: 2, ..Settings::default() }
}

/// Who got which message.
fn delivered(group: &mut Group, now: u64) -> Vec<(ConsumerId, u64)> {
    let place = |delivery: Delivery| match delivery.message.place {
        Place::Source(at) => (delivery.consumer, at),
        Place::Parked(at) => (delivery.consumer, at + 1_000),
    };
    group.deliver(seconds(now)).into_iter().map(place).collect()
}

#[test]
fn consumers_take_turns_and_none_gets_more_than_it_has_slots() {
    let mut group = group(with(Strategy::RoundRobin));
    group.join(1, 2).expect("room");
    group.join(2, 1).expect("room");
    (0..6).for_each(|at| group.push(message(at, at)));
    assert_eq!(delivered(&mut group, 0), [(1, 0), (2, 1), (1, 2)]);
    group.ack(1, id(0));
    assert_eq!(delivered(&mut group, 0), [(1, 3)]);
}

#[test]
fn the_first_consumer_gets_all_until_its_slots_are_used() {
    let mut group = group(with(Strategy::DispatchToSingle));
    group.join(7, 2).expect("room");
    group.join(8, 9).expect("room");
    (0..4).for_each(|at| group.push(message(at, at)));
    assert_eq!(delivered(&mut group, 0), [(7, 0), (7, 1), (8, 2), (8, 3)]);
}

#[test]
fn a_message_that_fails_too_often_is_parked_and_holds_the_checkpoint_until_it_is_durable() {
    let mut group = group(with(Strategy::RoundRobin));
    group.join(1, 5).expect("room");
    (10..12).for_each(|at| group.push(message(at, at)));
    delivered(&mut group, 0);
    group.ack(1, id(11));
    for _ in 0..2 {
        assert_eq!(group.nack(1, id(10), NackAction::Retry, ""), None);
        assert_eq!(delivered(&mut group, 0), [(1, 10)]);
    }
    let park = group.nack(1, id(10), NackAction::Retry, "").expect("parked");
    assert_eq!(park.reason, "Reached retry count of 2");
    assert_eq!(group.last_checkpoint(), Some(9));
    group.parked(park.message.place);
    assert_eq!(group.last_checkpoint(), Some(11));
    assert_eq!(group.counts(), Counts { delivered: 4, acked: 1, parked: 1, retried: 2 });
}

#[test]
fn what_is_not_answered_in_time_is_delivered_again_and_a_late_answer_is_nobodys() {
    let mut group = group(with(Strategy::RoundRobin));
    group.join(1, 1).expect("room");
    group.push(message(0, 0));
    delivered(&mut group, 0);
    assert!(group.expire(seconds(29)).is_empty());
    assert!(delivered(&mut group, 29).is_empty());
    group.join(2, 1).expect("room");
    assert!(group.expire(seconds(30)).is_empty());
    assert_eq!(delivered(&mut group, 30), [(2, 0)]);
    group.ack(1, id(0));
    assert_eq!(group.sizes(), (0, 0, 1), "the one that has it has not answered");
    group.ack(2, id(0));
    assert_eq!(group.last_checkpoint(), Some(0));
}

#[test]
fn what_a_consumer_leaves_goes_to_others_as_if_it_had_not_failed() {
    let mut group = group(with(Strategy::RoundRobin));
    group.join(1, 2).expect("room");
    (0..2).for_each(|at| group.push(message(at, at)));
    delivered(&mut group, 0);
    group.leave(1);
    group.join(2, 2).expect("room");
    let again = group.deliver(seconds(1));
    assert!(again.iter().all(|delivery| delivery.message.retries == 0), "{again:?}");
    assert_eq!(again.len(), 2);
}

#[test]
fn checkpoints_come_by_count_and_by_time() {
    let settings = Settings { min_checkpoint: 2, max_checkpoint: 5, ..with(Strategy::RoundRobin) };
    let mut group = group(settings);
    group.join(1, 100).expect("room");
    (0..20).for_each(|at| group.push(message(at, at)));
    delivered(&mut group, 0);
    group.ack(1, id(0));
    assert_eq!(group.checkpoint(seconds(9)), None, "one is too few");
    group.ack(1, id(1));
    assert_eq!(group.checkpoint(seconds(1)), None, "too early");
    assert_eq!(group.checkpoint(seconds(2)), Some(1));
    group.checkpointed(1, seconds(2));
    (2..7).for_each(|at| group.ack(1, id(at)));
    assert_eq!(group.checkpoint(seconds(2)), Some(6));
}

#[test]
fn what_is_done_while_a_checkpoint_is_written_counts_for_the_next() {
    let mut group = group(Settings { min_checkpoint: 1, ..with(Strategy::RoundRobin) });
    group.join(1, 9).expect("room");
    (0..3).for_each(|at| group.push(message(at, at)));
    delivered(&mut group, 0);
    group.ack(1, id(0));
    assert_eq!(group.checkpoint(seconds(2)), Some(0));
    group.ack(1, id(1));
    group.ack(1, id(2));
    group.checkpointed(0, seconds(3));
    assert_eq!(group.checkpoint(seconds(5)), Some(2), "without anything else happening");
}

#[test]
fn the_next_leader_delivers_what_is_not_done_and_nothing_else() {
    let settings = Settings { min_checkpoint: 1, ..with(Strategy::RoundRobin) };
    let mut before = group(settings);
    before.join(1, 9).expect("room");
    (0..9).for_each(|at| before.push(message(at, at)));
    delivered(&mut before, 0);
    [0, 1, 3, 4, 7].into_iter().for_each(|at| before.ack(1, id(at)));
    let at = before.checkpoint(seconds(2)).expect("due");
    assert_eq!((at, before.done_above(at).as_str()), (1, "1+2 2+1"));
    before.checkpointed(at, seconds(2));
    assert_eq!(before.last_checkpoint(), None);
    before.ack(1, id(5));
    assert_eq!(before.last_checkpoint(), Some(1), "the same, and more beside it");

    let mut next = Group::resumed(settings, at, &before.done_above(at), seconds(9));
    next.join(1, 9).expect("room");
    (2..10).for_each(|at| next.push(message(at, at)));
    assert_eq!(delivered(&mut next, 9), [(1, 2), (1, 6), (1, 8), (1, 9)]);
    next.ack(1, id(2));
    assert_eq!(next.checkpoint(seconds(11)), Some(5), "what was done before counts");
    assert_eq!(next.done_above(5), "1+1");
}

#[test]
fn what_is_not_for_the_group_moves_its_checkpoint_by_much_of_it_only() {
    let mut group = group(Settings { min_checkpoint: 1, ..with(Strategy::RoundRobin) });
    group.passed(999);
    assert_eq!(group.checkpoint(seconds(3)), None, "it may be its own checkpoint");
    assert_eq!(group.last_checkpoint(), Some(999));
    group.passed(1_000);
    assert_eq!(group.checkpoint(seconds(1)), None, "too early");
    assert_eq!(group.checkpoint(seconds(2)), Some(1_000));
    group.push(message(1_001, 0));
    group.passed(9_000);
    assert_eq!(group.checkpoint(seconds(3)), Some(1_000));
}

#[test]
fn replayed_messages_go_first_and_say_when_they_are_done() {
    let mut group = group(with(Strategy::RoundRobin));
    group.join(1, 10).expect("room");
    group.push(message(5, 5));
    group.push(Message { place: Place::Parked(0), id: id(1), key: 1, retries: 0 });
    assert!(!group.has_replayed(1));
    assert_eq!(delivered(&mut group, 0), [(1, 1_000), (1, 5)]);
    group.ack(1, id(1));
    assert!(group.has_replayed(1));
    assert_eq!(group.last_checkpoint(), Some(4), "a parked message is not of the source");
}

#[test]
fn one_that_is_full_of_consumers_says_so() {
    let mut group = group(Settings { max_consumers: Some(1), ..with(Strategy::RoundRobin) });
    group.join(1, 1).expect("room");
    assert_eq!(group.join(2, 1), Err(Full));
    group.leave(1);
    assert_eq!(group.join(2, 1), Ok(()));
}

#[test]
fn stop_is_done() {
    let mut group = group(with(Strategy::RoundRobin));
    group.join(1, 3).expect("room");
    (0..2).for_each(|at| group.push(message(at, at)));
    delivered(&mut group, 0);
    assert_eq!(group.nack(1, id(0), NackAction::Stop, ""), None);
    group.ack(1, id(1));
    assert_eq!(group.last_checkpoint(), Some(1));
}

#[derive(Clone, Debug)]
enum Step {
    Push { key: u64 },
    Join { slots: usize },
    Leave { which: usize },
    Answer { which: usize, action: Option<NackAction> },
    Parked,
    Wait { seconds: u64 },
}

fn step() -> impl proptest::strategy::Strategy<Value = Step> {
    prop_oneof![
        8 => (0..6u64).prop_map(|key| Step::Push { key }),
        2 => (1..4usize).prop_map(|slots| Step::Join { slots }),
        1 => any::<usize>().prop_map(|which| Step::Leave { which }),
        8 => (any::<usize>(), prop_oneof![
            6 => Just(None),
            2 => Just(Some(NackAction::Retry)),
            1 => Just(Some(NackAction::Park)),
            1 => Just(Some(NackAction::Skip)),
        ]).prop_map(|(which, action)| Step::Answer { which, action }),
        3 => Just(Step::Parked),
        1 => (0..40u64).prop_map(|seconds| Step::Wait { seconds }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn nothing_is_forgotten_and_no_key_overtakes_itself(
        strategy in 0..4usize,
        steps in proptest::collection::vec(step(), 1..200),
    ) {
        let strategy = Strategy::ALL[strategy];
        let mut group = group(with(strategy));
        let (mut now, mut next, mut consumers) = (0, 0, 0);
        // What must still be somewhere: by place, its key.
        let mut open: BTreeMap<u64, u64> = BTreeMap::new();
        let mut members: BTreeMap<ConsumerId, usize> = BTreeMap::new();
        let mut flying: BTreeMap<u64, ConsumerId> = BTreeMap::new();
        let mut parking: Vec<Place> = Vec::new();
        for step in steps {
            match step {
                Step::Push { key } if group.room() > 0 => {
                    group.push(message(next, key));
                    open.insert(next, key);
                    next += 1;
                }
                Step::Push { .. } => {}
                Step::Join { slots } => {
                    consumers += 1;
                    group.join(consumers, slots).expect("no limit");
                    members.insert(consumers, slots);
                }
                Step::Leave { which } => {
                    if let Some(gone) = members.keys().nth(which % members.len().max(1)).copied() {
                        group.leave(gone);
                        members.remove(&gone);
                        flying.retain(|_, consumer| *consumer != gone);
                    }
                }
                Step::Answer { which, action } => {
                    let Some((at, consumer)) = flying.iter().nth(which % flying.len().max(1)).map(|(at, c)| (*at, *c))
                    else { continue };
                    flying.remove(&at);
                    match action {
                        None => group.ack(consumer, id(at)),
                        Some(action) => parking.extend(group.nack(consumer, id(at), action, "").map(|park| park.message.place)),
                    }
                    if matches!(action, None | Some(NackAction::Skip)) {
                        open.remove(&at);
                    }
                }
                Step::Parked => {
                    if let Some(place) = parking.pop() {
                        group.parked(place);
                        let Place::Source(at) = place else { unreachable!() };
                        open.remove(&at);
                    }
                }
                Step::Wait { seconds: waited } => {
                    now += waited;
                    parking.extend(group.expire(seconds(now)).into_iter().map(|park| park.message.place));
                    flying.retain(|at, _| group.in_flight.contains_key(&Place::Source(*at)));
                }
            }
            for delivery in group.deliver(seconds(now)) {
                let Place::Source(at) = delivery.message.place else { unreachable!() };
                prop_assert!(open.contains_key(&at), "{at} is done and delivered again");
                prop_assert!(flying.insert(at, delivery.consumer).is_none(), "{at} is in flight twice");
                if strategy.is_pinned() {
                    let earlier = open.iter().find(|(other, key)| **other < at && **key == delivery.message.key);
                    prop_assert!(earlier.is_none(), "{at} overtook {earlier:?}");
                }
            }
            for (consumer, slots) in &members {
                let used = flying.values().filter(|other| *other == consumer).count();
                prop_assert!(used <= *slots);
            }
            let lowest = open.keys().next().copied().unwrap_or(next);
            let safe = group.finished_to();
            prop_assert_eq!(safe, lowest.checked_sub(1), "the checkpoint is right below what is open");
            // Nothing waits while a consumer could have it.
            if !strategy.is_pinned() && members.iter().any(|(consumer, slots)| flying.values().filter(|other| *other == consumer).count() < *slots) {
                prop_assert_eq!(group.waiting.len(), 0);
            }
        }
        // The next leader delivers what is not done, each message once, and nothing else.
        if let Some(at) = group.finished_to() {
            let mut next_leader = Group::resumed(with(strategy), at, &group.done_above(at), seconds(now));
            next_leader.join(1, 1_000).expect("no limit");
            // Their keys do not matter here: none waits for another.
            (at + 1..next).for_each(|at| next_leader.push(message(at, at)));
            let again: Vec<u64> = delivered(&mut next_leader, now).into_iter().map(|(_, at)| at).collect();
            prop_assert_eq!(again, open.keys().copied().collect::<Vec<_>>());
        }
        // Whatever happened, one who acks everything gets to the end.
        for place in parking {
            group.parked(place);
            let Place::Source(at) = place else { unreachable!() };
            open.remove(&at);
        }
        members.keys().for_each(|gone| group.leave(*gone));
        group.join(consumers + 1, 2).expect("no limit");
        while let [first, ..] = group.deliver(seconds(now))[..] {
            for at in [first.message.place].into_iter().chain(group.in_flight.keys().copied().collect::<Vec<_>>()) {
                let Place::Source(at) = at else { unreachable!() };
                group.ack(consumers + 1, id(at));
                open.remove(&at);
            }
        }
        prop_assert!(open.is_empty(), "{open:?} is never delivered");
        prop_assert_eq!(group.take_left().len() as u64, next, "all have left, each once");
    }
}
