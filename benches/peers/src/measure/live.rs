//! From an append to the subscriber that sees it.
//!
//! A request counts as done when the append is acknowledged and the one live
//! subscriber has seen the event, which carries its number in its data.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use annals_bench::load::Worker;
use anyhow::Context;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::sync::oneshot;

use super::append::{Appender, appenders as plain_appenders};
use crate::system::Client;

const PATIENCE: Duration = Duration::from_secs(30);

type Awaited = Arc<Mutex<HashMap<u64, oneshot::Sender<()>>>>;

pub(super) struct Seen<C> {
    appender: Appender<C>,
    next: Arc<AtomicU64>,
    awaited: Awaited,
}

/// Appenders whose events the subscriber waits for.
pub(super) async fn appenders<C: Client>(
    clients: Vec<C>,
    subscriber: C,
    streams: usize,
) -> anyhow::Result<Vec<Seen<C>>> {
    let awaited = Awaited::default();
    tokio::spawn(watch(subscriber.subscribe().await?, awaited.clone()));
    let next = Arc::new(AtomicU64::new(0));
    let seen = |appender| Seen { appender, next: next.clone(), awaited: awaited.clone() };
    Ok(plain_appenders(clients, streams, 1).into_iter().map(seen).collect())
}

impl<C: Client> Worker for Seen<C> {
    async fn request(&mut self) -> anyhow::Result<u64> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut event = self.appender.next_event();
        event.data = [&number.to_be_bytes(), &event.data[size_of::<u64>()..]].concat().into();
        let (sender, seen) = oneshot::channel();
        self.awaited.lock().expect("nothing panics under this lock").insert(number, sender);
        self.appender.append(&[event]).await?;
        tokio::time::timeout(PATIENCE, seen)
            .await
            .with_context(|| format!("event {number} was not seen"))?
            .context("the subscription ended")?;
        Ok(1)
    }
}

/// Tells each appender that its event was seen. When the subscription fails, or
/// delivers what nobody waits for, all that wait are given up.
async fn watch(mut events: BoxStream<'static, anyhow::Result<Bytes>>, awaited: Awaited) {
    while let Some(Ok(data)) = events.next().await {
        let number = data.first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
        let waits = number.and_then(|number| awaited.lock().expect("nothing panics under this lock").remove(&number));
        let Some(waits) = waits else { break };
        // The worker may have been stopped by another one's error.
        let _ = waits.send(());
    }
    awaited.lock().expect("nothing panics under this lock").clear();
}
