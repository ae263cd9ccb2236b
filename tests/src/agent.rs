//! One node's agent, driven and observed from outside: signals, admin address, access log, metrics.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::process::Signal;
use serde_json::{Map, Value};

use crate::metrics;
use crate::process::{Finished, Place, Process, whole_lines};
use crate::wait::{LIMIT, wait_until};
use crate::world::Node;

/// Each node has its own loopback, so all agents can have the same port.
pub(crate) const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 15020);

/// The agent's least privilege in a cluster: what the DaemonSet gives.
pub const CAPABILITIES: [&str; 5] = ["BPF", "NET_ADMIN", "NET_BIND_SERVICE", "SYS_ADMIN", PTRACE];

/// Only in a cluster it finds pods by their processes.
const PTRACE: &str = "SYS_PTRACE";

/// How much of a log an error quotes.
const QUOTED_LINES: usize = 30;

/// The outcome of one connection, as the agent tells it.
#[derive(Clone, Debug)]
pub struct AccessLine(Map<String, Value>);

impl AccessLine {
    /// A field as text; empty if absent.
    pub fn field(&self, name: &str) -> String {
        match self.0.get(name) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
        }
    }

    /// Whether all the given fields have the given values.
    pub fn has(&self, fields: &[(&str, &str)]) -> bool {
        fields.iter().all(|(name, value)| self.field(name) == *value)
    }
}

/// An agent; killed when dropped.
#[derive(Debug)]
pub struct Agent {
    node: String,
    binary: PathBuf,
    config: PathBuf,
    cgroup_root: PathBuf,
    bpffs: PathBuf,
    place: Place,
    log: PathBuf,
    socket: PathBuf,
    audit: PathBuf,
    drain_seconds: Option<u64>,
    descriptors: Option<u64>,
    cluster: Option<Cluster>,
    process: Option<Process>,
}

/// A Kubernetes cluster in place of a directory.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// How to reach it.
    pub kubeconfig: PathBuf,
    /// What the agent needs to know besides.
    pub arguments: Vec<String>,
}

impl Agent {
    /// Starts the agent of `node`; returns at once.
    pub(crate) fn start(
        binary: &Path,
        node: &Node,
        config: &Path,
        drain_seconds: Option<u64>,
        descriptors: Option<u64>,
    ) -> Result<Self> {
        let mut agent = Self::new(binary, node, config);
        (agent.drain_seconds, agent.descriptors) = (drain_seconds, descriptors);
        agent.spawn()?;
        Ok(agent)
    }

    /// Starts the agent of `node`, which reads a cluster and keeps its own files in `directory`; returns at once.
    pub fn of_cluster(binary: &Path, node: &Node, directory: &Path, cluster: Cluster) -> Result<Self> {
        let mut agent = Self { cluster: Some(cluster), ..Self::new(binary, node, directory) };
        agent.spawn()?;
        Ok(agent)
    }

    fn new(binary: &Path, node: &Node, config: &Path) -> Self {
        Self {
            node: node.name().to_owned(),
            binary: binary.to_owned(),
            config: config.to_owned(),
            cgroup_root: node.cgroup_root().to_owned(),
            bpffs: node.bpffs().to_owned(),
            place: node.place().clone(),
            log: node.place().logs.join(format!("agent-{}.log", node.name())),
            socket: config.join("agent.sock"),
            audit: config.join("audit/audit.jsonl"),
            drain_seconds: None,
            descriptors: None,
            cluster: None,
            process: None,
        }
    }

    /// The node that it serves.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The file with all that it logged, over all restarts.
    pub fn log(&self) -> &Path {
        &self.log
    }

