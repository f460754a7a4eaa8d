//! Who takes part.

use clap::ValueEnum;
use serde::Serialize;

/// A system in the shape in which it is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Contestant {
    Annals,
    /// Annals with one call per append and 64 clients: what its batches are compared with.
    #[value(skip)]
    AnnalsUnary,
    Etcd,
    Nats,
    /// Alone.
    Postgres,
    /// With a synchronous standby.
    PostgresStandby,
    #[serde(rename = "umadb")]
    #[value(name = "umadb")]
    UmaDb,
}

impl Contestant {
    /// Whether it is measured when only these systems are asked for.
    pub(crate) fn is_among(self, systems: &[Self]) -> bool {
        let system = if self == Self::AnnalsUnary { Self::Annals } else { self };
        systems.is_empty() || systems.contains(&system)
    }

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
