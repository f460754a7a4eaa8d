//! Who operates the node from the machine that it runs on.
//!
//! A running node leaves a token in the file `local-token` in its data directory, which
//! its user alone can read. Whoever shows it over loopback has the rights of `$ops`: they
//! could as well end the process. Each start draws another one, and a node that stops
//! takes it away. So a container's hooks and health checks need no password.
//!
//! The token says nothing of streams: who comes with it may operate, and append nothing.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use ring::rand::{SecureRandom as _, SystemRandom};
use tonic::metadata::MetadataMap;
use zeroize::Zeroizing;

/// The header that shows it.
pub(crate) const HEADER: &str = "annals-local-token";

/// What such a caller is called in the audit.
pub(crate) const NAME: &str = "$local";

const FILE: &str = "local-token";

const BYTES: usize = 32;

/// The token of this start.
pub(crate) struct LocalToken {
    path: PathBuf,
    /// Of the token, under a key that nobody knows: comparing tags takes the same time
    /// wherever they differ.
    key: hmac::Key,
    tag: hmac::Tag,
}

impl LocalToken {
    /// Draws one and leaves it in a data directory. Durable on return.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn leave(data: &Path) -> io::Result<LocalToken> {
        let random = SystemRandom::new();
        let failed = |_| io::Error::other("the system has no random numbers");
        let mut bytes = Zeroizing::new([0u8; BYTES]);
        random.fill(&mut bytes[..]).map_err(failed)?;
        let token = Zeroizing::new(URL_SAFE_NO_PAD.encode(&bytes[..]));
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &random).map_err(failed)?;
        let tag = hmac::sign(&key, token.as_bytes());
        let (path, temporary) = (data.join(FILE), data.join(format!("{FILE}.tmp")));
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        // Nobody else may read it, not even for a moment.
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(token.as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        File::open(data)?.sync_all()?;
        Ok(LocalToken { path, key, tag })
    }

    /// Takes it away. One that stays is of no use after the next start.
    pub(crate) fn take_away(&self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "the token for local use could not be removed");
        }
    }

    /// Whether a call from this address shows it.
    pub(crate) fn proves(&self, shown: &[u8], whence: Option<IpAddr>) -> bool {
        let is_local = whence.is_some_and(|address| address.to_canonical().is_loopback());
        is_local && hmac::verify(&self.key, shown, self.tag.as_ref()).is_ok()
    }
}

/// What a call shows, if anything.
pub(crate) fn shown(headers: &MetadataMap) -> Option<&[u8]> {
    headers.get(HEADER).map(|value| value.as_bytes())
}

/// The token that the node with this data directory left.
///
/// # Errors
/// There is none, as where no node runs, or it may not be read.
pub fn read(data: &Path) -> io::Result<Zeroizing<String>> {
    let text = Zeroizing::new(fs::read_to_string(data.join(FILE))?);
    Ok(Zeroizing::new(text.trim_end().to_owned()))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const HERE: Option<IpAddr> = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));

    #[test]
    fn only_the_token_of_this_start_proves_and_only_over_loopback() {
        let data = tempfile::tempdir().expect("a directory");
        let before = LocalToken::leave(data.path()).expect("written");
        let old = read(data.path()).expect("readable");
        let local = LocalToken::leave(data.path()).expect("written again");
        let token = read(data.path()).expect("readable");
        assert_ne!(*old, *token);
        assert!(before.proves(old.as_bytes(), HERE) && local.proves(token.as_bytes(), HERE));
        assert!(local.proves(token.as_bytes(), Some(IpAddr::V6(Ipv6Addr::LOCALHOST))));
        assert!(local.proves(token.as_bytes(), Some(IpAddr::V6(Ipv4Addr::LOCALHOST.to_ipv6_mapped()))));
        assert!(!local.proves(old.as_bytes(), HERE));
        assert!(!local.proves(b"", HERE));
        assert!(!local.proves(&token.as_bytes()[..token.len() - 1], HERE));
        assert!(!local.proves(token.as_bytes(), Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)))));
        assert!(!local.proves(token.as_bytes(), None));
    }

    #[test]
    fn the_file_is_for_the_nodes_user_alone_and_goes_with_the_node() {
        let data = tempfile::tempdir().expect("a directory");
        fs::write(data.path().join(format!("{FILE}.tmp")), "left by a crash").expect("written");
        let local = LocalToken::leave(data.path()).expect("written");
        let mode = fs::metadata(data.path().join(FILE)).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        local.take_away();
        assert_eq!(read(data.path()).expect_err("gone").kind(), io::ErrorKind::NotFound);
    }
}
