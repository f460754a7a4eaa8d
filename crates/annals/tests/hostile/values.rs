//! Requests that are well-formed, with numbers, ids and filters at their ends.

use annals_proto::event_store::client::streams::append_req::options::ExpectedStreamRevision;
use annals_proto::event_store::client::streams::append_req::proposed_message::MetadataEntry;
use annals_proto::event_store::client::streams::append_req::{self, ProposedMessage};
use annals_proto::event_store::client::streams::batch_append_req;
use annals_proto::event_store::client::streams::read_req::Options;
use annals_proto::event_store::client::streams::read_req::options::filter_options::{Expression, Filter, Window};
use annals_proto::event_store::client::streams::read_req::options::{
    AllOptions, CountOption, FilterOption, FilterOptions, Position, StreamOption, StreamOptions, SubscriptionOptions,
    UuidOption, all_options, stream_options,
};
use annals_proto::event_store::client::streams::{AppendReq, BatchAppendReq, ReadReq};
use annals_proto::event_store::client::{Empty, StreamIdentifier, Uuid as WireUuid, uuid as wire_uuid};
use bytes::Bytes;
use prost::Message as _;
use uuid::Uuid;

use crate::Shape;
use crate::call::{APPEND, BATCH, Call, INVALID_ARGUMENT, OK, READ, framed};
use crate::victim::Victim;

pub(crate) const SHAPES: &[Shape] = &[
    ("revisions and positions at their ends", places),
    ("counts of nothing and of everything", counts),
    ("directions and options out of range", out_of_range),
    ("ids that are empty, nil or no ids", ids),
    ("the same id many times in one append", same_id),
    ("expected revisions that cannot be", expectations),
    ("deadlines of batches", batch_deadlines),
    ("expressions that explode", regexes),
    ("prefixes by the thousand, and long ones", prefixes),
    ("windows of nothing and of everything", windows),
    ("metadata and data at their ends", contents),
];

/// An append of one event.
pub(crate) fn append(stream: &str, id: Uuid, data: &[u8]) -> Call {
    append_to(stream.as_bytes(), id, data)
}

/// The same to a stream whose name may be none.
pub(crate) fn append_to(stream: &[u8], id: Uuid, data: &[u8]) -> Call {
    let any = ExpectedStreamRevision::Any(Empty {});
    Call::to(APPEND).message(&append_options(stream, Some(any))).message(&event(id.to_string(), "T", data))
}

fn append_options(stream: &[u8], expected: Option<ExpectedStreamRevision>) -> AppendReq {
    let stream_identifier = Some(StreamIdentifier { stream_name: stream.to_vec().into() });
    let options = append_req::Options { stream_identifier, expected_stream_revision: expected };
    AppendReq { content: Some(append_req::Content::Options(options)) }
}

fn event(id: String, event_type: &str, data: &[u8]) -> AppendReq {
    let message = ProposedMessage {
        id: Some(WireUuid { value: Some(wire_uuid::Value::String(id)) }),
        metadata: vec![
            MetadataEntry::new("type", event_type.to_owned()),
            MetadataEntry::new("content-type", "application/json"),
        ],
        custom_metadata: Bytes::new(),
        data: data.to_vec().into(),
    };
    AppendReq { content: Some(append_req::Content::ProposedMessage(message)) }
}

fn options() -> Options {
    Options {
        read_direction: 0,
        resolve_links: false,
        uuid_option: Some(UuidOption { content: None }),
        control_option: None,
        stream_option: Some(StreamOption::All(AllOptions {
            all_option: Some(all_options::AllOption::Start(Empty {})),
        })),
        count_option: Some(CountOption::Count(10)),
        filter_option: Some(FilterOption::NoFilter(Empty {})),
    }
}

fn read(options: Options) -> Call {
    Call::to(READ).message(&ReadReq { options: Some(options) })
}

/// A read of the first events of all.
pub(crate) fn read_all_call() -> Call {
    read(options())
}

/// A read of a stream whose name may be none.
pub(crate) fn read_stream(name: &[u8]) -> Call {
    read(Options { stream_option: Some(stream(name, stream_options::RevisionOption::Start(Empty {}))), ..options() })
}

fn stream(name: &[u8], from: stream_options::RevisionOption) -> StreamOption {
    let stream_identifier = Some(StreamIdentifier { stream_name: name.to_vec().into() });
    StreamOption::Stream(StreamOptions { stream_identifier, revision_option: Some(from) })
}

