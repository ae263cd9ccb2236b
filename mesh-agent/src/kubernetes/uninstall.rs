//! Takes the mesh off every node of a cluster: each agent does it for its own node, and says so.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{Kubernetes, KubernetesError, api};
use crate::model::cluster::{UNINSTALL_LABEL, WITHDRAWN_CONDITION};

/// How often it is asked who is left.
const POLL: Duration = Duration::from_millis(500);

impl Kubernetes {
    /// Labels our namespace, and waits until the agent of every node that should have one says that it has withdrawn: the pods of
    /// the DaemonSet `agents`, which have the label `selector`. Calls `say` with the names of the nodes that are left, and returns
    /// them if they are left after `limit`.
    pub async fn uninstall(
        &self,
        agents: &str,
        selector: &str,
        limit: Duration,
        mut say: impl FnMut(&[String]),
    ) -> Result<Vec<String>, KubernetesError> {
        let what = format!("label the namespace {}", self.namespace);
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let label = json!({"metadata": {"labels": {UNINSTALL_LABEL: "true"}}});
        namespaces.patch(&self.namespace, &PatchParams::default(), &Patch::Merge(label)).await.map_err(api(&what))?;
        let end = Instant::now() + limit;
        loop {
            let left = self.left(agents, selector).await?;
            if left.is_empty() || Instant::now() >= end {
                return Ok(left);
            }
            say(&left);
            sleep(POLL).await;
        }
    }

    async fn left(&self, agents: &str, selector: &str) -> Result<Vec<String>, KubernetesError> {
        // Without it nobody would be left to withdraw a node.
        let what = format!("get the DaemonSet {}/{agents}", self.namespace);
        let daemonset = self.own::<DaemonSet>().get(agents).await.map_err(api(&what))?;
        let pods = self.own::<Pod>().list(&ListParams::default().labels(selector)).await;
        let nodes = Api::<Node>::all(self.client.clone()).list(&ListParams::default()).await;
        let nodes = nodes.map_err(api("list the nodes"))?.items.into_iter().filter_map(|node| node.metadata.name);
        Ok(nodes_left(&daemonset, &pods.map_err(api("list the agents"))?.items, &nodes.collect::<Vec<_>>()))
    }
}

/// The nodes whose agent has not withdrawn, and, if agents are missing, those that have none.
fn nodes_left(daemonset: &DaemonSet, agents: &[Pod], nodes: &[String]) -> Vec<String> {
    let (mut with_agent, mut left) = (BTreeSet::new(), BTreeSet::new());
    for pod in agents.iter().filter(|pod| !has_ended(pod)) {
        // One that is on no node yet is missing on its node.
        let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) else { continue };
        if !is_withdrawn(pod) {
            left.insert(node.clone());
        }
        with_agent.insert(node);
    }
    let status = daemonset.status.as_ref();
    let seen = status.and_then(|status| status.observed_generation) >= daemonset.metadata.generation;
    let wanted = status.map_or(0, |status| status.desired_number_scheduled);
    if !seen || usize::try_from(wanted).unwrap_or_default() > with_agent.len() {
        left.extend(nodes.iter().filter(|node| !with_agent.contains(*node)).cloned());
    }
    left.into_iter().collect()
}

fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Failed" | "Succeeded"))
}

fn is_withdrawn(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == WITHDRAWN_CONDITION && condition.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(node: &str, phase: &str, withdrawn: bool) -> Pod {
        let status = if withdrawn { "True" } else { "False" };
        serde_json::from_value(json!({
            "spec": {"nodeName": node, "containers": []},
            "status": {"phase": phase, "conditions": [{"type": WITHDRAWN_CONDITION, "status": status}]},
        }))
        .unwrap()
    }

    fn daemonset(wanted: i32, observed: i64) -> DaemonSet {
        serde_json::from_value(json!({
            "metadata": {"generation": 2},
            "spec": {"selector": {}, "template": {}},
            "status": {"desiredNumberScheduled": wanted, "observedGeneration": observed,
                       "currentNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0},
        }))
        .unwrap()
    }

    #[test]
    fn a_node_is_left_until_its_agent_has_withdrawn_and_so_is_one_without_an_agent() {
        let nodes = ["a", "b", "windows"].map(str::to_owned);
        let of = |wanted, observed, agents: &[Pod]| nodes_left(&daemonset(wanted, observed), agents, &nodes);
        let (a, b) = (agent("a", "Running", true), agent("b", "Running", true));
        assert!(of(2, 2, &[a.clone(), b.clone()]).is_empty(), "no agent is wanted on the third");
        assert_eq!(of(2, 2, &[a.clone(), agent("b", "Running", false)]), ["b"]);
        assert_eq!(of(3, 2, &[a.clone(), b.clone()]), ["windows"], "one more is wanted");
        assert_eq!(of(2, 2, &[a.clone(), agent("b", "Failed", true)]), ["b", "windows"]);
        assert_eq!(of(0, 1, &[]), nodes, "nobody has looked at the DaemonSet yet");
    }
}
