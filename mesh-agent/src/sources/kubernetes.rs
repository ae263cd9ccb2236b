//! Feeds the snapshot from the Kubernetes API: our own kinds, and the pods of enrolled namespaces.
//!
//! Everything is watched, and only a few fields of each object are kept (`model::cluster`). What the objects mean together
//! is `config::Cluster`'s business. While the API server is away, the last state stands.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use k8s_openapi::api::core::v1;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::core::DynamicObject;
use kube::{Api, Client};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::config::{Cluster, ConfigErrors, KINDS, MeshConfig, Tracked, Verdict, Written};
use crate::kubernetes::resource;
use crate::model::cluster::{ClusterService, Namespace, Node, ObjectName, Pod, SandboxState, Slice};
use crate::model::workload::{NodeName, PodUid, WorkloadUid};

mod ask;
mod follow;
mod health;
mod read;
mod taken;

pub use ask::Members;
use ask::Question;
use follow::{News, follow, follow_if_served};
use health::Health;
pub use taken::Taken;
use taken::{Difference, only_pods_differ};

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
    Document(&'static str, News<Written>),
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
    /// What only a restart takes over, as it was told last.
    pending_restart: Vec<&'static str>,
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
        let health = Health::default();
        for (kind, plural) in KINDS {
            missing.insert(kind);
            let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource(kind, plural));
            let read = move |object: &DynamicObject| Some(read::document(kind, object));
            let wrap = move |news| Change::Document(kind, news);
            watchers.spawn(follow(api, kind, read, wrap, sender.clone(), health.clone()));
        }
        let namespace = |namespace: &v1::Namespace| Some(read::namespace(namespace.metadata.labels.as_ref()));
        let node = |node: &v1::Node| Some(read::node(node));
        macro_rules! watch {
            ($what:literal, $read:expr, $wrap:expr) => {
                let (sender, health) = (sender.clone(), health.clone());
                watchers.spawn(follow(Api::all(client.clone()), $what, $read, $wrap, sender, health));
            };
        }
        watch!("Namespace", namespace, Change::Namespace);
        watch!("Node", node, Change::Node);
        watch!("Pod", read::pod, Change::Pod);
        watch!("Service of the cluster", read::service, Change::Service);
        watch!("EndpointSlice", read::slice, Change::Slice);
        let range = |range: &ServiceCIDR| Some(read::service_ranges(range));
        let ranges: Api<ServiceCIDR> = Api::all(client.clone());
        watchers.spawn(follow_if_served(ranges, "ServiceCIDR", range, Change::ServiceRange, sender, health.clone()));
        let (heard, contact) = watch::channel(None);
        watchers.spawn(ask_again(client.clone(), heard, health));
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
            pending_restart: Vec::new(),
            verdicts: watch::Sender::default(),
            barred: watch::Sender::default(),
            contact,
            _watchers: watchers,
        }
    }

    /// Waits for the first configuration: everything is listed, and there is a Mesh.
    pub async fn first(&mut self) -> MeshConfig {
        let mut reported = None;
        loop {
            let waits = match self.take() {
                None => format!("not listed yet: {}", self.missing.iter().copied().collect::<Vec<_>>().join(", ")),
                Some(Ok(_)) => match &self.in_force {
                    Some(config) => {
                        self.cluster.begin(config);
                        self.tell_contested(&BTreeSet::new());
                        return config.clone();
                    }
                    None => continue,
                },
                Some(Err(mistakes)) => mistakes.to_string(),
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

    /// Waits for the next configuration.
    pub async fn next(&mut self) -> Taken {
        loop {
            self.wait().await;
            let known = self.cluster.contested().clone();
            let news = self.take();
            self.tell_contested(&known);
            let Some(Ok(difference)) = news else { continue };
            let pending_restart = self.cluster.pending_restart().to_vec();
            let waits_anew = pending_restart != self.pending_restart;
            self.pending_restart.clone_from(&pending_restart);
            if difference == Difference::Nothing && !waits_anew {
                continue;
            }
            if let Some(config) = self.in_force.clone() {
                let documents = difference == Difference::Documents || waits_anew;
                return Taken { config, documents, pending_restart };
            }
        }
    }

    fn tell_contested(&self, known: &BTreeSet<IpAddr>) {
        for address in self.cluster.contested().difference(known) {
            tracing::warn!(target: "audit", %address, "more than one pod claims an address: none of them gets it");
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
    fn take(&mut self) -> Option<Result<Difference, ConfigErrors>> {
        if !self.missing.is_empty() {
            return None;
        }
        let made = self.cluster.config();
        if self.cluster.take_judged() {
            self.tell_verdicts();
        }
        replace_if_new(&self.barred, self.cluster.barred());
        let next = match made {
            Ok(next) => next,
            Err(mistakes) => return Some(Err(mistakes)),
        };
        let difference = match &self.in_force {
            Some(now) if *now == next => Difference::Nothing,
            Some(now) if only_pods_differ(now, &next) => Difference::Pods,
            _ => Difference::Documents,
        };
        self.in_force = Some(next);
        Some(Ok(difference))
    }

    fn tell_verdicts(&self) {
        let verdicts = self.cluster.verdicts();
        for verdict in &verdicts {
            let Some(mistakes) = &verdict.mistakes else { continue };
            let is_known = |known: &Verdict| {
                (&known.kind, &known.name, &known.mistakes) == (&verdict.kind, &verdict.name, &verdict.mistakes)
            };
            if !self.verdicts.borrow().iter().any(is_known) {
                tracing::error!(target: "audit", reason = %mistakes, "document refused; its last good form stands");
            }
        }
        replace_if_new(&self.verdicts, verdicts);
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::Document(kind, news) => match news {
                News::All(all) => {
                    let listed: BTreeSet<_> = all.iter().map(|(name, _)| name.clone()).collect();
                    for name in self.cluster.documents(kind).into_iter().filter(|name| !listed.contains(name)) {
                        self.cluster.remove_document(kind, &name);
                    }
                    for (name, document) in all {
                        self.cluster.set_document(kind, &name, document);
                    }
                    self.missing.remove(kind);
                }
                News::Set(name, document) => drop(self.cluster.set_document(kind, &name, document)),
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
}

/// Notes when everything was known to be as the API server has it, for ever: it answers, and no watch has failed for a while. A watch
/// by itself may be silent for minutes.
async fn ask_again(client: Client, heard: watch::Sender<Option<SystemTime>>, health: Health) {
    loop {
        if let Ok(Ok(_)) = timeout(ASK, client.apiserver_version()).await
            && health.is_good()
        {
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
