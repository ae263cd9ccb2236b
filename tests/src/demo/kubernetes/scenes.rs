//! The chapters of the demo on Kubernetes, in order.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::super::story::{Story, dump};
use crate::capture::{Capture, Trace};
use crate::cluster::{Meshed, Node, Pod, logs, manifests};
use crate::wait::wait_until;

/// In every page of the application; must never be seen on the wire.
const SECRET: &str = "a-secret-page";
const PORT: u16 = 8080;
/// How long a change may take on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(120);
const POLICY: &str = "apiVersion: mesh.hauberk.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: not-the-client, namespace: shop}
spec: {action: DENY, rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/client]}}]}]}
";

pub(super) fn introduce(story: &Story, meshed: &Meshed, started: Instant) -> Result<()> {
    let version = ["get", "node", "node-1", "--output=jsonpath={.status.nodeInfo.kubeletVersion}"];
    let version = meshed.kubectl.run(&version)?;
    story.line(&format!("   Kubernetes {version}, up with an application on it after {:.1} s", seconds(started)))?;
    for node in meshed.cluster.nodes() {
        story.line(&format!("   {} ({}, pods {})", node.name(), node.address(), node.pod_range()))?;
    }
    let columns = "--output=custom-columns=NAMESPACE:.metadata.namespace,POD:.metadata.name,ADDRESS:.status.podIP,NODE:.spec.nodeName";
    let pods = meshed.kubectl.run(&["get", "pods", "--all-namespaces", columns])?;
    pods.lines().try_for_each(|line| story.line(&format!("     {}", line.trim_end())))
}

/// What the mesh could leave on the nodes: programs, pins, CNI files.
pub(super) fn on_nodes(meshed: &Meshed) -> Result<BTreeSet<String>> {
    let look = |node: &Node| {
        let script = "find /sys/fs/bpf /run/hauberk /etc/cni /opt/cni/bin 2>/dev/null; cat /etc/cni/net.d/*";
        let output = node.command("sh")?.args(["-c", script]).output().context("look at a node")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // Empty, and made by the kubelet for the agent's pod, so not the mesh's to remove.
        let lines = text.lines().filter(|line| *line != "/run/hauberk");
        Ok(lines.map(|line| format!("{}: {line}", node.name())).collect::<Vec<_>>())
    };
    let found = meshed.cluster.nodes().iter().map(look).collect::<Result<Vec<_>>>()?;
    Ok(found.into_iter().flatten().collect())
}

/// The cluster, the wire, and who talks to whom.
pub(super) struct Scene<'a> {
    meshed: &'a Meshed,
    capture: &'a Capture,
    agent: &'a Path,
    client: Pod,
    server: Pod,
    service: SocketAddr,
    /// Which pods run, and how often their containers were started.
    pods: String,
}

impl<'a> Scene<'a> {
    pub(super) fn look(meshed: &'a Meshed, capture: &'a Capture, agent: &'a Path) -> Result<Self> {
        let (client, server) = (meshed.pod_on("client", "node-1")?, meshed.pod_on("web", "node-2")?);
        let get = ["--namespace=shop", "get", "service", "web", "--output=jsonpath={.spec.clusterIP}"];
        let service = SocketAddr::new(meshed.kubectl.run(&get)?.parse()?, 80);
        Ok(Self { meshed, capture, agent, client, server, service, pods: pods(meshed)? })
    }

    pub(super) fn without_the_mesh(&self, story: &mut Story) -> Result<()> {
        story.chapter("Without the mesh")?;
        self.shows_client(story)?;
        story.claim("without the mesh the wire between the nodes shows the page", || {
            let (answer, trace) = self.watched()?;
            ensure!(trace.contains(SECRET), "the capture does not show it: then it proves nothing later");
            let flows = trace.flows_to(self.destination());
            let flow = flows.first().context("no connection on the wire")?;
            Ok(format!("answer: {answer}\n{} → {}\n{}", flow.client, flow.server, dump(&flow.received.bytes())))
        })
    }

