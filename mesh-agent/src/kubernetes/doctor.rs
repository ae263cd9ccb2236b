//! What `mesh-agent check` asks an API server: is it there, what time is it, what does it serve, and who may do what.

use std::collections::BTreeSet;
use std::time::SystemTime;

use axum::http::{Request, header};
use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec, SubjectAccessReview,
    SubjectAccessReviewSpec,
};
use k8s_openapi::jiff::fmt::rfc2822;
use kube::Api;
use kube::api::{ListParams, PostParams};
use kube::client::Body;
use kube::core::DynamicObject;

use super::{Kubernetes, KubernetesError, api, is_missing, resource};
use crate::config::{API_GROUP, API_VERSION, KINDS};
use crate::model::mesh::IssuerSource;

/// One rule of a role.
struct Need {
    group: &'static str,
    resources: &'static [&'static str],
    of: Of,
    verbs: &'static [&'static str],
}

/// Which objects a rule is about.
#[derive(Clone, Copy)]
enum Of {
    /// All in the cluster.
    Cluster,
    /// All in our namespace.
    Ours,
    /// One in our namespace.
    Named(&'static str),
}

/// Whose rights.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Part {
    /// The agents' (deploy/base/agent-rbac.yaml).
    Agent,
    /// The signing service's (deploy/base/ca-rbac.yaml).
    Ca,
}

const FOLLOW: &[&str] = &["list", "watch"];
const OUR_KINDS: [&str; KINDS.len()] = {
    let (mut plurals, mut index) = ([""; KINDS.len()], 0);
    while index < KINDS.len() {
        plurals[index] = KINDS[index].1;
        index += 1;
    }
    plurals
};
const STATUS: [&str; KINDS.len()] = [
    "authorizationpolicies/status",
    "federatedtrustdomains/status",
    "meshes/status",
    "peerauthentications/status",
    "revocations/status",
    "workloads/status",
];
const WORLD: &[&str] = &["pods", "namespaces", "nodes", "services"];
const CA: &str = IssuerSource::SERVICE;
const BUNDLE: &str = "hauberk-trust-bundle";

const fn need(group: &'static str, resources: &'static [&'static str], of: Of, verbs: &'static [&'static str]) -> Need {
    Need { group, resources, of, verbs }
}

const AGENT_NEEDS: [Need; 8] = [
    need("", WORLD, Of::Cluster, FOLLOW),
    need("discovery.k8s.io", &["endpointslices"], Of::Cluster, FOLLOW),
    need("networking.k8s.io", &["servicecidrs"], Of::Cluster, FOLLOW),
    need("", &["pods"], Of::Cluster, &["get"]),
    need("", &["pods/status"], Of::Cluster, &["patch"]),
    need(API_GROUP, &OUR_KINDS, Of::Cluster, FOLLOW),
    need("", &["configmaps"], Of::Named(BUNDLE), &["get"]),
    need("", &["services"], Of::Named(CA), &["get"]),
];
const CA_NEEDS: [Need; 13] = [
    need("", WORLD, Of::Cluster, FOLLOW),
    need("discovery.k8s.io", &["endpointslices"], Of::Cluster, FOLLOW),
    need("networking.k8s.io", &["servicecidrs"], Of::Cluster, FOLLOW),
    need(API_GROUP, &OUR_KINDS, Of::Cluster, FOLLOW),
    need(API_GROUP, &STATUS, Of::Cluster, &["patch"]),
    need(API_GROUP, &["meshes"], Of::Cluster, &["create"]),
    need("authentication.k8s.io", &["tokenreviews"], Of::Cluster, &["create"]),
    need("", &["secrets"], Of::Named(CA), &["get"]),
    need("", &["secrets"], Of::Ours, &["create"]),
    need("coordination.k8s.io", &["leases"], Of::Named(CA), &["get", "update"]),
    need("coordination.k8s.io", &["leases"], Of::Ours, &["create"]),
    need("", &["configmaps"], Of::Named(BUNDLE), &["get", "patch"]),
    need("", &["configmaps"], Of::Ours, &["create"]),
];

impl Part {
    fn needs(self) -> &'static [Need] {
        match self {
            Self::Agent => &AGENT_NEEDS,
            Self::Ca => &CA_NEEDS,
        }
    }
}

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

/// What the agents may do.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Rights {
    /// How many rights were asked for.
    pub asked: usize,
    /// Those that are missing, as `verb resource`.
    pub missing: Vec<String>,
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

    /// What a part of the mesh may do: `user` in the name of its service account, or `None` for whoever asks.
    pub async fn rights(&self, part: Part, user: Option<&str>) -> Result<Rights, KubernetesError> {
        let mut rights = Rights::default();
        for attributes in needs(part, &self.namespace) {
            let shown = format!("{} {}", attributes.verb.as_deref().unwrap_or_default(), described(&attributes));
            rights.asked += 1;
            if !self.may(user, attributes).await? {
                rights.missing.push(shown);
            }
        }
        Ok(rights)
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

    async fn may(&self, user: Option<&str>, attributes: ResourceAttributes) -> Result<bool, KubernetesError> {
        let resource_attributes = Some(attributes);
        let status = if let Some(user) = user {
            let spec =
                SubjectAccessReviewSpec { resource_attributes, user: Some(user.to_owned()), ..Default::default() };
            let review = SubjectAccessReview { spec, ..Default::default() };
            Api::all(self.client.clone()).create(&PostParams::default(), &review).await.map(|review| review.status)
        } else {
            let spec = SelfSubjectAccessReviewSpec { resource_attributes, ..Default::default() };
            let review = SelfSubjectAccessReview { spec, ..Default::default() };
            Api::all(self.client.clone()).create(&PostParams::default(), &review).await.map(|review| review.status)
        };
        Ok(status.map_err(api("ask what the agents may do"))?.is_some_and(|status| status.allowed))
    }
}

/// Every single right.
fn needs(part: Part, namespace: &str) -> impl Iterator<Item = ResourceAttributes> {
    let each = |need: &'static Need| {
        need.resources.iter().flat_map(move |resource| need.verbs.iter().map(move |verb| (need, *resource, *verb)))
    };
    part.needs().iter().flat_map(each).map(move |(need, resource, verb)| {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        ResourceAttributes {
            group: Some(need.group.to_owned()),
            resource: Some(resource.to_owned()),
            subresource: Some(subresource.to_owned()).filter(|part| !part.is_empty()),
            namespace: (!matches!(need.of, Of::Cluster)).then(|| namespace.to_owned()),
            name: need.of.name().map(str::to_owned),
            verb: Some(verb.to_owned()),
            ..ResourceAttributes::default()
        }
    })
}