    fn spawn(&mut self) -> Result<()> {
        // Every test runs with what the README says that the agent needs, and nothing more.
        let mut command = self.place.command("setpriv");
        let needed = CAPABILITIES.iter().filter(|name| self.cluster.is_some() || **name != PTRACE);
        let needed: String = needed.map(|name| format!(",+{}", name.to_lowercase())).collect();
        command.arg(format!("--bounding-set=-all{needed}"));
        if let Some(descriptors) = self.descriptors {
            command.arg("prlimit").arg(format!("--nofile={descriptors}:{descriptors}"));
        }
        command.arg(&self.binary);
        command.arg("run").args(["--node", &self.node]);
        match &self.cluster {
            None => command.arg("--config").arg(&self.config),
            Some(Cluster { kubeconfig, arguments }) => {
                command.env("KUBECONFIG", kubeconfig).arg("--kubernetes").args(arguments)
            }
        };
        command.arg("--cgroup-root").arg(&self.cgroup_root).arg("--bpffs").arg(&self.bpffs);
        command.args(["--admin", &ADMIN.to_string(), "--log-format", "json"]);
        command.arg("--admin-socket").arg(&self.socket).arg("--audit-log").arg(&self.audit);
        command.args(["--audit-checkpoint", "1"]);
        if let Some(seconds) = self.drain_seconds {
            command.args(["--drain-timeout", &seconds.to_string()]);
        }
        let stdout = self.log.with_extension("out");
        self.process = Some(Process::start(&mut command, stdout, self.log.clone())?);
        Ok(())
    }

    /// Waits until it serves all workloads of its node.
    pub fn wait_ready(&mut self) -> Result<()> {
        let what = format!("the agent of node {} is ready", self.node);
        let ready = wait_until(LIMIT, &what, || {
            let process = self.process.as_mut().context("the agent was stopped")?;
            if let Some(status) = process.exited()? {
                bail!("the agent of node {} ended: {status}", self.node);
            }
            // Until it listens, connecting fails.
            let answer = metrics::get(&self.place.netns, ADMIN, "/readyz");
            let is_ready = answer.is_ok_and(|answer| answer.status == 200);
            // Ready is who has tried each: here nothing goes on before all are served.
            Ok((is_ready && self.metric("mesh_workloads_pending", &[])? == 0.0).then_some(()))
        });
        self.quoting(ready)
    }

    /// Kills it as a crash would; returns once it is gone.
    pub fn kill9(&mut self) -> Result<()> {
        self.process.take().context("the agent was stopped")?.kill9()
    }

