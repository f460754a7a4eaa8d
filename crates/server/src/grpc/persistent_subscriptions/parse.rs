//! What requests about groups ask for (protocol 6.2), in both generations of fields.
//!
//! What makes no sense for a group is refused as "failed", with the reason, as
//! clients expect; bytes that are no request are an invalid argument.

use std::sync::Arc;
use std::time::Duration;

use annals_core::group::{Settings, Strategy};
use annals_core::{EventId, Position, Revision};
use annals_proto::event_store::client::persistent_subscriptions::create_req::all_options::FilterOptions;
use annals_proto::event_store::client::persistent_subscriptions::create_req::all_options::filter_options::{
    Expression, Filter,
};
use annals_proto::event_store::client::persistent_subscriptions::{
    CreateReq, DeleteReq, GetInfoReq, ListReq, ReplayParkedReq, TruncateParkedReq, UpdateReq, create_req, delete_req,
    get_info_req, list_req, read_req, replay_parked_req, truncate_parked_req, update_req,
};
use annals_proto::event_store::client::{StreamIdentifier, Uuid as WireUuid};

use crate::blocking::blocking;
use crate::context::Context;
use crate::groups::{self, Definition, GroupName, Selection};
use crate::grpc::streams::convert::{self, Ids};
use crate::status::Failure;

const ALL: &str = "$all";

/// Unacknowledged events of a consumer that asks for none.
const SLOTS_DEFAULT: usize = 10;

/// A definition that is asked for.
pub(super) struct Asked {
    pub(super) name: GroupName,
    start: Start,
    selection: Option<Selection>,
    settings: Settings,
}

/// Where a group is to begin.
enum Start {
    Beginning,
    /// With this revision or position.
    At(u64),
    End,
}

impl Asked {
    /// The definition: the end is what it is now.
    pub(super) async fn settle(self, context: &Arc<Context>) -> Result<Definition, Failure> {
        let Asked { name, start, selection, settings } = self;
        let store = context.node.store().clone();
        let (after, from_end) = match start {
            Start::Beginning => (None, false),
            Start::At(at) => (at.checked_sub(1), false),
            Start::End => {
                let of = name.clone();
                (blocking(move || groups::end(&store, &of)).await?, true)
            }
        };
        if name.is_all() && after.is_some_and(|after| after > context.node.store().tail().get()) {
            return Err(failed(&name, "the start is beyond the end of the log"));
        }
        Ok(Definition { name, incarnation: uuid::Uuid::new_v4(), after, from_end, selection, settings })
    }
}

fn failed(name: &GroupName, why: impl Into<String>) -> Failure {
    Failure::GroupFailed { name: name.clone(), why: why.into() }
}

fn missing(field: &str) -> Failure {
    Failure::invalid(field, format!("{field} is missing"))
}

/// A name that can be one.
fn named(source: Result<String, Failure>, group: String) -> Result<GroupName, Failure> {
    let name = GroupName { source: source?, group };
    if name.group.is_empty() {
        return Err(failed(&name, "the group's name is empty"));
    }
    if name.parked().is_none() || name.checkpoints().is_none() {
        return Err(failed(&name, "the names of stream and group are too long together"));
    }
    Ok(name)
}

/// The name of a stream that is meant to be one.
fn stream(wire: Option<StreamIdentifier>) -> Result<String, Failure> {
    Ok(convert::stream(wire)?.as_str().to_owned())
}

fn all() -> Result<String, Failure> {
    Ok(ALL.to_owned())
}

/// A group on everything has a call of its own.
fn not_all(name: GroupName) -> Result<GroupName, Failure> {
    if name.is_all() { Err(failed(&name, "a group on $all is made with the options for it")) } else { Ok(name) }
}

fn revision(name: &GroupName, revision: u64) -> Result<Start, Failure> {
    match revision {
        u64::MAX => Ok(Start::End),
        0 => Ok(Start::Beginning),
        at if Revision::new(at).is_some() => Ok(Start::At(at)),
        at => Err(failed(name, format!("a revision is below 2^63, not {at}"))),
    }
}

