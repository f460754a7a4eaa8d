//! Reclaiming: which events go for good, and how far that has come.
//!
//! An event is *gone* when no reader of its stream can see it any more: the stream
//! is deleted, metadata truncates it away, or it is older than the stream keeps its
//! events. Until then the whole log (`$all`) and the indexes show it still. A
//! *scavenge* goes through the log once, from its beginning up to a point, and gives
//! back the space of what is gone.
//!
//! That is one replicated decision in many small steps. The leader looks for what is
//! gone and names it in a [`crate::Command::Reclaim`]; each node decides anew, by the
//! heads as that command finds them, so that none reclaims what another one keeps.
//! How far it has come ([`Scavenge`]) is part of the replicated state: a new leader
//! goes on where the old one was, and each node tells the same.
//!
//! What is left of an event is its *stub*: place, time, id and checksum. Positions and
//! revisions stay dense, the chain hash stays what it was, and an append that is
//! repeated under an exact expectation is still known.
//!
//! - A tombstone is never reclaimed, and neither is the newest event of a metastream
//!   as long as its stream is not ended: they say what the stream is.
//! - Nothing is decided by what is left of an event that its stub does not have. So a
//!   node that sees a stub earlier than the command that made it decides alike. That is
//!   why the stub of an event that says something of a stream keeps its data
//!   ([`keeps_data`]).

use bytes::{BufMut, Bytes, BytesMut};
use uuid::Uuid;

use crate::decide::{Decision, Heads, Placing, own_event};
use crate::event::{Content, EventType};
use crate::head::State;
use crate::seeded::{self, Bug};
use crate::wire::{DecodeError, Input};
use crate::{Head, Outcome, Position, Revision, StreamName, Timestamp};

/// Events that one command may reclaim. Each is read and written again while the
/// entry is applied, and appends wait for that: a few hundred microseconds.
pub const EVENTS_MAX: usize = 64;

/// A scavenge: the last one that was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scavenge {
    /// Names it.
    pub id: Uuid,
    /// Whether it goes on.
    pub phase: Phase,
    /// When it was started. Age is judged against it.
    pub started: Timestamp,
    /// When it ended, by the time of the entry that ended it.
    pub ended: Option<Timestamp>,
    /// It looks at events up to here: the newest one when it was started.
    pub point: Position,
    /// It has looked at events up to here.
    pub cursor: Position,
    /// Events that it has reclaimed.
    pub events: u64,
    /// Bytes of metadata and data that they had.
    pub bytes: u64,
    /// Commands that any scavenge has carried out. Tells whether two states of the
    /// same log have reclaimed the same.
    pub commands: u64,
}

/// Whether a scavenge goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It does.
    Running,
    /// It has come to its point.
    Completed,
    /// It was stopped before that.
    Stopped,
}

impl Phase {
    /// For people, metrics and events.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Running => "running",
            Phase::Completed => "completed",
            Phase::Stopped => "stopped",
        }
    }
}

/// Of an event what decides whether it is gone: what its stub has too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Its stream.
    pub stream: StreamName,
    /// Its place there.
    pub revision: Revision,
    /// When it was created.
    pub created: Timestamp,
    /// Bytes of its metadata and data, also when they are reclaimed.
    pub bytes: u64,
}

/// A step of a scavenge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reclaim {
    /// Of which scavenge.
    pub scavenge: Uuid,
    /// Where the scavenge stands. Anywhere else this is an old command, and nothing
    /// is done.
    pub from: Position,
    /// Where it stands after this: everything up to here has been looked at.
    pub through: Position,
    /// What was found to be gone, ascending, above `from` and not above `through`;
    /// at most [`EVENTS_MAX`].
    pub positions: Vec<Position>,
}

/// What became of a command about a scavenge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Whether it was carried out: started, gone on or stopped.
    pub carried_out: bool,
    /// The last scavenge, as it is now.
    pub last: Option<Scavenge>,
}

