//! The gRPC services, one file or folder each.

pub(crate) mod backup;
pub(crate) mod cluster;
pub(crate) mod fuzzing;
pub(crate) mod gossip;
pub(crate) mod logs;
pub(crate) mod maintenance;
pub(crate) mod monitoring;
pub(crate) mod operations;
pub(crate) mod persistent_subscriptions;
pub(crate) mod server_features;
pub(crate) mod streams;
pub(crate) mod streams_v2;
pub(crate) mod unsupported;
pub(crate) mod users;

use std::sync::Arc;

use axum::Router;
use tonic::service::{Routes, RoutesBuilder};

use crate::context::Context;
use crate::tls;

/// Bytes of a request to any service but the streams, which have their own
/// limit: the framework's default, written out.
pub(crate) const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// All services of this node, this one of the streams' among them.
pub(crate) fn routes(context: &Arc<Context>, streams: streams::Server) -> Router {
    // Begun without the framework's own fallback: `crate::http` has one.
    let mut routes = RoutesBuilder::from(Router::new());
    routes
        .add_service(streams)
        .add_service(streams_v2::service(context.clone()))
        .add_service(persistent_subscriptions::service(context.clone()))
        .add_service(users::service(context.clone()))
        .add_service(gossip::service(context.clone()))
        .add_service(server_features::service())
        .add_service(operations::service(context.clone()))
        .add_service(monitoring::service(context.clone()))
        .add_service(cluster::service(context.clone()))
        .add_service(logs::service(context.clone()))
        .add_service(backup::service(context.clone()))
        .add_service(maintenance::service(context.clone()));
    unsupported::add_to(&mut routes);
    context.node.services().add_to(&mut routes, tls::guard::nodes_only(&context.config));
    Routes::into_axum_router(routes.routes())
}
