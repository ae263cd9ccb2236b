//! The admin socket: what an operator on this node may see of the agent, as JSON over HTTP on a UNIX socket.
//!
//! Who connects must be root or the agent's own user (`sys::unix`).

use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::Listener;
use serde::Serialize;
use tokio::net::UnixListener;
use tokio::net::UnixStream;
use tokio::net::unix::SocketAddr;

use super::explain::{ExplainRequest, Explained};
use super::view::{Certificates, ConnectionView, Status, WorkloadView};
use crate::sys;

/// Says what would become of a connection, or why that can't be said.
pub type Explain = dyn Fn(&ExplainRequest) -> Result<Explained, String> + Send + Sync;

/// What the socket shows, made when it is asked for.
pub struct Inspect {
    /// `/v1/status`.
    pub status: Box<dyn Fn() -> Status + Send + Sync>,
    /// `/v1/workloads`.
    pub workloads: Box<dyn Fn() -> Vec<WorkloadView> + Send + Sync>,
    /// `/v1/connections`.
    pub connections: Box<dyn Fn() -> Vec<ConnectionView> + Send + Sync>,
    /// `/v1/certificates`.
    pub certificates: Box<dyn Fn() -> Certificates + Send + Sync>,
    /// `/v1/explain`: the answer, or why there is none.
    pub explain: Box<Explain>,
}

/// A listener for root and the agent's own user alone.
#[derive(Debug)]
pub struct AdminSocket(UnixListener);

impl AdminSocket {
    /// Listens on `path`. Takes the place of a socket that nobody listens on any more; fails if somebody does.
    pub fn bind(path: &Path) -> io::Result<Self> {
        sys::unix::listen_privately(path).map(Self)
    }
}

impl Listener for AdminSocket {
    type Io = UnixStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            match self.0.accept().await {
                Ok((stream, address)) if sys::unix::is_allowed(&stream) => return (stream, address),
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "accept on the admin socket failed");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.0.local_addr()
    }
}

/// Serves for ever.
pub fn serve(socket: AdminSocket, inspect: Inspect) -> impl Future<Output = io::Result<()>> {
    let router = Router::new()
        .route("/v1/status", get(async |State(inspect): State<Arc<Inspect>>| json(&(inspect.status)())))
        .route("/v1/workloads", get(async |State(inspect): State<Arc<Inspect>>| json(&(inspect.workloads)())))
        .route("/v1/connections", get(async |State(inspect): State<Arc<Inspect>>| json(&(inspect.connections)())))
        .route("/v1/certificates", get(async |State(inspect): State<Arc<Inspect>>| json(&(inspect.certificates)())))
        .route("/v1/explain", post(answer))
        .with_state(Arc::new(inspect));
    async move { axum::serve(socket, router).await }
}

async fn answer(State(inspect): State<Arc<Inspect>>, question: String) -> Response {
    match serde_json::from_str(&question) {
        Ok(question) => json(&(inspect.explain)(&question)),
        Err(error) => (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    }
}

fn json(value: &impl Serialize) -> Response {
    match serde_json::to_string(value) {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::admin::client::{ask, ask_about};

    fn inspect() -> Inspect {
        Inspect {
            status: Box::new(|| Status { node: "a".to_owned(), ..Status::default() }),
            workloads: Box::new(Vec::new),
            connections: Box::new(Vec::new),
            certificates: Box::new(Certificates::default),
            explain: Box::new(|asked| match &*asked.source {
                "" => Err("nobody asks".to_owned()),
                source => Ok(Explained { source: source.to_owned(), ..Explained::default() }),
            }),
        }
    }

    #[tokio::test]
    async fn its_owner_gets_an_answer_and_only_the_owner_can_open_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/agent.sock");
        let serving = tokio::spawn(serve(AdminSocket::bind(&path).unwrap(), inspect()));
        let status: Status = ask(&path, "/v1/status").await.unwrap();
        assert_eq!(status.node, "a");
        let asked = |source: &str| ExplainRequest { source: source.to_owned(), destination: String::new() };
        let explained: Result<Explained, String> = ask_about(&path, "/v1/explain", &asked("shop/web")).await.unwrap();
        assert_eq!(explained.unwrap().source, "shop/web");
        let refused: Result<Explained, String> = ask_about(&path, "/v1/explain", &asked("")).await.unwrap();
        assert_eq!(refused.unwrap_err(), "nobody asks");
        assert!(ask_about::<Status>(&path, "/v1/explain", &"x").await.unwrap_err().to_string().contains("400"));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(ask::<Status>(&path, "/v1/other").await.unwrap_err().to_string().contains("404"));
        assert_eq!(AdminSocket::bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        serving.abort();
        drop(serving.await);
        // What a killed agent leaves behind is in nobody's way.
        AdminSocket::bind(&path).unwrap();
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }
}