impl Of {
    fn name(self) -> Option<&'static str> {
        if let Self::Named(name) = self { Some(name) } else { None }
    }
}

fn described(attributes: &ResourceAttributes) -> String {
    let mut text = attributes.resource.clone().unwrap_or_default();
    for part in [&attributes.subresource, &attributes.name].into_iter().flatten() {
        text = text + "/" + part;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `role group resource name verb` of every right that a manifest's roles give.
    fn given(manifest: &str) -> BTreeSet<String> {
        let documents: Vec<serde_json::Value> =
            manifest.split("\n---\n").map(|document| serde_saphyr::from_str(document).unwrap()).collect();
        let texts = |rule: &serde_json::Value, field: &str| -> Vec<String> {
            let all = rule[field].as_array().cloned().unwrap_or_default();
            all.iter().map(|text| text.as_str().unwrap().to_owned()).collect()
        };
        let mut given = BTreeSet::new();
        for document in &documents {
            for rule in document["rules"].as_array().into_iter().flatten() {
                let (kind, names) = (document["kind"].as_str().unwrap(), texts(rule, "resourceNames").join(","));
                for group in texts(rule, "apiGroups") {
                    for resource in texts(rule, "resources") {
                        for verb in texts(rule, "verbs") {
                            given.insert(format!("{kind} {group} {resource} {names} {verb}"));
                        }
                    }
                }
            }
        }
        given
    }

    #[test]
    fn what_is_asked_for_is_what_the_manifests_give() {
        for (part, manifest) in [
            (Part::Agent, include_str!("../../../deploy/base/agent-rbac.yaml")),
            (Part::Ca, include_str!("../../../deploy/base/ca-rbac.yaml")),
        ] {
            let asked = part.needs().iter().flat_map(|need| {
                need.resources.iter().flat_map(move |resource| {
                    let kind = if matches!(need.of, Of::Cluster) { "ClusterRole" } else { "Role" };
                    let name = need.of.name().unwrap_or_default();
                    need.verbs.iter().map(move |verb| format!("{kind} {} {resource} {name} {verb}", need.group))
                })
            });
            assert_eq!(asked.collect::<BTreeSet<_>>(), given(manifest), "{part:?}");
        }
    }

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

    #[test]
    fn a_right_is_told_by_its_verb_and_its_object() {
        let shown: Vec<_> = needs(Part::Agent, "mesh").map(|attributes| described(&attributes)).collect();
        assert!(shown.contains(&"pods/status".to_owned()), "{shown:?}");
        assert!(shown.contains(&"configmaps/hauberk-trust-bundle".to_owned()), "{shown:?}");
    }
}
