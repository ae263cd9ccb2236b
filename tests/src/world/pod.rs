//! A pod of a world: its addresses, and one-line ways to run programs and clients in it.

use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::Family;
use crate::app::{self, Called};
use crate::process::Place;

/// The Kubernetes-style namespace of every workload of a world.
pub const WORKLOAD_NAMESPACE: &str = "demo";

/// What a pod is to the mesh.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    /// In no mesh, with an address of the pod range.
    Outsider,
    /// In no mesh, with an address outside the pod range.
    Stranger,
    /// Listed in the configuration.
    Workload,
}

/// What a workload keeps out of the mesh.
#[derive(Clone, Debug, Default)]
pub struct Exclusions {
    /// Ports that clients in the pod reach directly.
    pub outbound_ports: Vec<u16>,
    /// Ranges that clients in the pod reach directly.
    pub outbound_ranges: Vec<String>,
    /// Ports of servers in the pod that are reached directly.
    pub inbound_ports: Vec<u16>,
}

/// What a pod shall be.
#[derive(Debug)]
pub struct PodSpec {
    pub(super) name: String,
    pub(super) kind: Kind,
    exclude: Exclusions,
}

impl PodSpec {
    /// A member of the mesh. Its service account has its name.
    pub fn workload(name: &str) -> Self {
        Self { name: name.to_owned(), kind: Kind::Workload, exclude: Exclusions::default() }
    }

    /// In no mesh, but with an address of the pod range.
    pub fn outsider(name: &str) -> Self {
        Self { kind: Kind::Outsider, ..Self::workload(name) }
    }

    /// In no mesh, with an address outside the pod range.
    pub fn stranger(name: &str) -> Self {
        Self { kind: Kind::Stranger, ..Self::workload(name) }
    }

    /// Keeps ports and ranges out of the mesh.
    pub fn excluding(self, exclude: Exclusions) -> Self {
        Self { exclude, ..self }
    }
}

/// A pod: a namespace, a cgroup and two addresses. Runs programs like the `Place` that it is.
#[derive(Debug)]
pub struct Pod {
    spec: PodSpec,
    node: String,
    gateway_mac: String,
    place: Place,
    addresses: [IpAddr; 2],
}

impl Deref for Pod {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.place
    }
}

impl Pod {
    pub(super) fn new(spec: PodSpec, node: String, gateway_mac: String, place: Place, addresses: [IpAddr; 2]) -> Self {
        Self { spec, node, gateway_mac, place, addresses }
    }

    /// The pod's name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// The node that it runs on.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Its service account; named like the pod.
    pub fn service_account(&self) -> &str {
        &self.spec.name
    }

    /// What it keeps out of the mesh.
    pub fn exclude(&self) -> &Exclusions {
        &self.spec.exclude
    }

    /// Whether the configuration lists it.
    pub fn is_workload(&self) -> bool {
        self.spec.kind == Kind::Workload
    }

    /// Its address.
    pub fn address(&self, family: Family) -> IpAddr {
        let [v4, v6] = self.addresses;
        match family {
            Family::V4 => v4,
            Family::V6 => v6,
        }
    }

    /// The test program with a subcommand (see `app`).
    pub fn app(&self, subcommand: &str) -> Result<Command> {
        let mut command = self.command(app::find()?);
        command.arg(subcommand);
        Ok(command)
    }

    /// Connects to `to`, says `line` and reports what came of it; a refusal is a result, not an error.
    pub fn call(&self, to: SocketAddr, line: &str) -> Result<Called> {
        self.call_with(to, line, &[])
    }

    /// Like `call`, with further arguments of the test program's `call`.
    pub fn call_with(&self, to: SocketAddr, line: &str, arguments: &[&str]) -> Result<Called> {
        self.run_call(self.app("call")?.args(arguments), to, line)
    }

    /// Like `call`, from a process in another cgroup than the pod's.
    pub fn call_in(&self, cgroup: &Path, to: SocketAddr, line: &str) -> Result<Called> {
        self.run_call(self.command_in(cgroup, app::find()?).arg("call"), to, line)
    }

    fn run_call(&self, command: &mut Command, to: SocketAddr, line: &str) -> Result<Called> {
        command.args(["--to", &to.to_string(), "--say", line]);
        let stdout = self.run(command)?.success()?;
        serde_json::from_str(&stdout).with_context(|| format!("read the client's report: {stdout}"))
    }

    /// Sends `text` as one datagram and returns what comes back.
    pub fn udp_call(&self, to: SocketAddr, text: &str) -> Result<String> {
        let mut command = self.app("udp-call")?;
        command.args(["--to", &to.to_string(), "--say", text]);
        let stdout = self.run(&mut command)?.success()?;
        serde_json::from_str(&stdout).with_context(|| format!("read the client's report: {stdout}"))
    }

    /// Sends a SYN past connect(): `raw-syn` through a raw IP socket, `packet-syn` through a packet socket.
    /// An error if the kernel refused it at the socket.
    pub fn bypass(&self, how: &str, from: SocketAddr, to: SocketAddr) -> Result<()> {
        let mut command = self.app(how)?;
        command.args(["--from", &from.to_string(), "--to", &to.to_string()]);
        if how == "packet-syn" {
            command.args(["--gateway", &self.gateway_mac]);
        }
        self.run(&mut command)?.success()?;
        Ok(())
    }
}
