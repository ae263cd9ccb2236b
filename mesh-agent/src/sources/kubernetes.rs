//! Feeds the snapshot from the Kubernetes API: our own kinds, and the pods of enrolled namespaces.
//!
//! Everything is watched, and only a few fields of each object are kept (`model::cluster`). What the objects mean together
//! is `config::Cluster`'s business. While the API server is away, the last state stands.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use k8s_openapi::api::core::v1;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::core::DynamicObject;
use kube::{Api, Client};
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::config::{API_GROUP, API_VERSION, Cluster, KINDS, MeshConfig, Tracked, Verdict};
use crate::kubernetes::resource;
use crate::model::cluster::{ClusterService, Namespace, Node, ObjectName, Pod, SandboxState, Slice};
use crate::model::workload::{NodeName, PodUid, WorkloadUid};
use crate::state::needs_restart;

mod ask;
mod follow;
mod read;
mod taken;

pub use ask::Members;
use ask::Question;
use follow::{News, follow, follow_if_served};
use taken::{Difference, only_pods_differ};
pub use taken::{Rejection, Taken};

/// How often the API server is asked whether it is there, and how long it may take to answer.
const ASK: Duration = Duration::from_secs(5);
/// News that may wait: more, and the watchers wait.
const QUEUE: usize = 1024;
/// How often a configuration is made at most: a rollout changes hundreds of pods, and each is for every connection to look at.
const PACE: Duration = Duration::from_millis(250);
/// How often at most where a pod of this node waits for it.
const URGENT: Duration = Duration::from_millis(50);

/// What is known of this node's pods before the API shows it.
pub type Sandboxes = HashMap<PodUid, SandboxState>;

/// News of the cluster.
enum Change {
    Document(&'static str, News<(i64, Value)>),
    Namespace(News<Namespace>),
    Node(News<Node>),
    Pod(News<Pod>),
    Service(News<ClusterService>),
    Slice(News<Slice>),
    ServiceRange(News<Vec<IpNet>>),
}

/// The objects of a cluster, and what of them is in force.
pub struct KubernetesSource {
    cluster: Cluster,
    changes: mpsc::Receiver<Change>,
    sandboxes: watch::Receiver<Sandboxes>,
    members: Members,
    questions: mpsc::Receiver<Question>,
    /// Those that can't be answered yet.
    open: Vec<Question>,
    enrolled: watch::Sender<BTreeSet<String>>,
    /// What has not been listed yet.
    missing: BTreeSet<&'static str>,
    in_force: Option<MeshConfig>,
    /// When the configuration was made last.
    made: Instant,
    was_rejected: bool,
    verdicts: watch::Sender<Vec<Verdict>>,
    barred: watch::Sender<Vec<(WorkloadUid, PodUid)>>,
    contact: watch::Receiver<Option<SystemTime>>,
    _watchers: JoinSet<()>,
}

impl KubernetesSource {
    /// Starts to watch. The mesh's own parts are in `own_namespace`; `own_node` is the agent's.
    pub fn begin(
        client: &Client,
        own_namespace: &str,
        own_node: Option<&NodeName>,
        sandboxes: watch::Receiver<Sandboxes>,
    ) -> Self {
        let (sender, changes) = mpsc::channel(QUEUE);
        let mut watchers = JoinSet::new();
        let mut missing =
            BTreeSet::from(["EndpointSlice", "Namespace", "Node", "Pod", "Service of the cluster", "ServiceCIDR"]);
        for (kind, plural) in KINDS {
            missing.insert(kind);
            let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource(kind, plural));
            let read = move |object: &DynamicObject| {
                let document = read::document(kind, &format!("{API_GROUP}/{API_VERSION}"), object);
                Some((object.metadata.generation.unwrap_or_default(), document))
            };
            let wrap = move |news| Change::Document(kind, news);
            watchers.spawn(follow(api, kind, read, wrap, sender.clone()));
        }
        let namespace = |namespace: &v1::Namespace| Some(read::namespace(namespace.metadata.labels.as_ref()));
        watchers.spawn(follow(Api::all(client.clone()), "Namespace", namespace, Change::Namespace, sender.clone()));
        let node = |node: &v1::Node| Some(read::node(node));
        watchers.spawn(follow(Api::all(client.clone()), "Node", node, Change::Node, sender.clone()));
        watchers.spawn(follow(Api::all(client.clone()), "Pod", read::pod, Change::Pod, sender.clone()));
        let (service, slice) = (read::service, read::slice);
        watchers.spawn(follow(
            Api::all(client.clone()),
            "Service of the cluster",
            service,
            Change::Service,
            sender.clone(),
        ));
        watchers.spawn(follow(Api::all(client.clone()), "EndpointSlice", slice, Change::Slice, sender.clone()));
        let range = |range: &ServiceCIDR| Some(read::service_ranges(range));
        let ranges: Api<ServiceCIDR> = Api::all(client.clone());
        watchers.spawn(follow_if_served(ranges, "ServiceCIDR", range, Change::ServiceRange, sender));
        let (heard, contact) = watch::channel(None);
        watchers.spawn(ask_again(client.clone(), heard));
        let (asked, questions) = mpsc::channel(QUEUE);
        let (enrolled, known) = watch::channel(BTreeSet::new());
        let mut cluster = Cluster::new(own_namespace, own_node);
        cluster.sandboxes().replace(sandboxes.borrow().clone());
        Self {
            cluster,
            changes,
            sandboxes,
            members: Members { client: client.clone(), questions: asked, enrolled: known },
            questions,
            open: Vec::new(),
            enrolled,
            missing,
            in_force: None,
            made: Instant::now(),
            was_rejected: false,
            verdicts: watch::Sender::default(),
            barred: watch::Sender::default(),
            contact,
            _watchers: watchers,
        }
    }

