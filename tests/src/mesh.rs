//! Puts a mesh on a world: writes each node's configuration, makes the CA, starts one agent a node.
//!
//! Every node has a configuration directory of its own, so that a test can let two nodes disagree about who is who.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::agent::Agent;
use crate::issuer::{Authority, IssuerKind};
use crate::process::Place;
use crate::world::{Family, POD_RANGES, Pod, WORKLOAD_NAMESPACE, World};

mod documents;
mod federation;

/// The trust domain of every test.
pub const TRUST_DOMAIN: &str = "mesh.test";

const TOKEN_FILE: &str = "join.token";

/// The mesh-wide mutual TLS mode.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// Plaintext from outside reaches the application.
    Permissive,
    /// Only the mesh reaches the application.
    Strict,
}

/// A mesh that is about to start.
#[derive(Debug)]
pub struct Setup<'w> {
    world: &'w World,
    agent_bin: PathBuf,
    mode: Mode,
    accounts: Vec<(String, String, String)>,
    omitted: Vec<(String, String)>,
    tls: Vec<(Option<String>, String)>,
    timeouts: String,
    settings: String,
    drain_seconds: Option<u64>,
    descriptors: Vec<(String, u64)>,
    ca: Option<(String, String)>,
    issuer: IssuerKind,
    svids: String,
    /// Nodes that are not of the trust domain of the others.
    trust_domains: Vec<(String, String)>,
}

