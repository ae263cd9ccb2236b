//! Changes pods at a steady rate, as rollouts and kubelets do.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kube::Client;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::load::{pods, slices, start_pod};
use crate::objects::{self, Plan};

/// Next to each other in number are pods of one workload; so far apart are pods that are changed one after the other.
const STRIDE: u64 = 7919;

/// What was done.
pub(super) struct Made {
    /// How many changes the API server has taken.
    pub(super) count: u32,
    /// Namespace and name of a pod that was made last.
    pub(super) last: (String, String),
}

/// One round: a pod is replaced, which is three changes (deleted, made, running), one gets another label, and two another status alone.
/// The EndpointSlice of the one that is replaced changes twice, which isn't counted.
const OF_A_ROUND: u32 = 6;
const PODS_OF_A_ROUND: u32 = 4;

/// Makes `rate` changes a second for `seconds`, and returns when the API server has taken them.
pub(super) async fn make(client: &Client, plan: &Plan, rate: u32, seconds: u32) -> Result<Made> {
    let rounds = rate * seconds / OF_A_ROUND;
    ensure!(rounds * PODS_OF_A_ROUND <= plan.pods, "too few pods: each is changed once at most");
    ensure!(u64::from(plan.pods) % STRIDE != 0, "so many pods can't be gone through: take one more");
    let mut ticks = interval(Duration::from_secs(seconds.into()) / rounds.max(1));
    // What the API server did not manage in time is made up for.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut under_way = JoinSet::new();
    let mut last = None;
    for round in 0..rounds {
        ticks.tick().await;
        let number = |index: u32| {
            let number = u64::from(round * PODS_OF_A_ROUND + index) * STRIDE % u64::from(plan.pods);
            u32::try_from(number).unwrap_or_default()
        };
        last = Some((objects::namespace(number(0)), objects::name(number(0), 1)));
        let (client, plan, numbers) = (client.clone(), *plan, [number(0), number(1), number(2), number(3)]);
        under_way.spawn(async move { change(&client, &plan, round, numbers).await });
        while let Some(done) = under_way.try_join_next() {
            done??;
        }
    }
    while let Some(done) = under_way.join_next().await {
        done??;
    }
    Ok(Made { count: rounds * OF_A_ROUND, last: last.context("no changes")? })
}

async fn change(client: &Client, plan: &Plan, round: u32, numbers: [u32; 4]) -> Result<()> {
    let [replaced, labelled, one, other] = numbers;
    let name = objects::name(replaced, 0);
    let at_once = DeleteParams::default().grace_period(0);
    pods(client, &objects::namespace(replaced)).delete(&name, &at_once).await.context("delete a pod")?;
    set_endpoints(client, plan, replaced, Some(replaced)).await?;
    start_pod(client, plan, replaced, objects::name(replaced, 1)).await?;
    set_endpoints(client, plan, replaced, None).await?;
    let label = Patch::Merge(json!({"metadata": {"labels": {"version": format!("v{}", round + 2)}}}));
    let labels = pods(client, &objects::namespace(labelled));
    labels.patch(&objects::name(labelled, 0), &PatchParams::default(), &label).await.context("label a pod")?;
    for number in [one, other] {
        let restarts =
            json!([{"name": "main", "ready": true, "restartCount": round + 1, "image": "i", "imageID": "i"}]);
        let status = Patch::Strategic(json!({"status": {"containerStatuses": restarts}}));
        let statuses = pods(client, &objects::namespace(number));
        let name = objects::name(number, 0);
        statuses.patch_status(&name, &PatchParams::default(), &status).await.context("change a pod's status")?;
    }
    Ok(())
}

/// As the controller of EndpointSlices does.
async fn set_endpoints(client: &Client, plan: &Plan, pod: u32, without: Option<u32>) -> Result<()> {
    let Some(name) = plan.slice_of(pod) else { return Ok(()) };
    let slices = slices(client, &objects::namespace(pod));
    let patch = Patch::Merge(json!({"endpoints": plan.endpoints(pod, without)}));
    slices.patch(&name, &PatchParams::default(), &patch).await.context("change an EndpointSlice")?;
    Ok(())
}
