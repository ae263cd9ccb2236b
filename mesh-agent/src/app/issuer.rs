//! Makes the issuer that a Mesh names.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::future::BoxFuture;

use super::RunError;
use crate::identity::{EmbeddedIssuer, IssueError, Issuer, ca};
use crate::kubernetes::Kubernetes;
use crate::model::bundle;
use crate::model::mesh::{CaFiles, IssuerSource, Mesh};
use crate::model::spiffe::SpiffeId;
use crate::model::workload::NodeName;
use crate::signing::{Anchor, Introducer, Introduction, JoinTokenFile, RemoteIssuer};

/// The ConfigMap by which the signing service makes its roots known, and its keys: the roots, and when each comes and goes.
pub(super) const TRUST_BUNDLE: &str = "hauberk-trust-bundle";
pub(super) const TRUST_BUNDLE_KEY: &str = "roots.pem";
pub(super) const TRUST_TIMES_KEY: &str = "roots.json";

/// Loads the CA whose key the configuration names.
pub fn embedded(mesh: &Mesh) -> Result<EmbeddedIssuer, RunError> {
    let files = match &mesh.issuer.source {
        IssuerSource::Embedded(files) => files.clone(),
        IssuerSource::Own(directory) => CaFiles::of_directory(directory),
        IssuerSource::Remote { .. } | IssuerSource::Kubernetes { .. } => return Err(RunError::NoEmbeddedCa),
    };
    Ok(EmbeddedIssuer::open(mesh.trust_domain.clone(), files, mesh.issuer.svid)?)
}

/// The issuer of the agent of `node`.
pub(super) fn of_agent(
    mesh: &Mesh,
    node: &NodeName,
    kubernetes: Option<&Kubernetes>,
) -> Result<Arc<dyn Issuer>, RunError> {
    let id = SpiffeId::of_node(&mesh.trust_domain, node.as_str());
    let id = id.map_err(|source| RunError::NodeName { node: node.clone(), source })?;
    let trust_domain = mesh.trust_domain.clone();
    Ok(match &mesh.issuer.source {
        IssuerSource::Own(directory) => {
            if ca::ensure_dir(directory, &mesh.trust_domain, SystemTime::now())? {
                tracing::info!(directory = %directory.display(), "made a CA; keep its key");
            }
            Arc::new(embedded(mesh)?)
        }
        IssuerSource::Embedded(_) => Arc::new(embedded(mesh)?),
        IssuerSource::Remote { address, token_file } => {
            let introducer = JoinTokenFile { address: address.clone(), path: token_file.clone() };
            Arc::new(RemoteIssuer::new(introducer, trust_domain, id))
        }
        IssuerSource::Kubernetes { service, token_file } => {
            let kubernetes = kubernetes.ok_or(RunError::NoKubernetes)?.clone();
            let introducer = ServiceAccount { kubernetes, service: service.clone(), token_file: token_file.clone() };
            Arc::new(RemoteIssuer::new(introducer, trust_domain, id))
        }
    })
}

/// Introduces by the agent's service account.
struct ServiceAccount {
    kubernetes: Kubernetes,
    service: String,
    token_file: PathBuf,
}

impl Introducer for ServiceAccount {
    fn is_lasting(&self) -> bool {
        true
    }

    fn introduce(&self) -> BoxFuture<'_, Result<Introduction, IssueError>> {
        Box::pin(async move {
            let unavailable = |error: Box<dyn std::error::Error + Send + Sync>| IssueError::Unavailable(error);
            let token = std::fs::read_to_string(&self.token_file);
            let token =
                token.map_err(|error| unavailable(format!("read {}: {error}", self.token_file.display()).into()))?;
            let roots = self.kubernetes.config_text(TRUST_BUNDLE, TRUST_BUNDLE_KEY).await;
            let roots = roots.map_err(|error| unavailable(error.into()))?;
            let roots = bundle::from_pem(&roots).map_err(|error| unavailable(error.into()))?;
            let address = self.kubernetes.service_address(&self.service).await;
            let address = address.map_err(|error| unavailable(error.into()))?;
            Ok(Introduction { address, token: token.trim().to_owned(), anchor: Anchor::Roots(roots) })
        })
    }
}
