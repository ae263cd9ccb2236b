//! A world for each mode: a client on one node, a server on the other, and what is between them.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mesh_tests::mesh::{Mesh, Mode as MtlsMode};
use mesh_tests::process::{Place, Process};
use mesh_tests::world::{Family, PodSpec, World};

use crate::haproxy;
use crate::load::{Outcome, READY};
use crate::plan::{IDLE_CONNECTIONS, Task};

/// The server's port.
const PORT: u16 = 7000;

/// Connections that the server can have at once: the idle ones, those that are measured, and those that are closing.
const SERVER_WORKERS: usize = IDLE_CONNECTIONS + 200;

/// A fast client must not run out of ports: there are more of them (all above those that connects are diverted to), and
/// those of closed connections are used again after a second.
const PLENTY_OF_PORTS: [(&str, &str); 2] = [("ipv4/ip_local_port_range", "16384 65535"), ("ipv4/tcp_tw_reuse", "1")];

/// How much longer than its measurement a client may live.
const GRACE: Duration = Duration::from_secs(40);

/// What is between client and server.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Mode {
    /// Nothing.
    Direct,
    /// Our agents with the default settings: post-quantum key exchange.
    Mesh,
    /// Our agents with X25519 alone, as haproxy has it.
    MeshX25519,
    /// A pair of haproxy with mutual TLS.
    Haproxy,
}

impl Mode {
    /// All, in the order of the table.
    pub(crate) const ALL: [Self; 4] = [Self::Direct, Self::Mesh, Self::MeshX25519, Self::Haproxy];

    /// The name that reports show.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Mesh => "mesh",
            Self::MeshX25519 => "mesh-x25519",
            Self::Haproxy => "haproxy",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// What carries a mode's connections; killed when dropped.
#[derive(Debug)]
pub(crate) enum Carrier {
    /// Nobody.
    Nobody,
    /// One haproxy a node.
    Haproxy([Process; 2]),
    /// One agent a node.
    Mesh(Mesh),
}

/// A mode's world, ready to be measured.
#[derive(Debug)]
pub(crate) struct Bed {
    pub(crate) mode: Mode,
    pub(crate) carrier: Carrier,
    load: PathBuf,
    to: SocketAddr,
    _server: Process,
    // Last: it takes the rest with it.
    world: World,
}

impl Bed {
    /// Builds the world of `mode`. haproxy gets its certificates from the mesh of `issuer`.
    pub(crate) fn start(mode: Mode, agent: &Path, load: &Path, issuer: Option<&Bed>) -> Result<Self> {
        let pod = match mode {
            Mode::Direct | Mode::Haproxy => PodSpec::outsider,
            Mode::Mesh | Mode::MeshX25519 => PodSpec::workload,
        };
        let world = World::builder()
            .node("a")
            .pod(pod("client"))
            .node("b")
            .pod(pod("server"))
            .build()
            .context("build a world")?;
        for place in places(&world) {
            place.netns.sysctl(&PLENTY_OF_PORTS)?;
        }
        let server = serve(&world, load)?;
        let mut to = world.address("server", Family::V4, PORT);
        let carrier = match mode {
            Mode::Direct => Carrier::Nobody,
            Mode::Mesh => Carrier::Mesh(Mesh::setup(&world, agent, MtlsMode::Strict).start()?),
            Mode::MeshX25519 => {
                Carrier::Mesh(Mesh::setup(&world, agent, MtlsMode::Strict).tls("keyExchange: [x25519]").start()?)
            }
            Mode::Haproxy => {
                let Some(Carrier::Mesh(mesh)) = issuer.map(|bed| &bed.carrier) else {
                    anyhow::bail!("haproxy needs a mesh to get its certificates from")
                };
                let pair = haproxy::start(&world, mesh, to)?;
                to = haproxy::entrance(&world);
                Carrier::Haproxy(pair)
            }
        };
        let bed = Self { mode, carrier, load: load.to_owned(), to, _server: server, world };
        bed.prove()?;
        Ok(bed)
    }

    /// Makes a connection, and fails unless it was the mode's: numbers of something else are worth nothing.
    fn prove(&self) -> Result<()> {
        self.measure(Task::Connect(1), 0.05)?;
        let group = match self.mode {
            Mode::Direct | Mode::Haproxy => return Ok(()),
            Mode::Mesh => "X25519MLKEM768",
            Mode::MeshX25519 => "x25519",
        };
        let Carrier::Mesh(mesh) = &self.carrier else { return Ok(()) };
        let expected = [("tls.key_exchange", group), ("tls.cipher", "TLS_AES_256_GCM_SHA384"), ("outcome", "ok")];
        for node in self.world.nodes() {
            mesh.agent(node.name()).wait_access(&expected)?;
        }
        Ok(())
    }

    /// Process ids of the client's and the server's proxy.
    pub(crate) fn proxies(&self) -> Result<Option<[u32; 2]>> {
        Ok(match &self.carrier {
            Carrier::Nobody => None,
            Carrier::Haproxy(pair) => Some([pair[0].id(), pair[1].id()]),
            Carrier::Mesh(mesh) => {
                let id = |node| mesh.agent(node).id().context("an agent has ended");
                Some([id("a")?, id("b")?])
            }
        })
    }

    /// Lets the client do `task`.
    pub(crate) fn measure(&self, task: Task, seconds: f64) -> Result<Outcome> {
        let mut command = self.world.pod("client").command(&self.load);
        command.args(task.arguments()).args(["--to", &self.to.to_string(), "--seconds", &seconds.to_string()]);
        command.arg("--cgroup").arg(self.cgroup()?);
        let mut process = self.world.pod("client").spawn(&mut command)?;
        let status = process.wait_exit(Duration::from_secs_f64(seconds) + GRACE)?;
        let stdout = process.stdout()?;
        ensure!(status.success(), "{}: {}: {status}: {}", self.mode, task.name(), process.stderr()?);
        let outcome: Outcome = serde_json::from_str(&stdout).with_context(|| format!("read an outcome: {stdout}"))?;
        let error = outcome.error.as_deref().unwrap_or_default();
        ensure!(outcome.count > 0, "{}: {} moved nothing: {error}", self.mode, task.name());
        Ok(outcome)
    }

    /// Lets a client hold idle connections until the process is dropped.
    pub(crate) fn hold(&self) -> Result<Process> {
        let mut command = self.world.pod("client").command(&self.load);
        command.args(["hold", "--to", &self.to.to_string(), "--connections", &IDLE_CONNECTIONS.to_string()]);
        let mut process = self.world.pod("client").spawn(&mut command)?;
        process.wait_line("the connections stand", |line| line == READY)?;
        Ok(process)
    }

    /// The cgroup of all that runs in this world.
    fn cgroup(&self) -> Result<&Path> {
        self.world.nodes()[0].cgroup_root().parent().context("a node's cgroup has no parent")
    }
}

fn places(world: &World) -> impl Iterator<Item = &Place> {
    let pods = world.pods().iter().map(|pod| -> &Place { pod });
    world.nodes().iter().map(|node| node.place()).chain(pods)
}

fn serve(world: &World, load: &Path) -> Result<Process> {
    let pod = world.pod("server");
    let mut command = pod.command(load);
    command.args(["serve", "--port", &PORT.to_string(), "--workers", &SERVER_WORKERS.to_string()]);
    let mut server = pod.spawn(&mut command)?;
    server.wait_line("the server listens", |line| line == READY)?;
    Ok(server)
}