fn position(name: &GroupName, commit: u64, prepare: u64) -> Result<Start, Failure> {
    match commit {
        u64::MAX => Ok(Start::End),
        0 => Ok(Start::Beginning),
        at if at < 1 << 63 && prepare <= at => Ok(Start::At(Position::new(at).get())),
        at => Err(failed(name, format!("{at} is no position"))),
    }
}

/// The settings of a request. Those to create and to change a group have the same fields,
/// and the protocol gives them different types.
macro_rules! form {
    ($request:ident, $settings:ident, $strategy:ident) => {{
        use $request::settings::{CheckpointAfter, MessageTimeout};
        Form {
            resolve_links: $settings.resolve_links,
            extra_statistics: $settings.extra_statistics,
            message_timeout: $settings.message_timeout.map(|time| match time {
                MessageTimeout::MessageTimeoutTicks(ticks) => Time::Ticks(ticks),
                MessageTimeout::MessageTimeoutMs(ms) => Time::Millis(ms),
            }),
            checkpoint_after: $settings.checkpoint_after.map(|time| match time {
                CheckpointAfter::CheckpointAfterTicks(ticks) => Time::Ticks(ticks),
                CheckpointAfter::CheckpointAfterMs(ms) => Time::Millis(ms),
            }),
            max_retry_count: $settings.max_retry_count,
            min_checkpoint_count: $settings.min_checkpoint_count,
            max_checkpoint_count: $settings.max_checkpoint_count,
            max_subscriber_count: $settings.max_subscriber_count,
            live_buffer_size: $settings.live_buffer_size,
            read_batch_size: $settings.read_batch_size,
            history_buffer_size: $settings.history_buffer_size,
            strategy: $strategy,
        }
    }};
}

pub(super) fn create(request: CreateReq) -> Result<Asked, Failure> {
    use create_req::all_options::{AllOption, FilterOption};
    use create_req::options::StreamOption;
    use create_req::stream_options::RevisionOption;
    let options = request.options.ok_or_else(|| missing("options"))?;
    let settings = options.settings.ok_or_else(|| missing("settings"))?;
    let (name, start, selection) = match options.stream_option {
        Some(StreamOption::Stream(wanted)) => {
            let name = not_all(named(stream(wanted.stream_identifier), options.group_name)?)?;
            let start = match wanted.revision_option {
                Some(RevisionOption::Revision(at)) => revision(&name, at)?,
                Some(RevisionOption::Start(_)) => Start::Beginning,
                Some(RevisionOption::End(_)) => Start::End,
                None => return Err(missing("revision_option")),
            };
            (name, start, None)
        }
        Some(StreamOption::All(wanted)) => {
            let name = named(all(), options.group_name)?;
            let start = match wanted.all_option {
                Some(AllOption::Position(at)) => position(&name, at.commit_position, at.prepare_position)?,
                Some(AllOption::Start(_)) => Start::Beginning,
                Some(AllOption::End(_)) => Start::End,
                None => return Err(missing("all_option")),
            };
            let selection = match wanted.filter_option {
                Some(FilterOption::Filter(filter)) => Some(selection(&name, filter)?),
                Some(FilterOption::NoFilter(_)) | None => None,
            };
            (name, start, selection)
        }
        // The older form, which .NET and Node still send.
        None => {
            let name = not_all(named(stream(options.stream_identifier), options.group_name)?)?;
            let start = revision(&name, settings.revision)?;
            (name, start, None)
        }
    };
    let strategy = match settings.consumer_strategy.as_str() {
        "" => numbered(&name, settings.named_consumer_strategy)?,
        text => Strategy::from_name(text).ok_or_else(|| failed(&name, "there is no such consumer strategy"))?,
    };
    let form = form!(create_req, settings, strategy);
    let settings = form.settings(&name)?;
    Ok(Asked { name, start, selection, settings })
}