    /// Waits for the first configuration: everything is listed, and the documents go together.
    pub async fn first(&mut self) -> MeshConfig {
        let mut reported = None;
        loop {
            let waits = match self.take() {
                None => format!("not listed yet: {}", self.missing.iter().copied().collect::<Vec<_>>().join(", ")),
                Some(Ok(_)) => match &self.in_force {
                    Some(config) => return config.clone(),
                    None => continue,
                },
                Some(Err(rejection)) => rejection.to_string(),
            };
            if reported.as_ref() != Some(&waits) {
                tracing::info!(reason = waits, "waiting for a configuration");
                reported = Some(waits);
            }
            self.wait().await;
        }
    }

    /// Pods of the agent's node that should be in the mesh and are on the node's own network, always the newest.
    pub fn barred(&self) -> watch::Receiver<Vec<(WorkloadUid, PodUid)>> {
        self.barred.subscribe()
    }

    /// When the API server answered last; `None`: never yet.
    pub fn contact(&self) -> watch::Receiver<Option<SystemTime>> {
        self.contact.clone()
    }

    /// What became of every document, always the newest.
    pub fn verdicts(&self) -> watch::Receiver<Vec<Verdict>> {
        self.verdicts.subscribe()
    }

    /// Answers questions about single pods while [`Self::next`] runs.
    pub fn members(&self) -> Members {
        self.members.clone()
    }

    /// The objects as they are now.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Waits for the next configuration, or why there is none. What was in force stays then.
    pub async fn next(&mut self) -> Result<Taken, Rejection> {
        loop {
            self.wait().await;
            let known = self.cluster.contested().clone();
            let news = self.take();
            for address in self.cluster.contested().difference(&known) {
                tracing::warn!(target: "audit", %address, "more than one pod claims an address: none of them gets it");
            }
            match news {
                Some(Ok(Difference::Nothing)) if !self.was_rejected => {}
                Some(Ok(difference)) => {
                    self.was_rejected = false;
                    let Some(config) = self.in_force.clone() else { continue };
                    return Ok(Taken { config, documents: difference != Difference::Pods });
                }
                Some(Err(rejection)) => {
                    self.was_rejected = true;
                    return Err(rejection);
                }
                None => {}
            }
        }
    }

