//! Makes the objects of the cluster, many at once.

use std::future::Future;

use anyhow::{Context as _, Result};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client};
use serde_json::Value;

use crate::objects::{self, Plan};

/// Requests that are under way at once.
const PARALLEL: usize = 48;

/// Makes everything.
pub(super) async fn fill(client: &Client, plan: &Plan) -> Result<()> {
    all(plan.namespaces().map(|namespace| create(client, "namespaces", namespace))).await?;
    all(plan.nodes().map(|node| create(client, "nodes", node))).await?;
    all(plan.policies().map(|policy| create(client, "authorizationpolicies", policy))).await?;
    for (service, slice) in plan.services() {
        create(client, "services", service).await?;
        create(client, "endpointslices", slice).await?;
    }
    all((0..plan.pods).map(|number| start_pod(client, plan, number, objects::name(number, 0)))).await
}

/// Makes a pod and lets it run.
pub(super) async fn start_pod(client: &Client, plan: &Plan, number: u32, name: String) -> Result<()> {
    create(client, "pods", plan.pod(number, &name)).await?;
    let status = Patch::Strategic(plan.status(number));
    let pods = pods(client, &objects::namespace(number));
    pods.patch_status(&name, &PatchParams::default(), &status).await.with_context(|| format!("start pod {name}"))?;
    Ok(())
}

/// The pods of one namespace.
pub(super) fn pods(client: &Client, namespace: &str) -> Api<DynamicObject> {
    of(client, namespace, &GroupVersionKind::gvk("", "v1", "Pod"), "pods")
}

/// The EndpointSlices of one namespace.
pub(super) fn slices(client: &Client, namespace: &str) -> Api<DynamicObject> {
    of(client, namespace, &GroupVersionKind::gvk("discovery.k8s.io", "v1", "EndpointSlice"), "endpointslices")
}

fn of(client: &Client, namespace: &str, kind: &GroupVersionKind, plural: &str) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, &ApiResource::from_gvk_with_plural(kind, plural))
}

async fn all(requests: impl Iterator<Item = impl Future<Output = Result<()>>>) -> Result<()> {
    stream::iter(requests).buffer_unordered(PARALLEL).try_collect().await
}

async fn create(client: &Client, plural: &str, object: Value) -> Result<()> {
    let object: DynamicObject = serde_json::from_value(object)?;
    let types = object.types.as_ref().context("an object without a kind")?;
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::try_from(types)?, plural);
    let api = match &object.metadata.namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    api.create(&PostParams::default(), &object).await.with_context(|| format!("make a {}", types.kind))?;
    Ok(())
}
