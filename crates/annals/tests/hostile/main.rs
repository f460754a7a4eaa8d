//! What no client sends: bytes, frames, headers, messages and values that are
//! wrong, too many or too large, in the shapes of the security reference.
//!
//! Each *shape* is one function that attacks a real node. After each of them the
//! node must be as it was ([`victim::Victim::survives`]): it serves those who
//! behave, who never waited a second; it has given the memory back; its log tells
//! of no panic. When a family is through, the node stops in order and its files
//! are verified.
//!
//! | family | what is wrong |
//! |---|---|
//! | [`http2`] | frames and floods, by a client that builds each frame by hand |
//! | [`http1`] | bytes that are no HTTP/2: other protocols, slow and large heads |
//! | [`grpc`] | lengths, flags, headers, deadlines of calls |
//! | [`protobuf`] | messages: nesting, lengths, what is missing, what there is too much of |
//! | [`values`] | numbers and ids at their ends, filters that explode |
//! | [`names`] | names of streams |
//! | [`ports`] | what operators and nodes use, in the hands of others |
//! | [`operators`] | cluster, maintenance, logs, backup and import: nonsense, too much, slowly, by nobody |
//!
//! Passwords and tokens are [`secrets`]' matter. Shapes of their own for users and
//! certificates belong here as families of their own once there are such.

#[path = "../support/mod.rs"]
mod support;

mod call;
mod grpc;
mod http1;
mod http2;
mod limits;
mod names;
mod operators;
mod ports;
mod protobuf;
mod raw;
mod secrets;
mod slow;
mod values;
mod victim;

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use victim::Victim;

/// An attack, by the name under which it is told.
pub(crate) type Shape = (&'static str, fn(&Victim));

/// One family at a time: the canary measures the node, not the other tests.
static TURN: Mutex<()> = Mutex::new(());

fn withstands(family: &str, shapes: &[Shape]) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut victim = Victim::start(&[]);
    for (name, attack) in shapes {
        let begun = Instant::now();
        attack(&victim);
        let attacked = begun.elapsed();
        let told = victim.survives(name);
        println!("{family}: {name}: {:.1} s, {told}", attacked.as_secs_f64());
    }
    victim.finish();
}

#[test]
fn a_node_withstands_http2() {
    withstands("http2", http2::SHAPES);
}

#[test]
fn a_node_withstands_what_is_no_http2() {
    withstands("http1", http1::SHAPES);
}

#[test]
fn a_node_withstands_calls() {
    withstands("grpc", grpc::SHAPES);
}

#[test]
fn a_node_withstands_messages() {
    withstands("protobuf", protobuf::SHAPES);
}

#[test]
fn a_node_withstands_values() {
    withstands("values", values::SHAPES);
}

#[test]
fn a_node_withstands_names() {
    withstands("names", names::SHAPES);
}

#[test]
fn a_node_withstands_strangers_at_its_other_services() {
    withstands("ports", ports::SHAPES);
}

#[test]
fn a_node_withstands_what_operators_never_send() {
    withstands("operators", operators::SHAPES);
}

#[test]
fn there_are_as_many_shapes_as_the_reference_wants() {
    let families = [
        http2::SHAPES,
        http1::SHAPES,
        grpc::SHAPES,
        protobuf::SHAPES,
        values::SHAPES,
        names::SHAPES,
        ports::SHAPES,
        operators::SHAPES,
    ];
    let mut names: Vec<&str> = families.iter().flat_map(|shapes| shapes.iter().map(|(name, _)| *name)).collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all, "each has a name of its own");
    assert!(all >= 45, "{all}");
}
