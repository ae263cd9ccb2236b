//! Asks an OPA server over its REST API (`POST /v1/data/<path>`).

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::sys::http;

/// The largest answer: a boolean has 15 bytes.
const MAX_BYTES: usize = 64 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum OpaError {
    /// It can't be reached, or doesn't answer as OPA does.
    #[error("ask OPA: {0}")]
    Exchange(#[source] http::AnyError),
    /// It refuses the question, or has failed.
    #[error("OPA answered {0}")]
    Status(StatusCode),
    /// It took too long.
    #[error("OPA did not answer in time")]
    Timeout,
}

/// What OPA says.
#[derive(Debug, Deserialize)]
pub struct OpaAnswer {
    /// The rule's value; `None`: it is undefined.
    pub result: Option<Value>,
    /// Names the decision in OPA's own log, if it keeps one.
    pub decision_id: Option<String>,
}

#[derive(Serialize)]
struct Question<'a> {
    input: &'a Value,
}

/// Asks the server at `address` for the value of `rule`, such as `data.hauberk.allow`.
pub async fn ask(address: &str, rule: &str, input: &Value, limit: Duration) -> Result<OpaAnswer, OpaError> {
    let asked = async {
        let body = serde_json::to_vec(&Question { input })?;
        let path = format!("/v1/{}", rule.replace('.', "/"));
        let request = Request::post(path).header(header::HOST, address).header(header::CONNECTION, "close");
        let request = request.header(header::CONTENT_TYPE, "application/json").body(Full::new(Bytes::from(body)))?;
        http::exchange(TcpStream::connect(address).await?, request, MAX_BYTES).await
    };
    let (status, answer) =
        timeout(limit, asked).await.map_err(|_elapsed| OpaError::Timeout)?.map_err(OpaError::Exchange)?;
    if status != StatusCode::OK {
        return Err(OpaError::Status(status));
    }
    serde_json::from_slice(&answer).map_err(|error| OpaError::Exchange(error.into()))
}
