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
use self::rpc::{Compare, PutRequest, RangeRequest, RequestOp, StatusRequest, StatusResponse, TxnRequest};
use super::grpc::{MESSAGE_BYTES_MAX, channels, connect};
use super::{Client, Event, Head, Programs, System};
use crate::place::Place;
use crate::process::{Farewell, Process};
use crate::wait::until;

#[allow(clippy::all, unreachable_pub)]
mod rpc {
    tonic::include_proto!("etcdserverpb");
}

/// Events of one answer in a catch-up read: about 300 KB.
const PAGE: i64 = 1_000;

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
        let request = RangeRequest {
            key: key(stream, 0),
            range_end: key(stream, u64::MAX),
            serializable: true,
            ..RangeRequest::default()
        };
        let answer = self.kv.range(request).await.context("a range failed")?.into_inner();
        for (revision, found) in (0..).zip(&answer.kvs) {
            if found.key != key(stream, revision) || found.value.is_empty() {
                bail!("{:?} came where revision {revision} of {stream} was due", found.key);
            }
        }
        anyhow::ensure!(answer.kvs.len() as u64 == events, "{stream} has {} events, not {events}", answer.kvs.len());
        Ok(())
    }

    async fn read_all(&mut self, events: u64) -> anyhow::Result<()> {
        let mut count = 0;
        let mut from = Bytes::from_static(b"e/");
        loop {
            let request = RangeRequest {
                key: from.clone(),
                range_end: Bytes::from_static(b"e0"),
                limit: PAGE,
                serializable: true,
            };
            let page = self.kv.range(request).await.context("a range failed")?.into_inner();
            for found in &page.kvs {
                anyhow::ensure!(found.key >= from, "{:?} came after {from:?}", found.key);
                from = found.key.clone();
                count += 1;
            }
            if !page.more {
                break;
            }
            // The least key after the last one.
            from = [from.as_ref(), &[0]].concat().into();
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