/// The frame of a message that asks for every event.
pub(crate) fn read_everything() -> Vec<u8> {
    let options = Options { count_option: Some(CountOption::Count(u64::MAX)), ..options() };
    let message = ReadReq { options: Some(options) }.encode_to_vec();
    framed(0, u32::try_from(message.len()).expect("short"), &message).to_vec()
}

/// The frame of a message that subscribes to everything from the beginning.
pub(crate) fn subscribe_to_everything() -> Vec<u8> {
    let options = Options { count_option: Some(CountOption::Subscription(SubscriptionOptions {})), ..options() };
    let message = ReadReq { options: Some(options) }.encode_to_vec();
    framed(0, u32::try_from(message.len()).expect("short"), &message).to_vec()
}

const ENDS: [u64; 7] = [0, 1, 1 << 31, (1 << 63) - 1, 1 << 63, u64::MAX - 1, u64::MAX];

fn places(victim: &Victim) {
    for place in ENDS {
        for direction in [0, 1] {
            let from = stream_options::RevisionOption::Revision(place);
            let stream_option = Some(stream(b"canary-1", from));
            read(Options { stream_option, read_direction: direction, ..options() })
                .answer(victim.port)
                .is(&[OK, INVALID_ARGUMENT]);
            for prepare in ENDS {
                let position = Position { commit_position: place, prepare_position: prepare };
                let all_option = Some(all_options::AllOption::Position(position));
                let stream_option = Some(StreamOption::All(AllOptions { all_option }));
                read(Options { stream_option, read_direction: direction, ..options() }).answer(victim.port).is(&[
                    OK,
                    INVALID_ARGUMENT,
                    "2",
                ]);
            }
        }
    }
    // Backwards from the beginning there is the beginning, or nothing.
    read(Options { read_direction: 1, ..options() }).answer(victim.port).is(&[OK]);
}

fn counts(victim: &Victim) {
    for count in [0, u64::MAX] {
        for direction in [0, 1] {
            let stream_option = Some(stream(b"canary-1", stream_options::RevisionOption::Start(Empty {})));
            let count_option = Some(CountOption::Count(count));
            read(Options { count_option, read_direction: direction, stream_option, ..options() })
                .answer(victim.port)
                .is(&[OK]);
            read(Options { count_option, read_direction: direction, ..options() }).answer(victim.port).is(&[OK]);
        }
    }
}

fn out_of_range(victim: &Victim) {
    for direction in [2, -1, i32::MIN, i32::MAX] {
        read(Options { read_direction: direction, ..options() }).answer(victim.port).is(&[INVALID_ARGUMENT]);
    }
    let missing = [
        Options { uuid_option: None, ..options() },
        Options { stream_option: None, ..options() },
        Options { count_option: None, ..options() },
        Options { filter_option: None, ..options() },
        Options { stream_option: Some(StreamOption::All(AllOptions { all_option: None })), ..options() },
    ];
    for options in missing {
        read(options).answer(victim.port).is(&[INVALID_ARGUMENT]);
    }
    Call::to(READ).message(&ReadReq { options: None }).answer(victim.port).is(&[INVALID_ARGUMENT]);
    let backwards = Options {
        read_direction: 1,
        count_option: Some(CountOption::Subscription(SubscriptionOptions {})),
        ..options()
    };
    read(backwards).answer(victim.port).is(&[INVALID_ARGUMENT]);
}

fn ids(victim: &Victim) {
    let long = "0".repeat(100_000);
    let begin = || Call::to(APPEND).message(&append_options(b"ids-1", Some(ExpectedStreamRevision::Any(Empty {}))));
    for id in ["", "nil", "00000000-0000-0000-0000-000000000000", "{}", "urn:uuid:", &long] {
        begin().message(&event(id.to_owned(), "T", b"{}")).answer(victim.port).is(&[INVALID_ARGUMENT]);
    }
    let AppendReq { content: Some(append_req::Content::ProposedMessage(valid)) } =
        event(Uuid::new_v4().to_string(), "T", b"")
    else {
        unreachable!("as it was made")
    };
    let zero = wire_uuid::Structured { most_significant_bits: 0, least_significant_bits: 0 };
    for value in [None, Some(wire_uuid::Value::Structured(zero))] {
        let message = ProposedMessage { id: Some(WireUuid { value }), ..valid.clone() };
        let message = AppendReq { content: Some(append_req::Content::ProposedMessage(message)) };
        begin().message(&message).answer(victim.port).is(&[INVALID_ARGUMENT]);
    }
    let json = || MetadataEntry::new("content-type", "application/json");
    let not_utf8 = vec![MetadataEntry::new("type", &b"\xff"[..]), json()];
    for metadata in [vec![], vec![MetadataEntry::new("type", "")], vec![json()], not_utf8] {
        let message = ProposedMessage { metadata, ..valid.clone() };
        let message = AppendReq { content: Some(append_req::Content::ProposedMessage(message)) };
        begin().message(&message).answer(victim.port).is(&[INVALID_ARGUMENT]);
    }
}

