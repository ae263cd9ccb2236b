//! What the mesh asks of a Kubernetes API server, and writes there. What it follows is in `sources::kubernetes`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Service};
use k8s_openapi::jiff::Timestamp;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind, ObjectMeta};
use kube::{Api, Client, Config};
use serde_json::{Value, json};

use crate::config::{API_GROUP, API_VERSION};
use crate::model::cluster::{ObjectName, SERVED_CONDITION, WITHDRAWN_CONDITION};
use crate::model::workload::PodUid;

pub mod ca;
mod conditions;
pub mod doctor;
mod lease;
pub mod rights;
mod token;
mod uninstall;

pub use conditions::ACCEPTED;

/// Who writes, in managed fields.
const FIELD_MANAGER: &str = "hauberk";

/// Why the API server didn't do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum KubernetesError {
    /// Neither a service account's files nor a kubeconfig say where it is.
    #[error("find the Kubernetes API")]
    Config(#[source] kube::config::InferConfigError),
    /// It can't be asked, or refuses.
    #[error("{what}")]
    Api {
        /// What was asked.
        what: String,
        /// The cause.
        source: Box<kube::Error>,
    },
    /// An object isn't as it should be.
    #[error("{0}")]
    Object(String),
}

impl KubernetesError {
    /// Whether there is no such object, or another one by that name.
    pub fn is_about_a_gone_object(&self) -> bool {
        matches!(self, Self::Api { source, .. } if is_missing(source) || is_conflict(source))
    }
}

/// The API server, as the mesh uses it.
#[derive(Clone)]
pub struct Kubernetes {
    client: Client,
    namespace: String,
    /// What was seen of Leases, by their names.
    leases: Arc<Mutex<BTreeMap<String, lease::Seen>>>,
}

impl Kubernetes {
    /// Finds the API server by the pod's own service account, or by a kubeconfig.
    pub async fn connect() -> Result<Self, KubernetesError> {
        let config = Config::infer().await.map_err(KubernetesError::Config)?;
        let namespace = config.default_namespace.clone();
        let client = Client::try_from(config).map_err(api("set up the client"))?;
        Ok(Self { client, namespace, leases: Arc::default() })
    }

    /// With the mesh's own parts elsewhere than where a kubeconfig points.
    pub fn in_namespace(self, namespace: &str) -> Self {
        Self { namespace: namespace.to_owned(), ..self }
    }

    /// For watchers.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The namespace of the mesh's own parts.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// `address:port` of a Service of ours: names aren't resolved, so that the mesh needs no DNS.
    pub async fn service_address(&self, name: &str) -> Result<String, KubernetesError> {
        let what = format!("get the Service {}/{name}", self.namespace);
        let service = self.own::<Service>().get(name).await.map_err(api(&what))?;
        let spec = service.spec.unwrap_or_default();
        let address = spec.cluster_ip.filter(|address| address != "None").and_then(|address| address.parse().ok());
        let port = spec.ports.unwrap_or_default().first().and_then(|port| u16::try_from(port.port).ok());
        match (address, port) {
            (Some(address), Some(port)) => Ok(std::net::SocketAddr::new(address, port).to_string()),
            _ => Err(KubernetesError::Object(format!("the Service {}/{name} has no cluster address", self.namespace))),
        }
    }

    /// A text of a ConfigMap of ours.
    pub async fn config_text(&self, name: &str, key: &str) -> Result<String, KubernetesError> {
        let what = format!("get the ConfigMap {}/{name}", self.namespace);
        let held = self.own::<ConfigMap>().get(name).await.map_err(api(&what))?;
        let missing = || KubernetesError::Object(format!("the ConfigMap {}/{name} has no `{key}`", self.namespace));
        held.data.and_then(|mut data| data.remove(key)).ok_or_else(missing)
    }

    /// All texts of a ConfigMap of ours, with its version; `None`: there is none.
    pub async fn config_texts(
        &self,
        name: &str,
    ) -> Result<Option<(BTreeMap<String, String>, Option<String>)>, KubernetesError> {
        match self.own::<ConfigMap>().get(name).await {
            Ok(held) => Ok(Some((held.data.unwrap_or_default(), held.metadata.resource_version))),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(api(&format!("get the ConfigMap {}/{name}", self.namespace))(error)),
        }
    }

    /// Makes or replaces the texts of a ConfigMap of ours. Returns whether it did: not if it has another version than this.
    pub async fn set_config_texts(
        &self,
        name: &str,
        texts: impl IntoIterator<Item = (&str, String)>,
        version: Option<String>,
    ) -> Result<bool, KubernetesError> {
        let metadata = ObjectMeta { name: Some(name.to_owned()), resource_version: version, ..ObjectMeta::default() };
        let data = texts.into_iter().map(|(key, text)| (key.to_owned(), text)).collect();
        let next = ConfigMap { metadata, data: Some(data), ..ConfigMap::default() };
        match self.own::<ConfigMap>().patch(name, &applied(), &Patch::Apply(&next)).await {
            Ok(_) => Ok(true),
            Err(error) if is_conflict(&error) => Ok(false),
            Err(error) => Err(api(&format!("write the ConfigMap {}/{name}", self.namespace))(error)),
        }
    }

