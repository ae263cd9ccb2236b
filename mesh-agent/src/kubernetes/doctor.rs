//! What `mesh-agent check` asks an API server: is it there, what time is it, what does it serve, and what is there of ours.

use std::collections::BTreeSet;
use std::time::SystemTime;

use axum::http::{Request, header};
use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding};
use k8s_openapi::jiff::fmt::rfc2822;
use kube::Api;
use kube::api::ListParams;
use kube::client::Body;
use kube::core::DynamicObject;

use super::{Kubernetes, KubernetesError, api, is_missing, resource};
use crate::config::{API_GROUP, API_VERSION};

/// The policies of deploy/base/admission.yaml, each with a binding of the same name.
pub const ADMISSION: [&str; 2] = ["hauberk-served", "hauberk-opt-out"];

/// An API server that answers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServerView {
    /// Its version, such as `v1.33.1`.
    pub version: String,
    /// Its clock minus ours, in seconds; `None`: it doesn't tell the time.
    pub ahead_seconds: Option<i64>,
}

impl Kubernetes {
    /// Asks the API server who it is, and what time it is there: to the second, as HTTP tells it.
    pub async fn server(&self) -> Result<ServerView, KubernetesError> {
        let request = Request::get("/version").body(Body::empty());
        let request = request.map_err(|error| KubernetesError::Object(error.to_string()))?;
        let answer = self.client.send(request).await.map_err(api("reach the Kubernetes API"))?;
        let now = SystemTime::now();
        let date = answer.headers().get(header::DATE).and_then(|date| date.to_str().ok());
        let there = date.and_then(|date| rfc2822::parse(date).ok()).map(|date| date.timestamp().as_second());
        let here = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let ahead_seconds = there.map(|there| there.saturating_sub_unsigned(here));
        let version = self.client.apiserver_version().await.map_err(api("ask the API server's version"))?;
        Ok(ServerView { version: version.git_version, ahead_seconds })
    }

    /// The names, in the plural, of what it serves of our kinds in our version.
    pub async fn served_kinds(&self) -> Result<BTreeSet<String>, KubernetesError> {
        match self.client.list_api_group_resources(&format!("{API_GROUP}/{API_VERSION}")).await {
            Ok(list) => Ok(list.resources.into_iter().map(|resource| resource.name).collect()),
            Err(error) if is_missing(&error) => Ok(BTreeSet::new()),
            Err(error) => Err(api("list our kinds")(error)),
        }
    }

    /// The admission policies that are missing, or whose binding is.
    pub async fn missing_admission(&self) -> Result<Vec<&'static str>, KubernetesError> {
        let policies: Api<ValidatingAdmissionPolicy> = Api::all(self.client.clone());
        let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(self.client.clone());
        let mut missing = Vec::new();
        for name in ADMISSION {
            let policy = policies.get_opt(name).await.map_err(api("look for the admission policies"))?;
            let binding = bindings.get_opt(name).await.map_err(api("look for the admission policies' bindings"))?;
            if policy.is_none() || binding.is_none() {
                missing.push(name);
            }
        }
        Ok(missing)
    }

    /// Every Mesh object, by name, with what keeps it from being accepted.
    pub async fn meshes(&self) -> Result<Vec<(String, Option<String>)>, KubernetesError> {
        let meshes: Api<DynamicObject> = Api::all_with(self.client.clone(), &resource("Mesh", "meshes"));
        let meshes = meshes.list(&ListParams::default()).await.map_err(api("list the Meshes"))?;
        let judged = |mesh: DynamicObject| {
            let conditions = mesh.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let refused = conditions.iter().find(|of| of["type"] == "Accepted" && of["status"] == "False");
            let why = refused.map(|of| of["message"].as_str().unwrap_or_default().to_owned());
            (mesh.metadata.name.unwrap_or_default(), why)
        };
        Ok(meshes.items.into_iter().map(judged).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_admission_policies_are_those_of_the_manifests() {
        let manifest = include_str!("../../../deploy/base/admission.yaml");
        for kind in ["ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"] {
            let of_kind = |document: &str| document.contains(&format!("\nkind: {kind}\n"));
            let all: Vec<_> = manifest.split("\n---\n").filter(|document| of_kind(document)).collect();
            assert_eq!(all.len(), ADMISSION.len(), "{kind}");
            for name in ADMISSION {
                assert!(
                    all.iter().any(|document| document.contains(&format!("metadata: {{name: {name}}}"))),
                    "{kind} {name}"
                );
            }
        }
    }
}
