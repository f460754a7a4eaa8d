//! Requests of reads and subscriptions. All go forwards and follow no links.

use annals_proto::event_store::client::streams::ReadReq;
use annals_proto::event_store::client::streams::read_req::Options;
use annals_proto::event_store::client::streams::read_req::options::filter_options::{Expression, Filter, Window};
use annals_proto::event_store::client::streams::read_req::options::{
    AllOptions, CountOption, FilterOption, FilterOptions, StreamOption, StreamOptions, SubscriptionOptions, UuidOption,
    all_options, stream_options, uuid_option,
};
use annals_proto::event_store::client::{Empty, StreamIdentifier};
use bytes::Bytes;

/// Events examined from one checkpoint of a filtered subscription to the next.
const WINDOW: u32 = 1_000;

/// At most so many events of a stream, from this revision on.
pub(crate) fn stream(name: &Bytes, from: u64, count: u64) -> ReadReq {
    request(of_stream(name, stream_options::RevisionOption::Revision(from)), CountOption::Count(count), None)
}

/// At most so many events of the whole log, from its start.
pub(crate) fn all(count: u64) -> ReadReq {
    request(of_all(all_options::AllOption::Start(Empty {})), CountOption::Count(count), None)
}

/// All events of a stream, and those to come.
pub(crate) fn subscribe_stream(name: &Bytes) -> ReadReq {
    request(of_stream(name, stream_options::RevisionOption::Start(Empty {})), subscription(), None)
}

/// Events of the whole log that are to come, or only those of streams whose
/// name begins like this.
pub(crate) fn subscribe_all(beginning: Option<&str>) -> ReadReq {
    let filter = beginning.map(|beginning| FilterOptions {
        filter: Some(Filter::StreamIdentifier(Expression { regex: String::new(), prefix: vec![beginning.to_owned()] })),
        window: Some(Window::Max(WINDOW)),
        checkpoint_interval_multiplier: 1,
    });
    request(of_all(all_options::AllOption::End(Empty {})), subscription(), filter)
}

fn subscription() -> CountOption {
    CountOption::Subscription(SubscriptionOptions {})
}

fn of_stream(name: &Bytes, from: stream_options::RevisionOption) -> StreamOption {
    StreamOption::Stream(StreamOptions {
        stream_identifier: Some(StreamIdentifier { stream_name: name.clone() }),
        revision_option: Some(from),
    })
}

fn of_all(from: all_options::AllOption) -> StreamOption {
    StreamOption::All(AllOptions { all_option: Some(from) })
}

fn request(what: StreamOption, count: CountOption, filter: Option<FilterOptions>) -> ReadReq {
    ReadReq {
        options: Some(Options {
            stream_option: Some(what),
            count_option: Some(count),
            filter_option: Some(filter.map_or(FilterOption::NoFilter(Empty {}), FilterOption::Filter)),
            uuid_option: Some(UuidOption { content: Some(uuid_option::Content::Structured(Empty {})) }),
            ..Options::default()
        }),
    }
}
