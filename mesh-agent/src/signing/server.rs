//! The sockets of the signing API: TLS, HTTP, bounds on what a stranger may take.

use std::convert::Infallible;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use axum::extract::{DefaultBodyLimit, Extension, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Router, body::Bytes};
use futures_util::future::BoxFuture;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::journal::JournalError;
use super::service::{Admission, Service, ServiceError};
use super::turns::Turns;
use super::wire::{JOIN, Refusal, SVID, TRUST, TrustAnswer};
use crate::config::MeshConfig;
use crate::identity::{EmbeddedIssuer, IssueError, Issuer as _, SecretKey};
use crate::model::bundle;
use crate::model::spiffe::SpiffeId;
use crate::model::svid::Trust;
use crate::tls::TlsConfigError;
use crate::tls::issuer::{ISSUER_ALPN, node_identity, signing_server_config};

/// The largest request.
const MAX_REQUEST_BYTES: usize = 16 * 1024;
/// For a connection as a whole: an agent asks one thing and goes.
const TIME_LIMIT: Duration = Duration::from_secs(10);
/// Lifetime of the service's own SVID.
const OWN_LIFETIME: Duration = Duration::from_hours(24);
/// Connections at once; more wait in the backlog.
const MAX_CONNECTIONS: usize = 256;
/// After a failed accept: out of descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who calls, as TLS has proven; `None` if it proved nothing.
#[derive(Clone, Debug)]
struct Caller(Option<SpiffeId>);

/// Where the caller is, for all that can be seen.
#[derive(Clone, Copy, Debug)]
struct From(IpAddr);

/// Why the service can't show who it is.
#[derive(Debug, thiserror::Error)]
enum ServerError {
    /// It has no identity of its own.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// Its identity can't be used.
    #[error(transparent)]
    Tls(#[from] TlsConfigError),
}

/// Says which node's agent a token belongs to, or why to nobody's. In place of join tokens.
pub type Reviewer = Box<dyn Fn(String) -> BoxFuture<'static, Result<String, String>> + Send + Sync>;

/// The service, ready to run.
pub struct SigningServer {
    reviewer: Option<Reviewer>,
    turns: Turns,
    service: Service,
    id: SpiffeId,
    config: Mutex<Option<Made>>,
}

/// A configuration with an SVID of the service's own, and what it was made from.
struct Made {
    trust: Trust,
    renew_at: SystemTime,
    config: Arc<ServerConfig>,
}

impl SigningServer {
    /// Signs with `issuer` for the workloads of `config`, and writes that down in `journal`. Agents join with join tokens,
    /// or with whatever the `reviewer` knows.
    pub fn new(
        issuer: Arc<EmbeddedIssuer>,
        journal: &Path,
        config: &MeshConfig,
        reviewer: Option<Reviewer>,
    ) -> Result<Arc<Self>, JournalError> {
        let id = SpiffeId::of_issuer(&config.mesh.trust_domain);
        let admission = if reviewer.is_some() { Admission::Reviewed } else { Admission::JoinTokens };
        let service = Service::new(issuer, admission, journal, config)?;
        Ok(Arc::new(Self { reviewer, turns: Turns::default(), service, id, config: Mutex::default() }))
    }

    /// Takes new documents.
    pub fn update(&self, config: &MeshConfig) {
        self.service.update(config);
    }

    /// Serves, and watches the CA's files every `refresh`, for ever.
    pub async fn run(self: Arc<Self>, listener: TcpListener, refresh: Duration) -> Infallible {
        tokio::select! {
            never = Arc::clone(&self).accept(listener) => never,
            never = self.watch(refresh) => never,
        }
    }

    async fn watch(&self, refresh: Duration) -> Infallible {
        let mut was_good = true;
        loop {
            let refreshed = self.service.issuer().refresh(SystemTime::now()).await;
            if let (Err(error), true) = (&refreshed, was_good) {
                let error: &dyn std::error::Error = error;
                tracing::error!(error, "the CA's files can't be used; the CA stays as it was");
            }
            was_good = refreshed.is_ok();
            tokio::time::sleep(refresh).await;
        }
    }

