//! A bucket of S3-compatible storage.

use bytes::Bytes;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::path::Path;
use object_store::{ClientConfigKey, ObjectStore, ObjectStoreExt};

use crate::error::Error;

/// See the module.
#[derive(Debug)]
pub(super) struct Bucket {
    store: AmazonS3,
    /// Before the name of each backup.
    prefix: Path,
    text: String,
}

impl Bucket {
    /// `s3://BUCKET/PREFIX`, the rest from the environment.
    pub(super) fn open(text: &str) -> Result<Bucket, Error> {
        let path = text.strip_prefix("s3://").unwrap_or_default();
        let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
        if bucket.is_empty() {
            return Err(Error::Invalid("write the bucket: s3://BUCKET or s3://BUCKET/PREFIX".into()));
        }
        // The client of the store takes the cryptography that the process has installed, and
        // would panic without. An error says that somebody has: it is the only one there is.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket);
        if is_in_clear_text(&builder) {
            // A small container may have no authorities, and needs none for this.
            let key = AmazonS3ConfigKey::Client(ClientConfigKey::NoSystemCertificates);
            builder = builder.with_config(key, "true");
        }
        let store = builder
            .build()
            .map_err(|error| Error::Invalid(format!("{text} cannot be used: {}", with_causes(&error))))?;
        let prefix = Path::parse(prefix.trim_end_matches('/'))
            .map_err(|error| Error::Invalid(format!("{text} cannot be used: {error}")))?;
        Ok(Bucket { store, prefix, text: text.to_owned() })
    }

    pub(super) async fn list(&self) -> Result<Vec<String>, Error> {
        let prefix = (!self.prefix.as_ref().is_empty()).then_some(&self.prefix);
        let listed = self.store.list_with_delimiter(prefix).await;
        let listed = listed.map_err(|error| Error::place("list", &self.text, error))?;
        Ok(listed.common_prefixes.iter().filter_map(|path| Some(path.filename()?.to_owned())).collect())
    }

    pub(super) async fn put(&self, name: &str, bytes: Bytes) -> Result<(), Error> {
        let put = self.store.put(&self.path(name), bytes.into()).await;
        put.map(|_| ()).map_err(|error| self.failed("write", name, error))
    }

    pub(super) async fn get(&self, name: &str) -> Result<Option<Bytes>, Error> {
        let got = async { self.store.get(&self.path(name)).await?.bytes().await };
        there(got.await).map_err(|error| self.failed("read", name, error))
    }

    pub(super) async fn size(&self, name: &str) -> Result<Option<u64>, Error> {
        let found = there(self.store.head(&self.path(name)).await);
        Ok(found.map_err(|error| self.failed("look at", name, error))?.map(|found| found.size))
    }

    pub(super) async fn remove(&self, name: &str) -> Result<(), Error> {
        let removed = there(self.store.delete(&self.path(name)).await);
        removed.map(|_| ()).map_err(|error| self.failed("remove", name, error))
    }

    fn path(&self, name: &str) -> Path {
        name.split('/').fold(self.prefix.clone(), |path, part| path.join(part))
    }

    fn failed(&self, attempted: &'static str, name: &str, error: object_store::Error) -> Error {
        Error::place(attempted, format!("{}/{name}", self.text.trim_end_matches('/')), error)
    }
}

/// Whether nothing is called over TLS: neither the store nor, for keys, anybody else.
fn is_in_clear_text(builder: &AmazonS3Builder) -> bool {
    let said = |key| builder.get_config_value(&key);
    let endpoint = said(AmazonS3ConfigKey::S3Endpoint).or_else(|| said(AmazonS3ConfigKey::Endpoint));
    endpoint.is_some_and(|endpoint| endpoint.starts_with("http://")) && said(AmazonS3ConfigKey::AccessKeyId).is_some()
}

/// An error and what caused it, which alone says what to do about a certificate.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

fn there<T>(result: object_store::Result<T>) -> object_store::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
