//! What is new in a configuration.

use std::sync::Arc;

use crate::config::MeshConfig;

/// A configuration that is new.
#[derive(Debug)]
pub struct Taken {
    /// The whole.
    pub config: MeshConfig,
    /// Whether documents have changed, and not pods alone.
    pub documents: bool,
    /// The settings, by field path, that only a restart of the agent takes over.
    pub pending_restart: Vec<&'static str>,
}

/// What of a configuration is new.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Difference {
    Nothing,
    Pods,
    Documents,
}

/// Whether the documents are the same.
pub(super) fn only_pods_differ(now: &MeshConfig, next: &MeshConfig) -> bool {
    let MeshConfig {
        mesh,
        workloads: _,
        outside: _,
        unaddressed: _,
        released: _,
        authorization,
        peer_authentication,
        federated,
        rego,
        services: _,
        service_space: _,
        revocations,
        digest: _,
    } = now;
    (mesh, rego) == (&next.mesh, &next.rego)
        && are_same(authorization, &next.authorization)
        && are_same(peer_authentication, &next.peer_authentication)
        && are_same(federated, &next.federated)
        && are_same(revocations, &next.revocations)
}

/// While no document changes the lists are shared, and looking into thousands of policies can be saved.
fn are_same<T: PartialEq>(one: &Arc<[T]>, other: &Arc<[T]>) -> bool {
    Arc::ptr_eq(one, other) || one == other
}