pub(super) fn update(request: UpdateReq) -> Result<Asked, Failure> {
    use update_req::all_options::AllOption;
    use update_req::options::StreamOption;
    use update_req::stream_options::RevisionOption;
    let options = request.options.ok_or_else(|| missing("options"))?;
    let settings = options.settings.ok_or_else(|| missing("settings"))?;
    let (name, start) = match options.stream_option {
        Some(StreamOption::Stream(wanted)) => {
            let name = not_all(named(stream(wanted.stream_identifier), options.group_name)?)?;
            let start = match wanted.revision_option {
                Some(RevisionOption::Revision(at)) => revision(&name, at)?,
                Some(RevisionOption::Start(_)) => Start::Beginning,
                Some(RevisionOption::End(_)) => Start::End,
                None => return Err(missing("revision_option")),
            };
            (name, start)
        }
        Some(StreamOption::All(wanted)) => {
            let name = named(all(), options.group_name)?;
            let start = match wanted.all_option {
                Some(AllOption::Position(at)) => position(&name, at.commit_position, at.prepare_position)?,
                Some(AllOption::Start(_)) => Start::Beginning,
                Some(AllOption::End(_)) => Start::End,
                None => return Err(missing("all_option")),
            };
            (name, start)
        }
        None => {
            let name = not_all(named(stream(options.stream_identifier), options.group_name)?)?;
            let start = revision(&name, settings.revision)?;
            (name, start)
        }
    };
    let strategy = numbered(&name, settings.named_consumer_strategy)?;
    let form = form!(update_req, settings, strategy);
    let settings = form.settings(&name)?;
    Ok(Asked { name, start, selection: None, settings })
}

fn numbered(name: &GroupName, number: i32) -> Result<Strategy, Failure> {
    match number {
        0 => Ok(Strategy::DispatchToSingle),
        1 => Ok(Strategy::RoundRobin),
        2 => Ok(Strategy::Pinned),
        _ => Err(failed(name, "there is no such consumer strategy")),
    }
}

fn selection(name: &GroupName, filter: FilterOptions) -> Result<Selection, Failure> {
    let (by_stream, Expression { regex, prefix }) = match filter.filter {
        Some(Filter::StreamIdentifier(expression)) => (true, expression),
        Some(Filter::EventType(expression)) => (false, expression),
        None => return Err(missing("filter")),
    };
    let selection = Selection { by_stream, prefixes: if regex.is_empty() { prefix } else { Vec::new() }, regex };
    // Whatever cannot be compiled later would stop the group.
    groups::selected(&selection).map_err(|failure| failed(name, failure.message()))?;
    Ok(selection)
}

/// A time in one of the units of the protocol.
#[derive(Clone, Copy)]
enum Time {
    /// Of 100 ns.
    Ticks(i64),
    Millis(i32),
}

/// Settings as both requests have them.
struct Form {
    resolve_links: bool,
    extra_statistics: bool,
    message_timeout: Option<Time>,
    checkpoint_after: Option<Time>,
    max_retry_count: i32,
    min_checkpoint_count: i32,
    max_checkpoint_count: i32,
    max_subscriber_count: i32,
    live_buffer_size: i32,
    read_batch_size: i32,
    history_buffer_size: i32,
    strategy: Strategy,
}

impl Form {
    fn settings(self, name: &GroupName) -> Result<Settings, Failure> {
        let counted = |what: &str, number: i32| {
            u32::try_from(number).map_err(|_| failed(name, format!("{what} is negative: {number}")))
        };
        let sized = |what: &str, number: i32| counted(what, number).map(|number| number as usize);
        let timed = |what: &str, time: Option<Time>| {
            let negative = |number: i64| failed(name, format!("{what} is negative: {number}"));
            match time {
                None => Ok(Duration::ZERO),
                Some(Time::Millis(ms)) => {
                    u64::try_from(ms).map(Duration::from_millis).map_err(|_| negative(i64::from(ms)))
                }
                Some(Time::Ticks(ticks)) => u64::try_from(ticks)
                    .map(|ticks| Duration::from_nanos(ticks.saturating_mul(100)))
                    .map_err(|_| negative(ticks)),
            }
        };
        let max_consumers = sized("max_subscriber_count", self.max_subscriber_count)?;
        let settings = Settings {
            resolve_links: self.resolve_links,
            extra_statistics: self.extra_statistics,
            message_timeout: timed("message_timeout", self.message_timeout)?,
            max_retries: counted("max_retry_count", self.max_retry_count)?,
            checkpoint_after: Some(timed("checkpoint_after", self.checkpoint_after)?).filter(|time| !time.is_zero()),
            min_checkpoint: u64::from(counted("min_checkpoint_count", self.min_checkpoint_count)?),
            max_checkpoint: u64::from(counted("max_checkpoint_count", self.max_checkpoint_count)?),
            max_consumers: Some(max_consumers).filter(|max| *max > 0),
            live_buffer: sized("live_buffer_size", self.live_buffer_size)?,
            read_batch: sized("read_batch_size", self.read_batch_size)?,
            history_buffer: sized("history_buffer_size", self.history_buffer_size)?,
            strategy: self.strategy,
        };
        settings.validate().map_err(|invalid| failed(name, invalid.to_string()))?;
        Ok(settings)
    }
}

