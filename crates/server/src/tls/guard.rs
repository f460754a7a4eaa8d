//! What only nodes may call.

use tonic::service::Interceptor;
use tonic::{Request, Status};

use super::ClientIdentity;
use crate::config::Config;

/// Lets calls of this cluster's nodes through, and says to the service behind
/// it which hosts the caller has proved to be. Over clear text nobody can prove
/// anything: there whoever reaches the port counts as a node, which is why that
/// must be asked for beyond loopback ([`Config::validate`]).
pub(crate) fn nodes_only(config: &Config) -> impl Interceptor + Clone + Send + Sync + 'static {
    let (tls, cluster) = (config.tls_cert.is_some(), config.cluster_name.clone());
    move |mut request: Request<()>| {
        if !tls {
            return Ok(request);
        }
        let found = match request.extensions().get::<ClientIdentity>() {
            Some(ClientIdentity::Node { names, .. }) => {
                let names = names.clone();
                request.extensions_mut().insert(names);
                return Ok(request);
            }
            Some(ClientIdentity::User(name)) => format!("that of the user {name}"),
            None => "none that names anybody of this cluster".to_owned(),
        };
        Err(Status::permission_denied(format!(
            "only nodes of the cluster `{cluster}` may call this, and the connection's certificate is {found}"
        )))
    }
}
