//! What is new in a configuration, and why one isn't taken.

use std::sync::Arc;

use crate::config::{ConfigErrors, MeshConfig};

/// A configuration that is new.
#[derive(Debug)]
pub struct Taken {
    /// The whole.
    pub config: MeshConfig,
    /// Whether documents have changed, and not pods alone.
    pub documents: bool,
}

/// What of a configuration is new.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Difference {
    Nothing,
    Pods,
    Documents,
}

/// Why a change isn't taken.
#[derive(Debug, thiserror::Error)]
pub enum Rejection {
    /// The documents don't go together.
    #[error(transparent)]
    Invalid(#[from] ConfigErrors),
    /// Only a new agent could take it.
    #[error("only a restart of the agent can change {}", .0.join(", "))]
    NeedsRestart(Vec<&'static str>),
}

/// Whether the documents are the same.
pub(super) fn only_pods_differ(now: &MeshConfig, next: &MeshConfig) -> bool {
    let MeshConfig {
        mesh,
        workloads: _,
        outside: _,
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
