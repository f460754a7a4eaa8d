//! Counted reads.

use annals_proto::event_store::client::streams as s;
use annals_proto::event_store::client::{Empty, uuid::Value as UuidValue};
use bytes::Bytes;
use s::append_req;
use s::read_req::{Options, options as ro};
use s::read_resp::Content;
use tonic::Code;
use uuid::Uuid;

use crate::node::*;
use crate::requests::*;

#[tokio::test]
async fn a_read_that_makes_no_sense_is_an_invalid_argument() {
    let channel = shared().await;
    let stream = fresh("read");
    must_append(&channel, &stream, &events(1)).await;
    let good = forwards(&stream);
    let all = options(of_all(AllOption::Start(Empty {})));
    let place = |commit, prepare| {
        options(of_all(AllOption::Position(ro::Position { commit_position: commit, prepare_position: prepare })))
    };
    let unset = |stream_option| Options { stream_option, ..good.clone() };
    let cases = [
        ("no source", unset(None)),
        (
            "no name",
            unset(Some(ro::StreamOption::Stream(ro::StreamOptions {
                stream_identifier: None,
                revision_option: Some(RevisionOption::Start(Empty {})),
            }))),
        ),
        (
            "no start in a stream",
            unset(Some(ro::StreamOption::Stream(ro::StreamOptions {
                stream_identifier: identifier(&stream),
                revision_option: None,
            }))),
        ),
        ("no start in the log", unset(Some(ro::StreamOption::All(ro::AllOptions { all_option: None })))),
        ("no count", Options { count_option: None, ..good.clone() }),
        ("no filter option", Options { filter_option: None, ..good.clone() }),
        ("no form of ids", Options { uuid_option: None, ..good.clone() }),
        ("an unknown direction", Options { read_direction: 5, ..good.clone() }),
        ("a negative direction", Options { read_direction: i32::MIN, ..good.clone() }),
        ("an empty name", forwards("")),
        ("a name with a NUL", forwards("a\0")),
        ("a name of a megabyte", forwards(&"x".repeat(1 << 20))),
        ("a revision of 64 bits", from_revision(&stream, 1 << 63)),
        ("a revision below the end", from_revision(&stream, u64::MAX - 1)),
        ("a commit position below the prepare position", place(1, 2)),
        ("a position of 64 bits", place(1 << 63, 1 << 63)),
        ("a position below the end", place(u64::MAX - 1, u64::MAX - 1)),
        ("a filter on a stream", filtered(good.clone(), by_prefix("a"))),
        ("a subscription backwards", Options { read_direction: 1, ..subscribing(good.clone()) }),
        ("a subscription to the log backwards", Options { read_direction: 1, ..subscribing(all.clone()) }),
        ("a filter on nothing", filtered(all.clone(), ro::FilterOptions { filter: None, ..by_prefix("a") })),
        ("a filter without a window", filtered(all.clone(), ro::FilterOptions { window: None, ..by_prefix("a") })),
        ("a regular expression that is none", filtered(all.clone(), by_type("(unclosed"))),
        ("a regular expression of 100 KB", filtered(all.clone(), by_type(&"a".repeat(100_000)))),
        ("a regular expression that explodes in size", filtered(all.clone(), by_type("((((a{100}){100}){100}){100}"))),
        (
            "an index and more",
            filtered(all.clone(), {
                let mut filter = by_prefix("$idx-all");
                if let Some(ro::filter_options::Filter::StreamIdentifier(expression)) = &mut filter.filter {
                    expression.prefix.push("a".to_owned());
                }
                filter
            }),
        ),
        (
            "a checkpoint interval of 0",
            filtered(
                subscribing(all.clone()),
                ro::FilterOptions { checkpoint_interval_multiplier: 0, ..by_prefix("a") },
            ),
        ),
    ];
    for (what, options) in cases {
        let status = read(&channel, options).await.expect_err(what);
        assert_eq!(status.code(), Code::InvalidArgument, "{what}: {status}");
        assert!(status.metadata().contains_key("annals-as-of"), "{what}");
    }
    let status = streams(&channel).read(s::ReadReq { options: None }).await.expect_err("no options");
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_serving(&channel).await;
}

