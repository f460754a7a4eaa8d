//! What a `ReadReq` asks for, once it is known to make sense.
//!
//! The protocol allows four combinations of its oneofs (3.1); everything else
//! is an invalid argument. So is every number that cannot be a place.

use annals_core::filter::{Filter, Subject};
use annals_core::{Position, Revision, StreamName};
use annals_proto::event_store::client::streams::ReadReq;
use annals_proto::event_store::client::streams::read_req::Options;
use annals_proto::event_store::client::streams::read_req::options::filter_options::{self, Expression, Window};
use annals_proto::event_store::client::streams::read_req::options::{
    AllOptions, CountOption, FilterOption, FilterOptions, ReadDirection, StreamOption, StreamOptions, UuidOption,
    all_options::AllOption, stream_options::RevisionOption, uuid_option,
};
use annals_store::{Direction, IndexName};

use super::convert::{self, Ids};
use crate::access::Eyes;
use crate::status::Failure;

/// Events examined per step where the client leaves it to the server.
const WINDOW_DEFAULT: u32 = 32;

/// A read that can be carried out.
#[derive(Debug)]
pub(super) struct Query {
    pub(super) source: Source,
    pub(super) amount: Amount,
    pub(super) style: Style,
    /// From 1 on, the client understands stream positions among its answers.
    pub(super) compatibility: u32,
}

/// How events are to be delivered.
#[derive(Clone, Debug)]
pub(crate) struct Style {
    pub(crate) resolve_links: bool,
    pub(crate) ids: Ids,
    /// Whose links are resolved.
    pub(crate) eyes: Eyes,
}

/// How many events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Amount {
    Count {
        direction: Direction,
        count: u64,
    },
    /// All there are and will be. Always forwards.
    Subscription,
}

/// From where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start<T> {
    Beginning,
    /// Inclusive or not depending on the kind of read (protocol 3.2).
    At(T),
    End,
}

/// Of what.
#[derive(Debug)]
pub(crate) enum Source {
    Stream {
        name: StreamName,
        start: Start<Revision>,
    },
    /// A stream of links that nobody wrote.
    Index {
        index: IndexName,
        start: Start<Revision>,
    },
    All {
        start: Start<Position>,
        selection: Option<Selection>,
    },
}

impl Source {
    /// The stream that must be readable for it.
    pub(crate) fn guarded(&self) -> StreamName {
        match self {
            Source::Stream { name, .. } => name.clone(),
            Source::Index { index, .. } => index.name(),
            Source::All { .. } => StreamName::new("$all").expect("our own names are valid"),
        }
    }
}

/// Which events of the whole log.
#[derive(Debug)]
pub(crate) struct Selection {
    pub(crate) by: SelectedBy,
    /// Events examined from one checkpoint to the next; at least 1.
    pub(crate) checkpoint_every: u64,
}

#[derive(Clone, Debug)]
pub(crate) enum SelectedBy {
    /// All but the bookkeeping of groups.
    Everything,
    Filter(Filter),
    /// `$idx-all`: what is in no system stream.
    NotSystem,
    /// `$idx-ce-` and `$idx-et-`: the events of an index, themselves.
    Index(IndexName),
}

impl Query {
    /// The query in a request, of somebody with these eyes.
    ///
    /// # Errors
    /// [`Failure::Invalid`] names the first thing that makes no sense.
    pub(super) fn parse(request: ReadReq, eyes: Eyes) -> Result<Query, Failure> {
        let options = request.options.ok_or_else(|| missing("options"))?;
        let amount = amount(&options)?;
        let style = Style { resolve_links: options.resolve_links, ids: ids(options.uuid_option)?, eyes };
        let compatibility = options.control_option.map_or(0, |control| control.compatibility);
        let filter = match options.filter_option.ok_or_else(|| missing("filter_option"))? {
            FilterOption::Filter(filter) => Some(filter),
            FilterOption::NoFilter(_) => None,
        };
        let source = match (options.stream_option.ok_or_else(|| missing("stream_option"))?, filter) {
            (StreamOption::Stream(stream), None) => stream_source(stream)?,
            (StreamOption::Stream(_), Some(_)) => {
                return Err(Failure::invalid("filter_option", "a single stream is read without a filter"));
            }
            (StreamOption::All(all), filter) => {
                let selection = filter.map(|filter| selection(filter, amount)).transpose()?;
                Source::All { start: all_start(all)?, selection }
            }
        };
        Ok(Query { source, amount, style, compatibility })
    }
}