    pub(super) fn install(&self, story: &mut Story) -> Result<()> {
        story.chapter("Installed with one command")?;
        story.line("   $ kubectl apply -k deploy/overlays/dev")?;
        story.claim("the CA and an agent on every node are ready", || {
            let started = Instant::now();
            self.meshed.apply_mesh()?;
            let pods = self.meshed.kubectl.run(&["--namespace=hauberk-system", "get", "pods", "--output=wide"])?;
            let shown: Vec<_> = pods.lines().map(|line| line.split("  <none>").next().unwrap_or(line)).collect();
            Ok(format!("after {:.1} s\n{}", seconds(started), shown.join("\n")))
        })?;
        story.claim("each node is fit: `mesh-agent check`, in the agents' own pods", || {
            let mut text = String::new();
            for node in self.meshed.cluster.nodes() {
                let agent = self.meshed.agent_on(node.name())?;
                // The plugin is in the chain a second after an agent is ready.
                text = wait_until(PATIENCE, &format!("{} is fit", node.name()), || {
                    Ok(self.meshed.agent(&agent, &["check"]).ok())
                })?;
            }
            Ok(text)
        })
    }

    pub(super) fn enrol(&self, story: &mut Story) -> Result<()> {
        story.chapter("Enrolled by a label")?;
        story.line("   $ kubectl label namespace shop mesh.hauberk.dev/enrolled=true")?;
        story.claim("its pods are in the mesh, and none was restarted", || {
            let started = Instant::now();
            self.meshed.kubectl.run(&["label", "namespace", "shop", "mesh.hauberk.dev/enrolled=true"])?;
            self.meshed.wait_served()?;
            self.same_pods()?;
            let agent = self.meshed.agent_on("node-2")?;
            Ok(format!("after {:.1} s\n{}", seconds(started), self.meshed.agent(&agent, &["workloads"])?))
        })
    }

    pub(super) fn with_the_mesh(&self, story: &mut Story) -> Result<()> {
        story.chapter("The same programs, now over mutual TLS")?;
        self.shows_client(story)?;
        story.claim(
            "the wire has TLS 1.3 on the original port, between the same addresses, and the page is nowhere",
            || {
                let (answer, trace) = self.watched()?;
                let hello = trace.all_tls13(self.destination())?;
                ensure!(!trace.contains(SECRET), "the page is on the wire");
                let flows = trace.flows_to(self.destination());
                let flow = flows.first().context("no connection on the wire")?;
                ensure!(flow.client.ip() == self.client.address, "the wire shows {}", flow.client);
                let chosen =
                    format!("cipher suite {:#06x}, key exchange group {:#06x}", hello.cipher_suite, hello.group);
                let bytes = dump(&flow.sent.bytes());
                Ok(format!("answer: {answer}\n{} → {}, {chosen}\n{bytes}", flow.client, flow.server))
            },
        )?;
        story.claim("through the Service too, to both servers", || {
            let mark = self.capture.mark()?;
            let mut answers = BTreeSet::new();
            wait_until(PATIENCE, "both servers answer", || {
                answers.insert(self.fetch(self.service)?);
                Ok((answers.len() == 2).then_some(()))
            })?;
            ensure!(!self.capture.trace()?.since(mark).contains(SECRET), "a page is on the wire");
            Ok(answers.into_iter().collect::<Vec<_>>().join("\n"))
        })?;
        story.claim("each side is named by its service account", || {
            let agent = self.meshed.agent_on("node-2")?;
            self.meshed
                .agent(&agent, &["explain", &self.of(&self.client), &format!("{}:{PORT}", self.of(&self.server))])
        })?;
        story.claim("a pod outside the mesh is refused", || {
            let output = self.meshed.fetch("elsewhere", "stranger", self.destination())?;
            ensure!(!output.status.success() && output.stdout.is_empty(), "it was answered: {output:?}");
            Ok(format!("stranger: {}", String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default()))
        })
    }

    pub(super) fn policy(&self, story: &mut Story) -> Result<()> {
        story.chapter("A policy denies")?;
        story.line("   $ kubectl apply -f - <<.")?;
        POLICY.lines().try_for_each(|line| story.line(&format!("   {line}")))?;
        story.claim("the client is refused, and the agent says by which policy", || {
            self.meshed.kubectl.apply(POLICY)?;
            wait_until(PATIENCE, "the policy denies", || Ok(self.fetch(self.destination()).is_err().then_some(())))?;
            let agent = self.meshed.agent_on("node-2")?;
            let (from, to) = (self.of(&self.client), format!("{}:{PORT}", self.of(&self.server)));
            let exec = ["--namespace=hauberk-system", "exec", &agent, "--", "/bin/mesh-agent", "explain", &from, &to];
            // It exits with 1 for what is denied.
            let text = String::from_utf8(self.meshed.kubectl.output(&exec, "")?.stdout)?;
            ensure!(text.contains("denied") && text.contains("shop/not-the-client"), "{text}");
            Ok(text)
        })?;
        story.line("   $ kubectl --namespace=shop delete authorizationpolicies.mesh.hauberk.dev not-the-client")?;
        story.claim("without it the client is let in again", || {
            let delete = ["--namespace=shop", "delete", "authorizationpolicies.mesh.hauberk.dev", "not-the-client"];
            self.meshed.kubectl.run(&delete)?;
            wait_until(PATIENCE, "the client is let in", || Ok(self.fetch(self.destination()).ok()))
        })
    }

