//! Who takes part.

use clap::ValueEnum;
use serde::Serialize;

/// A system in the shape in which it is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Contestant {
    Annals,
    /// Annals with one call per append and 64 clients: what its batches are compared with.
    AnnalsUnary,
    Etcd,
    Nats,
    /// Alone.
    Postgres,
    /// With a synchronous standby.
    PostgresStandby,
    UmaDb,
}

impl Contestant {
    /// As it is called in tables.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Annals => "Annals",
            Self::AnnalsUnary => "Annals, unary",
            Self::Etcd => "etcd",
            Self::Nats => "NATS JetStream",
            Self::Postgres => "PostgreSQL",
            Self::PostgresStandby => "PostgreSQL + standby",
            Self::UmaDb => "UmaDB",
        }
    }
}
