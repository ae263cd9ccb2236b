//! What became of a document, in its own status.

use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::Patch;
use kube::core::DynamicObject;
use serde_json::json;

use super::{Kubernetes, KubernetesError, api, applied, resource};
use crate::config::{API_GROUP, API_VERSION, Verdict};

/// Longer messages are cut: the API server takes 32 KiB.
const MAX_MESSAGE_BYTES: usize = 8 * 1024;

impl Kubernetes {
    /// Writes the condition `Accepted` of the document that was judged; `plural` names its kind in the API.
    pub async fn judge(&self, verdict: &Verdict, plural: &str) -> Result<(), KubernetesError> {
        let Verdict { kind, name, generation, mistakes } = verdict;
        let resource = resource(kind, plural);
        let documents: Api<DynamicObject> = if name.namespace.is_empty() {
            Api::all_with(self.client.clone(), &resource)
        } else {
            Api::namespaced_with(self.client.clone(), &name.namespace, &resource)
        };
        let (status, reason) = if mistakes.is_none() { ("True", "Accepted") } else { ("False", "Invalid") };
        let mut message = mistakes.as_ref().map(ToString::to_string).unwrap_or_default();
        message.truncate(message.floor_char_boundary(MAX_MESSAGE_BYTES));
        let condition = json!({
            "type": "Accepted", "status": status, "reason": reason, "message": message,
            "observedGeneration": generation, "lastTransitionTime": Timestamp::now().to_string(),
        });
        let patch = json!({
            "apiVersion": format!("{API_GROUP}/{API_VERSION}"), "kind": kind, "metadata": {"name": name.name},
            "status": {"conditions": [condition]},
        });
        let what = format!("write the status of the {kind} {}", name.name);
        documents.patch_status(&name.name, &applied(), &Patch::Apply(patch)).await.map_err(api(&what))?;
        Ok(())
    }
}
