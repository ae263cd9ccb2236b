//! The agent's end of the CNI socket: takes requests of the node's own root, one a connection, and hands each to whoever
//! decides.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::wire::{Reply, Request, read};
use crate::sys::unix::{is_allowed, listen_privately};

/// A plugin has its request ready when it connects.
const READ_LIMIT: Duration = Duration::from_secs(5);

/// The socket.
#[derive(Debug)]
pub struct CniSocket(UnixListener);

impl CniSocket {
    /// Listens on `path`, for root and the agent's own user alone.
    pub fn bind(path: &Path) -> io::Result<Self> {
        listen_privately(path).map(Self)
    }

    /// Lets `decide` answer each request, many at once, for ever.
    pub async fn serve<F>(self, decide: impl Fn(Request, Option<OwnedFd>) -> F + Send + Sync + 'static)
    where
        F: Future<Output = Reply> + Send + 'static,
    {
        let decide = Arc::new(decide);
        let mut answering = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.0.accept() => accepted,
                Some(ended) = answering.join_next() => {
                    report(ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())));
                    continue;
                }
            };
            match accepted {
                Ok((stream, _)) if is_allowed(&stream) => {
                    let decide = Arc::clone(&decide);
                    answering.spawn(async move { answer(stream, &*decide).await });
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "accept on the CNI socket failed");
                    sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }
}

async fn answer<F>(mut stream: UnixStream, decide: &impl Fn(Request, Option<OwnedFd>) -> F) -> io::Result<()>
where
    F: Future<Output = Reply>,
{
    let (request, netns) = timeout(READ_LIMIT, read(&stream)).await.map_err(|_late| io::ErrorKind::TimedOut)??;
    let reply = decide(request, netns).await;
    stream.write_all(&serde_json::to_vec(&reply)?).await
}

fn report(ended: io::Result<()>) {
    if let Err(error) = ended {
        tracing::warn!(%error, "a request of the CNI plugin was not answered");
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;
    use crate::cni::wire::{PodName, ask};

    #[tokio::test(flavor = "multi_thread")]
    async fn a_request_arrives_with_its_namespace() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cni.sock");
        let socket = CniSocket::bind(&path).unwrap();
        let serving = tokio::spawn(socket.serve(|request, netns| async move {
            let netns = netns.map(|netns| rustix::fs::fstat(netns).unwrap().st_ino);
            Reply::Failed { message: format!("{request:?} {netns:?}"), again: true }
        }));
        let file = tempfile::tempfile().unwrap();
        let inode = rustix::fs::fstat(&file).unwrap().st_ino;
        let pod = PodName { namespace: "shop".to_owned(), name: "x".repeat(100_000), uid: None };
        let request = Request::Add { pod, container: "c".to_owned(), addresses: vec!["10.0.0.1".parse().unwrap()] };
        let asked = request.clone();
        let limit = Duration::from_secs(10);
        let reply = tokio::task::spawn_blocking(move || {
            std::os::unix::net::UnixStream::connect(&path).map(drop).unwrap();
            ask(&path, &asked, Some(file.as_fd()), limit)
        });
        let expected = format!("{request:?} Some({inode})");
        assert_eq!(reply.await.unwrap().unwrap(), Reply::Failed { message: expected, again: true });
        serving.abort();
    }
}