    /// Applies what comes until there is something new and it is time for it: at once after a while without news.
    async fn wait(&mut self) {
        let mut pace = PACE;
        loop {
            let has_news = self.cluster.has_changed() || self.cluster.has_judged();
            let due = self.made + pace;
            tokio::select! {
                change = self.changes.recv() => match change {
                    Some(change) => self.apply(change),
                    None => std::future::pending().await,
                },
                Ok(()) = self.sandboxes.changed() => {
                    let known = self.sandboxes.borrow_and_update().clone();
                    self.cluster.sandboxes().replace(known);
                    pace = URGENT;
                }
                Some(question) = self.questions.recv() => {
                    if matches!(question, Question::Found(..)) {
                        pace = URGENT;
                    }
                    self.open.push(question);
                }
                () = sleep_until(due), if has_news => break,
            }
            if !self.open.is_empty() {
                let open = std::mem::take(&mut self.open).into_iter();
                self.open = open.filter_map(|question| question.settle(&mut self.cluster)).collect();
            }
        }
        self.made = Instant::now();
    }

    /// `None`: not everything is listed yet.
    fn take(&mut self) -> Option<Result<Difference, Rejection>> {
        if !self.missing.is_empty() {
            return None;
        }
        let made = self.cluster.config();
        if self.cluster.take_judged() {
            let verdicts = self.cluster.verdicts();
            replace_if_new(&self.verdicts, verdicts);
        }
        replace_if_new(&self.barred, self.cluster.barred());
        let next = match made {
            Ok(next) => next,
            Err(mistakes) => return Some(Err(Rejection::Invalid(mistakes))),
        };
        let taken = match &self.in_force {
            Some(now) => {
                let fixed = needs_restart(&now.mesh, &next.mesh);
                if !fixed.is_empty() {
                    return Some(Err(Rejection::NeedsRestart(fixed)));
                }
                if *now == next {
                    Difference::Nothing
                } else if only_pods_differ(now, &next) {
                    Difference::Pods
                } else {
                    Difference::Documents
                }
            }
            None => Difference::Documents,
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
                let is_uninstalled = self.cluster.is_uninstalled();
                let enrolled = self.cluster.namespaces().iter();
                let enrolled = enrolled.filter(|(_, namespace)| namespace.enrolled && !is_uninstalled);
                let enrolled: BTreeSet<_> = enrolled.map(|(name, _)| name.clone()).collect();
                replace_if_new(&self.enrolled, enrolled);
            }
            Change::Node(news) => {
                self.missing.remove("Node");
                merge(self.cluster.nodes(), news, |name| NodeName::new(&name.name));
            }
            Change::Pod(news) => {
                self.missing.remove("Pod");
                merge(self.cluster.pods(), news, |name| name);
            }
            Change::Service(news) => {
                self.missing.remove("Service of the cluster");
                merge(self.cluster.services(), news, |name| name);
            }
            Change::Slice(news) => {
                self.missing.remove("EndpointSlice");
                merge(self.cluster.slices(), news, |name| name);
            }
            Change::ServiceRange(news) => {
                self.missing.remove("ServiceCIDR");
                merge(self.cluster.service_ranges(), news, |name| name.name);
            }
        }
    }

    fn set_document(&mut self, kind: &'static str, name: &ObjectName, (generation, document): (i64, Value)) {
        if let Some(mistakes) = &self.cluster.set_document(kind, name, generation, document).mistakes {
            tracing::error!(target: "audit", reason = %mistakes, "document refused; its last good form stands");
        }
    }
}

/// Asks the API server whether it is there, for ever: a watch may be silent for minutes.
async fn ask_again(client: Client, heard: watch::Sender<Option<SystemTime>>) {
    loop {
        if let Ok(Ok(_)) = timeout(ASK, client.apiserver_version()).await {
            heard.send_replace(Some(SystemTime::now()));
        }
        sleep(ASK).await;
    }
}

fn replace_if_new<T: PartialEq>(sender: &watch::Sender<T>, next: T) {
    sender.send_if_modified(|known| {
        let is_news = *known != next;
        *known = next;
        is_news
    });
}

fn merge<K: Clone + Ord, T: PartialEq>(known: &mut Tracked<K, T>, news: News<T>, key: impl Fn(ObjectName) -> K) {
    match news {
        News::All(all) => known.replace(all.into_iter().map(|(name, object)| (key(name), object))),
        News::Set(name, object) => known.insert(key(name), object),
        News::Gone(name) => known.remove(&key(name)),
    }
}
