//! Makes the issuer that a Mesh names.

use std::sync::Arc;
use std::time::SystemTime;

use super::RunError;
use crate::identity::{EmbeddedIssuer, Issuer, ca};
use crate::model::mesh::{CaFiles, IssuerSource, Mesh};
use crate::model::spiffe::SpiffeId;
use crate::model::workload::NodeName;
use crate::signing::RemoteIssuer;

/// Loads the CA whose key the configuration names.
pub fn embedded(mesh: &Mesh) -> Result<EmbeddedIssuer, RunError> {
    let files = match &mesh.issuer.source {
        IssuerSource::Embedded(files) => files.clone(),
        IssuerSource::Own(directory) => CaFiles::of_directory(directory),
        IssuerSource::Remote { .. } => return Err(RunError::NoEmbeddedCa),
    };
    Ok(EmbeddedIssuer::open(mesh.trust_domain.clone(), files, mesh.issuer.svid)?)
}

/// The issuer of the agent of `node`.
pub(super) fn of_agent(mesh: &Mesh, node: &NodeName) -> Result<Arc<dyn Issuer>, RunError> {
    let (address, token_file) = match &mesh.issuer.source {
        IssuerSource::Remote { address, token_file } => (address, token_file),
        IssuerSource::Own(directory) => {
            if ca::ensure_dir(directory, &mesh.trust_domain, SystemTime::now())? {
                tracing::info!(directory = %directory.display(), "made a CA; keep its key");
            }
            return Ok(Arc::new(embedded(mesh)?));
        }
        IssuerSource::Embedded(_) => return Ok(Arc::new(embedded(mesh)?)),
    };
    let id = SpiffeId::of_node(&mesh.trust_domain, node.as_str());
    let id = id.map_err(|source| RunError::NodeName { node: node.clone(), source })?;
    Ok(Arc::new(RemoteIssuer::new(address.clone(), token_file.clone(), mesh.trust_domain.clone(), id)))
}
