//! kubectl, for the cluster here or for one that `KUBECONFIG` names.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::Cluster;

/// How to ask an API server.
#[derive(Clone, Debug)]
pub struct Kubectl {
    /// The program and its first arguments.
    prefix: Vec<String>,
}

impl Kubectl {
    /// The cluster that `program` runs here.
    pub(super) fn of_cluster(program: &Path) -> Self {
        let netns = format!("--net={}", Cluster::control_netns().path().display());
        let kubeconfig = format!("--kubeconfig={}", Cluster::kubeconfig().display());
        let words = ["nsenter", netns.as_str(), "--", &program.to_string_lossy(), "kubectl", &kubeconfig];
        Self { prefix: words.map(str::to_owned).to_vec() }
    }

    /// The cluster of `KUBECONFIG`, by the `kubectl` of PATH.
    pub(super) fn of_kubeconfig() -> Result<Self> {
        ensure!(std::env::var_os("KUBECONFIG").is_some(), "KUBECONFIG isn't set");
        Ok(Self { prefix: vec!["kubectl".to_owned()] })
    }

    /// A call, for who wants its standard streams.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.prefix[0]);
        command.args(&self.prefix[1..]).args(arguments);
        command
    }

    /// What a call prints; an error if it fails.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let output = self.output(arguments, "")?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kubectl {}: {}", arguments.join(" "), stderr.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Applies YAML documents.
    pub fn apply(&self, documents: &str) -> Result<String> {
        let output = self.output(&["apply", "--filename=-"], documents)?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kubectl apply: {}", stderr.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// What `kubectl get` prints; `None` if it fails, as for what isn't there yet.
    pub fn try_get(&self, arguments: &[&str]) -> Result<Option<String>> {
        let output = self.output(&[&["get"], arguments].concat(), "")?;
        Ok(output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned()))
    }

    /// Whether the API server says that it is ready.
    pub fn is_ready(&self) -> Result<bool> {
        Ok(self.try_get(&["--raw=/readyz"])?.is_some())
    }

    /// How a call ends, given `stdin`.
    pub fn output(&self, arguments: &[&str], stdin: &str) -> Result<Output> {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("start kubectl")?;
        if let Some(mut pipe) = child.stdin.take() {
            // It may end without reading: then its own complaint says more.
            drop(pipe.write_all(stdin.as_bytes()));
        }
        child.wait_with_output().context("wait for kubectl")
    }
}