    /// Asks it to stop and waits for its end.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        self.ask_to_stop()?;
        self.wait_end()
    }

    /// Asks it to stop; returns at once.
    pub fn ask_to_stop(&self) -> Result<()> {
        self.process.as_ref().context("the agent was stopped")?.signal(Signal::TERM)
    }

    /// Waits for its end.
    pub fn wait_end(&mut self) -> Result<ExitStatus> {
        let mut process = self.process.take().context("the agent was stopped")?;
        let ended = process.wait_exit(LIMIT);
        self.quoting(ended)
    }

    /// How much of its memory is resident, in bytes.
    pub fn resident_bytes(&self) -> Result<u64> {
        let id = self.id().context("the agent was stopped")?;
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).context("read the agent's status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>().context("read VmRSS")? * 1024)
    }

    /// Starts it again after `kill9` or `terminate`, and waits until it is ready.
    pub fn restart(&mut self) -> Result<()> {
        self.start_again()?;
        self.wait_ready()
    }

    /// Starts it again after `kill9` or `terminate`; returns at once.
    pub fn start_again(&mut self) -> Result<()> {
        self.spawn()
    }

    /// What `mesh-agent` prints when it asks this agent.
    pub fn ask(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.place.command(&self.binary);
        command.args(arguments).arg("--admin-socket").arg(&self.socket);
        self.place.run(&mut command)?.success()
    }

    /// Checks its audit log with `mesh-agent audit verify` and these arguments.
    pub fn verify_audit(&self, arguments: &[&str]) -> Result<Finished> {
        let mut command = self.place.command(&self.binary);
        command.args(["audit", "verify"]).args(arguments).arg(&self.audit);
        self.place.run(&mut command)
    }

    /// Its admin socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The file of its audit log.
    pub fn audit(&self) -> &Path {
        &self.audit
    }

    /// Its audit records so far.
    pub fn audit_records(&self) -> Result<Vec<Value>> {
        let text = std::fs::read_to_string(&self.audit).with_context(|| format!("read {}", self.audit.display()))?;
        whole_lines(&text).map(|line| serde_json::from_str(line).context("read an audit record")).collect()
    }

    /// Waits for an audit record.
    pub fn wait_audit(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let found = wait_until(LIMIT, what, || Ok(self.audit_records()?.into_iter().find(&wanted)));
        self.quoting(found)
    }

    /// Where it serves metrics, as seen from its node.
    pub fn admin(&self) -> SocketAddr {
        ADMIN
    }

    /// Where programs of its node run.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Takes the node out of the mesh: removes what the agent pinned.
    pub fn uninstall(&self) -> Result<()> {
        let mut command = self.place.command(&self.binary);
        command.arg("uninstall").arg("--bpffs").arg(&self.bpffs);
        self.place.run(&mut command)?.success().context("mesh-agent uninstall")?;
        Ok(())
    }

    /// Its process id.
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// Its access lines so far.
    pub fn access_lines(&self) -> Result<Vec<AccessLine>> {
        let text = std::fs::read(&self.log).with_context(|| format!("read {}", self.log.display()))?;
        Ok(whole_lines(&String::from_utf8_lossy(&text)).filter_map(access_line).collect())
    }

    /// Waits for an access line with the given fields.
    pub fn wait_access(&self, fields: &[(&str, &str)]) -> Result<AccessLine> {
        let what = format!("an access line of node {} with {fields:?}", self.node);
        let found = wait_until(LIMIT, &what, || Ok(self.access_lines()?.into_iter().find(|line| line.has(fields))));
        self.quoting(found)
    }

    /// Waits for a line of its log.
    pub fn wait_log(&self, what: &str, wanted: impl Fn(&str) -> bool) -> Result<()> {
        let found = wait_until(LIMIT, what, || {
            let text = std::fs::read(&self.log).with_context(|| format!("read {}", self.log.display()))?;
            Ok(whole_lines(&String::from_utf8_lossy(&text)).any(&wanted).then_some(()))
        });
        self.quoting(found)
    }

    /// Its metrics as text.
    pub fn metrics(&self) -> Result<String> {
        Ok(metrics::get(&self.place.netns, ADMIN, "/metrics")?.body)
    }

    /// The sum of the samples of a metric that carry all of `labels`.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        Ok(metrics::sum(&self.metrics()?, name, labels))
    }

    /// Adds the end of its log to an error.
    fn quoting<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| anyhow!("{error:#}\n{}", self.quote()))
    }

    /// Empties its log, as a rotation by copying would: an agent that lives for long writes much.
    pub fn forget_log(&self) -> Result<()> {
        std::fs::File::create(&self.log).with_context(|| format!("empty {}", self.log.display()))?;
        Ok(())
    }

    fn quote(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let tail = &lines[lines.len().saturating_sub(QUOTED_LINES)..];
        format!("log of the agent of node {}:\n{}", self.node, tail.join("\n"))
    }
}

/// The fields of an access line, also where they are nested below `fields`.
fn access_line(line: &str) -> Option<AccessLine> {
    let Value::Object(mut object) = serde_json::from_str(line).ok()? else { return None };
    if object.get("target")?.as_str()? != "access" {
        return None;
    }
    if let Some(Value::Object(fields)) = object.remove("fields") {
        object.extend(fields);
    }
    Some(AccessLine(object))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_run_with_what_the_daemonset_gives() {
        let manifest = include_str!("../../deploy/base/agent.yaml");
        let (_, added) = manifest.split_once("drop: [ALL]\n              add:\n").unwrap();
        let entries = added.lines().map_while(|line| line.trim().strip_prefix("- "));
        let given: Vec<_> = entries.map(|entry| entry.split(" #").next().unwrap_or(entry)).collect();
        assert_eq!(given, CAPABILITIES);
    }
}
