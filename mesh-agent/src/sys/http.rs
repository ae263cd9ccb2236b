//! One HTTP/1.1 exchange over a connection of its own.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

/// Anything that can go wrong in an exchange.
pub type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// Sends `request` over `stream` and reads an answer of at most `max_bytes`.
pub async fn exchange<S>(
    stream: S,
    request: Request<Full<Bytes>>,
    max_bytes: usize,
) -> Result<(StatusCode, Bytes), AnyError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let answer = async move {
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), max_bytes).collect().await?;
        Ok::<_, AnyError>((status, body.to_bytes()))
    };
    // How the connection ends after the answer doesn't matter.
    let (answer, _ended) = tokio::join!(answer, connection);
    answer
}
