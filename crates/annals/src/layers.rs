//! The configuration from its layers: defaults, files, environment, flags.
//! Later ones win, and of each value it is known where it came from.

use std::path::{Path, PathBuf};

use annals_server::{Config, memory};
use figment::providers::{Env, Format as _, Serialized, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};

use crate::failure::{Code, Failure};

/// Read when it is there and no `--config` is given.
const DEFAULT_FILE: &str = "/etc/annals/annals.toml";

/// Variables that begin with `ANNALS_` but are no options of a node.
const NOT_OPTIONS: &[&str] = &["url", "context", "config", "commit"];

/// Options with a flag of their own; the others are set with `--set`.
const FLAGS: &[&str] = &[
    "listen",
    "node_address",
    "data",
    "bootstrap",
    "join",
    "bootstrap_expect",
    "node_name",
    "replica",
    "tls_cert",
    "tls_key",
    "tls_ca",
    "cluster_name",
    "insecure",
    "log",
    "log_format",
];

/// Options that came as flags.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flags(Dict);

impl Flags {
    /// Adds an option.
    pub(crate) fn set(&mut self, name: &str, value: impl Into<Value>) {
        self.0.insert(name.to_owned(), value.into());
    }

    /// Adds an option where there is one.
    pub(crate) fn set_some(&mut self, name: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.set(name, value);
        }
    }

    /// Adds `NAME=VALUE`, the value written as in the environment.
    pub(crate) fn set_pair(&mut self, pair: &str) -> Result<(), Failure> {
        let (name, value) =
            pair.split_once('=').ok_or_else(|| Failure::usage(format!("--set {pair}: write --set NAME=VALUE")))?;
        let value: Value = value.parse().unwrap_or_else(|infallible: std::convert::Infallible| match infallible {});
        self.set(name.trim(), value);
        Ok(())
    }
}

impl Provider for Flags {
    fn metadata(&self) -> Metadata {
        Metadata::named("flag").interpolater(|_, keys| format!("--{}", keys.join(".").replace('_', "-")))
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.0.clone()))
    }
}

/// Where a node has its configuration from, to be read again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sources {
    /// In their order.
    pub(crate) files: Vec<PathBuf>,
    pub(crate) flags: Flags,
}

impl Sources {
    /// All layers as they are now.
    pub(crate) fn read(&self) -> Result<Figment, Failure> {
        layers(&self.files, self.flags.clone())
    }

    /// The configuration as it is now, validated.
    pub(crate) fn config(&self) -> Result<Config, Failure> {
        config(&self.read()?)
    }
}

/// All layers, the later over the earlier.
pub(crate) fn layers(files: &[PathBuf], flags: Flags) -> Result<Figment, Failure> {
    let mut figment = Figment::from(Serialized::defaults(Config::defaults_within(memory::limit())));
    let default = Path::new(DEFAULT_FILE);
    if files.is_empty() && default.is_file() {
        figment = figment.merge(Toml::file_exact(default));
    }
    for file in files {
        if !file.is_file() {
            return Err(Failure::usage(format!("there is no configuration file {}", file.display())));
        }
        figment = figment.merge(Toml::file_exact(file));
    }
    let environment = Env::prefixed("ANNALS_").filter(|key| {
        let key = key.as_str().to_ascii_lowercase();
        // Kubernetes puts ANNALS_SERVICE_HOST, ANNALS_PORT_2113_TCP and the
        // like into every pod beside a service named annals.
        let service = key.starts_with("service_") || key == "port" || key.starts_with("port_");
        !service && !NOT_OPTIONS.contains(&key.as_str())
    });
    let figment = figment.merge(environment).merge(flags);
    refuse_unknown(&figment)?;
    Ok(figment)
}

/// The configuration, validated.
pub(crate) fn config(figment: &Figment) -> Result<Config, Failure> {
    let config = read(figment)?;
    config.validate().map_err(|invalid| Failure::new(Code::Usage, invalid))?;
    Ok(config)
}

/// The configuration as it is, for who does not serve with it.
pub(crate) fn read(figment: &Figment) -> Result<Config, Failure> {
    figment.extract().map_err(|error| Failure::usage(describe(error)))
}

/// Where an option's value came from.
pub(crate) fn origin(figment: &Figment, option: &str) -> String {
    let Some(metadata) = figment.find_metadata(option) else { return "default".to_owned() };
    match (&metadata.source, metadata.name.as_ref()) {
        (Some(figment::Source::File(path)), _) => format!("file {}", path.display()),
        (_, "flag") if FLAGS.contains(&option) => format!("flag --{}", option.replace('_', "-")),
        (_, "flag") => format!("flag --set {option}"),
        (_, name) if name.contains("environment") => format!("environment ANNALS_{}", option.to_ascii_uppercase()),
        (_, _) => "default".to_owned(),
    }
}

fn refuse_unknown(figment: &Figment) -> Result<(), Failure> {
    let data = figment.data().map_err(|error| Failure::usage(describe(error)))?;
    for name in data.values().flat_map(|dict| dict.keys()) {
        if !Config::OPTIONS.iter().any(|option| option.name == name) {
            let nearest = Config::OPTIONS.iter().map(|option| option.name).min_by_key(|known| distance(known, name));
            let hint = nearest.map(|known| format!("; did you mean `{known}`?")).unwrap_or_default();
            let origin = origin(figment, name);
            return Err(Failure::usage(format!("there is no option `{name}` ({origin}){hint}")));
        }
    }
    Ok(())
}

fn describe(error: figment::Error) -> String {
    error.into_iter().map(|error| error.to_string()).collect::<Vec<_>>().join("; ")
}

/// How many letters must change to make one word of the other (Levenshtein).
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, l) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, r) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(l != *r);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_needs_the_fewest_changes() {
        assert_eq!(distance("listen", "listen"), 0);
        assert_eq!(distance("listen", "lisen"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn an_unknown_option_is_refused_with_the_nearest_name() {
        let mut flags = Flags::default();
        flags.set_pair("lisen=127.0.0.1:1").expect("a pair");
        let failure = layers(&[], flags).expect_err("unknown");
        assert!(format!("{failure:?}").contains("did you mean `listen`?"), "{failure:?}");
    }

    #[test]
    fn a_file_is_beaten_by_a_flag_and_both_are_told() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("a.toml");
        std::fs::write(&file, "heartbeat_ms = 100\nlisten = \"127.0.0.1:7\"\nbootstrap = \"127.0.0.1:8\"\n")
            .expect("written");
        let mut flags = Flags::default();
        flags.set("listen", "127.0.0.1:8");
        let figment = layers(&[file], flags).expect("known options");
        let config = config(&figment).expect("valid");
        assert_eq!(config.heartbeat_ms, 100);
        assert_eq!(config.listen.port(), 8);
        assert_eq!(config.bootstrap, ["127.0.0.1:8"]);
        assert!(origin(&figment, "heartbeat_ms").starts_with("file "));
        assert_eq!(origin(&figment, "listen"), "flag --listen");
        assert_eq!(origin(&figment, "ring_bytes"), "default");
    }
}