/// Whether an event is gone. `head` is that of its stream, `described` that of the
/// stream whose metastream this is, if it is one.
pub fn is_gone(event: &Facts, head: &Head, described: Option<&Head>, started: Timestamp) -> bool {
    if event.revision == Revision::TOMBSTONE {
        return false;
    }
    if head.tombstoned || described.is_some_and(|described| described.tombstoned) {
        return true;
    }
    if event.stream.is_metastream() {
        // Whatever its own metadata says: it shows its newest event, and only that.
        return Some(event.revision) < head.last;
    }
    let is_old = head.metadata.max_age_seconds.is_some_and(|seconds| event.created < started.minus_seconds(seconds));
    let kept = head.first_visible();
    let kept = if seeded::is(Bug::S28) && kept > Revision::FIRST { kept.next() } else { kept };
    matches!(head.state(), State::SoftDeleted(_)) || event.revision < kept || is_old
}

/// Whether the stub of an event of this stream keeps the data: rules may look at it
/// after a node has learnt that it is reclaimed and before that is decided there.
pub fn keeps_data(stream: &StreamName) -> bool {
    stream.is_metastream() || stream.as_str() == "$settings"
}

const VERSION: u8 = 1;

impl Scavenge {
    /// Its bytes.
    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_u8(VERSION);
        out.put_slice(self.id.as_bytes());
        out.put_u8(match self.phase {
            Phase::Running => 0,
            Phase::Completed => 1,
            Phase::Stopped => 2,
        });
        // Whether there is one, the phase says.
        let ended = self.ended.map_or(0, Timestamp::ticks);
        let Scavenge { started, point, cursor, events, bytes, commands, .. } = self;
        for number in [started.ticks(), ended, point.get(), cursor.get(), *events, *bytes, *commands] {
            out.put_u64_le(number);
        }
    }

    /// The scavenge in these bytes.
    ///
    /// # Errors
    /// [`DecodeError`]: they are none that this version can read.
    pub fn decode(bytes: Bytes) -> Result<Scavenge, DecodeError> {
        let mut input = Input::new(bytes);
        let scavenge = Self::read(&mut input)?;
        input.end()?;
        Ok(scavenge)
    }

    pub(crate) fn read(input: &mut Input) -> Result<Scavenge, DecodeError> {
        input.version(VERSION)?;
        let id = input.uuid()?;
        let phase = match input.u8()? {
            0 => Phase::Running,
            1 => Phase::Completed,
            2 => Phase::Stopped,
            other => return Err(DecodeError::tag("phase of a scavenge", other)),
        };
        Ok(Scavenge {
            id,
            phase,
            started: Timestamp::from_ticks(input.u64()?),
            ended: Some(Timestamp::from_ticks(input.u64()?)).filter(|_| phase != Phase::Running),
            point: Position::new(input.u64()?),
            cursor: Position::new(input.u64()?),
            events: input.u64()?,
            bytes: input.u64()?,
            commands: input.u64()?,
        })
    }

    /// Whether it goes on.
    pub fn is_running(&self) -> bool {
        self.phase == Phase::Running
    }

    /// The stream that tells of it.
    pub fn stream(&self) -> StreamName {
        StreamName::new(format!("{ALL}-{}", self.id)).expect("the name of a stream")
    }
}

impl Answer {
    pub(crate) fn encode(&self, out: &mut BytesMut) {
        out.put_u8(u8::from(self.carried_out));
        out.put_u8(u8::from(self.last.is_some()));
        if let Some(last) = &self.last {
            last.encode(out);
        }
    }

    pub(crate) fn read(input: &mut Input) -> Result<Answer, DecodeError> {
        let carried_out = input.u8()? != 0;
        let last = if input.u8()? != 0 { Some(Scavenge::read(input)?) } else { None };
        Ok(Answer { carried_out, last })
    }
}

/// Holds a link to each event of the streams that tell of a scavenge (protocol 5.2).
const ALL: &str = "$scavenges";
const STARTED: &str = "$scavengeStarted";
const COMPLETED: &str = "$scavengeCompleted";

