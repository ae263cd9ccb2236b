//! Pods that connect as their first act, across the wire: in their init container, and in their own.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use mesh_tests::cluster::{Meshed, logs};

use crate::{PORT, SECRET};

/// How many at a time. A kubelet takes about five seconds for a round: 200 one after another are in `cni.rs`.
const PARALLEL: usize = 5;

/// `MESH_FIRST_CONNECTIONS` says how many pods.
pub(crate) fn the_first_connection_of_every_pod_is_diverted(meshed: &Meshed) -> Result<()> {
    let pods: usize = std::env::var("MESH_FIRST_CONNECTIONS").ok().map_or(Ok(5), |count| count.parse())?;
    let server = SocketAddr::new(meshed.pod_on("web", "node-2")?.address, PORT);
    let open = SocketAddr::new(meshed.pod_of("elsewhere", "open")?.address, PORT);
    let capture = meshed.capture()?;
    // Pods like these, outside the mesh: their first connections are seen.
    run(meshed, "elsewhere", "default", open, 1)?;
    let trace = capture.trace()?;
    assert!(trace.contains(SECRET), "the capture is blind");
    assert_eq!(trace.flows_to(open).len(), 2);

    let mark = capture.mark()?;
    run(meshed, "shop", "client", server, pods)?;
    let trace = capture.trace()?.since(mark);
    trace.all_tls13(server)?;
    assert!(!trace.contains(SECRET), "plaintext on the wire");
    let flows = trace.flows_to(server).len();
    assert!(flows >= 2 * pods, "{flows} connections of {pods} pods");
    Ok(())
}

/// Runs pods to their ends.
fn run(meshed: &Meshed, namespace: &str, account: &str, server: SocketAddr, pods: usize) -> Result<()> {
    let ask =
        format!("image: 'localhost/box:1', imagePullPolicy: Never, command: [wget, -qO-, 'http://{server}/page']");
    meshed.kubectl.apply(&format!(
        "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: first, namespace: {namespace}}}\nspec:\n  completions: {pods}\n  \
         parallelism: {PARALLEL}\n  backoffLimit: 0\n  template:\n    spec:\n      serviceAccountName: {account}\n      \
         restartPolicy: Never\n      nodeSelector: {{kubernetes.io/hostname: node-1}}\n      terminationGracePeriodSeconds: 0\n      \
         initContainers: [{{name: before, {ask}}}]\n      containers: [{{name: first, {ask}}}]\n"
    ))?;
    let (namespace, limit) = (format!("--namespace={namespace}"), format!("--timeout={}s", 60 + 5 * pods));
    let wait = [&namespace, "wait", "job/first", "--for=condition=Complete", &limit];
    meshed.kubectl.run(&wait).with_context(|| logs(&meshed.kubectl))?;
    meshed.kubectl.run(&[&namespace, "delete", "job", "first"]).map(drop)
}
