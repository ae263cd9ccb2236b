//! Wires `mesh-agent ca serve`: the CA's files, the documents, the signing API.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::RunError;
use crate::args::CaServeArgs;
use crate::identity::EmbeddedIssuer;
use crate::model::mesh::CaFiles;
use crate::signing::server::SigningServer;
use crate::sources::file;

const JOURNAL_FILE: &str = "journal.jsonl";

/// Serves until SIGTERM or SIGINT.
pub async fn serve(args: CaServeArgs) -> Result<(), RunError> {
    let config = file::load(&args.config)?;
    let (mesh, files) = (&config.mesh, CaFiles::of_directory(&args.dir));
    let issuer = Arc::new(EmbeddedIssuer::open(mesh.trust_domain.clone(), files, mesh.issuer.svid)?);
    let server = SigningServer::new(issuer, &args.dir.join(JOURNAL_FILE), &config)?;
    let address = args.listen;
    let failed = |source| RunError::SigningAddress { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Signals)?;
    tracing::info!(address = %listener.local_addr().map_err(failed)?, "the signing API is served");
    tokio::select! {
        never = Arc::clone(&server).run(listener, mesh.issuer.refresh) => match never {},
        never = watch(&args.config, &server, mesh.issuer.refresh) => match never {},
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("the signing API has ended");
    Ok(())
}

/// Reads the documents again and again. Those with a mistake change nothing, and are reported once.
async fn watch(directory: &Path, server: &SigningServer, refresh: Duration) -> std::convert::Infallible {
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
