//! Feeds the snapshot from the Kubernetes API: our own kinds, and the pods of enrolled namespaces.
//!
//! Everything is watched, and only a few fields of each object are kept (`model::cluster`). What the objects mean together
//! is `config::Cluster`'s business. While the API server is away, the last state stands.

use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client};
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::config::{Cluster, ConfigErrors, KINDS, MeshConfig};
use crate::model::cluster::{Namespace, Node, ObjectName, Pod};
use crate::model::workload::{NodeName, PodUid};
use crate::state::{MeshState, needs_restart};
use crate::store::Publisher;
use crate::telemetry::Metrics;

mod follow;
mod read;

use follow::{News, follow};

const GROUP: &str = "mesh.hauberk.dev";
const VERSION: &str = "v1alpha1";
/// News that may wait: more, and the watchers wait.
const QUEUE: usize = 1024;
/// Changes that come within this time are taken together: a rollout changes hundreds of pods.
const BATCH: Duration = Duration::from_millis(50);

/// Addresses of this node's pods that are known before the API shows them.
pub type Sandboxes = HashMap<PodUid, Vec<IpAddr>>;

/// News of the cluster.
enum Change {
    Document(&'static str, News<(i64, Value)>),
    Namespace(News<Namespace>),
    Node(News<Node>),
    Pod(News<Pod>),
}

/// The objects of a cluster, and what of them is in force.
pub struct KubernetesSource {
    cluster: Cluster,
    changes: mpsc::Receiver<Change>,
    sandboxes: watch::Receiver<Sandboxes>,
    /// What has not been listed yet.
    missing: BTreeSet<&'static str>,
    in_force: Option<MeshConfig>,
    _watchers: JoinSet<()>,
}

impl KubernetesSource {
    /// Starts to watch. The mesh's own parts are in `own_namespace`.
    pub fn begin(client: &Client, own_namespace: &str, sandboxes: watch::Receiver<Sandboxes>) -> Self {
        let (sender, changes) = mpsc::channel(QUEUE);
        let mut watchers = JoinSet::new();
        let mut missing = BTreeSet::from(["Namespace", "Node", "Pod"]);
        for (kind, plural) in KINDS {
            missing.insert(kind);
            let gvk = GroupVersionKind::gvk(GROUP, VERSION, kind);
            let api: Api<DynamicObject> =
                Api::all_with(client.clone(), &ApiResource::from_gvk_with_plural(&gvk, plural));
            let read = move |object: &DynamicObject| {
                let document = read::document(kind, &format!("{GROUP}/{VERSION}"), object);
                Some((object.metadata.generation.unwrap_or_default(), document))
            };
            let wrap = move |news| Change::Document(kind, news);
            watchers.spawn(follow(api, kind, read, wrap, sender.clone()));
        }
        let namespace = |namespace: &v1::Namespace| Some(read::namespace(namespace.metadata.labels.as_ref()));
        watchers.spawn(follow(Api::all(client.clone()), "Namespace", namespace, Change::Namespace, sender.clone()));
        let node = |node: &v1::Node| Some(read::node(node));
        watchers.spawn(follow(Api::all(client.clone()), "Node", node, Change::Node, sender.clone()));
        watchers.spawn(follow(Api::all(client.clone()), "Pod", read::pod, Change::Pod, sender));
        let cluster = Cluster::new(own_namespace);
        Self { cluster, changes, sandboxes, missing, in_force: None, _watchers: watchers }
    }

    /// Waits for the first configuration: everything is listed, and the documents go together.
    pub async fn first(&mut self) -> &MeshConfig {
        let mut reported = None;
        while self.in_force.is_none() {
            self.wait().await;
            let waits = match self.take() {
                None => format!("waiting for the lists of {}", listed(&self.missing)),
                Some(Ok(_)) => continue,
                Some(Err(rejection)) => rejection.to_string(),
            };
            if reported.as_ref() != Some(&waits) {
                tracing::info!(reason = waits, "no configuration yet");
                reported = Some(waits);
            }
        }
        // Just seen to be there.
        self.in_force.get_or_insert_with(|| unreachable!("the loop ends with a configuration"))
    }

    /// The objects as they are now.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Publishes every change that can be taken, for ever; `seen` is shown each before.
    pub async fn run(
        mut self,
        publisher: Publisher,
        metrics: Arc<Metrics>,
        mut seen: impl FnMut(&Cluster, &MeshConfig),
    ) -> Infallible {
        metrics.configuration(SystemTime::now(), None);
        let (mut rejected, mut contested) = (None, BTreeSet::new());
        loop {
            self.wait().await;
            match self.take() {
                None => {}
                Some(Ok(news)) => {
                    let Some(config) = &self.in_force else { continue };
                    seen(&self.cluster, config);
                    if std::mem::take(&mut rejected).is_some() || news == Taken::Documents {
                        metrics.configuration(SystemTime::now(), None);
                        tracing::info!(target: "audit", workloads = config.workloads.len(), "changed configuration taken");
                    }
                    if news != Taken::Nothing {
                        publisher.publish(MeshState::new(config.clone()));
                    }
                }
                Some(Err(rejection)) => {
                    let reason = rejection.to_string();
                    if rejected.as_ref() != Some(&reason) {
                        tracing::error!(target: "audit", reason, "changed configuration rejected");
                        metrics.configuration(SystemTime::now(), Some(reason.clone()));
                        rejected = Some(reason);
                    }
                }
            }
            for address in self.cluster.contested().difference(&contested) {
                tracing::warn!(target: "audit", %address, "more than one pod claims an address: none of them gets it");
            }
            contested.clone_from(self.cluster.contested());
        }
    }

