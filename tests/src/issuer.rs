//! The signing service of a test's mesh, `mesh-agent ca serve` on one of the nodes, and the CA's tools.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;

use crate::mesh::TRUST_DOMAIN;
use crate::process::{Place, Process, whole_lines};
use crate::wait::{LIMIT, wait_until};

/// The port of the signing API.
const PORT: u16 = 15_100;

/// Who signs for a test's agents.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum IssuerKind {
    /// Each agent has the CA's key.
    Embedded,
    /// The only agent makes a CA, in `ca` beside its documents.
    Own,
    /// One service has it.
    Remote,
}

/// A CA's directory, and the service that signs with it if there is one.
#[derive(Debug)]
pub struct Authority {
    binary: PathBuf,
    directory: PathBuf,
    config: PathBuf,
    place: Place,
    listen: SocketAddr,
    process: Option<Process>,
}

impl Authority {
    pub(crate) fn new(binary: &Path, directory: &Path, place: &Place, address: IpAddr) -> Self {
        Self {
            binary: binary.to_owned(),
            directory: directory.to_owned(),
            config: directory.join("issuer"),
            place: place.clone(),
            listen: SocketAddr::new(address, PORT),
            process: None,
        }
    }

    /// Where the service reads its documents.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// The service's audit log.
    pub fn audit(&self) -> PathBuf {
        self.directory.join("issuer-audit/audit.jsonl")
    }

    /// Checks that log with `mesh-agent audit verify`.
    pub fn verify_audit(&self) -> Result<String> {
        let mut command = self.place.command(&self.binary);
        command.args(["audit", "verify"]).arg(self.audit());
        self.place.run(&mut command)?.success()
    }

    /// The CA's directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn listen(&self) -> SocketAddr {
        self.listen
    }

    fn log(&self) -> PathBuf {
        self.place.logs.join("issuer.log")
    }

    /// Starts the service and waits until it serves.
    pub fn start(&mut self) -> Result<()> {
        let mut command = self.place.command("setpriv");
        // It needs no privilege at all.
        command.args(["--bounding-set=-all", "--inh-caps=-all"]).arg(&self.binary);
        command.args(["ca", "serve", "--log-format", "json", "--listen", &self.listen.to_string()]);
        command.arg("--config").arg(&self.config).arg("--dir").arg(&self.directory);
        command.arg("--audit-log").arg(self.audit());
        let log = self.log();
        let before = std::fs::metadata(&log).map_or(0, |log| log.len());
        self.process = Some(Process::start(&mut command, log.with_extension("out"), log)?);
        self.wait_log_from(before, "the signing API is served", |line| line.contains("signing API is served"))
    }

    /// Stops the service; returns once it is gone.
    pub fn stop(&mut self) -> Result<()> {
        let mut process = self.process.take().context("the signing service does not run")?;
        process.signal(Signal::TERM)?;
        let status = process.wait_exit(LIMIT)?;
        ensure!(status.success(), "the signing service ended: {status}");
        Ok(())
    }

    /// The process id of the service.
    pub fn id(&self) -> Result<u32> {
        Ok(self.process.as_ref().context("the signing service does not run")?.id())
    }

    /// Waits for a line of its log.
    pub fn wait_log(&self, what: &str, wanted: impl Fn(&str) -> bool) -> Result<()> {
        self.wait_log_from(0, what, wanted)
    }

    fn wait_log_from(&self, from: u64, what: &str, wanted: impl Fn(&str) -> bool) -> Result<()> {
        let log = self.log();
        let text = || std::fs::read(&log).with_context(|| format!("read {}", log.display()));
        let found = wait_until(LIMIT, what, || {
            let text = text()?;
            let news = text.get(usize::try_from(from)?..).unwrap_or_default();
            Ok(whole_lines(&String::from_utf8_lossy(news)).any(&wanted).then_some(()))
        });
        found.with_context(|| String::from_utf8_lossy(&text().unwrap_or_default()).into_owned())
    }

    /// What was issued, one JSON object a line.
    pub fn journal(&self) -> Result<String> {
        std::fs::read_to_string(self.directory.join("journal.jsonl")).context("read the journal")
    }

    /// Writes a join token for `node` to `path`.
    pub fn token(&self, node: &str, lifetime_seconds: u64, path: &Path) -> Result<()> {
        let lifetime = lifetime_seconds.to_string();
        let token = self.tool(&["token", "--node", node, "--lifetime", &lifetime])?;
        std::fs::write(path, token).with_context(|| format!("write {}", path.display()))
    }

    /// Takes a step of the root's rotation.
    pub fn rotate(&self, step: &str) -> Result<()> {
        self.tool(&["rotate", step, "--min-age", "0"]).map(drop)
    }

    /// A Revocation document of all that `node` got.
    pub fn revocation_of(&self, node: &str) -> Result<String> {
        self.tool(&["revoke-node", "--node", node])
    }

    fn tool(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.place.command(&self.binary);
        command.arg("ca").args(arguments).args(["--trust-domain", TRUST_DOMAIN, "--dir"]).arg(&self.directory);
        let ran = self.place.run(&mut command)?.success();
        ran.with_context(|| format!("mesh-agent ca {}", arguments.join(" ")))
    }
}
