//! The first administrator of a cluster. There is no default password.
//!
//! Once a cluster has a leader and never had an account `admin`, the leader makes it:
//! with the password from `admin_password_file`, or with one that it draws and leaves
//! in the file `admin-password` in its data directory, readable by its user alone. An
//! account that was removed is not made again.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use annals_core::State;
use annals_core::access::{ADMINS, account_stream};
use annals_raft::{Phase, Role};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use super::account::Account;
use super::{Caller, passwords, proofs, register};
use crate::context::{Context, Shared};
use crate::status::Failure;

const ADMIN: &str = "admin";
const FILE: &str = "admin-password";
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Where the first administrator's password comes from.
pub(crate) enum FirstAdmin {
    /// It is drawn, and left in the data directory.
    Drawn,
    /// The operator chose it.
    Given(Zeroizing<String>),
}

impl FirstAdmin {
    /// Reads the password, if there is a file for it.
    ///
    /// # Errors
    /// The file cannot be read, or holds no password.
    pub(crate) fn read(file: Option<&Path>) -> io::Result<FirstAdmin> {
        let Some(file) = file else { return Ok(FirstAdmin::Drawn) };
        let text = Zeroizing::new(fs::read_to_string(file)?);
        let password = text.trim_end_matches(['\r', '\n']);
        if password.is_empty() || password.len() > passwords::PASSWORD_BYTES_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("it must hold a password of 1 to {} bytes", passwords::PASSWORD_BYTES_MAX),
            ));
        }
        Ok(FirstAdmin::Given(Zeroizing::new(password.to_owned())))
    }
}

/// Makes the first administrator where none ever was. Ends once there is one.
pub(crate) async fn mint(context: Shared, first: FirstAdmin) {
    let stream = account_stream(ADMIN).expect("a login name");
    loop {
        match context.node.store().head(&stream).map(|head| head.state()) {
            Ok(State::Empty) => {}
            Ok(State::Live(_) | State::SoftDeleted(_) | State::Tombstoned) => return,
            Err(error) => tracing::warn!(%error, "cannot see whether there is an administrator"),
        }
        let leads = {
            let status = context.node.watch_status();
            let status = status.borrow();
            status.phase == Phase::Ready && status.role == Role::Leader
        };
        if leads && let Err(failure) = make(&context, &first).await {
            tracing::warn!(failure = failure.message(), "the first administrator is not made yet");
        }
        tokio::select! {
            () = context.stopping.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

async fn make(context: &Context, first: &FirstAdmin) -> Result<(), Failure> {
    let file = context.config.data.join(FILE);
    let password = match first {
        FirstAdmin::Given(password) => password.clone(),
        FirstAdmin::Drawn => {
            leave(&file).map_err(|error| Failure::broken("leaving the administrator's password", &error))?
        }
    };
    let chosen = password.clone();
    let hash = tokio::task::spawn_blocking(move || passwords::hash(&chosen)).await;
    let account = Account {
        login_name: ADMIN.to_owned(),
        full_name: "Administrator".to_owned(),
        groups: vec![ADMINS.to_owned()],
        disabled: false,
        hash: Arc::from(hash.map_err(|_| Failure::ShuttingDown)??),
    };
    let made = register::create(context, &Caller::Trusted, &account).await;
    match (first, &made) {
        (FirstAdmin::Given(_), Ok(())) => tracing::info!("made the account admin with the password that was given"),
        (FirstAdmin::Drawn, Ok(())) => tracing::info!(
            file = %file.display(),
            "made the account admin; its password is in this file: change it, then remove the file"
        ),
        // Either an attempt before, of which nothing was heard, or another node with a
        // password of its own. Only then is this one nobody's.
        (FirstAdmin::Drawn, Err(Failure::UserConflict(_))) => {
            let store = context.node.store();
            let known = register::find(store, ADMIN)?;
            let ours = tokio::task::spawn_blocking(move || passwords::verify(&password, &known.account.hash)).await;
            if matches!(ours, Ok(false)) {
                forget(&file);
            }
        }
        (_, Err(_)) => {}
    }
    made
}

fn draw() -> Zeroizing<String> {
    let mut bytes = Zeroizing::new([0; 18]);
    proofs::random(&mut *bytes);
    Zeroizing::new(URL_SAFE_NO_PAD.encode(*bytes))
}

/// The password that is left for the operator. One of an attempt before, also before a
/// restart, is kept: what became of that attempt may not be known yet.
fn leave(file: &PathBuf) -> io::Result<Zeroizing<String>> {
    if let Ok(FirstAdmin::Given(password)) = FirstAdmin::read(Some(file)) {
        return Ok(password);
    }
    forget(file);
    let password = draw();
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
    file.write_all(password.as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    Ok(password)
}

fn forget(file: &PathBuf) {
    if let Err(error) = fs::remove_file(file)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(%error, file = %file.display(), "cannot remove an outdated password");
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_drawn_password_is_left_for_its_owner_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join(FILE);
        let password = leave(&file).expect("written");
        assert_eq!(password.len(), 24);
        assert_eq!(fs::read_to_string(&file).expect("there"), format!("{}\n", *password));
        assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(leave(&file).expect("written"), password, "an attempt before may have made the account with it");
        fs::write(&file, "").expect("cut by a crash");
        assert_ne!(leave(&file).expect("written"), password);
    }

    #[test]
    fn a_given_password_ends_before_the_line_does() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("given");
        fs::write(&file, "changeit\r\n").expect("written");
        assert!(matches!(FirstAdmin::read(Some(&file)), Ok(FirstAdmin::Given(password)) if *password == "changeit"));
        fs::write(&file, "\n").expect("written");
        assert!(FirstAdmin::read(Some(&file)).is_err());
        assert!(FirstAdmin::read(Some(&directory.path().join("none"))).is_err());
        assert!(matches!(FirstAdmin::read(None), Ok(FirstAdmin::Drawn)));
    }
}
