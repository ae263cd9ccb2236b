//! Indexes what is revoked, so that a connection asks with two look-ups.

use std::collections::HashSet;

use crate::config::MeshConfig;
use crate::model::crl::Crl;
use crate::model::revocation::Serial;
use crate::model::spiffe::SpiffeId;
use crate::model::workload::NodeName;

/// Everything that all `Revocation` documents revoke together.
#[derive(Debug, Default)]
pub(super) struct Revoked {
    ids: HashSet<SpiffeId>,
    serials: HashSet<Serial>,
    crls: Vec<Crl>,
}

impl Revoked {
    /// A node stands for what its agent may hold keys of. That an identity has replicas on other nodes doesn't save it:
    /// nobody can tell which node a certificate was issued to by looking at it.
    pub(super) fn of(config: &MeshConfig) -> Self {
        let mut revoked = Self::default();
        for revocation in config.revocations.iter() {
            revoked.ids.extend(revocation.spiffe_ids.iter().cloned());
            revoked.serials.extend(revocation.serials.iter().cloned());
            revoked.crls.extend(revocation.crls.iter().cloned());
            let on_them = config.workloads.iter().filter(|workload| revocation.nodes.contains(&workload.node));
            revoked.ids.extend(on_them.map(|workload| workload.identity.clone()));
            let of_node = |node: &NodeName| SpiffeId::of_node(&config.mesh.trust_domain, node.as_str()).ok();
            revoked.ids.extend(revocation.nodes.iter().filter_map(of_node));
        }
        revoked
    }

    pub(super) fn crls(&self) -> &[Crl] {
        &self.crls
    }

    pub(super) fn has_id(&self, id: &SpiffeId) -> bool {
        self.ids.contains(id)
    }

    pub(super) fn has(&self, id: &SpiffeId, serial: &Serial) -> bool {
        self.has_id(id) || self.serials.contains(serial)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{SourceFile, parse};
    use crate::state::MeshState;

    /// What is revoked of `web` on node a, `web` and `db` on node b, each with serial number `ab`.
    fn check(spec: &str) -> [bool; 2] {
        let head = "apiVersion: mesh.hauberk.dev/v1alpha1\nkind:";
        let workload = |name: &str, account: &str, node: &str, address: &str| {
            format!(
                "---\n{head} Workload\nmetadata: {{name: {name}, namespace: shop}}\n\
                 spec: {{node: {node}, serviceAccount: {account}, addresses: [{address}]}}\n"
            )
        };
        let text = format!(
            "{head} Mesh\nmetadata: {{name: mesh}}\nspec:\n  trustDomain: test\n  \
             issuer: {{embedded: {{certificate: ca.crt, key: ca.key}}}}\n{}{}{}\
             ---\n{head} Revocation\nmetadata: {{name: lost}}\nspec: {spec}\n",
            workload("web-1", "web", "a", "10.0.0.1"),
            workload("web-2", "web", "b", "10.0.0.2"),
            workload("db", "db", "b", "10.0.0.3"),
        );
        let state = MeshState::new(parse(&[SourceFile { name: "mesh.yaml".into(), text }]).unwrap());
        let serial = Serial::parse("ab").unwrap();
        ["web", "db"].map(|account| {
            state.revokes(&SpiffeId::parse(&format!("spiffe://test/ns/shop/sa/{account}")).unwrap(), &serial)
        })
    }

    #[test]
    fn identities_serials_and_nodes_are_revoked() {
        assert_eq!(check("{spiffeIds: [spiffe://test/ns/shop/sa/db]}"), [false, true]);
        assert_eq!(check("{serials: ['00:AB']}"), [true, true]);
        assert_eq!(check("{serials: ['abab']}"), [false, false]);
        assert_eq!(check("{nodes: [a]}"), [true, false]);
        assert_eq!(check("{nodes: [b]}"), [true, true]);
    }
}
