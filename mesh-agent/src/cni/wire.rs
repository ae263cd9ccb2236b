//! How the plugin and the agent talk: one request a connection, as JSON, with the pod's network namespace as a descriptor.
//!
//! Both ends are the same build but for the moments of an upgrade: fields are only ever added.

use std::io::{self, Read as _};
use std::net::{IpAddr, Shutdown};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::Interest;

use crate::sys::unix::{receive, send_with};

/// More than a node's sandboxes fill.
const MAX_REQUEST: usize = 1 << 20;

/// A pod, as a runtime names it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct PodName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid, where the runtime says it.
    pub uid: Option<String>,
}

/// What the plugin asks.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "command", rename_all = "lowercase")]
pub enum Request {
    /// Hold this pod, if it is ours. The namespace comes along.
    Add {
        /// The pod.
        pod: PodName,
        /// Its sandbox.
        container: String,
        /// Its addresses.
        addresses: Vec<IpAddr>,
    },
    /// Is it still held?
    Check {
        /// The pod.
        pod: PodName,
        /// Its sandbox.
        container: String,
    },
    /// Its sandbox goes. The namespace comes along while it is there.
    Del {
        /// The pod.
        pod: PodName,
        /// Its sandbox.
        container: String,
    },
    /// Forget all sandboxes but these.
    Gc {
        /// Theirs.
        containers: Vec<String>,
    },
    /// Is anybody there?
    Status,
}

/// What the agent answers.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "answer", rename_all = "lowercase")]
pub enum Reply {
    /// Done; or nothing had to be.
    Done,
    /// Not done.
    Failed {
        /// Why.
        message: String,
        /// Whether it may work a little later.
        again: bool,
    },
}

/// Asks the agent behind `socket`, for at most `limit`. What blocks is the plugin's whole process, which does nothing else.
pub fn ask(socket: &Path, request: &Request, netns: Option<BorrowedFd<'_>>, limit: Duration) -> io::Result<Reply> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    let bytes = serde_json::to_vec(request)?;
    let (mut sent, mut netns) = (0, netns);
    while sent < bytes.len() {
        sent += send_with(&stream, &bytes[sent..], netns.take())?;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    if answer.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&answer)?)
}

/// Reads a request to its end, with the namespace that came along.
pub(super) async fn read(stream: &tokio::net::UnixStream) -> io::Result<(Request, Option<OwnedFd>)> {
    let (mut bytes, mut descriptors) = (Vec::new(), Vec::new());
    let mut chunk = vec![0; 16 * 1024];
    loop {
        let read = stream.async_io(Interest::READABLE, || receive(stream, &mut chunk, &mut descriptors)).await?;
        if read == 0 {
            return Ok((serde_json::from_slice(&bytes)?, descriptors.into_iter().next()));
        }
        if bytes.len() + read > MAX_REQUEST || descriptors.len() > 1 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "more than a request"));
        }
        bytes.extend_from_slice(&chunk[..read]);
    }
}
