//! The application of the demo: redis where it is installed, else the test program's own server.

use std::net::SocketAddr;

use anyhow::{Result, ensure};

use crate::app::ANSWER;
use crate::process::Process;
use crate::stage::MARKER;
use crate::world::{Family, Server, World};

const PORT: u16 = 6379;

/// A running server; the client is started for each exchange.
#[derive(Debug)]
pub(super) enum Application {
    BuiltIn { _server: Server },
    Redis { _server: Process },
}

impl Application {
    pub(super) fn start(world: &World) -> Result<Self> {
        if !["redis-server", "redis-cli"].iter().all(|program| is_installed(program)) {
            return Ok(Self::BuiltIn { _server: world.pod("server").serve(PORT)? });
        }
        let pod = world.pod("server");
        let mut command = pod.command("redis-server");
        command.args(["--port", &PORT.to_string(), "--bind", "0.0.0.0", "::", "--protected-mode", "no"]);
        let mut server = pod.spawn(command.args(["--save", "", "--dir"]).arg(world.directory()))?;
        server.wait_line("redis listens", |line| line.contains("Ready to accept connections"))?;
        Ok(Self::Redis { _server: server })
    }

    /// What runs in the pod `server`.
    pub(super) fn server(&self) -> &'static str {
        match self {
            Self::BuiltIn { .. } => "a line server (redis is not installed)",
            Self::Redis { .. } => "redis-server, unmodified",
        }
    }

    /// What a client in the pod `client` would type.
    pub(super) fn client(&self, world: &World, family: Family) -> String {
        let host = world.pod("server").address(family);
        match self {
            Self::BuiltIn { .. } => format!("mesh-test-app call --to {} --say {MARKER}", address(world, family)),
            Self::Redis { .. } => format!("redis-cli -h {host} set code {MARKER}"),
        }
    }

    /// Has the client talk the marker over with the server; returns the answer, if it is right.
    pub(super) fn exchange(&self, world: &World, family: Family) -> Result<String> {
        let client = world.pod("client");
        let host = world.pod("server").address(family).to_string();
        let redis = |arguments: &[&str]| {
            let mut command = client.command("redis-cli");
            client.run(command.args(["-h", &host]).args(arguments))?.success()
        };
        let (answer, expected) = match self {
            Self::BuiltIn { .. } => {
                let called = client.call(address(world, family), MARKER)?;
                (called.answer.unwrap_or_else(|| format!("{:?}", called.error)), format!("{ANSWER}{MARKER}"))
            }
            Self::Redis { .. } => {
                let set = redis(&["set", "code", MARKER])?;
                let get = redis(&["get", "code"])?;
                (format!("{} {}", set.trim(), get.trim()), format!("OK {MARKER}"))
            }
        };
        ensure!(answer == expected, "the application answered `{answer}` instead of `{expected}`");
        Ok(answer)
    }
}

/// Where the server listens.
pub(super) fn address(world: &World, family: Family) -> SocketAddr {
    world.address("server", family, PORT)
}

pub(super) fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}
