//! Clients that go on by themselves inside a pod: to get into one takes the API server, and that may be away.

use std::net::SocketAddr;

use anyhow::Result;
use mesh_tests::cluster::{Meshed, Pod};
use mesh_tests::wait::wait_until;

use crate::PATIENCE;

/// Where servers give back what they get.
const ECHO_PORT: u16 = 9000;

/// Calls a server again and again.
pub(crate) struct Caller<'m> {
    meshed: &'m Meshed,
    client: String,
    /// Names its files: a pod may have several callers.
    name: &'static str,
}

impl<'m> Caller<'m> {
    pub(crate) fn start(meshed: &'m Meshed, name: &'static str, client: &Pod, server: SocketAddr) -> Result<Self> {
        let caller = Self { meshed, client: client.name.clone(), name };
        let ask = format!(
            "wget -qO- http://{server}/page > /dev/null && echo >> /tmp/{name}-answers || echo >> /tmp/{name}-lost"
        );
        caller.sh(&format!(
            "rm -f /tmp/{name}-*; (while [ ! -e /tmp/{name}-end ]; do {ask}; sleep 0.1; done) > /dev/null 2>&1 &"
        ))?;
        caller.wait(|answers, _| answers > 0)?;
        Ok(caller)
    }

    fn sh(&self, command: &str) -> Result<String> {
        self.meshed.sh("shop", &self.client, command)
    }

    /// How many calls were answered, and how many weren't.
    pub(crate) fn counts(&self) -> Result<(usize, usize)> {
        let name = self.name;
        let count = |file: &str| {
            Ok::<_, anyhow::Error>(self.sh(&format!("cat /tmp/{name}-{file} 2>/dev/null | wc -l"))?.trim().parse()?)
        };
        Ok((count("answers")?, count("lost")?))
    }

    /// Waits for what the numbers of answered and of lost calls shall be.
    pub(crate) fn wait(&self, enough: impl Fn(usize, usize) -> bool) -> Result<()> {
        let mut last = (0, 0);
        let waited = wait_until(PATIENCE, "calls are answered, and not", || {
            last = self.counts()?;
            Ok(enough(last.0, last.1).then_some(()))
        });
        waited.map_err(|error| error.context(format!("{}: {last:?}", self.name)))
    }

    pub(crate) fn stop(self) -> Result<(usize, usize)> {
        self.sh(&format!("touch /tmp/{}-end", self.name))?;
        self.counts()
    }
}

/// Connections that stay open, and notice when they don't.
pub(crate) struct Held<'m> {
    meshed: &'m Meshed,
    client: String,
    count: usize,
}

impl<'m> Held<'m> {
    /// Holds `count` connections, each of which has got a line and its answer.
    pub(crate) fn start(meshed: &'m Meshed, client: &Pod, server: &Pod, count: usize) -> Result<Self> {
        let held = Self { meshed, client: client.name.clone(), count };
        // One that runs already has the port.
        meshed.sh("shop", &server.name, &format!("nc -ll -p {ECHO_PORT} -e cat > /dev/null 2>&1 &"))?;
        let (line, call) = ("echo held; tail -f /dev/null", format!("nc {} {ECHO_PORT}", server.address));
        held.sh(&format!(
            "rm -f /tmp/held /tmp/ended; for n in $(busybox seq {count}); do \
             (({line}) | ({call} >> /tmp/held; echo >> /tmp/ended)) > /dev/null 2>&1 & done"
        ))?;
        wait_until(PATIENCE, "all connections are held", || Ok((held.lines("held")? == count).then_some(())))?;
        Ok(held)
    }

    fn sh(&self, command: &str) -> Result<String> {
        self.meshed.sh("shop", &self.client, command)
    }

    fn lines(&self, file: &str) -> Result<usize> {
        Ok(self.sh(&format!("cat /tmp/{file} 2>/dev/null | wc -l"))?.trim().parse()?)
    }

    /// Of how many, how many have ended.
    pub(crate) fn lost(&self) -> Result<(usize, usize)> {
        Ok((self.count, self.lines("ended")?))
    }

    pub(crate) fn end(self) -> Result<()> {
        self.sh("busybox killall -q tail nc; true").map(drop)
    }
}
