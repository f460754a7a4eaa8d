//! The rows of the comparison and their bars, as data.
//!
//! A row is one load on one kind of deployment. A bar is what Annals has to
//! reach in one figure of a row: *must* is what a release needs, *goal* is what
//! the work aims at.

use serde::Serialize;

use crate::contestant::Contestant::{self, Annals, AnnalsUnary, Etcd, Nats, Postgres, PostgresStandby, UmaDb};

/// One load, on every contestant it makes sense for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// Nodes of a replicated system.
    pub(crate) nodes: usize,
    pub(crate) contestants: &'static [Contestant],
    pub(crate) load: Load,
    /// What is counted.
    pub(crate) unit: &'static str,
    pub(crate) bars: &'static [Bar],
}

/// What is done.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Load {
    /// Appends of so many events each, in a closed loop.
    Append { clients: usize, events: usize },
    /// Single appends over one `BatchAppend` call for each stream.
    BatchAppend { streams: usize, in_flight: usize },
    /// One consumer reads everything.
    CatchUp(Fill),
    /// Readers read whole streams, picked at random.
    Streams { fill: Fill, readers: usize },
    /// Appends at a fixed rate, each until a subscriber has seen it.
    Live { clients: usize, rate: f64 },
    /// The leader is killed, again and again.
    Failover { kills: usize },
    /// Readers read single events on the nodes that do not lead.
    LinearReads { fill: Fill, readers: usize },
}

/// Data that is there before a read is measured: every stream gets this many
/// appends of this many events, one append to each stream in turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fill {
    pub(crate) clients: usize,
    pub(crate) streams: usize,
    pub(crate) appends: usize,
    pub(crate) events: usize,
}

impl Fill {
    pub(crate) const fn stream_events(self) -> u64 {
        (self.appends * self.events) as u64
    }

    pub(crate) const fn all_events(self) -> u64 {
        self.streams as u64 * self.stream_events()
    }
}

/// One number of a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Figure {
    /// Units a second.
    Rate,
    P50Ms,
    P99Ms,
    /// Processor seconds of all servers for a million units.
    CpuPerMillion,
    /// Bytes written by all servers for each byte of event data.
    WrittenPerByte,
    /// The most memory that one node had resident, in megabytes.
    MemoryMb,
}

/// What Annals has to reach.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bar {
    pub(crate) figure: Figure,
    pub(crate) must: &'static [Claim],
    pub(crate) goal: &'static [Claim],
}

/// Something to hold for the figure of Annals.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Claim {
    AtLeast(f64),
    AtMost(f64),
    /// So many times the highest of these.
    TimesAtLeast(f64, &'static [Contestant]),
    /// So many times that of this one.
    TimesAtMost(f64, Contestant),
}

use Claim::{AtLeast, AtMost, TimesAtLeast, TimesAtMost};

const REPLICATED: &[Contestant] = &[Annals, Etcd, Nats, PostgresStandby];
const ALONE: &[Contestant] = &[Annals, Postgres, UmaDb];

const fn bar(figure: Figure, must: &'static [Claim], goal: &'static [Claim]) -> Bar {
    Bar { figure, must, goal }
}

/// Of one event per append, however many clients.
const SINGLE_APPENDS: Bar = bar(
    Figure::Rate,
    &[TimesAtLeast(4.0, &[Etcd]), TimesAtLeast(1.0, &[PostgresStandby])],
    &[TimesAtLeast(1.0, &[Nats])],
);

