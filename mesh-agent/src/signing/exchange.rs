//! One request of the signing API over one connection, from the agent's side.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request, StatusCode, header};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::wire::{MAX_BYTES, Refusal};
use crate::identity::IssueError;
use crate::sys::http::{self, AnyError};
use crate::tls::issuer::ISSUER_ALPN;

/// From the dial to the end of the answer.
const TIME_LIMIT: Duration = Duration::from_secs(5);
/// rustls wants a name; nobody sees or checks it.
const NO_SERVER_NAME: std::net::IpAddr = std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);

/// Sends `body` (GET without one) and reads the answer.
pub(super) async fn ask<T: DeserializeOwned>(
    address: &str,
    config: Arc<ClientConfig>,
    path: &str,
    body: Option<&impl Serialize>,
) -> Result<T, IssueError> {
    let answered = timeout(TIME_LIMIT, exchange(address, config, path, body)).await;
    let (status, answer) = answered.map_err(|elapsed| unavailable(elapsed.into()))?.map_err(unavailable)?;
    if status == StatusCode::OK {
        return serde_json::from_slice(&answer).map_err(|error| unavailable(error.into()));
    }
    match serde_json::from_slice(&answer) {
        Ok(Refusal { error }) if status.is_client_error() => Err(IssueError::Refused(error)),
        _ => Err(unavailable(format!("the issuer answered {status}").into())),
    }
}

async fn exchange(
    address: &str,
    config: Arc<ClientConfig>,
    path: &str,
    body: Option<&impl Serialize>,
) -> Result<(StatusCode, Bytes), AnyError> {
    let tcp = TcpStream::connect(address).await?;
    let tls = TlsConnector::from(config).connect(ServerName::from(NO_SERVER_NAME), tcp).await?;
    if tls.get_ref().1.alpn_protocol() != Some(ISSUER_ALPN) {
        return Err("the peer did not negotiate the issuer's protocol".into());
    }
    let method = if body.is_some() { Method::POST } else { Method::GET };
    let body = body.map(serde_json::to_vec).transpose()?.unwrap_or_default();
    let request = Request::builder().method(method).uri(path).header(header::HOST, "issuer");
    let request = request.header(header::CONNECTION, "close").body(Full::new(Bytes::from(body)))?;
    http::exchange(tls, request, MAX_BYTES).await
}

pub(super) fn unavailable(error: AnyError) -> IssueError {
    IssueError::Unavailable(error)
}