fn same_id(victim: &Victim) {
    let id = Uuid::new_v4().to_string();
    for expected in [ExpectedStreamRevision::Any(Empty {}), ExpectedStreamRevision::NoStream(Empty {})] {
        let mut call = Call::to(APPEND).message(&append_options(b"same-1", Some(expected)));
        for _ in 0..1_000 {
            call = call.message(&event(id.clone(), "T", b"{}"));
        }
        call.answer(victim.port).is(&[OK]);
    }
}

fn expectations(victim: &Victim) {
    let with = |expected| {
        let call = Call::to(APPEND).message(&append_options(b"expected-1", expected));
        call.message(&event(Uuid::new_v4().to_string(), "T", b"{}")).answer(victim.port)
    };
    with(None).is(&[INVALID_ARGUMENT]);
    for revision in ENDS {
        with(Some(ExpectedStreamRevision::Revision(revision))).is(&[OK, INVALID_ARGUMENT]);
    }
    // Options twice, an event before options, nothing in a message.
    let valid = append_options(b"expected-1", Some(ExpectedStreamRevision::Any(Empty {})));
    Call::to(APPEND).message(&valid).message(&valid).answer(victim.port).is(&[INVALID_ARGUMENT]);
    let early = event(Uuid::new_v4().to_string(), "T", b"");
    Call::to(APPEND).message(&early).answer(victim.port).is(&[INVALID_ARGUMENT]);
    Call::to(APPEND).message(&AppendReq { content: None }).answer(victim.port).is(&[INVALID_ARGUMENT]);
}

fn batch_deadlines(victim: &Victim) {
    use batch_append_req::options::{DeadlineOption, ExpectedStreamPosition};
    let time = |seconds, nanos| prost_types::Duration { seconds, nanos };
    let stamp = |seconds, nanos| prost_types::Timestamp { seconds, nanos };
    let deadlines = [
        DeadlineOption::Deadline(time(i64::MAX, i32::MAX)),
        DeadlineOption::Deadline(time(i64::MIN, i32::MIN)),
        DeadlineOption::Deadline(time(-1, 0)),
        DeadlineOption::Deadline21100(stamp(i64::MAX, i32::MAX)),
        DeadlineOption::Deadline21100(stamp(i64::MIN, -1)),
        DeadlineOption::Deadline21100(stamp(0, 0)),
    ];
    for deadline in deadlines {
        let options = batch_append_req::Options {
            stream_identifier: Some(StreamIdentifier { stream_name: b"batch-1".to_vec().into() }),
            deadline_option: Some(deadline),
            expected_stream_position: Some(ExpectedStreamPosition::Any(())),
        };
        let batch = |correlation: Option<Uuid>| BatchAppendReq {
            correlation_id: correlation.map(|id| WireUuid { value: Some(wire_uuid::Value::String(id.to_string())) }),
            options: Some(options.clone()),
            proposed_messages: Vec::new(),
            is_final: true,
        };
        Call::to(BATCH).message(&batch(Some(Uuid::new_v4()))).answer(victim.port).is(&[OK]);
        Call::to(BATCH).message(&batch(None)).answer(victim.port).is(&[INVALID_ARGUMENT]);
        // Thousands that begin and never become final.
        let mut call = Call::to(BATCH);
        for _ in 0..2_000 {
            call = call.message(&BatchAppendReq { is_final: false, ..batch(Some(Uuid::new_v4())) });
        }
        call.answer(victim.port).is(&[OK]);
    }
}

