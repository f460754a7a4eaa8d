//! etcd, with a key for each event and a key for the head of each stream.
//!
//! An append is one transaction: if the head key's modification revision is the
//! one that the last append left, put the head and the events. etcd keeps every
//! version of a key, which is why the head holds no more than a number.

use std::process::Command;

use anyhow::{Context, bail};
use bytes::Bytes;
use tempfile::TempDir;
use tonic::transport::Channel;

use self::rpc::compare::{CompareResult, CompareTarget, TargetUnion};
use self::rpc::kv_client::KvClient;
use self::rpc::maintenance_client::MaintenanceClient;
use self::rpc::request_op::Request;
use self::rpc::{Compare, KeyValue, PutRequest, RangeRequest, RequestOp, StatusRequest, StatusResponse, TxnRequest};
use super::grpc::{MESSAGE_BYTES_MAX, channels, connect};
use super::{Client, Event, Head, Programs, System};
use crate::place::Place;
use crate::process::{Farewell, Process};
use crate::wait::until;

#[allow(clippy::all, unreachable_pub)]
mod rpc {
    tonic::include_proto!("etcdserverpb");
}

pub(crate) struct Etcd {
    processes: Vec<Process>,
    ports: Vec<u16>,
    _data: TempDir,
}

impl System for Etcd {
    type Client = EtcdClient;

    async fn start(programs: &Programs, place: &Place, nodes: usize) -> anyhow::Result<Self> {
        let data = place.directory()?;
        let ports = place.ports(nodes)?;
        let peers: Vec<String> = place.ports(nodes)?.iter().map(|port| format!("http://127.0.0.1:{port}")).collect();
        let cluster: Vec<String> = peers.iter().enumerate().map(|(node, url)| format!("n{node}={url}")).collect();
        let mut processes = Vec::with_capacity(nodes);
        for (node, (port, peer)) in ports.iter().zip(&peers).enumerate() {
            let url = format!("http://127.0.0.1:{port}");
            let mut command = Command::new(&programs.etcd);
            command.args(["--name", &format!("n{node}"), "--data-dir"]).arg(data.path().join(format!("n{node}")));
            command.args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
            command.args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]);
            command.args(["--initial-cluster", &cluster.join(","), "--initial-cluster-state", "new"]);
            // The largest size its documentation suggests; the default of 2 GB ends a load of a million events early.
            command.args(["--quota-backend-bytes", "8589934592", "--log-level", "warn", "--logger", "zap"]);
            let log = data.path().join(format!("n{node}.log"));
            processes.push(Process::start(command, &log, Farewell::Kill)?);
        }
        let mut this = Self { processes, ports, _data: data };
        this.leader().await?;
        Ok(this)
    }

    fn processes(&mut self) -> &mut [Process] {
        &mut self.processes
    }

    async fn leader(&mut self) -> anyhow::Result<usize> {
        let ports = self.ports.clone();
        until("etcd has a leader", &mut self.processes, async || {
            let mut found = None;
            for (node, port) in ports.iter().enumerate() {
                let status = status(*port).await?;
                anyhow::ensure!(status.leader != 0, "node {node} knows no leader");
                let header = status.header.context("a status without a header")?;
                if header.member_id == status.leader {
                    found = Some(node);
                }
            }
            found.context("no node leads")
        })
        .await
    }

    async fn clients(&mut self, node: usize, count: usize) -> anyhow::Result<Vec<EtcdClient>> {
        let channels = channels(self.ports[node], count).await?;
        let client = |channel| KvClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        Ok(channels.into_iter().map(|channel| EtcdClient { kv: client(channel) }).collect())
    }
}

async fn status(port: u16) -> anyhow::Result<StatusResponse> {
    let mut maintenance = MaintenanceClient::new(connect(port).await?);
    Ok(maintenance.status(StatusRequest {}).await?.into_inner())
}

pub(crate) struct EtcdClient {
    kv: KvClient<Channel>,
}

impl EtcdClient {
    /// The names of all streams, and how many events they have: what the heads say.
    async fn streams(&mut self) -> anyhow::Result<Vec<(String, u64)>> {
        let heads = self.range(Bytes::from_static(b"h/"), Bytes::from_static(b"h0")).await?;
        let stream = |head: KeyValue| {
            let name = std::str::from_utf8(&head.key)?.strip_prefix("h/").context("a head without its prefix")?;
            anyhow::Ok((name.to_owned(), std::str::from_utf8(&head.value)?.parse()?))
        };
        heads.into_iter().map(stream).collect()
    }

    /// What this member has from `key` up to `range_end`, exclusive.
    async fn range(&mut self, key: Bytes, range_end: Bytes) -> anyhow::Result<Vec<KeyValue>> {
        let request = RangeRequest { key, range_end, serializable: true };
        Ok(self.kv.range(request).await.context("a range failed")?.into_inner().kvs)
    }
}

impl Client for EtcdClient {
    async fn append(&mut self, stream: &str, head: &mut Head, events: &[Event]) -> anyhow::Result<()> {
        let due = head.events + events.len() as u64;
        let head_key = Bytes::from(format!("h/{stream}"));
        let expected = Compare {
            result: CompareResult::Equal.into(),
            target: CompareTarget::Mod.into(),
            key: head_key.clone(),
            target_union: Some(TargetUnion::ModRevision(i64::try_from(head.last)?)),
        };
        let mut puts = vec![put(head_key, Bytes::from(due.to_string()))];
        puts.extend(
            (head.events..).zip(events).map(|(revision, event)| put(key(stream, revision), event.data.clone())),
        );
        let request = TxnRequest { compare: vec![expected], success: puts };
        let answer = self.kv.txn(request).await.context("a transaction failed")?.into_inner();
        if !answer.succeeded {
            bail!("an append to {stream} at {head:?} was refused");
        }
        let revision = answer.header.context("an answer without a header")?.revision;
        head.advance(events.len(), u64::try_from(revision)?)
    }

    async fn read_stream(&mut self, stream: &str, events: u64) -> anyhow::Result<()> {
        let found = self.range(key(stream, 0), key(stream, u64::MAX)).await?;
        for (revision, event) in (0..).zip(&found) {
            if event.key != key(stream, revision) || event.value.is_empty() {
                bail!("{:?} came where revision {revision} of {stream} was due", event.key);
            }
        }
        anyhow::ensure!(found.len() as u64 == events, "{stream} has {} events, not {events}", found.len());
        Ok(())
    }

    async fn read_all(&mut self, events: u64) -> anyhow::Result<()> {
        // Stream by stream: this version goes through all keys up to the end of
        // a range for every page of it.
        let mut count = 0;
        for (stream, events) in self.streams().await? {
            self.read_stream(&stream, events).await?;
            count += events;
        }
        anyhow::ensure!(count == events, "{count} events were read, not {events}");
        Ok(())
    }

    async fn read_linearizable(&mut self, stream: &str, revision: u64) -> anyhow::Result<()> {
        let request = RangeRequest { key: key(stream, revision), ..RangeRequest::default() };
        let answer = self.kv.range(request).await.context("a range failed")?.into_inner();
        anyhow::ensure!(answer.kvs.len() == 1, "{} events at revision {revision} of {stream}", answer.kvs.len());
        Ok(())
    }
}

/// Sorts as the revisions do.
fn key(stream: &str, revision: u64) -> Bytes {
    format!("e/{stream}/{revision:020}").into()
}

fn put(key: Bytes, value: Bytes) -> RequestOp {
    RequestOp { request: Some(Request::RequestPut(PutRequest { key, value })) }
}
