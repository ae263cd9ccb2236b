//! Asks the admin socket: the command's side.

use std::io;
use std::path::{Path, PathBuf};

use axum::http::{Method, Request, StatusCode, header};
use http_body_util::Full;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::sys::http;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens, or this user may not ask.
    #[error("connect to the agent's admin socket {}: does it run here, and are you root?", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The agent hung up, for this user may not ask or because it ends.
    #[error("the agent gave no answer")]
    Exchange(#[source] http::AnyError),
    /// It answered something else.
    #[error("the agent answered {status}: {text}")]
    Refused {
        /// The status.
        status: StatusCode,
        /// The body.
        text: String,
    },
    /// The answer has another form: another version of the agent.
    #[error("the agent's answer is not understood: is it of another version?")]
    Form(#[from] serde_json::Error),
}

/// Asks the agent at `socket` for one of its views.
pub async fn ask<T: DeserializeOwned>(socket: &Path, view: &str) -> Result<T, AskError> {
    exchange(socket, view, Method::GET, Vec::new()).await
}

/// Asks the agent at `socket` a question that has parameters.
pub async fn ask_about<T: DeserializeOwned>(
    socket: &Path,
    view: &str,
    question: &impl Serialize,
) -> Result<T, AskError> {
    exchange(socket, view, Method::POST, serde_json::to_vec(question)?).await
}

async fn exchange<T: DeserializeOwned>(
    socket: &Path,
    view: &str,
    method: Method,
    body: Vec<u8>,
) -> Result<T, AskError> {
    let stream = UnixStream::connect(socket).await;
    let stream = stream.map_err(|source| AskError::Connect { path: socket.to_owned(), source })?;
    let mut request = Request::new(Full::<bytes::Bytes>::from(body));
    *request.method_mut() = method;
    view.parse().map(|uri| *request.uri_mut() = uri).unwrap_or_default();
    request.headers_mut().insert(header::HOST, header::HeaderValue::from_static("agent"));
    // Our own agent's answer: as long as it has connections.
    let exchanged = http::exchange(stream, request, usize::MAX).await;
    let (status, body) = exchanged.map_err(AskError::Exchange)?;
    if status != StatusCode::OK {
        return Err(AskError::Refused { status, text: String::from_utf8_lossy(&body).into_owned() });
    }
    Ok(serde_json::from_slice(&body)?)
}
