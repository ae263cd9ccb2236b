//! What each part of the mesh must be allowed to do, and whether it is.

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec, SubjectAccessReview,
    SubjectAccessReviewSpec,
};
use kube::Api;
use kube::api::PostParams;

use super::{Kubernetes, KubernetesError, api};
use crate::config::{API_GROUP, KINDS};
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

/// What the agents may do.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Rights {
    /// How many rights were asked for.
    pub asked: usize,
    /// Those that are missing, as `verb resource`.
    pub missing: Vec<String>,
}

impl Kubernetes {
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
    use std::collections::BTreeSet;

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
    fn a_right_is_told_by_its_verb_and_its_object() {
        let shown: Vec<_> = needs(Part::Agent, "mesh").map(|attributes| described(&attributes)).collect();
        assert!(shown.contains(&"pods/status".to_owned()), "{shown:?}");
        assert!(shown.contains(&"configmaps/hauberk-trust-bundle".to_owned()), "{shown:?}");
    }
}
