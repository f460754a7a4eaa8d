//! Messages that are no messages, or more than they look like. Written field by
//! field, because no encoder makes them.

use crate::Shape;
use crate::call::{
    APPEND, BATCH, Call, DELETE, GROUPS, INVALID_ARGUMENT, READ, RECORDS, RESOURCE_EXHAUSTED, SESSION, TOMBSTONE,
};
use crate::victim::Victim;

pub(crate) const SHAPES: &[Shape] = &[
    ("bytes that are no message", no_message),
    ("deep nesting", deep_nesting),
    ("deep nesting of groups", nested_groups),
    ("unknown fields of 4 MiB", unknown_fields),
    ("packed numbers that overflow", packed),
    ("text that is no UTF-8", no_utf8),
    ("nothing where something must be", missing),
    ("one of several, all of them", all_of_a_oneof),
    ("lengths beyond the end", beyond_the_end),
    ("field numbers that cannot be", field_numbers),
    ("wire types that are wrong", wire_types),
    ("millions of empty parts", empty_parts),
    ("millions of empty values", empty_values),
];

/// Every method that a client may call with a message of its own.
fn methods() -> Vec<String> {
    let groups = ["Create", "Update", "Delete", "Read", "GetInfo", "ReplayParked", "TruncateParked", "List"];
    let cluster = ["AddNode", "Promote", "Remove", "Hash", "ListStreams"];
    [APPEND, BATCH, READ, DELETE, TOMBSTONE, RECORDS, SESSION]
        .into_iter()
        .map(str::to_owned)
        .chain(groups.map(|method| format!("{GROUPS}/{method}")))
        .chain(cluster.map(|method| format!("/annals.v1.Cluster/{method}")))
        .collect()
}

/// Sends a message to every method. Each answers, none with success where `must_fail`.
fn to_all(victim: &Victim, message: &[u8], must_fail: bool) {
    for path in methods() {
        // Without a deadline a consumer that names no group would wait to be told.
        let answer = Call::to(&path).with("grpc-timeout", b"5S").raw(message).answer(victim.port);
        if must_fail {
            answer.is_no_success();
        }
    }
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 128 {
        bytes.push(u8::try_from(number % 128).expect("below 128") | 128);
        number /= 128;
    }
    bytes.push(u8::try_from(number).expect("below 128"));
    bytes
}

/// A field of this number that holds bytes.
fn part(number: u64, content: &[u8]) -> Vec<u8> {
    [varint(number << 3 | 2), varint(content.len() as u64), content.to_vec()].concat()
}

/// A field of this number that holds a number.
fn number(field: u64, value: u64) -> Vec<u8> {
    [varint(field << 3), varint(value)].concat()
}

fn no_message(victim: &Victim) {
    for bytes in [&[0xff; 11][..], &[0xff; 10_000], &[0x80; 20]] {
        to_all(victim, bytes, true);
    }
}

fn deep_nesting(victim: &Victim) {
    // A part in a part in a part, of every number that some message nests by.
    for field in 1..=9 {
        let mut nested = Vec::new();
        while nested.len() < 60_000 {
            nested = part(field, &nested);
        }
        to_all(victim, &nested, false);
    }
    // properties of a record: a struct of a struct of a struct.
    let mut value = number(4, 1);
    for _ in 0..3_000 {
        value = part(5, &part(1, &[part(1, b"a"), part(2, &value)].concat()));
    }
    let property = part(2, &[part(1, b"p"), part(2, &value)].concat());
    let record = [property, part(3, &[part(1, b"T"), number(2, 1)].concat()), part(5, b"nested-1")].concat();
    Call::to(RECORDS).raw(&part(1, &record)).answer(victim.port).is(&[INVALID_ARGUMENT, "13"]);
}

fn nested_groups(victim: &Victim) {
    // Field 100 as a group that begins again and again, and never ends.
    for field in [1, 100] {
        to_all(victim, &varint(field << 3 | 3).repeat(30_000), true);
    }
}

fn unknown_fields(victim: &Victim) {
    let large = part(1_000, &vec![7; (4 << 20) - 100]);
    let many = number(1_001, 5).repeat(500_000);
    for message in [large, many] {
        to_all(victim, &message, false);
    }
}

fn packed(victim: &Victim) {
    // Numbers of eleven bytes, and one that claims more than there is.
    for content in [vec![0xff; 11], vec![0x80; 1_000], vec![0xff; 100_000]] {
        for field in 1..=6 {
            to_all(victim, &part(field, &content), false);
        }
    }
}

