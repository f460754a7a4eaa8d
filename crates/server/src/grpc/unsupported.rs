//! Services of the protocol that this version does not have.
//!
//! A call to them is answered with UNIMPLEMENTED and a text that says so,
//! which every client reports as it is; a bare "unknown path" would look like
//! a wrong address.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use http::{Request, Response};
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::RoutesBuilder;
use tonic::{Status, codegen::Service};

/// Mounts all of them.
pub(crate) fn add_to(routes: &mut RoutesBuilder) {
    routes.add_service(Projections);
}

macro_rules! unsupported {
    ($($name:ident = $path:literal, $text:literal;)+) => {$(
        #[derive(Clone, Copy)]
        struct $name;

        impl NamedService for $name {
            const NAME: &'static str = $path;
        }

        impl Service<Request<Body>> for $name {
            type Response = Response<Body>;
            type Error = Infallible;
            type Future = Ready<Result<Response<Body>, Infallible>>;

            fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
                Poll::Ready(Ok(()))
            }

            fn call(&mut self, _: Request<Body>) -> Self::Future {
                ready(Ok(Status::unimplemented($text).into_http()))
            }
        }
    )+};
}

unsupported! {
    Projections = "event_store.client.projections.Projections",
        "this version of Annals has no projections; $ce-, $et-, $bc- and $streams are built in";
}
