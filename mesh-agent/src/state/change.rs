//! Decides whether a running agent can take a new configuration.

use crate::model::mesh::Mesh;

/// The settings that differ and that only a restart of the agent can change, by field path; none: it can be taken.
pub fn needs_restart(running: &Mesh, next: &Mesh) -> Vec<&'static str> {
    let Mesh { trust_domain, mode: _, bounds: _, existing: _, pod_ranges: _, tls, timeouts: _, issuer } = running;
    let fields = [
        ("spec.trustDomain", *trust_domain != next.trust_domain),
        ("spec.tls", *tls != next.tls),
        ("spec.issuer", *issuer != next.issuer),
    ];
    fields.into_iter().filter(|(_, differs)| *differs).map(|(field, _)| field).collect()
}
