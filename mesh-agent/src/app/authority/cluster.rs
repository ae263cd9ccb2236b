//! `mesh-agent ca serve --kubernetes`: the CA of a cluster, with its key in a Secret.
//!
//! Several replicas may run: each signs with the same key; one of them, which holds a Lease, writes the documents' status.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, timeout};

use super::keeper::Keeper;
use super::{JOURNAL_FILE, listen};
use crate::app::{AGENT, RunError};
use crate::args::CaServeArgs;
use crate::config::{KINDS, Verdict};
use crate::kubernetes::{Kubernetes, KubernetesError};
use crate::model::cluster::ObjectName;
use crate::model::mesh::IssuerSource;
use crate::signing::Reviewer;
use crate::signing::server::SigningServer;
use crate::sources::kubernetes::KubernetesSource;

/// The Lease of the replica that writes documents' status, for how long, and how often it is renewed.
const LEASE: &str = "hauberk-ca";
const LEASE_DURATION: Duration = Duration::from_secs(15);
const LEASE_RENEWAL: Duration = Duration::from_secs(5);
/// How long giving it back may take.
const RELEASE: Duration = Duration::from_secs(2);

pub(super) async fn serve(args: &CaServeArgs) -> Result<Infallible, RunError> {
    let kubernetes = Kubernetes::connect().await?;
    if let Some(file) = &args.default_mesh {
        let text =
            std::fs::read_to_string(file).map_err(|source| RunError::DefaultMesh { path: file.clone(), source })?;
        if kubernetes.create_default(&text).await? {
            tracing::info!("made the default Mesh");
        }
    }
    // The signing service has no pods of its own.
    let (_sandboxes, none) = watch::channel(Default::default());
    let source = KubernetesSource::begin(kubernetes.client(), kubernetes.namespace(), None, none);
    let verdicts = source.verdicts();
    // Authors learn what is wrong with their Mesh, above all while there is no good one.
    tokio::select! {
        ended = sign(args, &kubernetes, source) => ended,
        never = judge(&kubernetes, verdicts) => Ok(never),
    }
}

async fn sign(
    args: &CaServeArgs,
    kubernetes: &Kubernetes,
    mut source: KubernetesSource,
) -> Result<Infallible, RunError> {
    let config = source.first().await;
    let keeper = Keeper::open(kubernetes, &config.mesh).await?;
    let server = SigningServer::new(
        Arc::clone(keeper.issuer()),
        &args.dir.join(JOURNAL_FILE),
        &config,
        Some(reviewer(kubernetes.clone())),
    )?;
    let listener = listen(args.listen).await?;
    let refresh = config.mesh.issuer.refresh;
    Ok(tokio::select! {
        never = Arc::clone(&server).run(listener, refresh) => never,
        never = follow(source, &server) => never,
        never = keeper.run(kubernetes, refresh) => never,
    })
}

/// Lets another replica lead at once. To be called when this one has stopped.
pub(super) async fn release() {
    let released = timeout(RELEASE, async {
        let holder = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Kubernetes::connect().await?.release_lease(LEASE, &holder).await
    });
    if let Ok(Err(error)) = released.await {
        let error: &dyn std::error::Error = &error;
        tracing::debug!(error, "the Lease runs out by itself");
    }
}

/// Who calls is who the API server says: an agent, on the node that its token is bound to.
fn reviewer(kubernetes: Kubernetes) -> Reviewer {
    Box::new(move |token| {
        let kubernetes = kubernetes.clone();
        Box::pin(async move {
            let reviewed = async {
                let node = kubernetes.review(token, AGENT, IssuerSource::AUDIENCE).await?;
                let Ok(name) = &node else { return Ok(node) };
                let is_there = kubernetes.has_node(name).await?;
                Ok::<_, KubernetesError>(if is_there { node } else { Err(format!("the cluster has no node {name}")) })
            };
            reviewed.await.unwrap_or_else(|error| {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(error, "an agent's token can't be reviewed");
                Err("the token can't be reviewed now".to_owned())
            })
        })
    })
}

async fn follow(mut source: KubernetesSource, server: &SigningServer) -> Infallible {
    loop {
        let taken = source.next().await;
        if !taken.pending_restart.is_empty() {
            tracing::warn!(fields = taken.pending_restart.join(", "), "only a restart of the CA can change these");
        }
        server.update(&taken.config);
    }
}

/// Writes into each document's status what became of it, while this replica leads.
async fn judge(kubernetes: &Kubernetes, mut verdicts: watch::Receiver<Vec<Verdict>>) -> Infallible {
    // The pod's name, which no other replica has.
    let holder = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let mut told: HashMap<(String, ObjectName), Verdict> = HashMap::new();
    let mut was_leading = false;
    loop {
        let (begun, mut again) = (Instant::now(), false);
        let judged = async {
            let leads = kubernetes.hold_lease(LEASE, &holder, LEASE_DURATION).await?;
            if leads && !was_leading {
                tracing::info!(holder, "leads: writes the documents' status");
                told.clear();
            }
            was_leading = leads;
            let news = if leads { verdicts.borrow_and_update().clone() } else { Vec::new() };
            let keys: HashSet<_> = news.iter().map(|verdict| (verdict.kind.clone(), verdict.name.clone())).collect();
            told.retain(|key, _| keys.contains(key));
            let mut failure = None;
            for verdict in news {
                // A thousand take longer than the lease: the rest comes with the next round.
                if begun.elapsed() >= LEASE_RENEWAL {
                    again = true;
                    break;
                }
                let key = (verdict.kind.clone(), verdict.name.clone());
                if told.get(&key) == Some(&verdict) {
                    continue;
                }
                let plural = KINDS.iter().find(|(kind, _)| *kind == verdict.kind).map_or("", |(_, plural)| plural);
                match kubernetes.judge(&verdict, plural).await {
                    Ok(()) => drop(told.insert(key, verdict)),
                    Err(error) if error.is_about_a_gone_object() => {}
                    // One that can't be written holds up no other.
                    Err(error) => failure = Some(error),
                }
            }
            failure.map_or(Ok::<_, KubernetesError>(()), Err)
        };
        if let Err(error) = judged.await {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(error, "the documents' status can't be written now");
            sleep(LEASE_RENEWAL).await;
        }
        tokio::select! {
            () = sleep(LEASE_RENEWAL), if !again => {}
            () = yield_now(), if again => {}
            Ok(()) = verdicts.changed() => {}
        }
    }
}