/// The name of a group, from the same-named oneofs of five requests.
macro_rules! name {
    ($oneof:path, $option:expr, $group:expr) => {{
        use $oneof as Wire;
        match $option {
            Some(Wire::StreamIdentifier(identifier)) => named(stream(Some(identifier)), $group),
            Some(Wire::All(_)) => named(all(), $group),
            None => Err(missing("stream_option")),
        }
    }};
}

/// The group that is consumed, how many unacknowledged events the consumer may have,
/// and how it wants ids.
pub(super) fn read(options: read_req::Options) -> Result<(GroupName, usize, Ids), Failure> {
    let name = name!(read_req::options::StreamOption, options.stream_option, options.group_name)?;
    let slots = usize::try_from(options.buffer_size).ok().filter(|slots| *slots > 0).unwrap_or(SLOTS_DEFAULT);
    let ids = match options.uuid_option.and_then(|option| option.content) {
        Some(read_req::options::uuid_option::Content::String(_)) => Ids::Text,
        Some(read_req::options::uuid_option::Content::Structured(_)) | None => Ids::Structured,
    };
    Ok((name, slots, ids))
}

/// Ids of messages. What is none is of no message.
pub(super) fn ids(wire: &[WireUuid]) -> Vec<EventId> {
    wire.iter().filter_map(|id| EventId::new(convert::uuid(Some(id), "ids").ok()?)).collect()
}

pub(super) fn delete(request: DeleteReq) -> Result<GroupName, Failure> {
    let options = request.options.ok_or_else(|| missing("options"))?;
    name!(delete_req::options::StreamOption, options.stream_option, options.group_name)
}

pub(super) fn get_info(request: GetInfoReq) -> Result<GroupName, Failure> {
    let options = request.options.ok_or_else(|| missing("options"))?;
    name!(get_info_req::options::StreamOption, options.stream_option, options.group_name)
}

/// The group, and the revision before which parked messages are meant.
pub(super) fn replay(request: ReplayParkedReq) -> Result<(GroupName, Option<u64>), Failure> {
    use replay_parked_req::options::StopAtOption;
    let options = request.options.ok_or_else(|| missing("options"))?;
    let name = name!(replay_parked_req::options::StreamOption, options.stream_option, options.group_name)?;
    let before = match options.stop_at_option {
        Some(StopAtOption::StopAt(at)) => Some(stop_at(&name, at)?),
        Some(StopAtOption::NoLimit(_)) | None => None,
    };
    Ok((name, before))
}

/// As [`replay`].
pub(super) fn truncate(request: TruncateParkedReq) -> Result<(GroupName, Option<u64>), Failure> {
    use truncate_parked_req::options::StopAtOption;
    let options = request.options.ok_or_else(|| missing("options"))?;
    let name = name!(truncate_parked_req::options::StreamOption, options.stream_option, options.group_name)?;
    let before = match options.stop_at_option {
        Some(StopAtOption::StopAt(at)) => Some(stop_at(&name, at)?),
        Some(StopAtOption::NoLimit(_)) | None => None,
    };
    Ok((name, before))
}

fn stop_at(name: &GroupName, at: i64) -> Result<u64, Failure> {
    u64::try_from(at).map_err(|_| failed(name, format!("stop_at is negative: {at}")))
}

