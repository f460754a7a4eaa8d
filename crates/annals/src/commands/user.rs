//! `annals user`: accounts. Passwords are never on the command line, where other
//! users of the machine could see them.

use std::io::{IsTerminal as _, Read as _};

use annals_client::{User, Users};
use clap_complete::engine::ArgValueCandidates;
use schemars::JsonSchema;
use serde::Serialize;

use crate::commands::At;
use crate::complete;
use crate::consent::Consent;
use crate::failure::Failure;
use crate::output::{self, Format};

/// Flags of `annals user`.
pub(crate) type Arguments = At<Command>;

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// List accounts.
    #[command(after_help = "\
Examples:
  annals user ls --server 'kurrentdb://admin:…@127.0.0.1:2113?tls=false'
  annals user ls -o json")]
    Ls,
    /// Tell of one account.
    #[command(after_help = "\
Examples:
  annals user show ann
  annals user show ann -o json")]
    Show {
        /// Its login name.
        #[arg(add = ArgValueCandidates::new(complete::accounts))]
        login: String,
    },
    /// Make an account. Asks for its password.
    #[command(after_help = "\
Examples:
  annals user create ann --full-name 'Ann Example' --group sales
  annals user create backup --group '$ops' --password-stdin < secret")]
    Create {
        /// Its login name.
        login: String,
        /// The person's name.
        #[arg(long, value_name = "NAME", default_value = "")]
        full_name: String,
        /// A group. $admins may do everything, $ops operates. May be repeated.
        #[arg(long = "group", value_name = "GROUP")]
        groups: Vec<String>,
        /// Take the password from standard input.
        #[arg(long)]
        password_stdin: bool,
    },
    /// Change name and groups.
    #[command(after_help = "\
Examples:
  annals user update ann --group sales --group '$ops'
  annals user update ann --full-name 'Ann Other'")]
    Update {
        /// Its login name.
        #[arg(add = ArgValueCandidates::new(complete::accounts))]
        login: String,
        /// The person's name. Default: as it is.
        #[arg(long, value_name = "NAME")]
        full_name: Option<String>,
        /// A group, in place of those it has. May be repeated. Default: as they are.
        #[arg(long = "group", value_name = "GROUP")]
        groups: Vec<String>,
        /// Take it out of all groups.
        #[arg(long, conflicts_with = "groups")]
        no_groups: bool,
    },
    /// Give an account another password. Asks for it.
    #[command(after_help = "\
Examples:
  annals user password ann
  annals user password ann --password-stdin < secret")]
    Password {
        /// Its login name.
        #[arg(add = ArgValueCandidates::new(complete::accounts))]
        login: String,
        /// Take the password from standard input.
        #[arg(long)]
        password_stdin: bool,
    },
    /// From now on its credentials prove nothing, also in calls that are running.
    #[command(after_help = "\
Examples:
  annals user disable ann
  annals user disable ann -o json")]
    Disable {
        /// Its login name.
        #[arg(add = ArgValueCandidates::new(complete::accounts))]
        login: String,
    },
    /// Its credentials count again.
    #[command(after_help = "\
Examples:
  annals user enable ann
  annals user enable ann -o json")]
    Enable {
        /// Its login name.
        #[arg(add = ArgValueCandidates::new(complete::accounts))]
        login: String,
    },
    /// Remove an account.
    #[command(after_help = "\
Examples:
  annals user delete ann
  annals user delete ann --yes")]
    Delete {
        /// Its login name.
        #[arg(add = ArgValueCandidates::new(complete::accounts))]
        login: String,
        #[command(flatten)]
        consent: Consent,
    },
}

/// An account.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Account {
    /// The name that credentials give.
    login: String,
    /// The person's name; may be empty.
    full_name: String,
    /// Groups; members of $admins may do everything, of $ops operate.
    groups: Vec<String>,
    /// Whether its credentials prove nothing for now.
    disabled: bool,
}

/// An account that was made, changed or removed.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Changed {
    /// The name that credentials give.
    login: String,
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let users = arguments.connection.client()?.users();
    let format = arguments.connection.format();
    match arguments.command {
        Command::Ls => list(&users.list(None).await?, format)?,
        Command::Show { login } => list(&users.list(Some(&login)).await?, format)?,
        Command::Create { login, full_name, groups, password_stdin } => {
            let password = password(&login, password_stdin)?;
            users.create(&login, &password, &full_name, &groups).await?;
            done(&login, "is there", format)?;
        }
        Command::Update { login, full_name, groups, no_groups } => {
            let now = one(&users, &login).await?;
            let groups = if groups.is_empty() && !no_groups { now.groups } else { groups };
            users.update(&login, &full_name.unwrap_or(now.full_name), &groups).await?;
            done(&login, "is changed", format)?;
        }
        Command::Password { login, password_stdin } => {
            let password = password(&login, password_stdin)?;
            users.reset_password(&login, &password).await?;
            done(&login, "has another password", format)?;
        }
        Command::Disable { login } => {
            users.disable(&login).await?;
            done(&login, "is disabled", format)?;
        }
        Command::Enable { login } => {
            users.enable(&login).await?;
            done(&login, "is enabled", format)?;
        }
        Command::Delete { login, consent } => {
            consent.ask(&format!("this deletes the account {login}"), &login)?;
            users.delete(&login).await?;
            done(&login, "is deleted", format)?;
        }
    }
    Ok(())
}

async fn one(users: &Users, login: &str) -> Result<User, Failure> {
    let found = users.list(Some(login)).await?;
    found.into_iter().next().ok_or_else(|| Failure::usage(format!("the server tells nothing of {login}")))
}

/// The new password of an account: from standard input, or from whoever sits there.
fn password(login: &str, from_stdin: bool) -> Result<String, Failure> {
    if from_stdin {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text)?;
        return Ok(text.trim_end_matches(['\r', '\n']).to_owned());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage("say --password-stdin: there is nobody to ask for the password"));
    }
    let first = rpassword::prompt_password(format!("New password of {login}: "))?;
    if first != rpassword::prompt_password("Again: ")? {
        return Err(Failure::usage("these are two passwords"));
    }
    Ok(first)
}

fn done(login: &str, what: &str, format: Format) -> std::io::Result<()> {
    match format {
        Format::Table => output::line(&format!("account {login} {what}")),
        Format::Json => output::json(&Changed { login: login.to_owned() }),
    }
}

fn list(users: &[User], format: Format) -> std::io::Result<()> {
    if format == Format::Json {
        return users.iter().try_for_each(|user| {
            output::json(&Account {
                login: user.login.clone(),
                full_name: user.full_name.clone(),
                groups: user.groups.clone(),
                disabled: user.disabled,
            })
        });
    }
    let rows = users.iter().map(|user| {
        let state = if user.disabled { "disabled" } else { "enabled" };
        vec![user.login.clone(), user.full_name.clone(), user.groups.join(" "), state.to_owned()]
    });
    output::table(&["LOGIN", "NAME", "GROUPS", "STATE"], rows.collect())
}