/// One scavenge at a time: while one runs, its state is the answer to another one.
pub(crate) fn decide_start<H: Heads>(heads: &H, id: Uuid) -> Result<Decision, H::Error> {
    let last = heads.scavenge();
    // The same id again is the same call again.
    if let Some(last) = last.filter(|last| last.is_running() || last.id == id) {
        let carried_out = last.id == id;
        return Ok(Decision::of(Outcome::Scavenge(Answer { carried_out, last: Some(last) })));
    }
    let scavenge = Scavenge {
        id,
        phase: Phase::Running,
        started: heads.time(),
        ended: None,
        point: heads.tail(),
        cursor: Position::START,
        events: 0,
        bytes: 0,
        commands: last.map_or(0, |last| last.commands),
    };
    if scavenge.point == Position::START {
        return end(heads, scavenge, Phase::Completed);
    }
    let told =
        format!(r#"{{"scavengeId":"{id}","point":{},"startedAt":{}}}"#, scavenge.point, scavenge.started.ticks());
    changed(heads, scavenge, Some((STARTED, told)))
}

pub(crate) fn decide_stop<H: Heads>(heads: &H, id: Option<Uuid>) -> Result<Decision, H::Error> {
    let last = heads.scavenge();
    match last.filter(|last| last.is_running() && id.is_none_or(|id| id == last.id)) {
        Some(running) => end(heads, running, Phase::Stopped),
        None => Ok(Decision::of(Outcome::Scavenge(Answer { carried_out: false, last }))),
    }
}

pub(crate) fn decide_reclaim<H: Heads>(heads: &H, step: &Reclaim) -> Result<Decision, H::Error> {
    let last = heads.scavenge();
    let is_next = |last: &Scavenge| {
        let within = step.from < step.through && step.through <= last.point;
        last.is_running() && last.id == step.scavenge && last.cursor == step.from && within
    };
    let Some(mut scavenge) = last.filter(is_next) else {
        // An earlier leader's, or one that was carried out already.
        return Ok(Decision::of(Outcome::Scavenge(Answer { carried_out: false, last })));
    };
    let mut reclaimed = Vec::with_capacity(step.positions.len());
    let mut looked_at = step.from;
    for position in &step.positions {
        if *position <= looked_at || *position > step.through {
            continue;
        }
        looked_at = *position;
        let event = heads.event(*position)?;
        let head = heads.head(&event.stream)?;
        let described = event.stream.described().map(|described| heads.head(&described)).transpose()?;
        if is_gone(&event, &head, described.as_ref(), scavenge.started) {
            scavenge.events += 1;
            scavenge.bytes += if keeps_data(&event.stream) { 0 } else { event.bytes };
            reclaimed.push(*position);
        }
    }
    scavenge.cursor = step.through;
    scavenge.commands += u64::from(!reclaimed.is_empty());
    let decision = if scavenge.cursor == scavenge.point {
        end(heads, scavenge, Phase::Completed)?
    } else {
        changed(heads, scavenge, None)?
    };
    Ok(Decision { reclaimed, ..decision })
}

fn end<H: Heads>(heads: &H, scavenge: Scavenge, phase: Phase) -> Result<Decision, H::Error> {
    let ended = heads.time();
    let scavenge = Scavenge { phase, ended: Some(ended), ..scavenge };
    let Scavenge { id, started, cursor, point, events, bytes, .. } = scavenge;
    let result = if phase == Phase::Completed { "Success" } else { "Stopped" };
    let seconds = (ended.ticks().saturating_sub(started.ticks())) / Timestamp::TICKS_PER_SECOND;
    let time = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    let told = format!(
        r#"{{"scavengeId":"{id}","result":"{result}","error":"","timeTaken":"{time}","spaceSaved":{bytes},"eventsReclaimed":{events},"position":{cursor},"point":{point}}}"#
    );
    changed(heads, scavenge, Some((COMPLETED, told)))
}

/// The state of the scavenge, and the events that tell of it.
fn changed<H: Heads>(
    heads: &H,
    scavenge: Scavenge,
    told: Option<(&'static str, String)>,
) -> Result<Decision, H::Error> {
    let outcome = Outcome::Scavenge(Answer { carried_out: true, last: Some(scavenge) });
    let mut place = Placing::new(heads);
    if let Some((event_type, json)) = told {
        let stream = scavenge.stream();
        if let Some(revision) = tell(&mut place, heads, &stream, event_type, Content::Json, json.into())? {
            let all = StreamName::new(ALL).expect("the name of a stream");
            let link = format!("{revision}@{stream}").into();
            tell(&mut place, heads, &all, EventType::LINK, Content::Binary, link)?;
        }
    }
    Ok(Decision { scavenge: Some(scavenge), events: place.into_events(), ..Decision::of(outcome) })
}

/// Writes an event of our own; its revision. Not where somebody has ended the stream:
/// nothing follows a tombstone.
fn tell<H: Heads>(
    place: &mut Placing<'_, H>,
    heads: &H,
    stream: &StreamName,
    event_type: &'static str,
    content: Content,
    data: Bytes,
) -> Result<Option<Revision>, H::Error> {
    if heads.head(stream)?.tombstoned {
        return Ok(None);
    }
    let event = own_event(stream, place.next_position(), event_type, content, data);
    place.event(stream, event).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Metadata;

    fn name(text: &str) -> StreamName {
        StreamName::new(text.to_owned()).expect("a name")
    }

    fn event(stream: &str, revision: u64, seconds: u64) -> Facts {
        let created = Timestamp::from_ticks(seconds * Timestamp::TICKS_PER_SECOND);
        Facts { stream: name(stream), revision: Revision::saturating(revision), created, bytes: 10 }
    }

    fn head(last: u64, json: &str) -> Head {
        let metadata = if json.is_empty() { Metadata::default() } else { Metadata::parse(json.as_bytes()) };
        Head { last: Some(Revision::saturating(last)), tombstoned: false, metadata }
    }

    const NOW: Timestamp = Timestamp::from_ticks(1_000 * Timestamp::TICKS_PER_SECOND);

    #[test]
    fn what_its_stream_shows_is_not_gone() {
        assert!(!is_gone(&event("a", 0, 1), &head(9, ""), None, NOW));
        assert!(!is_gone(&event("a", 5, 1), &head(9, r#"{"$tb":5}"#), None, NOW));
        assert!(is_gone(&event("a", 4, 1), &head(9, r#"{"$tb":5}"#), None, NOW));
        assert!(!is_gone(&event("a", 7, 1), &head(9, r#"{"$maxCount":3}"#), None, NOW));
        assert!(is_gone(&event("a", 6, 1), &head(9, r#"{"$maxCount":3}"#), None, NOW));
        assert!(!is_gone(&event("a", 0, 900), &head(9, r#"{"$maxAge":100}"#), None, NOW));
        assert!(is_gone(&event("a", 0, 899), &head(9, r#"{"$maxAge":100}"#), None, NOW));
        let deleted = head(9, r#"{"$tb":9223372036854775807}"#);
        assert!(is_gone(&event("a", 9, 999), &deleted, None, NOW));
    }

    #[test]
    fn of_an_ended_stream_the_tombstone_stays() {
        let ended = Head { tombstoned: true, ..head(3, "") };
        assert!(is_gone(&event("a", 3, 1), &ended, None, NOW));
        assert!(!is_gone(&event("a", Revision::TOMBSTONE.get(), 1), &ended, None, NOW));
        // Its metadata goes with it.
        assert!(is_gone(&event("$$a", 3, 1), &head(3, ""), Some(&ended), NOW));
    }

    #[test]
    fn of_a_metastream_the_newest_event_stays_whatever_its_own_metadata_says() {
        for json in ["", r#"{"$tb":9223372036854775807}"#, r#"{"$maxAge":1}"#] {
            assert!(!is_gone(&event("$$a", 3, 1), &head(3, json), Some(&head(0, "")), NOW), "{json}");
            assert!(is_gone(&event("$$a", 2, 1), &head(3, json), Some(&head(0, "")), NOW), "{json}");
        }
    }

    #[test]
    fn a_scavenge_is_read_as_it_was_written() {
        for (phase, ended) in [(Phase::Running, None), (Phase::Completed, Some(NOW)), (Phase::Stopped, Some(NOW))] {
            let scavenge = Scavenge {
                id: Uuid::from_u128(7),
                phase,
                started: NOW,
                ended,
                point: Position::new(1),
                cursor: Position::new(2),
                events: 3,
                bytes: 4,
                commands: 5,
            };
            let mut bytes = BytesMut::new();
            scavenge.encode(&mut bytes);
            let bytes = bytes.freeze();
            assert_eq!(Scavenge::decode(bytes.clone()), Ok(scavenge));
            assert!(Scavenge::decode(bytes.slice(1..)).is_err());
        }
    }
}
