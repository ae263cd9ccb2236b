//! The kubelet's probes come through in strict mode, and find what is there.

use anyhow::{Context as _, Result};
use mesh_tests::cluster::Meshed;
use mesh_tests::wait::wait_until;

use crate::PATIENCE;

/// Ready needs the kubelet's HTTP probes to come through; and a probe of a dead application must fail.
pub(crate) fn probes_see_the_application(meshed: &Meshed) -> Result<()> {
    let server = meshed.pod_on("web", "node-1")?.name;
    meshed.sh("shop", &server, "rm /srv/page")?;
    wait_ready(meshed, &server, "False")?;
    meshed.sh("shop", &server, "echo a-secret-page-of $(hostname) > /srv/page")?;
    wait_ready(meshed, &server, "True")
}

/// The agent knows the kubelet by its cgroup, which is another one then.
pub(crate) fn probes_come_through_after_a_restart_of_the_kubelet(meshed: &Meshed) -> Result<()> {
    let node = meshed.cluster.nodes().first().context("no node")?;
    meshed.cluster.restart_kubelet(node)?;
    let server = meshed.pod_on("web", "node-1")?.name;
    wait_until(PATIENCE, "the kubelet answers", || Ok(meshed.sh("shop", &server, "true").ok()))?;
    probes_see_the_application(meshed)
}

/// The agent has listeners in the pod's namespace: a probe by TCP must not find one of them.
pub(crate) fn a_tcp_probe_of_a_dead_application_fails(meshed: &Meshed) -> Result<()> {
    wait_ready(meshed, "probed", "True")?;
    meshed.sh("shop", "probed", "busybox killall httpd")?;
    wait_ready(meshed, "probed", "False")?;
    meshed.sh("shop", "probed", "httpd -p 8080 -h /tmp")?;
    wait_ready(meshed, "probed", "True")
}

fn wait_ready(meshed: &Meshed, pod: &str, expected: &str) -> Result<()> {
    let path = r#"--output=jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;
    wait_until(PATIENCE, &format!("{pod} is ready: {expected}"), || {
        let found = meshed.kubectl.run(&["--namespace=shop", "get", "pod", pod, path])?;
        Ok((found == expected).then_some(()))
    })
}
