//! What `mesh-agent check` asks an API server: is it there, what time is it, what does it serve, and who may do what.

use std::collections::BTreeSet;
use std::time::SystemTime;

use axum::http::{Request, header};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec, SubjectAccessReview,
    SubjectAccessReviewSpec,
};
use k8s_openapi::jiff::fmt::rfc2822;
use kube::Api;
use kube::api::PostParams;
use kube::client::Body;

use super::{Kubernetes, KubernetesError, api, is_missing};
use crate::config::{API_GROUP, API_VERSION, KINDS};
use crate::model::mesh::IssuerSource;

/// One rule of the agent's roles (deploy/base/agent-rbac.yaml).
struct Need {
    group: &'static str,
    resources: &'static [&'static str],
    /// Of this object of ours alone; without it of all in the cluster.
    name: Option<&'static str>,
    verbs: &'static [&'static str],
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
const NEEDS: [Need; 8] = [
    Need { group: "", resources: &["pods", "namespaces", "nodes", "services"], name: None, verbs: FOLLOW },
    Need { group: "discovery.k8s.io", resources: &["endpointslices"], name: None, verbs: FOLLOW },
    Need { group: "networking.k8s.io", resources: &["servicecidrs"], name: None, verbs: FOLLOW },
    Need { group: "", resources: &["pods"], name: None, verbs: &["get"] },
    Need { group: "", resources: &["pods/status"], name: None, verbs: &["patch"] },
    Need { group: API_GROUP, resources: &OUR_KINDS, name: None, verbs: FOLLOW },
    Need { group: "", resources: &["configmaps"], name: Some("hauberk-trust-bundle"), verbs: &["get"] },
    Need { group: "", resources: &["services"], name: Some(IssuerSource::SERVICE), verbs: &["get"] },
];

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

    /// What an agent may do: `user` in the name of its service account, or `None` for whoever asks.
    pub async fn rights(&self, user: Option<&str>) -> Result<Rights, KubernetesError> {
        let mut rights = Rights::default();
        for attributes in needs(&self.namespace) {
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
fn needs(namespace: &str) -> impl Iterator<Item = ResourceAttributes> {
    let each = |need: &'static Need| {
        need.resources.iter().flat_map(move |resource| need.verbs.iter().map(move |verb| (need, *resource, *verb)))
    };
    NEEDS.iter().flat_map(each).map(move |(need, resource, verb)| {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        ResourceAttributes {
            group: Some(need.group.to_owned()),
            resource: Some(resource.to_owned()),
            subresource: Some(subresource.to_owned()).filter(|part| !part.is_empty()),
            namespace: need.name.map(|_ours| namespace.to_owned()),
            name: need.name.map(str::to_owned),
            verb: Some(verb.to_owned()),
            ..ResourceAttributes::default()
        }
    })
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

    /// `group resource name verb` of every right that the manifest's roles give.
    fn given() -> BTreeSet<String> {
        let manifest = include_str!("../../../deploy/base/agent-rbac.yaml");
        let documents: Vec<serde_json::Value> =
            manifest.split("\n---\n").map(|document| serde_saphyr::from_str(document).unwrap()).collect();
        let texts = |rule: &serde_json::Value, field: &str| -> Vec<String> {
            let all = rule[field].as_array().cloned().unwrap_or_default();
            all.iter().map(|text| text.as_str().unwrap().to_owned()).collect()
        };
        let mut given = BTreeSet::new();
        for rule in documents.iter().filter_map(|document| document["rules"].as_array()).flatten() {
            let names = texts(rule, "resourceNames");
            for group in texts(rule, "apiGroups") {
                for resource in texts(rule, "resources") {
                    for verb in texts(rule, "verbs") {
                        given.insert(format!("{group} {resource} {} {verb}", names.join(",")));
                    }
                }
            }
        }
        given
    }

    #[test]
    fn what_is_asked_for_is_what_the_manifests_give() {
        let asked = NEEDS.iter().flat_map(|need| {
            need.resources.iter().flat_map(move |resource| {
                let name = need.name.unwrap_or_default();
                need.verbs.iter().map(move |verb| format!("{} {resource} {name} {verb}", need.group))
            })
        });
        assert_eq!(asked.collect::<BTreeSet<_>>(), given());
    }

    #[test]
    fn a_right_is_told_by_its_verb_and_its_object() {
        let shown: Vec<_> = needs("mesh").map(|attributes| described(&attributes)).collect();
        assert!(shown.contains(&"pods/status".to_owned()), "{shown:?}");
        assert!(shown.contains(&"configmaps/hauberk-trust-bundle".to_owned()), "{shown:?}");
    }
}