impl Setup<'_> {
    /// Uses this CA, certificate and key in PEM, instead of one that `ca init` makes.
    pub fn ca(mut self, certificate: String, key: String) -> Self {
        self.ca = Some((certificate, key));
        self
    }

    /// Sets fields of the Mesh's `spec.tls`, such as `dataPath: Userspace`.
    pub fn tls(mut self, fields: &str) -> Self {
        self.tls.push((None, fields.to_owned()));
        self
    }

    /// Sets fields of `spec.tls` for the agent of one node.
    pub fn tls_on(mut self, node: &str, fields: &str) -> Self {
        self.tls.push((Some(node.to_owned()), fields.to_owned()));
        self
    }

    /// Lets `node` believe that `pod` runs as `account`.
    pub fn account_seen_by(mut self, node: &str, pod: &str, account: &str) -> Self {
        self.accounts.push((node.to_owned(), pod.to_owned(), account.to_owned()));
        self
    }

    /// Leaves `pod` out of the configuration of `node`.
    pub fn omitted_from(mut self, node: &str, pod: &str) -> Self {
        self.omitted.push((node.to_owned(), pod.to_owned()));
        self
    }

    /// Sets fields of the Mesh's `spec.timeouts`, such as `connect: 1s, deadPeer: 2s`.
    pub fn timeouts(mut self, fields: &str) -> Self {
        fields.clone_into(&mut self.timeouts);
        self
    }

    /// Adds lines to the Mesh's `spec`, such as `existingConnections: Keep`.
    pub fn setting(mut self, line: &str) -> Self {
        self.settings += &format!("  {line}\n");
        self
    }

    /// Sets how long an agent drains.
    pub fn drain_seconds(mut self, seconds: u64) -> Self {
        self.drain_seconds = Some(seconds);
        self
    }

    /// Limits how many descriptors the agent of `node` may have.
    pub fn descriptors(mut self, node: &str, limit: u64) -> Self {
        self.descriptors.push((node.to_owned(), limit));
        self
    }

    /// Sets who signs.
    pub fn issuer(mut self, issuer: IssuerKind) -> Self {
        self.issuer = issuer;
        self
    }

    /// Sets fields of the Mesh's `spec.issuer`, such as `svidLifetime: 8s, allowShortLifetimes: true`.
    pub fn svids(mut self, fields: &str) -> Self {
        self.svids = format!("{fields},");
        self
    }

    /// Starts the agents and waits until they are ready.
    pub fn start(self) -> Result<Mesh> {
        let directory = self.world.directory().join("mesh");
        let first = &self.world.nodes()[0];
        let authority = Box::new(Authority::new(&self.agent_bin, &directory, first.place(), first.address()));
        let place = first.place().clone();
        let mesh = Mesh { agents: Vec::new(), authority, agent_bin: self.agent_bin.clone(), directory, place };
        match &self.ca {
            None => mesh.make_ca(&mesh.directory)?,
            Some((certificate, key)) => {
                std::fs::create_dir_all(&mesh.directory)?;
                std::fs::write(mesh.directory.join("ca.crt"), certificate)?;
                std::fs::write(mesh.directory.join("ca.key"), key)?;
            }
        }
        for (node, trust_domain) in &self.trust_domains {
            mesh.tool(&["ca", "init", "--trust-domain", trust_domain, "--dir"], &self.ca_directory(&mesh, node))?;
        }
        self.start_agents(mesh)
    }

    fn start_agents(self, mut mesh: Mesh) -> Result<Mesh> {
        if self.issuer == IssuerKind::Remote {
            self.write_documents(&mesh, "issuer")?;
            mesh.authority.start()?;
        }
        for node in self.world.nodes() {
            let config = self.write_documents(&mesh, node.name())?;
            if self.issuer == IssuerKind::Remote {
                mesh.authority.token(node.name(), 600, &config.join(TOKEN_FILE))?;
            }
            let limit = self.descriptors.iter().find(|(of, _)| of == node.name()).map(|(_, limit)| *limit);
            mesh.agents.push(Agent::start(&self.agent_bin, node, &config, self.drain_seconds, limit)?);
        }
        for agent in &mut mesh.agents {
            agent.wait_ready()?;
        }
        Ok(mesh)
    }

    /// Writes what the agent of `node`, or the issuer, believes; returns the directory.
    fn write_documents(&self, mesh: &Mesh, node: &str) -> Result<PathBuf> {
        let config = mesh.config(node);
        std::fs::create_dir_all(&config).with_context(|| format!("make {}", config.display()))?;
        std::fs::write(config.join("mesh.yaml"), self.mesh_document(node, mesh))?;
        let pods = self.world.pods().iter().filter(|pod| pod.is_workload());
        let omitted = |pod: &Pod| self.omitted.contains(&(node.to_owned(), pod.name().to_owned()));
        for pod in pods.filter(|pod| !omitted(pod)) {
            let document = self.workload_document(node, pod)?;
            std::fs::write(config.join(format!("{}.yaml", pod.name())), document)?;
        }
        self.write_federated(mesh, node)?;
        Ok(config)
    }

    fn mesh_document(&self, node: &str, mesh: &Mesh) -> String {
        let file = |name| self.ca_directory(mesh, node).join(name).display().to_string();
        let issuer = match self.issuer {
            IssuerKind::Embedded => {
                format!("embedded: {{certificate: {}, key: {}}}", file("ca.crt"), file("ca.key"))
            }
            IssuerKind::Own => "embedded: {directory: ca}".to_owned(),
            IssuerKind::Remote => {
                format!("remote: {{address: '{}', tokenFile: {TOKEN_FILE}}}", mesh.authority.listen())
            }
        };
        let mode = match self.mode {
            Mode::Permissive => "PERMISSIVE",
            Mode::Strict => "STRICT",
        };
        let tls = self.tls.iter().filter(|(only, _)| only.as_ref().is_none_or(|only| only == node));
        let tls: Vec<_> = tls.map(|(_, fields)| fields.as_str()).collect();
        format!(
            "apiVersion: mesh.hauberk.dev/v1alpha1\n\
             kind: Mesh\n\
             metadata:\n  name: default\n\
             spec:\n  \
               trustDomain: {}\n  \
               mtls:\n    mode: {mode}\n  \
               timeouts: {{{}}}\n  \
               podRanges: [\"{}\"]\n  \
               tls: {{{}}}\n  \
               issuer: {{{} {issuer}}}\n{}",
            self.trust_domain(node),
            self.timeouts,
            POD_RANGES.join("\", \""),
            tls.join(", "),
            self.svids,
            self.settings,
        )
    }

    fn workload_document(&self, node: &str, pod: &Pod) -> Result<String> {
        let believed = self.accounts.iter().find(|(by, of, _)| by == node && of == pod.name());
        let account = believed.map_or(pod.service_account(), |(_, _, account)| account);
        let [v4, v6] = Family::BOTH.map(|family| pod.address(family));
        let mut text = format!(
            "apiVersion: mesh.hauberk.dev/v1alpha1\n\
             kind: Workload\n\
             metadata:\n  name: {}\n  namespace: {WORKLOAD_NAMESPACE}\n  labels: {{app: {}}}\n\
             spec:\n  \
               node: {}\n  \
               serviceAccount: {account}\n  \
               addresses: [\"{v4}\", \"{v6}\"]\n  \
               netns: {}\n  \
               cgroup: {}\n",
            pod.name(),
            pod.name(),
            pod.node(),
            pod.netns.path().display(),
            pod.cgroup.display(),
        );
        if self.trust_domain(pod.node()) != TRUST_DOMAIN || self.trust_domain(node) != TRUST_DOMAIN {
            writeln!(text, "  trustDomain: {}", self.trust_domain(pod.node()))?;
        }
        let exclude = pod.exclude();
        writeln!(
            text,
            "  exclude:\n    outboundPorts: {:?}\n    outboundRanges: {:?}\n    inboundPorts: {:?}",
            exclude.outbound_ports, exclude.outbound_ranges, exclude.inbound_ports
        )?;
        Ok(text)
    }
}

