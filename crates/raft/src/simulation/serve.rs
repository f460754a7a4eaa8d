//! What a simulated node answers its peers, as [`crate::service`] does.

use std::sync::Arc;

use annals_proto::annals::internal::v1 as pb;
use bytes::Bytes;
use futures::stream::StreamExt;
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::metadata::MetadataMap;
use uuid::Uuid;

use super::network::Puller;
use super::node::{Running, SimulatedNode};
use crate::codec;
use crate::forward::write_answer;
use crate::identity::Identity;
use crate::lineage::Lineage;
use crate::service::{admit, admit_candidate, read_append};
use crate::snapshot::{Receiver, send_records};
use crate::types::index_of;

impl SimulatedNode {
    #[allow(clippy::result_large_err)]
    fn admit(&self, headers: &MetadataMap) -> Result<(&Running, Identity, u64), Status> {
        let running = self.running().ok_or_else(|| Status::unavailable("this node takes no part"))?;
        let identity = self.identity().ok_or_else(|| Status::unavailable("this node takes no part"))?;
        let from = admit(&identity, &running.raft, headers)?;
        Ok((running, identity, from))
    }

    pub(crate) async fn serve_vote(&self, headers: &MetadataMap, body: &Bytes, pre: bool) -> Result<Bytes, Status> {
        let (running, identity, _) = self.admit(headers)?;
        let candidacy = admit_candidate(&identity, &running.raft, headers, body)?;
        let answer = if pre { running.raft.pre_vote(candidacy).await } else { running.raft.vote(candidacy).await };
        let answer = answer.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(codec::encode_vote_response(&answer))
    }

    pub(crate) async fn serve_transfer(&self, headers: &MetadataMap, body: &Bytes) -> Result<Bytes, Status> {
        let (running, ..) = self.admit(headers)?;
        let request =
            codec::decode_transfer_request(body).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let answer = running.raft.handle_transfer_leader(request).await;
        let answer = answer.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(codec::encode_transfer_answer(&answer))
    }

    #[allow(clippy::result_large_err)]
    pub(crate) fn serve_appends(
        &self,
        headers: &MetadataMap,
        incoming: ReceiverStream<Result<pb::AppendRequest, Status>>,
    ) -> Result<mpsc::Receiver<Result<pb::AppendResponse, Status>>, Status> {
        let (running, _, from) = self.admit(headers)?;
        let requests = incoming.scan((), move |(), request| std::future::ready(read_append(request, from)));
        let answers = running.raft.stream_append(requests);
        let (sender, receiver) = mpsc::channel(1);
        self.process.spawn(async move {
            let mut answers = Box::pin(answers);
            while let Some(answer) = answers.next().await {
                let answer = match answer {
                    Ok(answer) => Ok(pb::AppendResponse { body: codec::encode_append_answer(&answer) }),
                    Err(fatal) => Err(Status::unavailable(fatal.to_string())),
                };
                if sender.send(answer).await.is_err() {
                    return;
                }
            }
        });
        Ok(receiver)
    }

    #[allow(clippy::result_large_err)]
    pub(crate) fn serve_offer(
        self: &Arc<Self>,
        headers: &MetadataMap,
        offer: pb::SnapshotOffer,
    ) -> Result<mpsc::Receiver<Result<pb::SnapshotProgress, Status>>, Status> {
        let (running, identity, from) = self.admit(headers)?;
        let meta =
            codec::decode_snapshot_meta(&offer.meta).map_err(|error| Status::invalid_argument(error.to_string()))?;
        self.world.oracle().offered(self.host, index_of(meta.last_log_id.as_ref()));
        let source = Puller { world: self.world.clone(), host: self.host, identity, from };
        let receiver = Receiver {
            raft: running.raft.clone(),
            store: running.store.clone(),
            source: Box::new(source),
            catch_ups: running.catch_ups.clone(),
            from,
        };
        let (progress, told) = mpsc::channel(4);
        self.process.spawn(receiver.receive(offer, progress));
        Ok(told)
    }

    #[allow(clippy::result_large_err)]
    pub(crate) fn serve_pull(
        &self,
        headers: &MetadataMap,
        request: pb::PullRequest,
    ) -> Result<mpsc::Receiver<Result<pb::RecordChunk, Status>>, Status> {
        let (running, ..) = self.admit(headers)?;
        let (chunks, sent) = mpsc::channel(2);
        self.process.spawn(send_records(running.store.clone(), request, u64::MAX, chunks));
        Ok(sent)
    }

    pub(super) async fn serve_forward(
        &self,
        headers: &MetadataMap,
        request: pb::ForwardRequest,
        deadline: Instant,
    ) -> Result<Bytes, Status> {
        let (running, ..) = self.admit(headers)?;
        let result = self.append_here(running, request.command, deadline).await;
        Ok(write_answer(request.id, result).encode_to_vec().into())
    }

    pub(super) async fn serve_read_index(&self, headers: &MetadataMap) -> Result<u64, Status> {
        let (running, ..) = self.admit(headers)?;
        running.leader_reads.get().await.map_err(|error| Status::unavailable(error.to_string()))
    }

    #[allow(clippy::result_large_err)]
    pub(crate) fn serve_retire(&self, headers: &MetadataMap) -> Result<(), Status> {
        let (running, ..) = self.admit(headers)?;
        running.removed.send_replace(true);
        Ok(())
    }

    pub(crate) fn probe(&self) -> pb::ProbeReply {
        let identity = self.identity();
        pb::ProbeReply {
            has_identity: identity.is_some(),
            cluster: identity.map(|identity| identity.cluster.as_bytes().to_vec()).unwrap_or_default().into(),
            node: identity.map_or(0, |identity| identity.node),
            initialized: self.world.disk(self.host).lock().log.has_begun()
                || self.running.get().is_some_and(|running| !running.log.is_pristine()),
            incarnation: self.incarnation.as_bytes().to_vec().into(),
            ..pb::ProbeReply::default()
        }
    }

    pub(crate) async fn adopt(self: &Arc<Self>, request: pb::AdoptRequest) -> Result<pb::AdoptReply, Status> {
        let _turn = self.adoption.lock().await;
        let cluster =
            Uuid::from_slice(&request.cluster).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let identity =
            Identity { cluster, node: request.node, incarnation: self.incarnation, lineage: Lineage::default() };
        match self.identity() {
            Some(known) if known != identity => {
                return Err(Status::failed_precondition(format!("this is node {} already", known.node)));
            }
            Some(_) => {}
            None => {
                self.world.oracle().adopted(&identity);
                self.world.disk(self.host).lock().identity = Some(identity);
                let _ = self.identity.set(identity);
                self.take_part(identity).await.map_err(Status::failed_precondition)?;
            }
        }
        Ok(pb::AdoptReply { incarnation: self.incarnation.as_bytes().to_vec().into() })
    }
}
