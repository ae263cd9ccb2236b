//! A world with a mesh on it, a server, and a capture: where the claims are made.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;

use crate::app::Called;
use crate::capture::Capture;
use crate::mesh::{Mesh, Mode, agent_bin};
use crate::world::{Family, PodSpec, Server, World};

/// The port of the line servers; one that nobody takes for TLS.
pub const PORT: u16 = 7000;

/// What must never be seen on the wire.
pub const MARKER: &str = "the-eagle-lands-at-midnight";

/// The service account that node `a` expects at the address of `impostor`, which presents its own.
pub const EXPECTED_ACCOUNT: &str = "ledger";

/// `client`, `outsider` and `stranger` on node `a`; `server`, `neighbour` and `impostor` on node `b`.
#[derive(Debug)]
pub struct Stage {
    /// The mesh.
    pub mesh: Mesh,
    /// The line server in the pod `server`.
    pub server: Server,
    /// The line server in the pod `impostor`.
    pub impostor: Server,
    /// What passes between the nodes.
    pub capture: Capture,
    /// The world; last, as it takes the rest with it.
    pub world: World,
}

/// The world of a stage, without a mesh.
pub fn world() -> Result<World> {
    World::builder()
        .node("a")
        .pod(PodSpec::workload("client"))
        .pod(PodSpec::outsider("outsider"))
        .pod(PodSpec::stranger("stranger"))
        .node("b")
        .pod(PodSpec::workload("server"))
        .pod(PodSpec::workload("neighbour"))
        .pod(PodSpec::workload("impostor"))
        .build()
}

impl Stage {
    /// A new world with the mesh of the agent that MESH_AGENT_BIN names.
    pub fn start(mode: Mode) -> Result<Self> {
        Self::on(world()?, &agent_bin()?, mode)
    }

    /// Puts a mesh, servers and a capture on `world`.
    pub fn on(world: World, agent_bin: &Path, mode: Mode) -> Result<Self> {
        let server = world.pod("server").serve(PORT)?;
        let impostor = world.pod("impostor").serve(PORT)?;
        let mesh = Mesh::setup(&world, agent_bin, mode).account_seen_by("a", "impostor", EXPECTED_ACCOUNT).start()?;
        let capture = world.capture()?;
        Ok(Self { mesh, server, impostor, capture, world })
    }

    /// Ends and removes everything and says what could not be removed.
    pub fn remove(self) -> Result<()> {
        let Self { mesh, server, impostor, capture, world } = self;
        drop((mesh, server, impostor, capture));
        world.remove()
    }

    /// The address of `server`.
    pub fn server_address(&self, family: Family) -> SocketAddr {
        self.world.address("server", family, PORT)
    }

    /// `pod` says the marker to `server`.
    pub fn call_from(&self, pod: &str, family: Family) -> Result<Called> {
        self.world.pod(pod).call(self.server_address(family), MARKER)
    }
}