/// A running mesh; its agents are killed when it is dropped.
#[derive(Debug)]
pub struct Mesh {
    agents: Vec<Agent>,
    authority: Box<Authority>,
    agent_bin: PathBuf,
    directory: PathBuf,
    place: Place,
}

/// An SVID in files, for programs that are not part of the mesh.
#[derive(Debug)]
pub struct SvidFiles {
    /// The certificate chain.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
    /// The trust bundle.
    pub bundle: PathBuf,
}

impl Mesh {
    /// Describes a mesh of `agent_bin` on `world`.
    pub fn setup<'w>(world: &'w World, agent_bin: &Path, mode: Mode) -> Setup<'w> {
        let (accounts, omitted) = (Vec::new(), Vec::new());
        Setup {
            world,
            agent_bin: agent_bin.to_owned(),
            mode,
            accounts,
            omitted,
            tls: Vec::new(),
            timeouts: String::new(),
            settings: String::new(),
            drain_seconds: None,
            descriptors: Vec::new(),
            ca: None,
            issuer: IssuerKind::Embedded,
            svids: String::new(),
            trust_domains: Vec::new(),
        }
    }

    /// Starts the mesh of the agent that MESH_AGENT_BIN names.
    pub fn start(world: &World, mode: Mode) -> Result<Self> {
        Self::setup(world, &agent_bin()?, mode).start()
    }

    /// The CA.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The CA, to stop or start its service.
    pub fn authority_mut(&mut self) -> &mut Authority {
        &mut self.authority
    }

    /// Where the agent of `node` looks for its join token.
    pub fn token_file(&self, node: &str) -> PathBuf {
        self.config(node).join(TOKEN_FILE)
    }

    /// The agent of a node.
    pub fn agent(&self, node: &str) -> &Agent {
        match self.agents.iter().find(|agent| agent.node() == node) {
            Some(agent) => agent,
            None => panic!("this mesh has no node `{node}`: a mistake in the test"),
        }
    }

    /// The agent of a node, to stop or start it.
    pub fn agent_mut(&mut self, node: &str) -> &mut Agent {
        match self.agents.iter_mut().find(|agent| agent.node() == node) {
            Some(agent) => agent,
            None => panic!("this mesh has no node `{node}`: a mistake in the test"),
        }
    }

    /// All agents.
    pub fn agents(&self) -> &[Agent] {
        &self.agents
    }

    /// Issues an SVID from the mesh's CA.
    pub fn svid(&self, namespace: &str, account: &str) -> Result<SvidFiles> {
        let out = self.directory.join(format!("svid-{namespace}-{account}"));
        let config = self.config(self.agents[0].node()).display().to_string();
        let arguments = ["svid", "--config", &config, "--namespace", namespace, "--service-account", account, "--out"];
        self.tool(&arguments, &out)?;
        Ok(SvidFiles { certificate: out.join("tls.crt"), key: out.join("tls.key"), bundle: out.join("ca.crt") })
    }

    fn config(&self, node: &str) -> PathBuf {
        self.directory.join(node)
    }

    /// Runs a subcommand of the agent that ends with a directory, which is made.
    fn tool(&self, arguments: &[&str], directory: &Path) -> Result<()> {
        std::fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
        let mut command: Command = self.place.command(&self.agent_bin);
        command.args(arguments).arg(directory);
        self.place.run(&mut command)?.success().with_context(|| format!("mesh-agent {}", arguments.join(" ")))?;
        Ok(())
    }
}

/// The SPIFFE ID of a workload of the world.
pub fn spiffe_id(account: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}/ns/{WORKLOAD_NAMESPACE}/sa/{account}")
}

/// The agent under test.
pub fn agent_bin() -> Result<PathBuf> {
    let path =
        std::env::var_os("MESH_AGENT_BIN").context("MESH_AGENT_BIN names no agent: `cargo xtask test native`")?;
    Ok(path.into())
}