fn no_utf8(victim: &Victim) {
    // Text of a filter, a group, a record, an address.
    let expression = part(1, &part(7, &part(1, &part(1, b"\xff\xfe\x80"))));
    Call::to(READ).raw(&expression).answer(victim.port).is_no_success();
    let group = part(1, &[part(1, &part(3, b"s")), part(2, b"\xff")].concat());
    Call::to(&format!("{GROUPS}/Delete")).raw(&group).answer(victim.port).is_no_success();
    let record = part(1, &part(5, b"\xc0\xaf"));
    Call::to(RECORDS).raw(&record).answer(victim.port).is_no_success();
    Call::to("/annals.v1.Cluster/AddNode").raw(&part(1, b"\xff:1")).answer(victim.port).is_no_success();
}

fn missing(victim: &Victim) {
    for path in methods() {
        // A hash of everything, and a list of all streams, need nothing to be said.
        let needs_nothing = path.ends_with("/Hash") || path.ends_with("/ListStreams") || path.ends_with(BATCH);
        for message in [&[][..], &part(1, &[]), &part(2, &[])] {
            let answer = Call::to(&path).with("grpc-timeout", b"5S").raw(message).answer(victim.port);
            if !needs_nothing {
                answer.is_no_success();
            }
        }
    }
}

fn all_of_a_oneof(victim: &Victim) {
    let stream = part(1, &[part(1, &part(3, b"canary-1")), part(3, &[])].concat());
    let all = part(2, &part(2, &[]));
    // The last one counts: a number of events, not a subscription.
    let options = [stream, all, part(6, &[]), part(7, &[]), part(8, &[]), part(9, &[]), number(5, 1)].concat();
    for options in [options.clone(), options.repeat(2_000)] {
        Call::to(READ).raw(&part(1, &options)).answer(victim.port);
    }
}

fn beyond_the_end(victim: &Victim) {
    for length in [2, 1 << 20, 1 << 31, 1 << 32, u64::MAX] {
        for field in [1, 2, 3] {
            to_all(victim, &[varint(field << 3 | 2), varint(length), vec![1]].concat(), true);
        }
    }
}

fn field_numbers(victim: &Victim) {
    for key in [0, 2, u64::from(u32::MAX) + 8, u64::MAX] {
        to_all(victim, &[varint(key), vec![0, 0]].concat(), true);
    }
}

fn wire_types(victim: &Victim) {
    for field in 1..=3_u64 {
        for wire_type in [0, 1, 5, 6, 7] {
            to_all(victim, &[varint(field << 3 | wire_type), vec![0; 3]].concat(), false);
        }
    }
}

/// Sixteen megabytes of two bytes each, of which every one would become a message
/// in memory of a hundred times its size.
fn empty_parts(victim: &Victim) {
    let before = victim.resident();
    for (path, field) in [(BATCH, 3), (RECORDS, 1), (RECORDS, 2), (SESSION, 3)] {
        let answer = Call::to(path).raw(&part(field, &[]).repeat(8_000_000)).answer(victim.port);
        answer.is(&[INVALID_ARGUMENT, RESOURCE_EXHAUSTED]);
    }
    let ids = part(1, &[]).repeat(2_000_000);
    Call::to(&format!("{GROUPS}/Read")).with("grpc-timeout", b"5S").raw(&part(2, &ids)).answer(victim.port);
    let prefixes = part(1, &part(7, &part(1, &part(2, &[]).repeat(4_000_000))));
    Call::to(READ).raw(&prefixes).answer(victim.port).is(&[INVALID_ARGUMENT, RESOURCE_EXHAUSTED]);
    let grown = victim.resident().saturating_sub(before) / 1024;
    assert!(grown < 512, "{grown} MiB for messages of 16 MiB");
}

/// The same deeper inside: a list of values, fields of a struct, of metadata.
fn empty_values(victim: &Victim) {
    let list = part(6, &part(1, &[]).repeat(4_000_000));
    let record = part(2, &[part(1, b"p"), part(2, &list)].concat());
    Call::to(RECORDS).raw(&part(1, &record)).answer(victim.port).is(&[INVALID_ARGUMENT, RESOURCE_EXHAUSTED]);
    let metadata: Vec<u8> =
        (0..1_000_000_u32).flat_map(|key| part(2, &part(1, &key.to_be_bytes().map(|byte| byte & 0x7f)))).collect();
    let append = Call::to(APPEND).raw(&part(1, &[part(1, &part(3, b"values-1")), part(4, &[])].concat()));
    append.raw(&part(2, &metadata)).answer(victim.port).is(&[INVALID_ARGUMENT, RESOURCE_EXHAUSTED]);
}
