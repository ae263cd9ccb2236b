//! Scripted connections in pods: both ends do exactly what a test says, and tell what they saw.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::app::{Acted, Burst};
use crate::process::{Process, whole_lines};
use crate::wait::{LIMIT, wait_until};
use crate::world::Pod;

/// A process that follows a script.
#[derive(Debug)]
pub struct Script(pub Process);

impl Script {
    /// Its reports so far.
    pub fn reports(&self) -> Result<Vec<Acted>> {
        let stdout = self.0.stdout()?;
        Ok(whole_lines(&stdout).filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    /// Waits for the `count`th report of `step`; counted from 1, over all connections.
    pub fn wait(&self, step: &str, count: usize) -> Result<Acted> {
        self.wait_for(LIMIT, step, count)
    }

    /// Waits for the report of whatever broke the connection: a reset that is quick enough breaks connect() itself.
    pub fn wait_break(&self) -> Result<Acted> {
        wait_until(LIMIT, "a script's connection breaks", || {
            Ok(self.reports()?.into_iter().find(|report| report.end.is_some()))
        })
        .with_context(|| format!("{:?}", self.reports()))
    }

    /// Like `wait`, with a time limit of one's own.
    pub fn wait_for(&self, limit: Duration, step: &str, count: usize) -> Result<Acted> {
        wait_until(limit, &format!("the {count}th `{step}` of a script"), || {
            Ok(self.reports()?.into_iter().filter(|report| report.step == step).nth(count - 1))
        })
        .with_context(|| format!("{:?}", self.reports()))
    }
}

impl Pod {
    /// Plays `script` on every connection to `port`.
    pub fn act_serve(&self, port: u16, script: &[&str]) -> Result<Script> {
        let mut command = self.app("act-serve")?;
        command.args(["--port", &port.to_string()]).args(script);
        let mut process = self.spawn(&mut command)?;
        process.wait_line("the script listens", |line| line.contains("listening"))?;
        Ok(Script(process))
    }

    /// Starts to play `script` on a connection to `to`.
    pub fn act(&self, to: SocketAddr, script: &[&str]) -> Result<Script> {
        let mut command = self.app("act")?;
        Ok(Script(self.spawn(command.args(["--to", &to.to_string()]).args(script))?))
    }

    /// Like `act`, from an address and port that the application binds itself.
    pub fn act_from(&self, from: SocketAddr, to: SocketAddr, script: &[&str]) -> Result<Script> {
        let mut command = self.app("act")?;
        command.args(["--from", &from.to_string(), "--to", &to.to_string()]).args(script);
        Ok(Script(self.spawn(&mut command)?))
    }

    /// Makes `count` short connections to `to` in turn, `parallel` at a time.
    pub fn burst(&self, to: &[SocketAddr], count: usize, parallel: usize) -> Result<Burst> {
        let mut command = self.app("burst")?;
        command.args(["--count", &count.to_string(), "--parallel", &parallel.to_string()]);
        for address in to {
            command.args(["--to", &address.to_string()]);
        }
        let mut process = self.spawn(&mut command)?;
        let status = process.wait_exit(Duration::from_secs(180))?;
        ensure!(status.success(), "{status}: {}", process.stderr()?);
        serde_json::from_str(&process.stdout()?).context("read the burst's report")
    }

    /// Opens `count` connections to `to` that say nothing, until the process is dropped.
    pub fn half_open(&self, to: SocketAddr, count: usize) -> Result<(Process, Burst)> {
        let mut command = self.app("half-open")?;
        command.args(["--to", &to.to_string(), "--count", &count.to_string()]);
        let mut process = self.spawn(&mut command)?;
        let line = process.wait_line("the connections are open", |line| line.contains("answered"))?;
        Ok((process, serde_json::from_str(&line)?))
    }
}