#[tokio::test]
async fn an_expression_that_explodes_ends_the_read_and_nothing_else() {
    let channel = shared().await;
    must_append(&channel, &fresh("x"), &[event(&"a".repeat(500))]).await;
    let filter = by_type(r"^(?=((a+)+)+$)\1b(?!c)");
    let all = options(of_all(AllOption::Start(Empty {})));
    if let Err(status) = read(&channel, filtered(all, filter)).await {
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
    assert_serving(&channel).await;
}

#[tokio::test]
async fn a_stream_is_read_from_every_place_in_both_directions() {
    let channel = shared().await;
    let stream = fresh("places");
    must_append(&channel, &stream, &events(10)).await;
    let all: Vec<u64> = (0..10).collect();
    let down = |from: u64| -> Vec<u64> { (0..=from).rev().collect() };
    let back = |from: RevisionOption| Options { read_direction: 1, ..options(of_stream(&stream, from)) };
    for (what, options, expected) in [
        ("all", forwards(&stream), all.clone()),
        ("backwards", backwards(&stream), down(9)),
        ("from 4", from_revision(&stream, 4), (4..10).collect()),
        ("from 4 backwards", back(RevisionOption::Revision(4)), down(4)),
        ("from the start backwards", back(RevisionOption::Start(Empty {})), vec![0]),
        ("from beyond the end", from_revision(&stream, 10), vec![]),
        ("from far beyond the end", from_revision(&stream, i64::MAX as u64), vec![]),
        ("from beyond the end backwards", back(RevisionOption::Revision(1000)), down(9)),
        ("from the end", options(of_stream(&stream, RevisionOption::End(Empty {}))), vec![]),
        ("the largest number", from_revision(&stream, u64::MAX), vec![]),
        ("the largest number backwards", back(RevisionOption::Revision(u64::MAX)), down(9)),
        ("none", limited(forwards(&stream), 0), vec![]),
        ("one", limited(forwards(&stream), 1), vec![0]),
        ("three backwards", limited(backwards(&stream), 3), vec![9, 8, 7]),
    ] {
        let answers = read(&channel, options.clone()).await.expect(what);
        assert_eq!(revisions(&answers), expected, "{what}");
        assert_eq!(answers.len(), expected.len(), "{what}: nothing but events for a client that announced nothing");
        let answers = read(&channel, compatible(options)).await.expect(what);
        assert_eq!(answers.last(), Some(&Content::LastStreamPosition(9)), "{what}");
        assert_eq!(answers.len(), expected.len() + 1, "{what}");
    }
}

#[tokio::test]
async fn many_pages_are_one_read() {
    let channel = shared().await;
    let stream = fresh("pages");
    for _ in 0..5 {
        must_append(&channel, &stream, &events(500)).await;
    }
    let all: Vec<u64> = (0..2500).collect();
    assert_eq!(revisions(&read(&channel, forwards(&stream)).await.expect("readable")), all);
    let down: Vec<u64> = (0..2500).rev().collect();
    assert_eq!(revisions(&read(&channel, backwards(&stream)).await.expect("readable")), down);
    assert_eq!(revisions(&read(&channel, limited(forwards(&stream), 1001)).await.expect("readable")), all[..1001]);

    let large = fresh("large-pages");
    let megabyte = || append_req::ProposedMessage { data: Bytes::from(vec![1; 1 << 20]), ..event("T") };
    must_append(&channel, &large, &(0..10).map(|_| megabyte()).collect::<Vec<_>>()).await;
    assert_eq!(revisions(&read(&channel, forwards(&large)).await.expect("readable")), (0..10).collect::<Vec<_>>());
    let links: Vec<_> = (0..10).map(|n| link(n, &large)).collect();
    let links_to = fresh("large-links");
    must_append(&channel, &links_to, &links).await;
    let resolved = read(&channel, resolving(forwards(&links_to))).await.expect("readable");
    assert_eq!(revisions(&resolved), (0..10).collect::<Vec<_>>(), "small links to large events are paged too");
    assert!(
        events_of(&resolved).iter().all(|event| event.event.as_ref().is_some_and(|event| event.data.len() == 1 << 20))
    );
}

#[tokio::test]
async fn a_missing_or_deleted_stream_is_one_message() {
    let channel = shared().await;
    let (missing, deleted, described) = (fresh("missing"), fresh("deleted"), fresh("described"));
    must_append(&channel, &deleted, &events(3)).await;
    delete(&channel, &deleted).await.expect("deleted");
    must_append(&channel, &format!("$${described}"), &[metadata_event(r#"{"$maxCount":1}"#)]).await;
    for stream in [&missing, &deleted, &described, "$ce-nobodys", "$mem-gossip"] {
        for options in [
            forwards(stream),
            backwards(stream),
            compatible(forwards(stream)),
            from_revision(stream, 7),
            limited(forwards(stream), 0),
        ] {
            let answers = read(&channel, options).await.expect("OK");
            let [Content::StreamNotFound(found)] = answers.as_slice() else { panic!("{stream}: {answers:?}") };
            assert_eq!(found.stream_identifier, identifier(stream));
        }
    }
    must_append(&channel, &deleted, &events(2)).await;
    assert_eq!(revisions(&read(&channel, forwards(&deleted)).await.expect("readable")), [3, 4], "it comes back");
}

#[tokio::test]
async fn truncation_hides_and_tells_compatible_clients_where_to_go_on() {
    let channel = shared().await;
    let stream = fresh("truncated");
    let metastream = format!("$${stream}");
    must_append(&channel, &stream, &events(100)).await;
    must_append(&channel, &metastream, &[metadata_event(r#"{"$maxCount":10}"#)]).await;
    assert_eq!(revisions(&read(&channel, forwards(&stream)).await.expect("readable")), (90..100).collect::<Vec<_>>());
    assert_eq!(revisions(&read(&channel, limited(from_revision(&stream, 5), 2)).await.expect("readable")), [90, 91]);

    let answers = read(&channel, compatible(forwards(&stream))).await.expect("readable");
    assert_eq!(answers.first(), Some(&Content::FirstStreamPosition(90)));
    assert_eq!(answers.last(), Some(&Content::LastStreamPosition(99)));
    let answers = read(&channel, compatible(from_revision(&stream, 80))).await.expect("readable");
    assert!(matches!(answers.first(), Some(Content::Event(_))), "the first page reaches what is visible");
    let answers = read(&channel, compatible(limited(from_revision(&stream, 80), 5))).await.expect("readable");
    assert_eq!(answers.first(), Some(&Content::FirstStreamPosition(90)), "the first page is no larger than the count");
    let answers = read(&channel, compatible(backwards(&stream))).await.expect("readable");
    assert!(matches!(answers.first(), Some(Content::Event(_))));

    must_append(&channel, &metastream, &[metadata_event(r#"{"$tb":500}"#)]).await;
    assert_eq!(read(&channel, forwards(&stream)).await.expect("it exists and is empty"), []);
    assert_eq!(read(&channel, compatible(forwards(&stream))).await.expect("empty"), [Content::LastStreamPosition(99)]);
    assert_eq!(
        revisions(&read(&channel, forwards(&metastream)).await.expect("readable")),
        [1],
        "the newest metadata only"
    );
    assert_eq!(revisions(&read(&channel, backwards(&metastream)).await.expect("readable")), [1]);
}

#[tokio::test]
async fn an_event_comes_back_with_everything_that_clients_insist_on() {
    let channel = shared().await;
    let stream = fresh("exact");
    let sent =
        append_req::ProposedMessage { custom_metadata: Bytes::from_static(b"\x00meta"), ..event("Größe geändert") };
    let position = must_append(&channel, &stream, std::slice::from_ref(&sent)).await;
    let answers = read(&channel, forwards(&stream)).await.expect("readable");
    let event = events_of(&answers)[0];
    assert_eq!(event.position, Some(s::read_resp::read_event::Position::CommitPosition(position)));
    assert!(event.link.is_none());
    let recorded = event.event.as_ref().expect("set");
    assert_eq!((recorded.commit_position, recorded.prepare_position), (position, position));
    assert_eq!((&recorded.id, &recorded.data), (&sent.id, &sent.data));
    assert_eq!(recorded.custom_metadata, sent.custom_metadata);
    assert_eq!(recorded.stream_identifier, identifier(&stream));
    let mut keys: Vec<_> = recorded.metadata.keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["content-type", "created", "type"]);
    assert_eq!(
        (recorded.metadata["type"].as_str(), recorded.metadata["content-type"].as_str()),
        ("Größe geändert", "application/json")
    );
    let ticks: u64 = recorded.metadata["created"].parse().expect("Go exits otherwise");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    assert!(ticks / 10_000_000 <= now && ticks / 10_000_000 + 60 > now, "ticks of 100 ns since 1970: {ticks}");

    for content in [None, Some(ro::uuid_option::Content::Structured(Empty {}))] {
        let options = Options { uuid_option: Some(ro::UuidOption { content }), ..forwards(&stream) };
        let answers = read(&channel, options).await.expect("readable");
        let recorded = original(events_of(&answers)[0]).id.clone().and_then(|id| id.value).expect("set");
        let UuidValue::Structured(halves) = recorded else { panic!("structured ids were asked for") };
        let id = Uuid::from_u64_pair(halves.most_significant_bits as u64, halves.least_significant_bits as u64);
        assert_eq!(id.to_string(), id_of(&sent));
    }
}

#[tokio::test]
async fn the_log_is_read_inclusively_forwards_and_exclusively_backwards() {
    let channel = shared().await;
    let (a, b) = (fresh("all"), fresh("all"));
    let first = must_append(&channel, &a, &events(1)).await;
    for n in 0..10 {
        must_append(&channel, if n % 2 == 0 { &b } else { &a }, &events(1)).await;
    }
    let forwards = positions(&read(&channel, limited(options(of_all(at(first))), 5)).await.expect("readable"));
    assert_eq!(forwards, (first..first + 5).collect::<Vec<_>>(), "positions are dense");
    let back = |from| Options { read_direction: 1, ..limited(options(of_all(from)), 3) };
    assert_eq!(
        positions(&read(&channel, back(at(first + 5))).await.expect("readable")),
        [first + 4, first + 3, first + 2]
    );
    assert_eq!(positions(&read(&channel, back(at(1))).await.expect("readable")), [] as [u64; 0]);
    assert_eq!(positions(&read(&channel, back(AllOption::Start(Empty {}))).await.expect("readable")), [] as [u64; 0]);
    let newest = positions(&read(&channel, back(at(u64::MAX))).await.expect("readable"));
    assert!(newest[0] >= first + 10);
    let from_start = limited(options(of_all(AllOption::Start(Empty {}))), 1);
    assert_eq!(positions(&read(&channel, from_start.clone()).await.expect("readable")), [1]);
    assert_eq!(positions(&read(&channel, limited(options(of_all(at(0))), 1)).await.expect("readable")), [1]);
    let answers = read(&channel, compatible(from_start)).await.expect("readable");
    assert_eq!(answers.len(), 1, "the log has no last stream position");
    for beyond in [options(of_all(at(1 << 40))), options(of_all(AllOption::End(Empty {})))] {
        assert_eq!(read(&channel, beyond).await.expect("nothing"), []);
    }
}

#[tokio::test]
async fn a_filtered_read_counts_matches() {
    let channel = shared().await;
    let (category, event_type) = (word("cat"), word("Type"));
    let mut first = None;
    for n in 0..40 {
        let position = must_append(&channel, &format!("{category}-{n}"), &[event(&event_type), event("Noise")]).await;
        first.get_or_insert(position - 1);
    }
    let from = || options(of_all(at(first.expect("set"))));
    let by_category = read(&channel, filtered(from(), by_prefix(&format!("{category}-")))).await.expect("readable");
    assert_eq!(by_category.len(), 80);
    let matches = read(&channel, filtered(from(), by_type(&format!("^{event_type}$")))).await.expect("readable");
    assert_eq!(matches.len(), 40);
    let five = read(&channel, filtered(limited(from(), 5), by_type(&event_type))).await.expect("readable");
    assert_eq!(five, matches[..5]);
    let back = Options { read_direction: 1, ..limited(options(of_all(AllOption::End(Empty {}))), 5) };
    let mut back = read(&channel, filtered(back, by_type(&event_type))).await.expect("readable");
    back.reverse();
    assert_eq!(back, matches[35..]);
    assert_eq!(read(&channel, filtered(from(), by_type(&word("Nothing")))).await.expect("readable"), []);
    let zero = ro::FilterOptions { checkpoint_interval_multiplier: 0, ..by_type(&event_type) };
    assert_eq!(read(&channel, filtered(from(), zero)).await.expect(".NET sends 0").len(), 40);
}

#[tokio::test]
async fn links_lead_to_what_is_visible_and_to_nothing_else() {
    let channel = shared().await;
    let [live, deleted, dead, cut] = ["live", "deleted", "dead", "cut"].map(fresh);
    for stream in [&live, &deleted, &dead, &cut] {
        must_append(&channel, stream, &events(3)).await;
    }
    delete(&channel, &deleted).await.expect("deleted");
    tombstone(&channel, &dead).await.expect("ended");
    must_append(&channel, &format!("$${cut}"), &[metadata_event(r#"{"$tb":2}"#)]).await;
    let links = fresh("links");
    let nonsense = append_req::ProposedMessage { data: Bytes::from_static(b"\xffnonsense"), ..link(0, "x") };
    let written = [
        link(1, &live),
        link(0, &deleted),
        link(0, &dead),
        link(i64::MAX as u64, &dead),
        link(1, &cut),
        link(2, &cut),
        link(7, &live),
        link(0, &fresh("nowhere")),
        nonsense,
    ];
    must_append(&channel, &links, &written).await;
    let answers = read(&channel, resolving(forwards(&links))).await.expect("readable");
    let resolved: Vec<bool> = events_of(&answers).iter().map(|event| event.event.is_some()).collect();
    assert_eq!(resolved, [true, false, false, false, false, true, false, false, false]);
    for (n, event) in events_of(&answers).into_iter().enumerate() {
        let link = event.link.as_ref().expect("the link is always there");
        assert_eq!((link.stream_revision, link.metadata["type"].as_str()), (n as u64, "$>"));
        assert_eq!(event.position, Some(s::read_resp::read_event::Position::CommitPosition(link.commit_position)));
        if let Some(target) = &event.event {
            assert!(target.commit_position < link.commit_position, "each has its own place");
        }
    }
    let plain = read(&channel, forwards(&links)).await.expect("readable");
    assert!(events_of(&plain).iter().all(|event| event.link.is_none() && event.event.is_some()));
}

#[tokio::test]
async fn an_index_is_a_stream_of_links() {
    let channel = shared().await;
    let category = word("category");
    let (a, b) = (format!("{category}-a"), format!("{category}-b"));
    must_append(&channel, &a, &events(2)).await;
    must_append(&channel, &b, &events(1)).await;
    let last = must_append(&channel, &a, &events(1)).await;
    let index = format!("$ce-{category}");

    let plain = read(&channel, compatible(forwards(&index))).await.expect("readable");
    assert_eq!(plain.last(), Some(&Content::LastStreamPosition(3)));
    assert_eq!(revisions(&plain), [0, 1, 2, 3]);
    let data: Vec<_> = events_of(&plain).iter().map(|event| original(event).data.clone()).collect();
    assert_eq!(data, [format!("0@{a}"), format!("1@{a}"), format!("0@{b}"), format!("2@{a}")]);
    for event in events_of(&plain) {
        assert_eq!(original(event).stream_identifier, identifier(&index));
        assert_eq!(
            (original(event).metadata["type"].as_str(), original(event).metadata["content-type"].as_str()),
            ("$>", "application/octet-stream")
        );
    }
    let again = read(&channel, forwards(&index)).await.expect("readable");
    assert_eq!(ids(&again), ids(&plain), "links that nobody wrote have the same id each time");
    assert_eq!(original(events_of(&plain)[3]).commit_position, last, "they stand where their target stands");

    let resolved = read(&channel, resolving(forwards(&index))).await.expect("readable");
    let targets: Vec<_> = events_of(&resolved)
        .iter()
        .map(|event| event.event.as_ref().expect("resolved").stream_identifier.clone())
        .collect();
    assert_eq!(targets, [identifier(&a), identifier(&a), identifier(&b), identifier(&a)]);
    assert_eq!(ids(&resolved), ids(&plain), "resolved or not, it is the same link");

    assert_eq!(revisions(&read(&channel, backwards(&index)).await.expect("readable")), [3, 2, 1, 0]);
    assert_eq!(revisions(&read(&channel, limited(from_revision(&index, 1), 2)).await.expect("readable")), [1, 2]);
    assert_eq!(revisions(&read(&channel, from_revision(&index, 4)).await.expect("readable")), [] as [u64; 0]);

    delete(&channel, &a).await.expect("deleted");
    let resolved = read(&channel, resolving(forwards(&index))).await.expect("readable");
    let visible: Vec<bool> = events_of(&resolved).iter().map(|event| event.event.is_some()).collect();
    assert_eq!(visible, [false, false, true, false], "the links stay");
}

#[tokio::test]
async fn an_index_is_read_as_a_selection_of_the_log() {
    let channel = shared().await;
    let category = word("selected");
    let mut wanted = Vec::new();
    for n in 0..5 {
        wanted.push(must_append(&channel, &format!("{category}-{n}"), &events(1)).await);
        must_append(&channel, &fresh("noise"), &events(1)).await;
    }
    let all = |from| options(of_all(from));
    let index = || by_prefix(&format!("$idx-ce-{category}"));
    let answers = read(&channel, filtered(all(AllOption::Start(Empty {})), index())).await.expect("readable");
    assert_eq!(positions(&answers), wanted);
    assert!(events_of(&answers).iter().all(|event| event.link.is_none()), "the events themselves");
    let answers = read(&channel, filtered(all(at(wanted[2])), index())).await.expect("readable");
    assert_eq!(positions(&answers), wanted[2..]);
    let answers = read(&channel, filtered(all(at(wanted[2] - 1)), index())).await.expect("readable");
    assert_eq!(positions(&answers), wanted[2..]);
    let back = Options { read_direction: 1, ..all(at(wanted[2])) };
    assert_eq!(positions(&read(&channel, filtered(back, index())).await.expect("readable")), [wanted[1], wanted[0]]);
    for unknown in [format!("$idx-ce-{}", word("nobodys")), "$idx-user-x".to_owned(), "$idx-".to_owned()] {
        let status =
            read(&channel, filtered(all(AllOption::Start(Empty {})), by_prefix(&unknown))).await.expect_err("unknown");
        assert_eq!(status.code(), Code::NotFound);
        assert_eq!(
            (trailer(&status, "exception"), trailer(&status, "index-name")),
            (Some("index-not-found"), Some(unknown.as_str()))
        );
    }
    let from = limited(all(at(wanted[0])), 3);
    assert_eq!(read(&channel, filtered(from, by_prefix("$idx-all"))).await.expect("readable").len(), 3);
}
