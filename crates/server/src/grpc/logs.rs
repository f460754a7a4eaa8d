//! `annals.v1.Logs`: how much this node logs, and what it has logged lately.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use annals_core::Timestamp;
use annals_proto::annals::v1::logs_server::{Logs, LogsServer};
use annals_proto::annals::v1::{LogField, LogLevelReply, LogLevelRequest, LogLine, LogLinesRequest};
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::access::Caller;
use crate::access::audit::Decision;
use crate::consistency::refuse_v1;
use crate::context::Context;
use crate::logs::{Gravity, Level, Line};
use crate::status::Failure;

/// Lines that are taken out of memory at once.
const PAGE: usize = 200;

/// The service.
pub(crate) fn service(context: Arc<Context>) -> LogsServer<Service> {
    LogsServer::new(Service { context }).max_decoding_message_size(super::MESSAGE_BYTES_MAX)
}

pub(crate) struct Service {
    context: Arc<Context>,
}

#[tonic::async_trait]
impl Logs for Service {
    async fn level(&self, request: Request<LogLevelRequest>) -> Result<Response<LogLevelReply>, Status> {
        let caller = self.operator(&request, "node:logLevel").await?;
        let LogLevelRequest { directives, for_seconds, reset } = request.into_inner();
        let logs = &self.context.logs;
        let changed = match (directives.trim(), reset) {
            ("", false) if for_seconds > 0 => {
                return Err(Status::invalid_argument("for how long is said, but not which level"));
            }
            ("", false) => return Ok(Response::new(self.told(logs.level()))),
            ("", true) => logs.reset(),
            (_, true) => return Err(Status::invalid_argument("give directives or reset, not both")),
            (directives, false) => logs.set(directives, (for_seconds > 0).then(|| Duration::from_secs(for_seconds))),
        };
        let level = changed.map_err(|error| Status::invalid_argument(error.to_string()))?;
        self.context.access.audit.administered(&caller, "node:logLevel", &level.directives, Decision::Allowed);
        tracing::info!(level = level.directives, for_seconds, "the log level was changed");
        Ok(Response::new(self.told(level)))
    }

    type LinesStream = BoxStream<'static, Result<LogLine, Status>>;

    async fn lines(&self, request: Request<LogLinesRequest>) -> Result<Response<Self::LinesStream>, Status> {
        self.operator(&request, "node:logLines").await?;
        let LogLinesRequest { last, follow, level } = request.into_inner();
        let gravest = match level.as_str() {
            "" => Gravity::Trace,
            word => Gravity::named(word).ok_or_else(|| {
                let shown: String = word.chars().take(20).collect();
                Status::invalid_argument(format!("\"{shown}\" is no level: error, warn, info, debug, trace"))
            })?,
        };
        let newest = self.context.logs.newest();
        let reader = Reader::new(self.context.clone(), newest, gravest, last as usize, follow);
        Ok(Response::new(stream::unfold(reader, Reader::next).boxed()))
    }
}

impl Service {
    async fn operator<T>(&self, request: &Request<T>, act: &'static str) -> Result<Caller, Status> {
        let caller = self.context.operator(request, act).await;
        caller.map_err(|failure| refuse_v1(&self.context, &failure))
    }

    fn told(&self, level: Level) -> LogLevelReply {
        LogLevelReply {
            directives: level.directives,
            configured: level.configured,
            ends: level.until.map_or(0, |until| Timestamp::from(until).ticks()),
            node: self.context.node.status().node,
        }
    }
}

/// Somebody who reads lines.
struct Reader {
    context: Arc<Context>,
    newest: watch::Receiver<u64>,
    gravest: Gravity,
    follow: bool,
    /// The number of the last line that was taken, and of the last one that is wanted
    /// of who does not follow.
    taken: u64,
    until: u64,
    taken_out: VecDeque<Arc<Line>>,
    ended: bool,
}

impl Reader {
    fn new(context: Arc<Context>, newest: watch::Receiver<u64>, gravest: Gravity, last: usize, follow: bool) -> Reader {
        let until = *newest.borrow();
        let kept = context.logs.kept();
        let wanted: Vec<u64> = kept.iter().filter(|line| line.gravity <= gravest).map(|line| line.number).collect();
        let skipped = if last == 0 { 0 } else { wanted.len().saturating_sub(last) };
        // Of no line anything is known before the first that is wanted: nothing is missed there.
        let taken = wanted.get(skipped).map_or(until, |first| first - 1);
        Reader { context, newest, gravest, follow, taken, until, taken_out: VecDeque::new(), ended: false }
    }

    async fn next(mut self) -> Option<(Result<LogLine, Status>, Reader)> {
        while !self.ended {
            while let Some(line) = self.taken_out.pop_front() {
                if !self.follow && line.number > self.until {
                    return None;
                }
                let missed = line.number - self.taken - 1;
                self.taken = line.number;
                // One that comes after a gap is told whatever its level: it tells of the gap.
                if line.gravity <= self.gravest || missed > 0 {
                    return Some((Ok(told(&line, missed)), self));
                }
            }
            self.taken_out = self.context.logs.after(self.taken, PAGE).into();
            if !self.taken_out.is_empty() {
                continue;
            }
            if !self.follow {
                return None;
            }
            let context = self.context.clone();
            tokio::select! {
                () = context.stopping.cancelled() => {
                    self.ended = true;
                    return Some((Err(refuse_v1(&context, &Failure::ShuttingDown)), self));
                }
                changed = self.newest.changed() => changed.ok()?,
            }
        }
        None
    }
}

fn told(line: &Line, missed: u64) -> LogLine {
    let field = |(name, value): &(String, String)| LogField { name: name.clone(), value: value.clone() };
    LogLine {
        number: line.number,
        time: Timestamp::from(line.at).ticks(),
        level: line.gravity.as_str().to_owned(),
        target: line.target.clone(),
        message: line.message.clone(),
        fields: line.fields.iter().map(field).collect(),
        missed,
    }
}
