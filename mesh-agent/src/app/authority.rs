//! Wires `mesh-agent ca serve`: the CA's files, the documents, the signing API.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::RunError;
use crate::args::CaServeArgs;
use crate::identity::EmbeddedIssuer;
use crate::model::mesh::CaFiles;
use crate::model::spiffe::{SpiffeId, TrustDomain};
use crate::model::workload::NodeName;
use crate::signing::journal;
use crate::signing::server::SigningServer;
use crate::sources::file;

mod cluster;
mod keeper;
mod roots;

const JOURNAL_FILE: &str = "journal.jsonl";

/// Serves until SIGTERM or SIGINT.
pub async fn serve(args: CaServeArgs) -> Result<(), RunError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Signals)?;
    tokio::select! {
        served = serve_for_ever(&args) => match served? {},
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    if args.config.is_none() {
        cluster::release().await;
    }
    tracing::info!("the signing API has ended");
    Ok(())
}

async fn serve_for_ever(args: &CaServeArgs) -> Result<Infallible, RunError> {
    let Some(directory) = &args.config else { return cluster::serve(args).await };
    let config = file::load(directory)?;
    let (mesh, files) = (&config.mesh, CaFiles::of_directory(&args.dir));
    let issuer = Arc::new(EmbeddedIssuer::open(mesh.trust_domain.clone(), files, mesh.issuer.svid)?);
    let server = SigningServer::new(issuer, &args.dir.join(JOURNAL_FILE), &config, None)?;
    let listener = listen(args.listen).await?;
    Ok(tokio::select! {
        never = Arc::clone(&server).run(listener, mesh.issuer.refresh) => never,
        never = watch(directory, &server, mesh.issuer.refresh) => never,
    })
}

async fn listen(address: SocketAddr) -> Result<TcpListener, RunError> {
    let failed = |source| RunError::SigningAddress { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    tracing::info!(address = %listener.local_addr().map_err(failed)?, "the signing API is served");
    Ok(listener)
}

/// A Revocation document of all that `node` got from the service of the CA in `directory`.
pub fn revoke_node(
    directory: &Path,
    trust_domain: &TrustDomain,
    node: &str,
    now: SystemTime,
) -> Result<String, RunError> {
    let id = SpiffeId::of_node(trust_domain, node);
    let id = id.map_err(|source| RunError::NodeName { node: NodeName::new(node), source })?;
    let serials = journal::issued_to(&directory.join(JOURNAL_FILE), node, now)?;
    let serials: String = serials.iter().map(|serial| format!("    - '{serial}'\n")).collect();
    let serials = if serials.is_empty() { String::new() } else { format!("  serials:\n{serials}") };
    Ok(format!(
        "apiVersion: mesh.hauberk.dev/v1alpha1\nkind: Revocation\nmetadata: {{name: node-{node}}}\nspec:\n  \
         spiffeIds: [{id}]\n{serials}"
    ))
}

/// Reads the documents again and again. Those with a mistake change nothing, and are reported once.
async fn watch(directory: &Path, server: &SigningServer, refresh: Duration) -> Infallible {
    let mut reported = None;
    loop {
        tokio::time::sleep(refresh).await;
        match file::load(directory) {
            Ok(config) => {
                server.update(&config);
                reported = None;
            }
            Err(error) => {
                let error = error.to_string();
                if reported.as_ref() != Some(&error) {
                    tracing::error!(error, "the documents can't be used; the last good ones stay in force");
                    reported = Some(error);
                }
            }
        }
    }
}
