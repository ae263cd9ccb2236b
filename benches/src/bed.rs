//! A world for each mode: a client on one node, a server on the other, and what is between them.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mesh_tests::mesh::{Mesh, Mode as MtlsMode};
use mesh_tests::metrics;
use mesh_tests::process::{Place, Process};
use mesh_tests::world::{Family, PodSpec, World};

use crate::haproxy;
use crate::load::{Outcome, READY};
use crate::plan::{IDLE_CONNECTIONS, Task};

/// The server's port.
const PORT: u16 = 7000;

/// The ports of the relays at the client and at the server.
const ENTRANCE: u16 = 8000;
const TUNNEL: u16 = 8443;

/// Connections that the server can have at once: the idle ones, those that are measured, and those that are closing.
const SERVER_WORKERS: usize = IDLE_CONNECTIONS + 200;

/// A fast client must not run out of ports: there are more of them (all above those that connects are diverted to), and
/// those of closed connections are used again after a second.
const PLENTY_OF_PORTS: [(&str, &str); 2] = [("ipv4/ip_local_port_range", "16384 65535"), ("ipv4/tcp_tw_reuse", "1")];

/// Much more often than anybody scrapes.
const SCRAPE_INTERVAL: Duration = Duration::from_millis(100);

/// How much longer than its measurement a client may live.
const GRACE: Duration = Duration::from_secs(40);

/// What is between client and server.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Mode {
    /// Nothing.
    Direct,
    /// Our agents with the default settings: post-quantum key exchange.
    Mesh,
    /// Our agents with the default settings, except that no session is resumed.
    MeshFull,
    /// Our agents with X25519 alone and full handshakes, as haproxy has it.
    MeshX25519,
    /// As `Mesh`, while somebody scrapes both agents' metrics ten times a second.
    MeshScraped,
    /// A pair of haproxy with mutual TLS and full handshakes.
    Haproxy,
    /// A pair of haproxy that resumes sessions.
    HaproxyResumed,
    /// Our agents, records protected in user space.
    Userspace(Cipher),
    /// Our agents, records protected by the kernel.
    Kernel(Cipher),
    /// A pair of the bench's own relays, records protected by the kernel.
    Relays(Relays),
}

/// How relays move bytes.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Relays {
    /// They read and write, as our agents do.
    Copy,
    /// They splice what they encrypt.
    SpliceIn,
    /// They splice both ways.
    SpliceBoth,
}

impl Relays {
    const fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::Copy => ["--encrypt", "copy", "--decrypt", "copy"],
            Self::SpliceIn => ["--encrypt", "splice", "--decrypt", "copy"],
            Self::SpliceBoth => ["--encrypt", "splice", "--decrypt", "splice"],
        }
    }
}

/// The one cipher that a mode's agents offer.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Cipher {
    /// AES-256-GCM.
    Aes,
    /// ChaCha20-Poly1305.
    Chacha,
}

impl Cipher {
    const fn name(self) -> &'static str {
        match self {
            Self::Aes => "TLS_AES_256_GCM_SHA384",
            Self::Chacha => "TLS_CHACHA20_POLY1305_SHA256",
        }
    }
}

impl Mode {
    /// Those that are timed, in the order of the table.
    pub(crate) const ALL: [Self; 7] = [
        Self::Direct,
        Self::Mesh,
        Self::MeshFull,
        Self::MeshX25519,
        Self::MeshScraped,
        Self::Haproxy,
        Self::HaproxyResumed,
    ];

    /// Those whose instructions are counted, in the order of the table.
    pub(crate) const COUNTED: [Self; 8] = [
        Self::Direct,
        Self::Userspace(Cipher::Aes),
        Self::Kernel(Cipher::Aes),
        Self::Userspace(Cipher::Chacha),
        Self::Kernel(Cipher::Chacha),
        Self::Relays(Relays::Copy),
        Self::Relays(Relays::SpliceIn),
        Self::Relays(Relays::SpliceBoth),
    ];

