//! Asks the admin socket: the command's side.

use std::io;
use std::path::{Path, PathBuf};

use axum::http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

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
    Exchange(#[from] hyper::Error),
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
    let stream = UnixStream::connect(socket).await;
    let stream = stream.map_err(|source| AskError::Connect { path: socket.to_owned(), source })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let mut request = Request::new(Empty::<bytes::Bytes>::new());
    view.parse().map(|uri| *request.uri_mut() = uri).unwrap_or_default();
    request.headers_mut().insert(header::HOST, header::HeaderValue::from_static("agent"));
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        Ok::<_, hyper::Error>((status, response.into_body().collect().await?.to_bytes()))
    };
    let (status, body) = tokio::select! {
        answer = exchange => answer?,
        Err(error) = connection => return Err(error.into()),
    };
    if status != StatusCode::OK {
        return Err(AskError::Refused { status, text: String::from_utf8_lossy(&body).into_owned() });
    }
    Ok(serde_json::from_slice(&body)?)
}
