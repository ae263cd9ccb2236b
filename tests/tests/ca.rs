//! The CA of a cluster, with a real API server and a real agent: an operator's intermediate in its Secret, a root that is
//! replaced there, a node that goes, a Secret that goes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mesh_tests::agent::{Agent, Cluster};
use mesh_tests::apiserver::ApiServer;
use mesh_tests::mesh::agent_bin;
use mesh_tests::process::Process;
use mesh_tests::wait::{LIMIT, wait_until};
use mesh_tests::world::World;

const ADDRESS: &str = "10.96.0.50";
const NAMESPACE: &str = "hauberk-system";
const OBJECTS: &str = "apiVersion: v1
kind: Namespace
metadata: {name: hauberk-system}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: hauberk-agent, namespace: hauberk-system}
---
apiVersion: v1
kind: Service
metadata: {name: hauberk-ca, namespace: hauberk-system}
spec: {clusterIP: ADDRESS, ports: [{name: signing, port: 15100}]}
---
apiVersion: v1
kind: Node
metadata: {name: a}
---
apiVersion: v1
kind: Pod
metadata: {name: agent, namespace: hauberk-system}
spec: {nodeName: a, hostNetwork: true, serviceAccountName: hauberk-agent, containers: [{name: c, image: none}]}
---
apiVersion: mesh.hauberk.dev/v1alpha1
kind: Mesh
metadata: {name: mesh}
spec: {trustDomain: mesh.test, issuer: {refresh: 1s, kubernetes: {tokenFile: TOKEN}}}
";

/// One node with an API server and the CA.
struct Stage {
    api: ApiServer,
    token: PathBuf,
    world: World,
}

impl Stage {
    fn start() -> Result<Self> {
        let world = World::builder().node("a").node("b").build()?;
        // Where kube-proxy would bring a connection to the Service.
        world.node("a").place().netns.ip(&format!("link set lo up\naddr add {ADDRESS}/32 dev lo\n"))?;
        let token = world.directory().join("token");
        let api = ApiServer::start(world.node("a"), world.directory())?;
        let objects = OBJECTS.replace("ADDRESS", ADDRESS).replace("TOKEN", &token.display().to_string());
        api.apply(&objects)?;
        let stage = Self { api, token, world };
        stage.write_token("hauberk-ca")?;
        Ok(stage)
    }

    /// What the kubelet projects into an agent's pod.
    fn write_token(&self, audience: &str) -> Result<()> {
        let audience = format!("--audience={audience}");
        let bound = ["--bound-object-kind=Pod", "--bound-object-name=agent"];
        let token = self.own(&["create", "token", "hauberk-agent", &audience, bound[0], bound[1]])?;
        std::fs::write(&self.token, token)?;
        Ok(())
    }

    /// kubectl in our namespace.
    fn own(&self, arguments: &[&str]) -> Result<String> {
        self.api.kubectl(&[&["--namespace", NAMESPACE], arguments].concat())
    }

    /// Makes a root, and a CA below it. Returns their directories.
    fn operators(&self, name: &str) -> Result<[PathBuf; 2]> {
        let [root, below] = ["root", "below"].map(|part| self.world.directory().join(format!("{name}-{part}")));
        let run = |arguments: &[&str], paths: &[(&str, &Path)]| {
            let mut command = self.world.node("a").place().command(agent_bin()?);
            command.arg("ca").args(arguments).args(["--trust-domain", "mesh.test"]);
            for (flag, path) in paths {
                command.arg(flag).arg(path);
            }
            self.world.node("a").place().run(&mut command)?.success()
        };
        run(&["init"], &[("--dir", &root)])?;
        run(&["intermediate"], &[("--root", &root), ("--dir", &below)])?;
        Ok([root, below])
    }

    /// Puts the CA into its Secret, as cert-manager does. Returns the root.
    fn give(&self, [root, below]: &[PathBuf; 2], sec1: bool) -> Result<String> {
        let key = below.join("ca.key");
        let written = below.join("secret.key");
        let mut convert = self.world.node("a").place().command("openssl");
        let form: &[&str] = if sec1 { &["ec"] } else { &["pkcs8", "-topk8", "-nocrypt"] };
        convert.args(form).arg("-in").arg(&key).arg("-out").arg(&written);
        self.world.node("a").place().run(&mut convert)?.success()?;
        let text = std::fs::read_to_string(&written)?;
        ensure!(text.contains("EC PRIVATE KEY") == sec1, "openssl wrote another form");
        let file = |name: &str, path: &Path| format!("--from-file={name}={}", path.display());
        let secret = self.own(&[
            "create",
            "secret",
            "generic",
            "hauberk-ca",
            "--type=kubernetes.io/tls",
            "--dry-run=client",
            "--output=yaml",
            &file("tls.crt", &below.join("ca.crt")),
            &file("tls.key", &written),
            &file("ca.crt", &root.join("ca.crt")),
        ])?;
        self.api.apply(&secret)?;
        Ok(std::fs::read_to_string(root.join("ca.crt"))?)
    }