fn missing(field: &str) -> Failure {
    Failure::invalid(field, format!("{field} is missing"))
}

fn amount(options: &Options) -> Result<Amount, Failure> {
    let direction = match ReadDirection::try_from(options.read_direction) {
        Ok(ReadDirection::Forwards) => Direction::Forward,
        Ok(ReadDirection::Backwards) => Direction::Backward,
        Err(_) => return Err(Failure::invalid("read_direction", "the direction is neither forwards nor backwards")),
    };
    match (options.count_option.as_ref().ok_or_else(|| missing("count_option"))?, direction) {
        (CountOption::Count(count), direction) => Ok(Amount::Count { direction, count: *count }),
        (CountOption::Subscription(_), Direction::Forward) => Ok(Amount::Subscription),
        (CountOption::Subscription(_), Direction::Backward) => {
            Err(Failure::invalid("read_direction", "a subscription goes forwards"))
        }
    }
}

fn ids(option: Option<UuidOption>) -> Result<Ids, Failure> {
    Ok(match option.ok_or_else(|| missing("uuid_option"))?.content {
        Some(uuid_option::Content::String(_)) => Ids::Text,
        // Unset inside means structured (protocol 3.1).
        Some(uuid_option::Content::Structured(_)) | None => Ids::Structured,
    })
}

fn stream_source(options: StreamOptions) -> Result<Source, Failure> {
    let name = convert::stream(options.stream_identifier)?;
    let start = match options.revision_option.ok_or_else(|| missing("revision_option"))? {
        RevisionOption::Start(_) => Start::Beginning,
        RevisionOption::End(_) | RevisionOption::Revision(u64::MAX) => Start::End,
        RevisionOption::Revision(revision) => Start::At(
            Revision::new(revision)
                .ok_or_else(|| Failure::invalid("revision", format!("a revision is below 2^63, not {revision}")))?,
        ),
    };
    Ok(match IndexName::parse(&name) {
        Some(index) => Source::Index { index, start },
        None => Source::Stream { name, start },
    })
}

fn all_start(options: AllOptions) -> Result<Start<Position>, Failure> {
    match options.all_option.ok_or_else(|| missing("all_option"))? {
        AllOption::Start(_) => Ok(Start::Beginning),
        AllOption::End(_) => Ok(Start::End),
        AllOption::Position(position) if position.commit_position == u64::MAX => Ok(Start::End),
        AllOption::Position(position)
            if position.commit_position < position.prepare_position || position.commit_position >= 1 << 63 =>
        {
            Err(Failure::InvalidPosition)
        }
        AllOption::Position(position) => Ok(Start::At(Position::new(position.commit_position))),
    }
}

fn selection(options: FilterOptions, amount: Amount) -> Result<Selection, Failure> {
    let window = match options.window.ok_or_else(|| missing("window"))? {
        Window::Max(max) => max.max(1),
        Window::Count(_) => WINDOW_DEFAULT,
    };
    let multiplier = match (options.checkpoint_interval_multiplier, amount) {
        (0, Amount::Subscription) => {
            return Err(Failure::invalid("checkpointIntervalMultiplier", "the checkpoint interval must be at least 1"));
        }
        // .NET sends 0 in counted reads, where it means nothing.
        (multiplier, Amount::Subscription | Amount::Count { .. }) => multiplier.max(1),
    };
    let by = match options.filter.ok_or_else(|| missing("filter"))? {
        filter_options::Filter::StreamIdentifier(expression) => match index_name(&expression)? {
            Some(by) => by,
            None => SelectedBy::Filter(filter(Subject::Stream, expression)?),
        },
        filter_options::Filter::EventType(expression) => SelectedBy::Filter(filter(Subject::EventType, expression)?),
    };
    Ok(Selection { by, checkpoint_every: u64::from(window) * u64::from(multiplier) })
}

fn filter(subject: Subject, expression: Expression) -> Result<Filter, Failure> {
    // A regular expression, when not empty, wins (protocol 3.6).
    if expression.regex.is_empty() {
        Ok(Filter::prefixes(subject, expression.prefix)?)
    } else {
        Ok(Filter::regex(subject, &expression.regex)?)
    }
}

