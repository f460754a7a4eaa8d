//! `ServerFeatures`: what clients may use. The first call of most of them, and
//! an error here makes some unusable for good, so that it depends on nothing.

use annals_proto::event_store::client::Empty;
use annals_proto::event_store::client::server_features::server_features_server::{
    ServerFeatures, ServerFeaturesServer,
};
use annals_proto::event_store::client::server_features::{SupportedMethod, SupportedMethods};
use tonic::{Request, Response, Status};

use crate::version;

/// The service.
pub(crate) fn service() -> ServerFeaturesServer<Service> {
    ServerFeaturesServer::new(Service).max_decoding_message_size(super::MESSAGE_BYTES_MAX)
}

pub(crate) struct Service;

const STREAMS: &str = "event_store.client.streams.streams";
const STREAMS_V2: &str = "kurrentdb.protocol.v2.streams.streamsservice";
const GROUPS: &str = "event_store.client.persistent_subscriptions.persistentsubscriptions";
const USERS: &str = "event_store.client.users.users";
const GOSSIP: &str = "event_store.client.gossip.gossip";
const OPERATIONS: &str = "event_store.client.operations.operations";
const MONITORING: &str = "event_store.client.monitoring.monitoring";
const FEATURES: &str = "event_store.client.server_features.serverfeatures";

/// Exactly what works: service, method, features. Names in lower case, as
/// clients compare them (protocol 4.5).
const METHODS: &[(&str, &str, &[&str])] = &[
    (STREAMS, "read", &["position", "events"]),
    (STREAMS, "append", &[]),
    (STREAMS, "delete", &[]),
    (STREAMS, "tombstone", &[]),
    (STREAMS, "batchappend", &["deadline_duration"]),
    (STREAMS_V2, "appendsession", &[]),
    (STREAMS_V2, "appendrecords", &[]),
    (GROUPS, "create", &["stream", "all"]),
    (GROUPS, "update", &["stream", "all"]),
    (GROUPS, "delete", &["stream", "all"]),
    (GROUPS, "read", &["stream", "all"]),
    (GROUPS, "getinfo", &["stream", "all"]),
    (GROUPS, "replayparked", &["stream", "all"]),
    (GROUPS, "truncateparked", &["stream", "all"]),
    (GROUPS, "list", &["stream", "all"]),
    (GROUPS, "restartsubsystem", &["stream", "all"]),
    (USERS, "create", &[]),
    (USERS, "update", &[]),
    (USERS, "delete", &[]),
    (USERS, "disable", &[]),
    (USERS, "enable", &[]),
    (USERS, "details", &[]),
    (USERS, "changepassword", &[]),
    (USERS, "resetpassword", &[]),
    (GOSSIP, "read", &[]),
    (OPERATIONS, "startscavenge", &[]),
    (OPERATIONS, "stopscavenge", &[]),
    (OPERATIONS, "shutdown", &[]),
    (OPERATIONS, "mergeindexes", &[]),
    (OPERATIONS, "resignnode", &[]),
    (OPERATIONS, "setnodepriority", &[]),
    (OPERATIONS, "restartpersistentsubscriptions", &[]),
    (MONITORING, "stats", &[]),
    (FEATURES, "getsupportedmethods", &[]),
];

#[tonic::async_trait]
impl ServerFeatures for Service {
    async fn get_supported_methods(&self, _: Request<Empty>) -> Result<Response<SupportedMethods>, Status> {
        let method = |(service, method, features): &(&str, &str, &[&str])| SupportedMethod {
            method_name: (*method).to_owned(),
            service_name: (*service).to_owned(),
            features: features.iter().map(|feature| (*feature).to_owned()).collect(),
        };
        Ok(Response::new(SupportedMethods {
            methods: METHODS.iter().map(method).collect(),
            event_store_server_version: version::PROTOCOL.to_owned(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_methods_of_the_contract_are_announced() {
        use prost::Message as _;
        let files =
            prost_types::FileDescriptorSet::decode(annals_proto::FILE_DESCRIPTOR_SET).expect("our own descriptors");
        let mut known = Vec::new();
        for file in &files.file {
            for service in &file.service {
                for method in &service.method {
                    let full = format!("{}.{}/{}", file.package(), service.name(), method.name());
                    known.push(full.to_lowercase());
                }
            }
        }
        for (service, method, _) in METHODS {
            assert!(known.contains(&format!("{service}/{method}")), "{service}/{method}");
        }
    }
}
