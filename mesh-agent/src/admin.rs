//! What is served to who asks on this node: metrics for Prometheus and health for the kubelet over TCP, here; everything
//! else over the [`socket`], to the node's operator alone.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::telemetry::Metrics;
use crate::telemetry::exposition::{CLASSIC, OPENMETRICS, classic};

pub mod client;
pub mod explain;
pub mod show;
pub mod socket;
pub mod table;
pub mod view;

/// Says what keeps the node from being ready; nothing if it is.
pub type Pending = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

/// What the endpoints show.
#[derive(Clone)]
struct Views {
    metrics: Arc<Metrics>,
    pending: Pending,
}

/// Serves on `listener` for ever.
pub async fn serve(listener: TcpListener, metrics: Arc<Metrics>, pending: Pending) -> std::io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(show_metrics))
        .with_state(Views { metrics, pending });
    axum::serve(listener, router).await
}

async fn readyz(State(views): State<Views>) -> (StatusCode, String) {
    match (views.pending)() {
        pending if pending.is_empty() => (StatusCode::OK, "ok\n".to_owned()),
        pending => (StatusCode::SERVICE_UNAVAILABLE, pending.join("\n") + "\n"),
    }
}

async fn show_metrics(State(views): State<Views>, headers: HeaderMap) -> impl IntoResponse {
    let accepted = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match views.metrics.encode() {
        Ok(text) if accepted.contains("application/openmetrics-text") => {
            Ok(([(header::CONTENT_TYPE, OPENMETRICS)], text))
        }
        Ok(text) => Ok(([(header::CONTENT_TYPE, CLASSIC)], classic(&text))),
        Err(error) => Err((StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
    }
}