    /// Which node the agent runs on that this token belongs to: `service_account` of our namespace, for `audience`.
    /// The inner error is the token's fault.
    pub async fn review(
        &self,
        token: String,
        service_account: &str,
        audience: &str,
    ) -> Result<Result<String, String>, KubernetesError> {
        let user = format!("system:serviceaccount:{}:{service_account}", self.namespace);
        let expected = token::Expected { user: &user, audience };
        if let Some(why) = expected.turns_away(&token) {
            return Ok(Err(why));
        }
        let spec = TokenReviewSpec { token: Some(token), audiences: Some(vec![audience.to_owned()]) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let reviews: Api<TokenReview> = Api::all(self.client.clone());
        let review = reviews.create(&PostParams::default(), &review).await.map_err(api("review a token"))?;
        Ok(expected.node(review.status.unwrap_or_default()))
    }

    /// Whether the cluster has a node of this name.
    pub async fn has_node(&self, name: &str) -> Result<bool, KubernetesError> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        // A list, which whoever follows the nodes may do anyway.
        let selector = ListParams::default().fields(&format!("metadata.name={name}"));
        let found = nodes.list_metadata(&selector).await.map_err(api("look for a node"))?;
        Ok(found.items.iter().any(|node| node.metadata.name.as_deref() == Some(name)))
    }

    /// Says in a pod's status whether it is served, and why not.
    pub async fn announce(
        &self,
        name: &ObjectName,
        uid: &PodUid,
        why_not: Option<&str>,
    ) -> Result<(), KubernetesError> {
        let (status, reason) = if why_not.is_none() { ("True", "Served") } else { ("False", "NotServed") };
        let condition = json!({
            "type": SERVED_CONDITION, "status": status, "reason": reason, "message": why_not.unwrap_or_default(),
        });
        // The uid makes it a conflict where another pod has the name by now. The API doesn't know a static pod by what its node
        // calls it, but there is only one of its name.
        let metadata = if uid.is_static() { json!({}) } else { json!({"uid": uid.as_str()}) };
        self.set_condition(name, &metadata, condition).await
    }

    /// Says in the status of our own pod that nothing of the mesh is left on its node.
    pub async fn announce_withdrawal(&self, own_pod: &str) -> Result<(), KubernetesError> {
        let name = ObjectName { namespace: self.namespace.clone(), name: own_pod.to_owned() };
        let condition = json!({"type": WITHDRAWN_CONDITION, "status": "True", "reason": "Uninstalled"});
        self.set_condition(&name, &json!({}), condition).await
    }

    async fn set_condition(
        &self,
        name: &ObjectName,
        metadata: &Value,
        mut condition: Value,
    ) -> Result<(), KubernetesError> {
        let what = format!("write the status of the pod {}/{}", name.namespace, name.name);
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &name.namespace);
        condition["lastTransitionTime"] = json!(Timestamp::now().to_string());
        let patch = json!({"metadata": metadata, "status": {"conditions": [condition]}});
        pods.patch_status(&name.name, &PatchParams::default(), &Patch::Strategic(patch)).await.map_err(api(&what))?;
        Ok(())
    }

    /// Makes the Mesh of this YAML document unless the cluster has one. Returns whether it did.
    pub async fn create_default(&self, document: &str) -> Result<bool, KubernetesError> {
        let odd = |error: String| KubernetesError::Object(format!("the default Mesh: {error}"));
        let mesh: DynamicObject = serde_saphyr::from_str(document).map_err(|error| odd(error.to_string()))?;
        let types = mesh.types.as_ref().ok_or_else(|| odd("has no kind".to_owned()))?;
        let gvk = GroupVersionKind::try_from(types).map_err(|error| odd(error.to_string()))?;
        let meshes: Api<DynamicObject> =
            Api::all_with(self.client.clone(), &ApiResource::from_gvk_with_plural(&gvk, "meshes"));
        let held = meshes.list(&ListParams::default().limit(1)).await.map_err(api("list the Meshes"))?;
        if !held.items.is_empty() {
            return Ok(false);
        }
        match meshes.create(&PostParams::default(), &mesh).await {
            Ok(_) => Ok(true),
            Err(error) if is_conflict(&error) => Ok(false),
            Err(error) => Err(api("create the default Mesh")(error)),
        }
    }

    fn own<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }
}

/// One of our kinds, as the API names it in the plural.
pub fn resource(kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(API_GROUP, API_VERSION, kind), plural)
}

fn applied() -> PatchParams {
    PatchParams::apply(FIELD_MANAGER).force()
}

fn api(what: &str) -> impl FnOnce(kube::Error) -> KubernetesError {
    let what = what.to_owned();
    move |source| KubernetesError::Api { what, source: Box::new(source) }
}

/// Whether the API server says that there is no such object.
fn is_missing(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// Whether the API server says that somebody else was faster.
fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}