/// The source whose groups are listed, all if there is none.
pub(super) fn list(request: ListReq) -> Result<Option<String>, Failure> {
    use list_req::options::ListOption;
    use list_req::stream_option::StreamOption;
    let options = request.options.ok_or_else(|| missing("options"))?;
    match options.list_option.ok_or_else(|| missing("list_option"))? {
        ListOption::ListAllSubscriptions(_) => Ok(None),
        ListOption::ListForStream(of) => match of.stream_option.ok_or_else(|| missing("stream_option"))? {
            StreamOption::Stream(identifier) => stream(Some(identifier)).map(Some),
            StreamOption::All(_) => all().map(Some),
        },
    }
}

#[cfg(test)]
mod tests {
    use annals_proto::event_store::client::Empty;
    use annals_proto::event_store::client::persistent_subscriptions::create_req::settings::{
        CheckpointAfter, MessageTimeout,
    };

    use super::*;

    fn identifier(name: &str) -> Option<StreamIdentifier> {
        Some(StreamIdentifier { stream_name: name.as_bytes().to_vec().into() })
    }

    fn settings() -> create_req::Settings {
        create_req::Settings {
            max_retry_count: 10,
            min_checkpoint_count: 10,
            max_checkpoint_count: 1_000,
            live_buffer_size: 500,
            read_batch_size: 20,
            history_buffer_size: 500,
            named_consumer_strategy: 1,
            message_timeout: Some(MessageTimeout::MessageTimeoutMs(30_000)),
            checkpoint_after: Some(CheckpointAfter::CheckpointAfterTicks(20_000_000)),
            ..create_req::Settings::default()
        }
    }

    fn older(settings: create_req::Settings) -> CreateReq {
        let options = create_req::Options {
            stream_option: None,
            stream_identifier: identifier("orders"),
            group_name: "g".into(),
            settings: Some(settings),
        };
        CreateReq { options: Some(options) }
    }

    #[test]
    fn the_older_form_says_the_same() {
        let asked = create(older(create_req::Settings { revision: u64::MAX, ..settings() })).expect("valid");
        assert_eq!(asked.name.to_string(), "orders::g");
        assert!(matches!(asked.start, Start::End));
        assert_eq!(asked.settings, Settings::default());
        assert!(matches!(create(older(settings())).expect("valid").start, Start::Beginning));
    }

    #[test]
    fn what_no_group_can_be_is_refused_with_the_reason() {
        for (wrong, why) in [
            (create_req::Settings { read_batch_size: 500, ..settings() }, "read_batch_size"),
            (create_req::Settings { named_consumer_strategy: 7, ..settings() }, "strategy"),
            (create_req::Settings { consumer_strategy: "Best".into(), ..settings() }, "strategy"),
            (create_req::Settings { max_retry_count: -1, ..settings() }, "max_retry_count"),
            (create_req::Settings { revision: 1 << 63, ..settings() }, "revision"),
        ] {
            match create(older(wrong)).map(|_| ()) {
                Err(Failure::GroupFailed { why: told, .. }) => assert!(told.contains(why), "{told}"),
                other => panic!("{why}: {other:?}"),
            }
        }
    }

    #[test]
    fn the_text_of_a_strategy_goes_before_its_number() {
        let asked =
            create(older(create_req::Settings { consumer_strategy: "PinnedByCorrelation".into(), ..settings() }));
        assert_eq!(asked.expect("valid").settings.strategy, Strategy::PinnedByCorrelation);
    }

    #[test]
    fn everything_is_not_a_stream() {
        let stream = create_req::StreamOptions {
            stream_identifier: identifier("$all"),
            revision_option: Some(create_req::stream_options::RevisionOption::Start(Empty {})),
        };
        let options = create_req::Options {
            stream_option: Some(create_req::options::StreamOption::Stream(stream)),
            stream_identifier: None,
            group_name: "g".into(),
            settings: Some(settings()),
        };
        assert!(matches!(create(CreateReq { options: Some(options) }), Err(Failure::GroupFailed { .. })));
    }
}