fn filtered(filter: Filter, window: Option<Window>, multiplier: u32) -> Call {
    let filter = FilterOptions { filter: Some(filter), window, checkpoint_interval_multiplier: multiplier };
    read(Options { filter_option: Some(FilterOption::Filter(filter)), ..options() })
}

fn regexes(victim: &Victim) {
    let name = format!("explodes-{}", "a".repeat(480));
    for _ in 0..20 {
        append(&name, Uuid::new_v4(), b"{}").answer(victim.port).is(&[OK]);
    }
    let long = "a".repeat(1_025);
    for regex in [
        r"^(?=((a+)+)+$)\1b(?!c)",
        r"(?!x)(a|a)*(?<!b)c\z(?!d)",
        r"^explodes-(?!z)(a+)+$(?<=b)",
        r"(a{1,100}){1,100}(?!b)",
        r"((((((((((a{10}){10}){10}){10}){10}){10}){10}){10}){10}){10})",
        r"\pL{900}{900}",
        r"(?:[\p{L}\p{N}\p{S}]{50}){50}",
        "(",
        r"\",
        "(?P<a>x)(?P<a>y)",
        "[z-a]",
        "x{4294967296}",
        &"(".repeat(1_000),
        &"(?:a|".repeat(200),
        &long,
    ] {
        for subject in [Filter::StreamIdentifier as fn(Expression) -> Filter, Filter::EventType] {
            let expression = Expression { regex: regex.to_owned(), prefix: Vec::new() };
            let answer = filtered(subject(expression), Some(Window::Max(32)), 1).answer(victim.port);
            answer.is(&[OK, INVALID_ARGUMENT]);
            assert!(answer.text.len() < 8_192, "{}", answer.text.len());
        }
    }
}

fn prefixes(victim: &Victim) {
    let with = |prefix: Vec<String>| {
        let expression = Expression { regex: String::new(), prefix };
        filtered(Filter::StreamIdentifier(expression), Some(Window::Max(32)), 1).answer(victim.port)
    };
    with(vec![]).is(&[INVALID_ARGUMENT]);
    with(vec!["a".to_owned(); 1_001]).is(&[INVALID_ARGUMENT]);
    with(vec!["a".repeat(100_000)]).is(&[INVALID_ARGUMENT]);
    with(vec!["a".repeat(15_000); 1_000]).is(&[INVALID_ARGUMENT]);
    with(vec![String::new(); 1_000]).is(&[OK]);
    for index in ["$idx-", "$idx-user-x", "$idx-ce-", "$idx-ce-\n"] {
        with(vec![index.to_owned()]).is_no_success();
    }
}

fn windows(victim: &Victim) {
    let prefix = || Expression { regex: String::new(), prefix: vec!["canary".to_owned()] };
    for (window, multiplier) in [
        (None, 1),
        (Some(Window::Max(0)), 0),
        (Some(Window::Max(u32::MAX)), u32::MAX),
        (Some(Window::Count(Empty {})), u32::MAX),
    ] {
        filtered(Filter::StreamIdentifier(prefix()), window, multiplier)
            .answer(victim.port)
            .is(&[OK, INVALID_ARGUMENT]);
    }
}

fn contents(victim: &Victim) {
    let begin =
        || Call::to(APPEND).message(&append_options(b"contents-1", Some(ExpectedStreamRevision::Any(Empty {}))));
    let id = || Uuid::new_v4().to_string();
    let long = "t".repeat(1_025);
    for (event_type, status) in [("", INVALID_ARGUMENT), (&long, INVALID_ARGUMENT), ("\0", OK), ("a\nb", OK)] {
        begin().message(&event(id(), event_type, b"{}")).answer(victim.port).is(&[status]);
    }
    // JSON that is none is kept as it came.
    let nested = format!("{}1{}", "{\"a\":".repeat(50_000), "}".repeat(50_000));
    for data in [&b"\xff\xff"[..], b"", b"{", nested.as_bytes(), &[b'['; 1_000_000]] {
        begin().message(&event(id(), "T", data)).answer(victim.port).is(&[OK]);
    }
    read_stream(b"contents-1").answer(victim.port).is(&[OK]);
    // More events than an append may have.
    let one = event(id(), "T", b"");
    let length = u32::try_from(one.encoded_len()).expect("short");
    let many = framed(0, length, &one.encode_to_vec()).repeat(100_001);
    begin().bytes(many).answer(victim.port).is(&[INVALID_ARGUMENT]);
}
