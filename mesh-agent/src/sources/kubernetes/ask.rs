//! What others may ask about the cluster that is followed: one pod's membership, and when a pod is gone.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1;
use kube::{Api, Client};
use tokio::sync::{mpsc, oneshot, watch};

use super::read;
use crate::config::{Cluster, Membership};
use crate::model::cluster::{ObjectName, Pod};
use crate::model::workload::PodUid;

/// Who asks. Clones share.
#[derive(Clone)]
pub struct Members {
    pub(super) client: Client,
    pub(super) questions: mpsc::Sender<Question>,
    pub(super) enrolled: watch::Receiver<BTreeSet<String>>,
}

/// A question to the task that follows the cluster.
pub(super) enum Question {
    /// Answered once the pod and its namespace are known.
    Membership(ObjectName, PodUid, oneshot::Sender<Membership>),
    /// Answered once the pod is not known.
    Gone(ObjectName, PodUid, oneshot::Sender<()>),
    /// No question: a pod that the API server has told of, and its watch not yet.
    Found(ObjectName, Pod),
}

impl Members {
    /// Whether a pod is in the mesh; waits until it is known.
    pub async fn membership(&self, name: &ObjectName, uid: &PodUid) -> Membership {
        self.ask(|answer| Question::Membership(name.clone(), uid.clone(), answer)).await
    }

    /// Waits until nobody knows of a pod any more.
    pub async fn gone(&self, name: &ObjectName, uid: &PodUid) {
        self.ask(|answer| Question::Gone(name.clone(), uid.clone(), answer)).await;
    }

    /// Asks the API server itself for a pod that its watch doesn't show. Returns whether there is one.
    pub async fn fetch(&self, name: &ObjectName, uid: &PodUid) -> Result<bool, kube::Error> {
        let pods: Api<v1::Pod> = Api::namespaced(self.client.clone(), &name.namespace);
        let found = pods.get_opt(&name.name).await?;
        let Some(pod) = found.as_ref().and_then(read::pod).filter(|pod| pod.runtime_uid() == uid) else {
            return Ok(false);
        };
        // The task ends with the agent alone.
        drop(self.questions.send(Question::Found(name.clone(), pod)).await);
        Ok(true)
    }

    /// The enrolled namespaces, always the newest.
    pub fn enrolled(&self) -> watch::Receiver<BTreeSet<String>> {
        self.enrolled.clone()
    }

    async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Question) -> T {
        let (answer, answered) = oneshot::channel();
        if self.questions.send(question(answer)).await.is_ok()
            && let Ok(answer) = answered.await
        {
            return answer;
        }
        // The task ends with the agent alone.
        std::future::pending().await
    }
}

impl Question {
    /// Answers it, or gives it back while it can't be answered yet and somebody waits.
    pub(super) fn settle(self, cluster: &mut Cluster) -> Option<Self> {
        match self {
            Self::Membership(name, uid, answer) => {
                let pod = cluster.pods().get(&name).filter(|pod| *pod.runtime_uid() == uid).cloned();
                let membership = pod.map(|pod| cluster.membership(&name, &pod));
                match membership.filter(|membership| *membership != Membership::Unknown) {
                    Some(membership) => drop(answer.send(membership)),
                    None if answer.is_closed() => {}
                    None => return Some(Self::Membership(name, uid, answer)),
                }
            }
            Self::Gone(name, uid, answer) => {
                let is_known = cluster.pods().get(&name).is_some_and(|pod| *pod.runtime_uid() == uid);
                if is_known && !answer.is_closed() {
                    return Some(Self::Gone(name, uid, answer));
                }
                if !is_known {
                    // Nobody may be waiting any more.
                    answer.send(()).unwrap_or_default();
                }
            }
            Self::Found(name, pod) => {
                // What the watch says is at least as new.
                if cluster.pods().get(&name).is_none_or(|known| known.uid != pod.uid) {
                    cluster.pods().insert(name, pod);
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::cluster::Namespace;

    fn pod(uid: &PodUid) -> Pod {
        Pod {
            uid: uid.clone(),
            node: None,
            service_account: "default".to_owned(),
            addresses: Vec::new(),
            labels: BTreeMap::new(),
            static_uid: None,
            host_network: false,
            finished: false,
            served: false,
        }
    }

    #[test]
    fn a_question_waits_until_its_pod_comes_or_goes() {
        let name = ObjectName { namespace: "shop".to_owned(), name: "web".to_owned() };
        let [old, new] = ["old", "new"].map(|uid| PodUid::parse(uid).unwrap());
        let mut cluster = Cluster::new("own", None);
        cluster.namespaces().insert("shop".to_owned(), Namespace::default());
        cluster.pods().insert(name.clone(), pod(&old));
        let (answer, mut told) = oneshot::channel();
        let membership = Question::Membership(name.clone(), new.clone(), answer).settle(&mut cluster);
        let (answer, mut left) = oneshot::channel();
        let gone = Question::Gone(name.clone(), old.clone(), answer).settle(&mut cluster);
        assert!(told.try_recv().is_err() && left.try_recv().is_err(), "the earlier pod of that name is still there");
        assert!(Question::Found(name.clone(), pod(&new)).settle(&mut cluster).is_none());
        assert!(membership.unwrap().settle(&mut cluster).is_none());
        assert!(gone.unwrap().settle(&mut cluster).is_none());
        assert_eq!((told.try_recv(), left.try_recv()), (Ok(Membership::NotLabelled), Ok(())));
        let (answer, asker) = oneshot::channel();
        drop(asker);
        assert!(Question::Membership(name, old, answer).settle(&mut cluster).is_none(), "nobody waits");
    }

    /// Taken for one that isn't in the mesh, its pods would begin in plaintext.
    #[test]
    fn a_question_waits_for_the_namespace_too() {
        let name = ObjectName { namespace: "new".to_owned(), name: "web".to_owned() };
        let uid = PodUid::parse("u").unwrap();
        let mut cluster = Cluster::new("own", None);
        cluster.pods().insert(name.clone(), pod(&uid));
        let (answer, mut told) = oneshot::channel();
        let question = Question::Membership(name, uid, answer).settle(&mut cluster).unwrap();
        assert!(told.try_recv().is_err());
        cluster.namespaces().insert("new".to_owned(), Namespace { enrolled: true, ..Namespace::default() });
        assert!(question.settle(&mut cluster).is_none());
        assert_eq!(told.try_recv(), Ok(Membership::In));
    }
}