/// The secondary index that an expression names, which is what a single prefix
/// beginning with `$idx-` does (protocol 3.6).
fn index_name(expression: &Expression) -> Result<Option<SelectedBy>, Failure> {
    const INDEX: &str = "$idx-";
    if !expression.regex.is_empty() || !expression.prefix.iter().any(|prefix| prefix.starts_with(INDEX)) {
        return Ok(None);
    }
    let [name] = expression.prefix.as_slice() else {
        return Err(Failure::invalid("prefix", "an index is read without further prefixes"));
    };
    let unknown = || Failure::IndexNotFound(name.clone());
    // Validated as the stream that the same index is also read as.
    let stream = |kind: &str, key: &str| StreamName::new(format!("{kind}{key}")).map_err(|_| unknown());
    let known = match &name[INDEX.len()..] {
        "all" => Some(SelectedBy::NotSystem),
        rest => match (rest.strip_prefix("ce-"), rest.strip_prefix("et-")) {
            (Some(category), _) => IndexName::parse(&stream("$ce-", category)?).map(SelectedBy::Index),
            (None, Some(event_type)) => IndexName::parse(&stream("$et-", event_type)?).map(SelectedBy::Index),
            (None, None) => None,
        },
    };
    known.map(Some).ok_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use annals_proto::event_store::client::streams::read_req::options::{
        ControlOption, Position as Place, SubscriptionOptions,
    };
    use annals_proto::event_store::client::{Empty, StreamIdentifier};

    use super::*;

    fn stream(revision: Option<RevisionOption>) -> Option<StreamOption> {
        let stream_identifier = Some(StreamIdentifier { stream_name: "s".into() });
        Some(StreamOption::Stream(StreamOptions { stream_identifier, revision_option: revision }))
    }

    fn all(start: AllOption) -> Option<StreamOption> {
        Some(StreamOption::All(AllOptions { all_option: Some(start) }))
    }

    fn at(commit_position: u64, prepare_position: u64) -> Option<StreamOption> {
        all(AllOption::Position(Place { commit_position, prepare_position }))
    }

    fn valid() -> Options {
        Options {
            read_direction: 0,
            resolve_links: false,
            uuid_option: Some(UuidOption { content: None }),
            control_option: None,
            stream_option: stream(Some(RevisionOption::Start(Empty {}))),
            count_option: Some(CountOption::Count(1)),
            filter_option: Some(FilterOption::NoFilter(Empty {})),
        }
    }

    fn subscription() -> Option<CountOption> {
        Some(CountOption::Subscription(SubscriptionOptions {}))
    }

    fn parse(options: Options) -> Result<Query, Failure> {
        Query::parse(ReadReq { options: Some(options) }, Eyes::ALL)
    }

    fn prefixes(list: &[&str]) -> FilterOptions {
        let expression =
            Expression { regex: String::new(), prefix: list.iter().map(|text| (*text).to_owned()).collect() };
        FilterOptions {
            filter: Some(filter_options::Filter::StreamIdentifier(expression)),
            window: Some(Window::Max(10)),
            checkpoint_interval_multiplier: 2,
        }
    }

    fn filtered(filter: FilterOptions, count_option: Option<CountOption>) -> Result<Query, Failure> {
        let filter_option = Some(FilterOption::Filter(filter));
        parse(Options { filter_option, count_option, stream_option: all(AllOption::Start(Empty {})), ..valid() })
    }

    #[test]
    fn every_oneof_is_needed() {
        assert!(Query::parse(ReadReq { options: None }, Eyes::ALL).is_err());
        assert!(parse(valid()).is_ok());
        let broken = [
            Options { uuid_option: None, ..valid() },
            Options { stream_option: None, ..valid() },
            Options { count_option: None, ..valid() },
            Options { filter_option: None, ..valid() },
            Options { stream_option: stream(None), ..valid() },
            Options { stream_option: Some(StreamOption::All(AllOptions { all_option: None })), ..valid() },
            Options { read_direction: 2, ..valid() },
            Options { read_direction: -1, ..valid() },
        ];
        for options in broken {
            assert!(matches!(parse(options.clone()), Err(Failure::Invalid { .. })), "{options:?}");
        }
    }

    #[test]
    fn a_subscription_goes_forwards_and_a_stream_has_no_filter() {
        assert!(parse(Options { count_option: subscription(), ..valid() }).is_ok());
        assert!(parse(Options { count_option: subscription(), read_direction: 1, ..valid() }).is_err());
        let filter_option = Some(FilterOption::Filter(prefixes(&["a"])));
        assert!(parse(Options { filter_option, ..valid() }).is_err());
    }

    #[test]
    fn the_largest_number_is_the_end() {
        let query = parse(Options { stream_option: stream(Some(RevisionOption::Revision(u64::MAX))), ..valid() });
        assert!(matches!(query.expect("valid").source, Source::Stream { start: Start::End, .. }));
        let query = parse(Options { stream_option: at(u64::MAX, u64::MAX), ..valid() });
        assert!(matches!(query.expect("valid").source, Source::All { start: Start::End, .. }));
    }

    #[test]
    fn numbers_that_cannot_be_places_are_refused() {
        for revision in [1 << 63, u64::MAX - 1] {
            let stream_option = stream(Some(RevisionOption::Revision(revision)));
            assert!(parse(Options { stream_option, ..valid() }).is_err(), "{revision}");
        }
        for (commit, prepare) in [(1, 2), (1 << 63, 1 << 63), (u64::MAX - 1, u64::MAX - 1), (0, u64::MAX)] {
            let refused = parse(Options { stream_option: at(commit, prepare), ..valid() }).expect_err("no place");
            assert_eq!(refused, Failure::InvalidPosition, "{commit} {prepare}");
        }
        assert!(parse(Options { stream_option: at(5, 3), ..valid() }).is_ok());
    }

    #[test]
    fn a_filter_needs_a_window_and_a_subscription_an_interval() {
        assert!(filtered(prefixes(&["a"]), subscription()).is_ok());
        assert!(filtered(FilterOptions { window: None, ..prefixes(&["a"]) }, subscription()).is_err());
        assert!(filtered(FilterOptions { filter: None, ..prefixes(&["a"]) }, subscription()).is_err());
        assert!(filtered(prefixes(&[]), subscription()).is_err());
        let without_interval = FilterOptions { checkpoint_interval_multiplier: 0, ..prefixes(&["a"]) };
        assert!(filtered(without_interval.clone(), subscription()).is_err());
        assert!(filtered(without_interval, Some(CountOption::Count(1))).is_ok());
    }

    #[test]
    fn a_checkpoint_comes_every_so_many_windows() {
        let every = |filter| match filtered(filter, subscription()).expect("valid").source {
            Source::All { selection: Some(selection), .. } => selection.checkpoint_every,
            other => panic!("{other:?}"),
        };
        assert_eq!(every(prefixes(&["a"])), 20);
        assert_eq!(every(FilterOptions { window: Some(Window::Count(Empty {})), ..prefixes(&["a"]) }), 64);
        let largest = FilterOptions {
            window: Some(Window::Max(u32::MAX)),
            checkpoint_interval_multiplier: u32::MAX,
            ..prefixes(&["a"])
        };
        assert_eq!(every(largest), u64::from(u32::MAX) * u64::from(u32::MAX));
    }

    #[test]
    fn a_prefix_can_name_an_index() {
        let by = |list: &[&str]| match filtered(prefixes(list), Some(CountOption::Count(1)))?.source {
            Source::All { selection: Some(selection), .. } => Ok(selection.by),
            other => panic!("{other:?}"),
        };
        assert!(matches!(by(&["$idx-all"]), Ok(SelectedBy::NotSystem)));
        assert!(matches!(by(&["$idx-ce-a"]), Ok(SelectedBy::Index(IndexName::Category(name))) if name == "a"));
        assert!(matches!(by(&["$idx-et-T"]), Ok(SelectedBy::Index(IndexName::EventType(name))) if name == "T"));
        assert!(matches!(by(&["a"]), Ok(SelectedBy::Filter(_))));
        let long = format!("$idx-ce-{}", "x".repeat(600));
        for unknown in ["$idx-user-a", "$idx-", "$idx-ce-", "$idx-ce-a\nb", &long] {
            assert!(matches!(by(&[unknown]), Err(Failure::IndexNotFound(_))), "{unknown}");
        }
        assert!(matches!(by(&["$idx-all", "a"]), Err(Failure::Invalid { .. })));
    }

    #[test]
    fn a_name_can_be_that_of_an_index() {
        let stream_identifier = Some(StreamIdentifier { stream_name: "$ce-order".into() });
        let options = StreamOptions { stream_identifier, revision_option: Some(RevisionOption::Start(Empty {})) };
        let query = parse(Options {
            stream_option: Some(StreamOption::Stream(options)),
            control_option: Some(ControlOption { compatibility: 1 }),
            ..valid()
        });
        let query = query.expect("valid");
        assert!(matches!(query.source, Source::Index { index: IndexName::Category(name), .. } if name == "order"));
        assert_eq!(query.compatibility, 1);
    }
}