    /// Applies what has come, all of it that comes at once.
    async fn wait(&mut self) {
        tokio::select! {
            change = self.changes.recv() => match change {
                Some(change) => self.apply(change),
                None => std::future::pending().await,
            },
            Ok(()) = self.sandboxes.changed() => {}
        }
        sleep(BATCH).await;
        while let Ok(change) = self.changes.try_recv() {
            self.apply(change);
        }
        self.cluster.sandboxes().clone_from(&self.sandboxes.borrow_and_update());
    }

    /// `None`: not everything is listed yet.
    fn take(&mut self) -> Option<Result<Taken, Rejection>> {
        if !self.missing.is_empty() {
            return None;
        }
        let next = match self.cluster.config() {
            Ok(next) => next,
            Err(mistakes) => return Some(Err(Rejection::Invalid(mistakes))),
        };
        let taken = match &self.in_force {
            Some(now) => {
                let fixed = needs_restart(&now.mesh, &next.mesh);
                if !fixed.is_empty() {
                    return Some(Err(Rejection::NeedsRestart(fixed)));
                }
                match (*now == next, only_pods_differ(now, &next)) {
                    (true, _) => Taken::Nothing,
                    (false, true) => Taken::Pods,
                    (false, false) => Taken::Documents,
                }
            }
            None => Taken::Documents,
        };
        self.in_force = Some(next);
        Some(Ok(taken))
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::Document(kind, news) => match news {
                News::All(all) => {
                    let listed: BTreeSet<_> = all.iter().map(|(name, _)| name.clone()).collect();
                    for name in self.cluster.documents(kind).into_iter().filter(|name| !listed.contains(name)) {
                        self.cluster.remove_document(kind, &name);
                    }
                    all.into_iter().for_each(|(name, document)| self.set_document(kind, &name, document));
                    self.missing.remove(kind);
                }
                News::Set(name, document) => self.set_document(kind, &name, document),
                News::Gone(name) => self.cluster.remove_document(kind, &name),
            },
            Change::Namespace(news) => {
                self.missing.remove("Namespace");
                merge(self.cluster.namespaces(), news, |name| name.name);
            }
            Change::Node(news) => {
                self.missing.remove("Node");
                merge(self.cluster.nodes(), news, |name| NodeName::new(&name.name));
            }
            Change::Pod(news) => {
                self.missing.remove("Pod");
                let pods = self.cluster.pods();
                match news {
                    News::All(all) => *pods = all.into_iter().collect(),
                    News::Set(name, pod) => drop(pods.insert(name, pod)),
                    News::Gone(name) => drop(pods.remove(&name)),
                }
            }
        }
    }

    fn set_document(&mut self, kind: &'static str, name: &ObjectName, (generation, document): (i64, Value)) {
        if let Some(mistakes) = &self.cluster.set_document(kind, name, generation, document).mistakes {
            tracing::error!(target: "audit", reason = %mistakes, "document refused; its last good form stands");
        }
    }
}

/// What of a configuration is new.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Taken {
    Nothing,
    Pods,
    Documents,
}

/// Why a change isn't taken.
#[derive(Debug, thiserror::Error)]
enum Rejection {
    /// The documents don't go together.
    #[error(transparent)]
    Invalid(#[from] ConfigErrors),
    /// Only a new agent could take it.
    #[error("only a restart of the agent can change {}", .0.join(", "))]
    NeedsRestart(Vec<&'static str>),
}

fn only_pods_differ(now: &MeshConfig, next: &MeshConfig) -> bool {
    let MeshConfig { mesh, workloads: _, outside: _, authorization, peer_authentication, federated, rego, revocations } =
        now;
    (mesh, authorization, peer_authentication) == (&next.mesh, &next.authorization, &next.peer_authentication)
        && (federated, rego, revocations) == (&next.federated, &next.rego, &next.revocations)
}

fn merge<K: Eq + Hash, T>(known: &mut HashMap<K, T>, news: News<T>, key: impl Fn(ObjectName) -> K) {
    match news {
        News::All(all) => *known = all.into_iter().map(|(name, object)| (key(name), object)).collect(),
        News::Set(name, object) => drop(known.insert(key(name), object)),
        News::Gone(name) => drop(known.remove(&key(name))),
    }
}

fn listed(kinds: &BTreeSet<&'static str>) -> String {
    kinds.iter().copied().collect::<Vec<_>>().join(", ")
}