    async fn accept(self: Arc<Self>, listener: TcpListener) -> Infallible {
        let (seats, mut connections) = (Arc::new(Semaphore::new(MAX_CONNECTIONS)), JoinSet::new());
        loop {
            while connections.try_join_next().is_some() {}
            let Ok(seat) = Arc::clone(&seats).acquire_owned().await else { std::future::pending().await };
            match listener.accept().await {
                Ok((stream, from)) => {
                    let server = Arc::clone(&self);
                    connections.spawn(async move {
                        match timeout(TIME_LIMIT, server.serve(stream, from.ip())).await {
                            Ok(Ok(())) => {}
                            Ok(Err(error)) => tracing::debug!(error, src.addr = %from, "connection failed"),
                            Err(_elapsed) => tracing::debug!(src.addr = %from, "connection took too long"),
                        }
                        drop(seat);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn serve(
        self: &Arc<Self>,
        stream: TcpStream,
        from: IpAddr,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let tls = TlsAcceptor::from(self.config()?).accept(stream).await?;
        let (_, session) = tls.get_ref();
        if session.alpn_protocol() != Some(ISSUER_ALPN) {
            return Err("the peer did not negotiate the issuer's protocol".into());
        }
        let caller = Caller(session.peer_certificates().and_then(node_identity));
        let router = routes(Arc::clone(self)).layer(Extension(caller)).layer(Extension(From(from)));
        let service = TowerToHyperService::new(router);
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new()).keep_alive(false).serve_connection(TokioIo::new(tls), service).await?;
        Ok(())
    }

    /// With an SVID of its own that the CA of this moment has signed.
    fn config(&self) -> Result<Arc<ServerConfig>, ServerError> {
        let (ca, now) = (self.service.issuer().ca(), SystemTime::now());
        let mut made = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = made.as_ref().filter(|made| made.trust == *ca.anchors() && now < made.renew_at) {
            return Ok(Arc::clone(&made.config));
        }
        let key = SecretKey::generate().map_err(|source| IssueError::Sign { id: self.id.clone(), source })?;
        let issued = ca.sign_for(&self.id, &key.public_key(), OWN_LIFETIME, now)?;
        let svid = issued.into_svid(&self.id, &key);
        let config = signing_server_config(&svid, &ca.anchors().bundle)?;
        let renew_at = now + svid.not_after.duration_since(now).unwrap_or_default() / 2;
        *made = Some(Made { trust: ca.anchors().clone(), renew_at, config: Arc::clone(&config) });
        Ok(config)
    }
}

fn routes(server: Arc<SigningServer>) -> Router {
    Router::new()
        .route(JOIN, post(join))
        .route(SVID, post(svid))
        .route(TRUST, get(trust))
        .layer(DefaultBodyLimit::max(MAX_REQUEST_BYTES))
        .with_state(server)
}

async fn join(State(server): State<Arc<SigningServer>>, Extension(from): Extension<From>, body: Bytes) -> Response {
    let Some(reviewer) = &server.reviewer else {
        // It signs and waits for a disk.
        return answer(tokio::task::block_in_place(|| server.service.join(&body, SystemTime::now())));
    };
    let asked = match Service::introduction(&body) {
        Ok(asked) => asked,
        Err(error) => return answer(Err::<(), _>(error)),
    };
    let Some(turn) = server.turns.take(from.0).await else { return answer(Err::<(), _>(ServiceError::Busy)) };
    let node = reviewer(asked.token.clone()).await;
    drop(turn);
    answer(tokio::task::block_in_place(|| server.service.admit(node, &asked, SystemTime::now())))
}

async fn svid(State(server): State<Arc<SigningServer>>, Extension(caller): Extension<Caller>, body: Bytes) -> Response {
    answer(tokio::task::block_in_place(|| server.service.svid(caller.0.as_ref(), &body, SystemTime::now())))
}

/// The roots are no secret: who joins asks before it has an identity.
async fn trust(State(server): State<Arc<SigningServer>>) -> Response {
    let trust = server.service.issuer().ca().anchors().clone();
    let answered = bundle::to_spiffe(&trust.bundle.roots)
        .map(|bundle| TrustAnswer { bundle, signer: trust.signer })
        .map_err(|error| ServiceError::Failed(Box::new(error)));
    answer(answered)
}

fn answer<T: Serialize>(answered: Result<T, ServiceError>) -> Response {
    let (status, body) = match answered {
        Ok(answer) => (StatusCode::OK, serde_json::to_vec(&answer)),
        Err(error) => {
            let status = match &error {
                ServiceError::Refused(_) => StatusCode::FORBIDDEN,
                ServiceError::Malformed(_) => StatusCode::BAD_REQUEST,
                ServiceError::Busy => StatusCode::SERVICE_UNAVAILABLE,
                ServiceError::Failed(cause) => {
                    tracing::error!(%cause, "nothing can be issued");
                    StatusCode::SERVICE_UNAVAILABLE
                }
            };
            (status, serde_json::to_vec(&Refusal { error: error.to_string() }))
        }
    };
    match body {
        Ok(body) => (status, [(header::CONTENT_TYPE, "application/json")], body).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