    /// Whether `task` is worth measuring here: sessions that are resumed, or aren't, differ in how they begin only; and what
    /// scraping costs shows where the agents have most to do.
    pub(crate) const fn takes(self, task: Task) -> bool {
        match self {
            Self::MeshFull | Self::HaproxyResumed => matches!(task, Task::Connect(_)),
            Self::MeshScraped => matches!(task, Task::Connect(16) | Task::Request(64)),
            _ => true,
        }
    }

    /// The name that reports show.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Mesh => "mesh",
            Self::MeshFull => "mesh-full",
            Self::MeshX25519 => "mesh-x25519",
            Self::MeshScraped => "mesh-scraped",
            Self::Haproxy => "haproxy",
            Self::HaproxyResumed => "haproxy-resumed",
            Self::Userspace(Cipher::Aes) => "userspace-aes",
            Self::Kernel(Cipher::Aes) => "kernel-aes",
            Self::Userspace(Cipher::Chacha) => "userspace-chacha",
            Self::Kernel(Cipher::Chacha) => "kernel-chacha",
            Self::Relays(Relays::Copy) => "relay-copy",
            Self::Relays(Relays::SpliceIn) => "relay-splice-in",
            Self::Relays(Relays::SpliceBoth) => "relay-splice",
        }
    }

    /// Fields of the Mesh's `spec.tls`; `None` without a mesh.
    fn tls(self) -> Option<String> {
        let fields = |path: &str, cipher: Cipher| format!("dataPath: {path}, cipherSuites: [{}]", cipher.name());
        match self {
            Self::Direct | Self::Haproxy | Self::HaproxyResumed | Self::Relays(_) => None,
            Self::Mesh | Self::MeshScraped => Some(String::new()),
            Self::MeshFull => Some("sessionResumption: Disabled".to_owned()),
            Self::MeshX25519 => Some("keyExchange: [x25519], sessionResumption: Disabled".to_owned()),
            Self::Userspace(cipher) => Some(fields("Userspace", cipher)),
            Self::Kernel(cipher) => Some(fields("Kernel", cipher)),
        }
    }

    /// What an access line must say of a connection; nothing without a mesh.
    fn access(self) -> Vec<(&'static str, &'static str)> {
        let carried = |path, cipher: Cipher| vec![("datapath", path), ("tls.cipher", cipher.name())];
        let negotiated = |group, resumed| {
            vec![("tls.key_exchange", group), ("tls.cipher", Cipher::Aes.name()), ("tls.resumed", resumed)]
        };
        match self {
            Self::Direct | Self::Haproxy | Self::HaproxyResumed | Self::Relays(_) => Vec::new(),
            Self::Mesh | Self::MeshScraped => negotiated("X25519MLKEM768", "true"),
            Self::MeshFull => negotiated("X25519MLKEM768", "false"),
            Self::MeshX25519 => negotiated("x25519", "false"),
            Self::Userspace(cipher) => carried("userspace", cipher),
            Self::Kernel(cipher) => carried("kernel", cipher),
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
    /// One agent a node.
    Mesh(Mesh),
    /// One program at each end.
    Pair([Process; 2]),
}

/// What a bed is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Programs<'a> {
    pub(crate) agent: &'a Path,
    pub(crate) load: &'a Path,
    /// The bench's own relay, for the modes that need it.
    pub(crate) relay: Option<&'a Path>,
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
    pub(crate) fn start(mode: Mode, programs: Programs<'_>, issuer: Option<&Bed>) -> Result<Self> {
        let Programs { agent, load, relay } = programs;
        let tls = mode.tls();
        let pod = if tls.is_some() { PodSpec::workload } else { PodSpec::outsider };
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
        let carrier = match tls {
            Some(fields) => Carrier::Mesh(Mesh::setup(&world, agent, MtlsMode::Strict).tls(&fields).start()?),
            None => match mode {
                Mode::Haproxy | Mode::HaproxyResumed => {
                    let Some(Carrier::Mesh(mesh)) = issuer.map(|bed| &bed.carrier) else {
                        anyhow::bail!("haproxy needs a mesh to get its certificates from")
                    };
                    let pair = haproxy::start(&world, mesh, to, mode == Mode::HaproxyResumed)?;
                    to = haproxy::entrance(&world);
                    Carrier::Pair(pair)
                }
                Mode::Relays(how) => {
                    let pair = relays(&world, relay.context("no relay is given")?, how)?;
                    to = world.address("client", Family::V4, ENTRANCE);
                    Carrier::Pair(pair)
                }
                _ => Carrier::Nobody,
            },
        };
        let mut bed = Self { mode, carrier, load: load.to_owned(), to, _server: server, world };
        bed.prove()?;
        Ok(bed)
    }

    /// Makes a connection, and fails unless it was the mode's: numbers of something else are worth nothing.
    fn prove(&mut self) -> Result<()> {
        self.measure(Task::Connect(1), 0.05)?;
        let mesh = match &mut self.carrier {
            Carrier::Mesh(mesh) => mesh,
            Carrier::Pair(pair) => {
                return match self.mode {
                    Mode::Haproxy => haproxy::prove(pair, false),
                    Mode::HaproxyResumed => haproxy::prove(pair, true),
                    _ => Ok(()),
                };
            }
            Carrier::Nobody => return Ok(()),
        };
        let expected = [self.mode.access(), vec![("outcome", "ok")]].concat();
        for node in self.world.nodes() {
            mesh.agent(node.name()).wait_access(&expected)?;
        }
        Ok(())
    }

    /// Process ids of the client's and the server's proxy.
    pub(crate) fn proxies(&self) -> Result<Option<[u32; 2]>> {
        Ok(match &self.carrier {
            Carrier::Nobody => None,
            Carrier::Pair(pair) => Some([pair[0].id(), pair[1].id()]),
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
        let limit = Duration::from_secs_f64(seconds) + GRACE;
        let status = match &self.carrier {
            Carrier::Mesh(mesh) if self.mode == Mode::MeshScraped => scraped(mesh, || process.wait_exit(limit))?,
            _ => process.wait_exit(limit)?,
        };
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

/// Does `work` while all agents' metrics are read again and again.
fn scraped<T>(mesh: &Mesh, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let agents: Vec<_> = mesh.agents().iter().map(|agent| (&agent.place().netns, agent.admin())).collect();
    let (done, over) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let scraper = scope.spawn(move || {
            while over.recv_timeout(SCRAPE_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                for (netns, address) in &agents {
                    ensure!(metrics::get(netns, *address, "/metrics")?.status == 200, "an agent shows no metrics");
                }
            }
            Ok(())
        });
        let result = work();
        drop(done);
        scraper.join().map_err(|_panic| anyhow::anyhow!("the scraper panicked"))??;
        result
    })
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

/// Starts a relay in each pod, where the agent's sockets would be.
fn relays(world: &World, relay: &Path, how: Relays) -> Result<[Process; 2]> {
    let start = |pod: &str, listen: u16, to: SocketAddr, tls: &str| -> Result<Process> {
        let (pod, listen) = (world.pod(pod), world.address(pod, Family::V4, listen));
        let mut command = pod.command(relay);
        command.args(["--listen", &listen.to_string(), "--to", &to.to_string(), "--tls", tls]).args(how.arguments());
        let mut process = pod.spawn(&mut command)?;
        process.wait_line("the relay listens", |line| line == READY)?;
        Ok(process)
    };
    let server = |port| world.address("server", Family::V4, port);
    Ok([start("client", ENTRANCE, server(TUNNEL), "up")?, start("server", TUNNEL, server(PORT), "down")?])
}