    fn serve(&self) -> Result<Process> {
        let directory = self.world.directory().join("ca");
        std::fs::create_dir_all(&directory)?;
        let place = self.world.node("a").place();
        let mut command = place.command(agent_bin()?);
        command.env("KUBECONFIG", self.api.kubeconfig()).args(["--log-format", "json", "ca", "serve", "--kubernetes"]);
        command.args(["--listen", &format!("{ADDRESS}:15100"), "--dir"]).arg(&directory);
        place.spawn(&mut command)
    }

    /// Waits until what is published has just as many roots; returns it.
    fn wait_published(&self, roots: usize) -> Result<String> {
        wait_until(LIMIT, &format!("{roots} roots are published"), || {
            let path = "jsonpath={.data.roots\\.pem}";
            let found =
                self.own(&["get", "configmap", "hauberk-trust-bundle", "--output", path, "--ignore-not-found"])?;
            Ok((found.matches("BEGIN CERTIFICATE").count() == roots).then_some(found))
        })
    }

    fn agent(&self) -> Result<Agent> {
        let own = self.world.directory().join("agent");
        std::fs::create_dir_all(&own)?;
        let cluster = Cluster { kubeconfig: self.api.kubeconfig(), arguments: Vec::new() };
        let mut agent = Agent::of_cluster(&agent_bin()?, self.world.node("a"), &own, cluster)?;
        agent.wait_ready()?;
        Ok(agent)
    }
}

fn same(one: &str, other: &str) -> bool {
    let bare = |text: &str| text.split_whitespace().collect::<String>();
    bare(one) == bare(other)
}

fn wait_said(ca: &Process, what: &str, wanted: &[&str]) -> Result<()> {
    wait_until(LIMIT, what, || {
        let said = ca.stderr()? + &ca.stdout()?;
        let is_it = |line: &str| wanted.iter().all(|part| line.contains(part));
        Ok(said.lines().any(is_it).then_some(()))
    })
}

fn wait_roots(agent: &Agent, roots: f64) -> Result<()> {
    wait_until(LIMIT, &format!("the agent trusts {roots} roots"), || {
        let trusts = agent.metric("mesh_trust_roots", &[])?;
        Ok(((trusts - roots).abs() < 0.5).then_some(()))
    })
}

#[test]
#[cfg_attr(not(feature = "kubernetes"), ignore = "needs Kubernetes' components: cargo xtask test kubernetes")]
fn an_operators_ca_signs_and_is_replaced_and_never_another_one_made() -> Result<()> {
    let stage = Stage::start()?;
    let first = stage.give(&stage.operators("first")?, true)?;
    let mut ca = stage.serve()?;
    ensure!(same(&stage.wait_published(1)?, &first), "the root is published, and the intermediate is none");
    let mut agent = stage.agent()?;
    agent.wait_log("it has joined by its token", |line| line.contains("joined the mesh"))?;
    wait_roots(&agent, 1.0)?;

    let second = stage.give(&stage.operators("second")?, false)?;
    let both = stage.wait_published(2)?;
    ensure!(same(&both, &(second.clone() + &first)), "the new root, then the old one");
    wait_roots(&agent, 2.0)?;
    let times =
        stage.own(&["get", "configmap", "hauberk-trust-bundle", "--output", "jsonpath={.data.roots\\.json}"])?;
    ensure!(times.matches("until").count() == 1, "the old one goes: {times}");
    agent.wait_log("the new root signs", |line| {
        line.contains("the issuer has other roots") && line.contains("\"roots\":2")
    })?;
    wait_until(LIMIT, "the agent has joined again, with whoever signs now", || {
        let log = std::fs::read_to_string(agent.log())?;
        Ok((log.matches("joined the mesh").count() >= 2).then_some(()))
    })?;

    strangers_and_nodes_that_are_gone_get_nothing(&stage, &mut agent, &ca)?;

    stage.own(&["delete", "secret", "hauberk-ca"])?;
    wait_said(&ca, "the loss is audited", &["the CA's Secret is gone", "audit"])?;
    ensure!(ca.exited()?.is_none(), "it goes on");
    ca.kill9()?;
    let mut again = stage.serve()?;
    let ended = again.wait_exit(Duration::from_secs(60))?;
    ensure!(!ended.success() && again.stderr()?.contains("is gone"), "{ended}: {}", again.stderr()?);
    let found = stage.own(&["get", "secret", "hauberk-ca", "--ignore-not-found"])?;
    ensure!(found.trim().is_empty(), "it has made another: {found}");
    Ok(())
}

fn strangers_and_nodes_that_are_gone_get_nothing(stage: &Stage, agent: &mut Agent, ca: &Process) -> Result<()> {
    stage.write_token("somebody-else")?;
    agent.kill9()?;
    agent.start_again()?;
    wait_said(ca, "a token for others is refused", &["svid refused", "the token is not for hauberk-ca"])?;
    stage.write_token("hauberk-ca")?;
    let joined = |agent: &Agent| {
        Ok::<_, anyhow::Error>(std::fs::read_to_string(agent.log())?.matches("joined the mesh").count())
    };
    let before = joined(agent)?;
    wait_until(LIMIT, "it joins with its own", || Ok((joined(agent)? > before).then_some(())))?;
    stage.api.kubectl(&["delete", "node", "a"]).context("delete the node")?;
    agent.kill9()?;
    agent.start_again()?;
    wait_said(ca, "a node that is gone is refused", &["svid refused", "the cluster has no node a"])
}
