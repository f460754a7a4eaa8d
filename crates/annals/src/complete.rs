//! What a shell offers when somebody presses the tab key: the program itself is asked, and
//! asks the server where that knows.
//!
//! Somebody waits, in the middle of a line: there is little time, and whatever goes wrong
//! (no server, no rights, no time) is nothing to offer, and never a word in the line.
//! Names come from a server, where others chose them, and go into a command line that is
//! about to be run: only those are offered which a shell takes as they are.

use std::ffi::OsStr;
use std::time::Duration;

use annals_client::{Client, Settings};
use annals_server::Config;
use clap_complete::CompleteEnv;
use clap_complete::engine::CompletionCandidate;

use crate::Connection;
use crate::codes::{PAGES, title};
use crate::contexts::Contexts;
use crate::output::Format;

/// The variable by which the shell asks.
pub(crate) const VARIABLE: &str = "ANNALS_COMPLETE";

/// How long somebody waits for a list.
const PATIENCE: Duration = Duration::from_millis(900);

/// Names that are offered at the most: more than that nobody reads.
const OFFERED_MAX: u32 = 100;

/// Answers the shell and ends the process, if it is the shell that asks.
pub(crate) fn answer(command: fn() -> clap::Command) {
    CompleteEnv::with_factory(command).var(VARIABLE).complete();
}

/// Contexts of this user.
pub(crate) fn contexts() -> Vec<CompletionCandidate> {
    let contexts = Contexts::path().and_then(|path| Contexts::load(&path)).unwrap_or_default();
    let offered = contexts.contexts.into_iter().filter(|(name, _)| is_plain(name));
    offered.map(|(name, context)| CompletionCandidate::new(name).help(Some(context.server.into()))).collect()
}

/// Error codes.
pub(crate) fn codes() -> Vec<CompletionCandidate> {
    let offered = PAGES.iter().map(|(code, page)| CompletionCandidate::new(*code).help(Some(title(page).into())));
    offered.collect()
}

/// Options of a node.
pub(crate) fn options() -> Vec<CompletionCandidate> {
    Config::OPTIONS.iter().map(|option| CompletionCandidate::new(option.name)).collect()
}

/// Streams whose name begins with what is typed.
pub(crate) fn streams(typed: &OsStr) -> Vec<CompletionCandidate> {
    let Some(prefix) = typed.to_str().map(str::to_owned) else { return Vec::new() };
    ask(async |client| {
        let found = client.cluster().list_streams(&prefix, "", OFFERED_MAX, false).await.unwrap_or_default();
        found.into_iter().map(|stream| stream.name).collect()
    })
}

/// What feeds groups.
pub(crate) fn sources() -> Vec<CompletionCandidate> {
    ask(async |client| groups_of(&client).await.into_iter().map(|(source, _)| source).collect())
}

/// Groups of the source that is on the line already.
pub(crate) fn groups() -> Vec<CompletionCandidate> {
    let line = words();
    ask(async |client| {
        let groups = groups_of(&client).await.into_iter();
        groups.filter(|(source, _)| line.contains(source)).map(|(_, group)| group).collect()
    })
}

/// Members of the cluster.
pub(crate) fn nodes() -> Vec<CompletionCandidate> {
    ask(async |client| match client.cluster().status().await {
        Ok(status) => status.nodes.into_iter().map(|node| node.name).collect(),
        Err(_) => Vec::new(),
    })
}

/// Accounts.
pub(crate) fn accounts() -> Vec<CompletionCandidate> {
    ask(async |client| {
        let found = client.users().list(None).await.unwrap_or_default();
        found.into_iter().map(|user| user.login).collect()
    })
}

async fn groups_of(client: &Client) -> Vec<(String, String)> {
    let found = client.groups().list(None).await.unwrap_or_default();
    found.into_iter().map(|group| (group.event_source, group.group_name)).collect()
}

/// Asks the server that the line, the environment or the context names.
fn ask(question: impl AsyncFnOnce(Client) -> Vec<String>) -> Vec<CompletionCandidate> {
    let Ok(settings) = connection(&words()).named() else { return Vec::new() };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return Vec::new() };
    let client = Client::new(in_haste(settings));
    let found = runtime.block_on(async { tokio::time::timeout(PATIENCE, question(client)).await });
    // A name that is being looked up keeps a thread: nobody waits for that.
    runtime.shutdown_background();
    let mut names = found.unwrap_or_default();
    names.retain(|name| is_plain(name));
    names.sort();
    names.dedup();
    names.into_iter().take(OFFERED_MAX as usize).map(CompletionCandidate::new).collect()
}

/// One attempt, and no more time than there is.
fn in_haste(settings: Settings) -> Settings {
    Settings {
        max_discover_attempts: 1,
        gossip_timeout: settings.gossip_timeout.min(PATIENCE),
        default_deadline: settings.default_deadline.min(PATIENCE),
        ..settings
    }
}

/// The line that is being typed: shells put it behind `--`.
fn words() -> Vec<String> {
    let words = std::env::args_os().skip_while(|word| word != "--").skip(1);
    words.map(|word| word.to_string_lossy().into_owned()).collect()
}

/// What the line says of the server.
fn connection(words: &[String]) -> Connection {
    let after = |flag: &str| {
        let (at, first) = words.iter().enumerate().rfind(|(_, word)| word.starts_with(flag))?;
        let value = match first.strip_prefix(flag)? {
            "" => words.get(at + 1)?,
            rest => rest.strip_prefix('=')?,
        };
        // bash hands words on as they are typed, quotes and all.
        Some(value.trim_matches(['\'', '"']).to_owned())
    };
    Connection { server: after("--server"), context: after("--context"), output: Format::Table }
}

/// Whether every shell takes the name as it is. `:`, `=` and `@` are left out as well, at
/// which bash begins a new word.
fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | '+' | ',');
    !name.is_empty() && !name.starts_with('-') && name.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_no_shell_reads_otherwise_are_offered() {
        for name in ["order-1", "a.b_c", "a/b", "annals-0.annals-headless"] {
            assert!(is_plain(name), "{name}");
        }
        for name in ["", "-y", "--yes", "$ce-order", "a b", "a;rm", "`x`", "a\nb", "a'b", "a\"b", "*", "~", "a:b", "é"]
        {
            assert!(!is_plain(name), "{name:?}");
        }
    }

    #[test]
    fn the_server_is_the_one_that_the_line_names() {
        let of = |line: &str| {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            let connection = connection(&words);
            (connection.server, connection.context)
        };
        assert_eq!(of("annals stream read s"), (None, None));
        assert_eq!(of("annals stream --server kdb://a read").0.as_deref(), Some("kdb://a"));
        assert_eq!(of("annals stream --server=kdb://a?tls=false read").0.as_deref(), Some("kdb://a?tls=false"));
        assert_eq!(of("annals stream --server 'kdb://a?tls=false' read").0.as_deref(), Some("kdb://a?tls=false"));
        assert_eq!(of("annals --context prod stream ls").1.as_deref(), Some("prod"));
        assert_eq!(of("annals stream ls --server"), (None, None));
    }
}
