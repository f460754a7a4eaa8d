//! Contexts: servers that have a name, so that nobody types addresses and passwords.
//!
//! They are kept in `contexts.json` in the user's configuration directory, readable by
//! that user alone. A password is not in it: a context says where the password is, an
//! environment variable (`env://NAME`) or a file (`file://PATH`).
//!
//! Which server a command talks to: that of `--server` or `--context`; else of `ANNALS_URL`;
//! else of `ANNALS_CONTEXT`; else of the selected context; else this machine.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use annals_client::{Credentials, Settings};
use serde::{Deserialize, Serialize};

use crate::failure::{Code, Failure};

/// A name is at most so long.
const NAME_CHARS_MAX: usize = 64;

/// All contexts of this user.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Contexts {
    /// The one that holds where none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) selected: Option<String>,
    /// The one before, for `select -`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous: Option<String>,
    pub(crate) contexts: BTreeMap<String, Context>,
}

/// A server with a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Context {
    /// A connection string without a password.
    pub(crate) server: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<String>,
    /// Where the user's password is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) password: Option<String>,
}

impl Contexts {
    /// Where they are kept.
    ///
    /// # Errors
    /// Neither `XDG_CONFIG_HOME` nor `HOME` says where.
    pub(crate) fn path() -> Result<PathBuf, Failure> {
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let directory = absolute("XDG_CONFIG_HOME").or_else(|| absolute("HOME").map(|home| home.join(".config")));
        let directory = directory.ok_or_else(|| Failure::usage("set HOME: contexts are kept in ~/.config/annals"))?;
        Ok(directory.join("annals").join("contexts.json"))
    }

    /// Those in a file; none where there is no file.
    pub(crate) fn load(path: &Path) -> Result<Contexts, Failure> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Contexts::default()),
            Err(error) => return Err(Failure::usage(format!("cannot read {}: {error}", path.display()))),
        };
        serde_json::from_str(&text).map_err(|error| Failure::usage(format!("{} is malformed: {error}", path.display())))
    }

    /// Replaces the file: a crash leaves the old one or the new one.
    pub(crate) fn save(&self, path: &Path) -> Result<(), Failure> {
        let directory = path.parent().ok_or_else(|| Failure::usage("contexts need a directory"))?;
        fs::create_dir_all(directory)?;
        let part = path.with_extension("json.part");
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
        serde_json::to_writer_pretty(&mut file, self).map_err(io::Error::from)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        Ok(fs::rename(part, path)?)
    }

    /// The context of this name.
    pub(crate) fn get(&self, name: &str) -> Result<&Context, Failure> {
        self.contexts.get(name).ok_or_else(|| {
            let text = format!("there is no context {name}; `annals context ls` lists them");
            Failure::new(Code::NotFound, anyhow::anyhow!(text))
        })
    }

    /// Makes a context, or replaces the one of this name.
    pub(crate) fn add(&mut self, name: &str, context: Context) -> Result<(), Failure> {
        let sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if name.is_empty() || name.len() > NAME_CHARS_MAX || name == "-" || !name.chars().all(sound) {
            return Err(Failure::usage(format!(
                "a context's name is 1 to {NAME_CHARS_MAX} letters, digits, `.`, `_` or `-`"
            )));
        }
        context.check()?;
        self.contexts.insert(name.to_owned(), context);
        Ok(())
    }

    /// Selects a context; `-` the one before. Its name.
    pub(crate) fn select(&mut self, name: &str) -> Result<String, Failure> {
        let name = match name {
            "-" => self.previous.clone().ok_or_else(|| Failure::usage("no other context was selected before"))?,
            name => name.to_owned(),
        };
        self.get(&name)?;
        if self.selected.as_ref() != Some(&name) {
            self.previous = self.selected.replace(name.clone());
        }
        Ok(name)
    }

    /// Removes a context.
    pub(crate) fn remove(&mut self, name: &str) -> Result<(), Failure> {
        self.get(name)?;
        self.contexts.remove(name);
        self.selected.take_if(|selected| selected == name);
        self.previous.take_if(|previous| previous == name);
        Ok(())
    }
}

impl Context {
    /// How to reach the server, with the password from where it is.
    pub(crate) fn settings(&self) -> Result<Settings, Failure> {
        let mut settings: Settings = self.server.parse().map_err(Failure::usage)?;
        if let Some(user) = &self.user {
            let password = self.password.as_deref().map(secret).transpose()?.unwrap_or_default();
            settings.credentials = Some(Credentials { user: user.clone(), password });
        }
        Ok(settings)
    }

    fn check(&self) -> Result<(), Failure> {
        let settings: Settings = self.server.parse().map_err(Failure::usage)?;
        if settings.credentials.is_some() {
            return Err(Failure::usage(
                "leave user and password out of the address: --user NAME --password env://VARIABLE or file://PATH",
            ));
        }
        match (&self.user, &self.password) {
            (None, Some(_)) => Err(Failure::usage("--password needs --user")),
            (_, Some(place)) if !place.starts_with("env://") && !place.starts_with("file:///") => {
                Err(Failure::usage("--password says where the password is: env://VARIABLE or file:///PATH"))
            }
            _ => Ok(()),
        }
    }
}

/// What is at a place for secrets.
fn secret(place: &str) -> Result<String, Failure> {
    if let Some(name) = place.strip_prefix("env://") {
        return std::env::var(name)
            .map_err(|_| Failure::usage(format!("the password is to be in ${name}, which is not set")));
    }
    let path = place.strip_prefix("file://").unwrap_or(place);
    let text = fs::read_to_string(path)
        .map_err(|error| Failure::usage(format!("cannot read the password in {path}: {error}")))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(server: &str) -> Context {
        Context { server: server.to_owned(), user: None, password: None }
    }

    #[test]
    fn contexts_survive_being_saved_and_selected() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("annals").join("contexts.json");
        let mut contexts = Contexts::load(&path).expect("none is fine");
        contexts.add("a", context("kurrentdb://a")).expect("sound");
        contexts.add("b", context("kurrentdb://b?tls=false")).expect("sound");
        contexts.select("a").expect("there");
        contexts.select("b").expect("there");
        assert_eq!(contexts.select("-").expect("there was one"), "a");
        contexts.save(&path).expect("saved");
        assert_eq!(Contexts::load(&path).expect("readable"), contexts);
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).expect("there").permissions());
        assert_eq!(mode & 0o777, 0o600);
        contexts.remove("a").expect("there");
        assert_eq!(contexts.selected, None);
        assert!(contexts.select("a").is_err());
    }

    #[test]
    fn a_password_is_never_in_the_file() {
        let mut contexts = Contexts::default();
        assert!(contexts.add("x", context("kurrentdb://u:secret@a")).is_err());
        let literal = Context { user: Some("u".into()), password: Some("secret".into()), ..context("kurrentdb://a") };
        assert!(contexts.add("x", literal).is_err());
        assert!(contexts.add("x y", context("kurrentdb://a")).is_err());
        assert!(contexts.contexts.is_empty());
    }

    #[test]
    fn a_password_comes_from_where_it_is_said_to_be() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("password");
        fs::write(&file, "pass word\n").expect("written");
        let place = format!("file://{}", file.display());
        let named = Context { user: Some("ada".into()), password: Some(place), ..context("kurrentdb://a") };
        let credentials = named.settings().expect("sound").credentials.expect("some");
        assert_eq!((credentials.user.as_str(), credentials.password.as_str()), ("ada", "pass word"));
    }
}