    pub(super) fn keep(&self, story: &mut Story) -> Result<()> {
        story.chapter("Yours to try, until Ctrl-C")?;
        for line in [
            "# the cluster's kubectl",
            "cargo xtask cluster kubectl get pods --all-namespaces",
            "# the client asks the Service",
            &format!(
                "cargo xtask cluster kubectl --namespace=shop exec {} -- wget -qO- http://{}/page",
                self.client.name, self.service
            ),
            "# an agent",
            &format!(
                "cargo xtask cluster kubectl --namespace=hauberk-system exec {} -- mesh-agent status",
                self.meshed.agent_on("node-2")?
            ),
            "# the wire",
            "cargo xtask cluster node 2 tcpdump -A -n -i eth0",
        ] {
            story.line(&format!("   {line}"))?;
        }
        // The signal ends the process, after everything has been removed (`guard`).
        loop {
            std::thread::park();
            if self.meshed.cluster.nodes().iter().any(|node| node.init().is_err()) {
                bail!("the cluster is gone");
            }
        }
    }

    pub(super) fn uninstall(&self, story: &mut Story, pristine: &BTreeSet<String>) -> Result<()> {
        story.chapter("Removed")?;
        story.line("   $ mesh-agent uninstall --kubernetes")?;
        story.claim("the pods talk plaintext again, and none was restarted", || {
            let mut uninstall = self.meshed.operator(self.agent, &["uninstall", "--kubernetes"]);
            let done = uninstall.output().context("start mesh-agent uninstall")?;
            ensure!(done.status.success(), "{done:?}\n{}", logs(&self.meshed.kubectl));
            let (answer, trace) = self.watched()?;
            ensure!(trace.contains(SECRET), "the wire doesn't show the page");
            self.same_pods()?;
            Ok(format!("answer: {answer}"))
        })?;
        story.line("   $ kubectl delete -k deploy/overlays/dev")?;
        story.claim("nothing of the mesh is left on the nodes: no program, pin or CNI file", || {
            self.meshed.kubectl.run(&["delete", "--kustomize", &manifests(), "--wait=true", "--timeout=60s"])?;
            let mut left = Vec::new();
            wait_until(PATIENCE, "the nodes are as they were", || {
                left = on_nodes(self.meshed)?.difference(pristine).cloned().collect();
                Ok(left.is_empty().then_some(()))
            })
            .with_context(|| left.join("\n"))?;
            Ok(String::new())
        })
    }

    fn shows_client(&self, story: &Story) -> Result<()> {
        story.line(&format!("   {}$ wget -qO- http://{}/page", self.client.name, self.destination()))
    }

    fn destination(&self) -> SocketAddr {
        SocketAddr::new(self.server.address, PORT)
    }

    fn of(&self, pod: &Pod) -> String {
        format!("shop/{}", pod.name)
    }

    /// The page, as the client gets it.
    fn fetch(&self, from: SocketAddr) -> Result<String> {
        let output = self.meshed.fetch("shop", &self.client.name, from)?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
        let page = String::from_utf8(output.stdout)?.trim().to_owned();
        ensure!(page.starts_with(SECRET), "the application answered `{page}`");
        Ok(page)
    }

    /// The page from the server itself, and the wire since.
    fn watched(&self) -> Result<(String, Trace)> {
        let mark = self.capture.mark()?;
        let answer = self.fetch(self.destination())?;
        Ok((answer, self.capture.trace()?.since(mark)))
    }

    fn same_pods(&self) -> Result<()> {
        let now = pods(self.meshed)?;
        ensure!(now == self.pods, "before:\n{}\nnow:\n{now}", self.pods);
        Ok(())
    }
}

fn pods(meshed: &Meshed) -> Result<String> {
    let path = "--output=jsonpath={range .items[*]}{.metadata.uid} {.metadata.name} \
                {.status.containerStatuses[*].restartCount}{\"\\n\"}{end}";
    meshed.kubectl.run(&["--namespace=shop", "get", "pods", path])
}

fn seconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64()
}