/// In the order in which they run.
pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "append-3-64",
        title: "Replicated, 64 clients, one event per append",
        nodes: 3,
        contestants: REPLICATED,
        load: Load::Append { clients: 64, events: 1 },
        unit: "events",
        bars: &[
            SINGLE_APPENDS,
            bar(Figure::P99Ms, &[TimesAtMost(0.25, Etcd)], &[AtMost(12.0)]),
            bar(Figure::WrittenPerByte, &[AtMost(16.0)], &[AtMost(10.0)]),
        ],
    },
    Row {
        name: "append-3-256",
        title: "Replicated, 256 clients, one event per append",
        nodes: 3,
        contestants: REPLICATED,
        load: Load::Append { clients: 256, events: 1 },
        unit: "events",
        bars: &[SINGLE_APPENDS, bar(Figure::MemoryMb, &[AtMost(400.0)], &[])],
    },
    Row {
        name: "append-3-1",
        title: "Replicated, 1 client, one event per append",
        nodes: 3,
        contestants: REPLICATED,
        load: Load::Append { clients: 1, events: 1 },
        unit: "events",
        bars: &[bar(Figure::P50Ms, &[TimesAtMost(0.5, Etcd)], &[AtMost(0.6)])],
    },
    Row {
        name: "batch-3-16",
        title: "Replicated, BatchAppend: 16 streams, 256 single appends in flight on each",
        nodes: 3,
        contestants: &[Annals, AnnalsUnary],
        load: Load::BatchAppend { streams: 16, in_flight: 256 },
        unit: "events",
        bars: &[bar(Figure::Rate, &[TimesAtLeast(3.0, &[AnnalsUnary])], &[AtLeast(60_000.0)])],
    },
    Row {
        name: "append-3-16x100",
        title: "Replicated, 16 clients, 100 events per append",
        nodes: 3,
        contestants: &[Annals, Etcd, Nats, PostgresStandby, Postgres],
        load: Load::Append { clients: 16, events: 100 },
        unit: "events",
        bars: &[bar(Figure::Rate, &[TimesAtLeast(2.0, &[Nats])], &[AtLeast(180_000.0)])],
    },
    Row {
        name: "append-1-64",
        title: "One node, 64 clients, one event per append",
        nodes: 1,
        contestants: ALONE,
        load: Load::Append { clients: 64, events: 1 },
        unit: "events",
        bars: &[bar(Figure::Rate, &[TimesAtLeast(1.0, &[Postgres, UmaDb])], &[TimesAtLeast(1.5, &[Postgres, UmaDb])])],
    },
    Row {
        name: "append-1-16x100",
        title: "One node, 16 clients, 100 events per append",
        nodes: 1,
        contestants: ALONE,
        load: Load::Append { clients: 16, events: 100 },
        unit: "events",
        bars: &[bar(Figure::Rate, &[TimesAtLeast(1.0, &[Postgres, UmaDb])], &[AtLeast(250_000.0)])],
    },
    Row {
        name: "catch-up",
        title: "One consumer reads 1,000,000 events from the start",
        nodes: 3,
        contestants: &[Annals, Etcd, Nats, PostgresStandby, UmaDb],
        load: Load::CatchUp(Fill { clients: 16, streams: 1_000, appends: 10, events: 100 }),
        unit: "events",
        bars: &[bar(Figure::Rate, &[TimesAtLeast(2.0, &[Nats])], &[AtLeast(800_000.0)])],
    },
    Row {
        name: "streams",
        title: "64 readers read whole streams of 20 events, picked among 10,000",
        nodes: 3,
        contestants: &[Annals, Etcd, Nats, PostgresStandby, UmaDb],
        load: Load::Streams { fill: Fill { clients: 64, streams: 10_000, appends: 5, events: 4 }, readers: 64 },
        unit: "streams",
        bars: &[bar(Figure::Rate, &[TimesAtLeast(1.0, &[PostgresStandby])], &[AtLeast(20_000.0)])],
    },
    Row {
        name: "live",
        title: "From an append to a live subscriber, 1,000 appends a second",
        nodes: 3,
        contestants: &[Annals, Nats, PostgresStandby],
        load: Load::Live { clients: 64, rate: 1_000.0 },
        unit: "events",
        bars: &[bar(Figure::P50Ms, &[AtMost(2.0)], &[AtMost(1.0)]), bar(Figure::P99Ms, &[AtMost(8.0)], &[AtMost(4.0)])],
    },
    Row {
        name: "failover",
        title: "The leader is killed: until the next append is acknowledged",
        nodes: 3,
        contestants: &[Annals, Etcd, Nats],
        load: Load::Failover { kills: 10 },
        unit: "failovers",
        bars: &[bar(Figure::P50Ms, &[AtMost(1_000.0)], &[AtMost(400.0)]), bar(Figure::P99Ms, &[AtMost(3_000.0)], &[])],
    },
    Row {
        name: "linear-reads",
        title: "64 readers read single events on followers, linearizable",
        nodes: 3,
        contestants: &[Annals, Etcd],
        load: Load::LinearReads { fill: Fill { clients: 16, streams: 1_000, appends: 1, events: 10 }, readers: 64 },
        unit: "reads",
        bars: &[bar(Figure::Rate, &[TimesAtLeast(2.0, &[Etcd])], &[TimesAtLeast(4.0, &[Etcd])])],
    },
];
