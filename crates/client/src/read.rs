//! What to read, and what comes back.

use annals_proto::event_store::client::Empty;
use annals_proto::event_store::client::streams::read_req::Options;
use annals_proto::event_store::client::streams::read_req::options::filter_options::{
    Expression, Filter as WireFilter, Window,
};
use annals_proto::event_store::client::streams::read_req::options::{
    AllOptions, ControlOption, CountOption, FilterOption, FilterOptions, Position, ReadDirection, StreamOption,
    StreamOptions, SubscriptionOptions, UuidOption, all_options, stream_options, uuid_option,
};
use annals_proto::event_store::client::streams::{ReadReq, ReadResp, read_resp};
use tonic::Streaming;

use crate::client::identifier;
use crate::{Error, Recorded, Resolved};

/// Where to begin. In a counted read inclusive (but exclusive backwards in
/// `$all`), in a subscription exclusive: after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cursor {
    /// Before the first event.
    Start,
    /// After the last event.
    End,
    /// At this revision, or at this position.
    At(u64),
}

/// Which way to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To newer events.
    Forwards,
    /// To older events.
    Backwards,
}

/// What to read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// One stream.
    Stream {
        /// Its name.
        name: String,
        /// A revision.
        from: Cursor,
        /// Whether links are followed.
        resolve_links: bool,
    },
    /// The whole log.
    All {
        /// A position.
        from: Cursor,
        /// Only some events.
        filter: Option<Filter>,
        /// Whether links are followed.
        resolve_links: bool,
    },
}

/// Which events of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Whose type matches this expression.
    TypeRegex(String),
    /// Whose type begins with one of these.
    TypePrefix(Vec<String>),
    /// Whose stream's name matches this expression.
    StreamRegex(String),
    /// Whose stream's name begins with one of these.
    StreamPrefix(Vec<String>),
}

/// A counted read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadOptions {
    /// What to read from.
    pub source: Source,
    /// Which way.
    pub direction: Direction,
    /// At most this many events.
    pub count: u64,
}

/// What a read or a subscription delivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// An event.
    Event(Box<Resolved>),
    /// The subscription was accepted.
    Confirmed,
    /// Everything that existed was delivered.
    CaughtUp,
    /// Everything up to this position was examined.
    Checkpoint(u64),
}

impl Source {
    pub(crate) fn stream(&self) -> Option<&str> {
        match self {
            Source::Stream { name, .. } => Some(name),
            Source::All { .. } => None,
        }
    }

    pub(crate) fn subscription(&self) -> ReadReq {
        request(self, Direction::Forwards, CountOption::Subscription(SubscriptionOptions {}))
    }
}

impl ReadOptions {
    pub(crate) fn request(&self) -> ReadReq {
        request(&self.source, self.direction, CountOption::Count(self.count))
    }
}

fn request(source: &Source, direction: Direction, count: CountOption) -> ReadReq {
    let direction = match direction {
        Direction::Forwards => ReadDirection::Forwards,
        Direction::Backwards => ReadDirection::Backwards,
    };
    let (stream_option, filter, resolve_links) = match source {
        Source::Stream { name, from, resolve_links } => {
            let from = match from {
                Cursor::Start => stream_options::RevisionOption::Start(Empty {}),
                Cursor::End => stream_options::RevisionOption::End(Empty {}),
                Cursor::At(revision) => stream_options::RevisionOption::Revision(*revision),
            };
            let options = StreamOptions { stream_identifier: Some(identifier(name)), revision_option: Some(from) };
            (StreamOption::Stream(options), None, *resolve_links)
        }
        Source::All { from, filter, resolve_links } => {
            let from = match from {
                Cursor::Start => all_options::AllOption::Start(Empty {}),
                Cursor::End => all_options::AllOption::End(Empty {}),
                Cursor::At(position) => all_options::AllOption::Position(Position {
                    commit_position: *position,
                    prepare_position: *position,
                }),
            };
            (StreamOption::All(AllOptions { all_option: Some(from) }), filter.as_ref(), *resolve_links)
        }
    };
    ReadReq {
        options: Some(Options {
            read_direction: direction.into(),
            resolve_links,
            uuid_option: Some(UuidOption { content: Some(uuid_option::Content::Structured(Empty {})) }),
            control_option: Some(ControlOption { compatibility: 1 }),
            stream_option: Some(stream_option),
            count_option: Some(count),
            filter_option: Some(match filter {
                Some(filter) => FilterOption::Filter(filter.options()),
                None => FilterOption::NoFilter(Empty {}),
            }),
        }),
    }
}

impl Filter {
    fn options(&self) -> FilterOptions {
        let regex = |regex: &String| Expression { regex: regex.clone(), prefix: Vec::new() };
        let prefix = |prefix: &Vec<String>| Expression { regex: String::new(), prefix: prefix.clone() };
        let filter = match self {
            Filter::TypeRegex(expression) => WireFilter::EventType(regex(expression)),
            Filter::TypePrefix(prefixes) => WireFilter::EventType(prefix(prefixes)),
            Filter::StreamRegex(expression) => WireFilter::StreamIdentifier(regex(expression)),
            Filter::StreamPrefix(prefixes) => WireFilter::StreamIdentifier(prefix(prefixes)),
        };
        FilterOptions { filter: Some(filter), window: Some(Window::Max(WINDOW)), checkpoint_interval_multiplier: 1 }
    }
}

/// Events examined from one checkpoint to the next.
const WINDOW: u32 = 1_000;

/// A read or a subscription that is under way.
pub struct Reading {
    messages: Streaming<ReadResp>,
    stream: Option<String>,
}

impl Reading {
    pub(crate) fn new(messages: Streaming<ReadResp>, stream: Option<String>) -> Self {
        Reading { messages, stream }
    }

    /// The next item; none at the end.
    ///
    /// # Errors
    /// [`Error::StreamNotFound`], [`Error::StreamDeleted`], or the connection
    /// broke.
    pub async fn next(&mut self) -> Result<Option<Item>, Error> {
        use read_resp::Content;
        while let Some(message) = self.messages.message().await? {
            let content = message.content.ok_or(Error::Protocol("a message of a read has no content"))?;
            return Ok(Some(match content {
                Content::Event(event) => Item::Event(Box::new(Resolved {
                    event: event.event.map(Recorded::read).transpose()?,
                    link: event.link.map(Recorded::read).transpose()?,
                })),
                Content::Confirmation(_) => Item::Confirmed,
                Content::CaughtUp(_) => Item::CaughtUp,
                Content::Checkpoint(checkpoint) => Item::Checkpoint(checkpoint.commit_position),
                Content::StreamNotFound(_) => {
                    return Err(Error::StreamNotFound(self.stream.clone().unwrap_or_default()));
                }
                // Nothing that a caller could do anything with.
                Content::FirstStreamPosition(_)
                | Content::LastStreamPosition(_)
                | Content::LastAllStreamPosition(_)
                | Content::FellBehind(_) => continue,
            }));
        }
        Ok(None)
    }
}
