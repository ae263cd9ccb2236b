//! The local HTTP endpoints: metrics for Prometheus, health for the kubelet.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::telemetry::Metrics;

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

async fn show_metrics(State(views): State<Views>) -> impl IntoResponse {
    const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match views.metrics.encode() {
        Ok(text) => Ok(([(header::CONTENT_TYPE, OPENMETRICS)], text)),
        Err(error) => Err((StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
    }
}
