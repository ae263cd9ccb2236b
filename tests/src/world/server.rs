//! Servers in pods, and what they saw of their clients.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};

use super::{Family, Pod};
use crate::app::{self, Served};
use crate::process::{Process, whole_lines};
use crate::wait::{LIMIT, wait_until};

/// Which sockets a server listens with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ServerKind {
    /// One IPv6 socket that takes IPv4 too.
    DualStack,
    /// One socket an IP version.
    Separate,
    /// Like `Separate`; speaks first.
    SpeaksFirst,
}

impl Pod {
    /// Starts a line server on `port`, over IPv4 and IPv6.
    pub fn serve(&self, port: u16) -> Result<Server> {
        self.serve_as(ServerKind::Separate, port)
    }

    /// Starts a line server of the given kind.
    pub fn serve_as(&self, kind: ServerKind, port: u16) -> Result<Server> {
        let mut command = self.app("serve")?;
        command.args(["--port", &port.to_string()]);
        match kind {
            ServerKind::DualStack => drop(command.arg("--dual-stack")),
            ServerKind::Separate => {}
            ServerKind::SpeaksFirst => drop(command.args(["--greeting", app::GREETING])),
        }
        let mut process = self.spawn(&mut command)?;
        process.wait_line("the server listens", |line| line.contains("listening"))?;
        Ok(Server { process })
    }

    /// Starts a server that answers datagrams.
    pub fn serve_udp(&self, port: u16) -> Result<[Process; 2]> {
        let [v4, v6] = Family::BOTH.map(|family| -> Result<Process> {
            let mut command = self.app("udp-serve")?;
            command.args(["--address", &self.address(family).to_string(), "--port", &port.to_string()]);
            let mut process = self.spawn(&mut command)?;
            process.wait_line("the server listens", |line| line.contains("listening"))?;
            Ok(process)
        });
        Ok([v4?, v6?])
    }
}

/// A connection that a server accepted, as the server saw it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Accepted {
    /// The client, as accept() told.
    pub peer: SocketAddr,
    /// The client, as getpeername() told.
    pub getpeername: SocketAddr,
    /// The server's end, as getsockname() told.
    pub local: SocketAddr,
}

/// A running line server.
#[derive(Debug)]
pub struct Server {
    process: Process,
}

impl Server {
    /// Everything that the server reported so far.
    fn reports(&self) -> Result<Vec<Served>> {
        let stdout = self.process.stdout()?;
        whole_lines(&stdout)
            .map(|line| serde_json::from_str(line).with_context(|| format!("read the server's report: {line}")))
            .collect()
    }

    /// The connections that reached the application so far, in order.
    pub fn accepted(&self) -> Result<Vec<Accepted>> {
        let connections = self.reports()?.into_iter().filter_map(|report| match report {
            Served::Accepted { peer, getpeername, local } => Some(Accepted { peer, getpeername, local }),
            Served::Line { .. } | Served::Listening => None,
        });
        Ok(connections.collect())
    }

    /// The lines that reached the application so far.
    pub fn lines(&self) -> Result<Vec<String>> {
        let lines = self.reports()?.into_iter().filter_map(|report| match report {
            Served::Line { text } => Some(text),
            Served::Accepted { .. } | Served::Listening => None,
        });
        Ok(lines.collect())
    }

    /// Waits until the application has read a line that contains `text`.
    pub fn wait_line(&self, text: &str) -> Result<()> {
        wait_until(LIMIT, &format!("the server reads `{text}`"), || {
            Ok(self.lines()?.iter().any(|line| line.contains(text)).then_some(()))
        })
    }
}
