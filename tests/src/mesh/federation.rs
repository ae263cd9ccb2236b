//! Meshes of several trust domains, and CAs that are not the mesh's.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::{Mesh, Setup, TRUST_DOMAIN};
use crate::world::Node;

impl Setup<'_> {
    /// Puts `node` and its pods into a trust domain with a CA of its own, federated with the others.
    pub fn trust_domain_of(mut self, node: &str, trust_domain: &str) -> Self {
        self.trust_domains.push((node.to_owned(), trust_domain.to_owned()));
        self
    }

    pub(super) fn trust_domain(&self, node: &str) -> &str {
        let own = self.trust_domains.iter().find(|(of, _)| of == node);
        own.map_or(TRUST_DOMAIN, |(_, trust_domain)| trust_domain)
    }

    pub(super) fn ca_directory(&self, mesh: &Mesh, node: &str) -> PathBuf {
        let is_apart = self.trust_domains.iter().any(|(of, _)| of == node);
        if is_apart { mesh.directory.join(format!("ca-{node}")) } else { mesh.directory.clone() }
    }

    /// What vouches, at `node`, for the trust domains of other nodes.
    pub(super) fn write_federated(&self, mesh: &Mesh, node: &str) -> Result<()> {
        for other in self.world.nodes().iter().map(Node::name) {
            if self.trust_domain(other) != self.trust_domain(node) {
                let root = std::fs::read_to_string(self.ca_directory(mesh, other).join("ca.crt"))?;
                mesh.federate(node, self.trust_domain(other), &root)?;
            }
        }
        Ok(())
    }
}

impl Mesh {
    /// Lets `root`, in PEM, vouch for another trust domain at `node`.
    pub fn federate(&self, node: &str, trust_domain: &str, root: &str) -> Result<()> {
        let root = root.lines().fold(String::new(), |text, line| text + "\n    " + line);
        self.write_document(
            node,
            "FederatedTrustDomain",
            "federated",
            &format!("\n  trustDomain: {trust_domain}\n  bundle: |{root}"),
        )
    }

    /// Makes another CA for the same trust domain.
    pub fn make_ca(&self, directory: &Path) -> Result<()> {
        self.tool(&["ca", "init", "--trust-domain", TRUST_DOMAIN, "--dir"], directory)
    }
}
