//! Makes the issuer that a Mesh names.

use std::sync::Arc;

use super::RunError;
use crate::identity::{EmbeddedIssuer, Issuer};
use crate::model::mesh::{IssuerSource, Mesh};
use crate::model::spiffe::SpiffeId;
use crate::model::workload::NodeName;
use crate::signing::RemoteIssuer;

/// Loads the CA whose key the configuration names.
pub fn embedded(mesh: &Mesh) -> Result<EmbeddedIssuer, RunError> {
    match &mesh.issuer.source {
        IssuerSource::Embedded(files) => {
            Ok(EmbeddedIssuer::open(mesh.trust_domain.clone(), files.clone(), mesh.issuer.svid)?)
        }
        IssuerSource::Remote { .. } => Err(RunError::NoEmbeddedCa),
    }
}

/// The issuer of the agent of `node`.
pub(super) fn of_agent(mesh: &Mesh, node: &NodeName) -> Result<Arc<dyn Issuer>, RunError> {
    let IssuerSource::Remote { address, token_file } = &mesh.issuer.source else {
        return Ok(Arc::new(embedded(mesh)?));
    };
    let id = SpiffeId::of_node(&mesh.trust_domain, node.as_str());
    let id = id.map_err(|source| RunError::NodeName { node: node.clone(), source })?;
    Ok(Arc::new(RemoteIssuer::new(address.clone(), token_file.clone(), mesh.trust_domain.clone(), id)))
}
