//! Keeps the CA of a cluster: takes it from the Secret, also while it is replaced there, and publishes the roots.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::sleep;

use super::roots::{Pace, Published};
use crate::app::RunError;
use crate::app::issuer::{TRUST_BUNDLE, TRUST_BUNDLE_KEY, TRUST_TIMES_KEY};
use crate::identity::ca::{CaError, CaTexts};
use crate::identity::{EmbeddedIssuer, LocalCa};
use crate::kubernetes::ca::CaSecret;
use crate::kubernetes::{Kubernetes, KubernetesError};
use crate::model::bundle;
use crate::model::mesh::{Mesh, SvidSettings};
use crate::model::spiffe::TrustDomain;

/// The Secret with the CA.
const SECRET: &str = "hauberk-ca";
/// Nodes' identities and the service's own last as long, whatever a workload's SVID does.
const LONGEST_OTHER: Duration = Duration::from_hours(24);
/// How often a replica, and an agent after it, must have looked until everybody has seen a change: once each, and once more
/// for who was late.
const LOOKS: u32 = 3;

/// The CA that signs, and what is known of it.
pub(super) struct Keeper {
    issuer: Arc<EmbeddedIssuer>,
    /// What signs now. Another one may be in the Secret, and wait for everybody to have its root.
    signing: CaSecret,
    trust_domain: TrustDomain,
    settings: SvidSettings,
    pace: Pace,
    is_missing: bool,
}

/// What is published, with what tells whether somebody else has changed it.
struct Held {
    published: Published,
    version: Option<String>,
}

impl Keeper {
    /// The CA of the Secret, which is made if there has never been one. Waits until everybody has its root.
    pub(super) async fn open(kubernetes: &Kubernetes, mesh: &Mesh) -> Result<Self, RunError> {
        let (trust_domain, settings) = (mesh.trust_domain.clone(), mesh.issuer.svid);
        let pace = pace(mesh.issuer.refresh, settings);
        loop {
            let held = held(kubernetes, &trust_domain).await?;
            let Some(secret) = kubernetes.ca_secret(SECRET).await? else {
                // Whoever was given certificates would be cut off from the new ones, and nobody would know why.
                if !held.published.is_empty() {
                    return Err(RunError::LostCa { namespace: kubernetes.namespace().to_owned() });
                }
                make(kubernetes, &trust_domain, settings).await?;
                continue;
            };
            let ca = load(&trust_domain, &secret, settings)?;
            let now = SystemTime::now();
            let next = held.published.next(&ca.anchors().bundle.roots, now, pace);
            if next != held.published && !publish(kubernetes, &next, held.version).await? {
                continue;
            }
            let wait = next.signs_from(ca.root()).and_then(|from| from.duration_since(now).ok()).unwrap_or_default();
            if wait.is_zero() {
                let roots = bundle::to_pem(&next.roots());
                let issuer = EmbeddedIssuer::of_texts(trust_domain.clone(), &texts(&secret, &roots), settings)?;
                let (issuer, signing) = (Arc::new(issuer), secret);
                return Ok(Self { issuer, signing, trust_domain, settings, pace, is_missing: false });
            }
            tracing::info!(seconds = wait.as_secs(), "waiting until everybody has the new root");
            sleep(wait).await;
        }
    }

    /// Who signs.
    pub(super) fn issuer(&self) -> &Arc<EmbeddedIssuer> {
        &self.issuer
    }

    /// Takes the Secret's CA when it changes, and lets the agents know the roots, for ever.
    pub(super) async fn run(mut self, kubernetes: &Kubernetes, refresh: Duration) -> Infallible {
        loop {
            let kept = async {
                let held = held(kubernetes, &self.trust_domain).await?;
                let secret = kubernetes.ca_secret(SECRET).await?;
                let next = self.step(secret, &held.published, SystemTime::now())?;
                // If somebody else was faster, that is looked at next.
                if next != held.published {
                    publish(kubernetes, &next, held.version).await?;
                }
                Ok::<_, RunError>(())
            };
            if let Err(error) = kept.await {
                let error: &dyn std::error::Error = &error;
                tracing::error!(error, "the cluster's CA can't be looked at; it stays as it was");
            }
            sleep(refresh).await;
        }
    }

    /// Takes what is in the Secret, as far as what is `published` allows. Returns what is to be published.
    fn step(&mut self, secret: Option<CaSecret>, published: &Published, now: SystemTime) -> Result<Published, CaError> {
        let was_missing = std::mem::replace(&mut self.is_missing, secret.is_none());
        if self.is_missing && !was_missing {
            tracing::error!(
                target: "audit",
                secret = SECRET,
                "the CA's Secret is gone: the CA goes on with what it has, and will not start again without it"
            );
        }
        let newest = secret.as_ref().unwrap_or(&self.signing);
        let ca = load(&self.trust_domain, newest, self.settings)?;
        let next = published.next(&ca.anchors().bundle.roots, now, self.pace);
        let may_sign = published.signs_from(ca.root()).is_some_and(|from| from <= now);
        let signing = match secret {
            Some(secret) if may_sign => secret,
            _ => std::mem::replace(&mut self.signing, CaSecret::empty()),
        };
        let replaced = self.issuer.replace(&texts(&signing, &bundle::to_pem(&next.roots())));
        self.signing = signing;
        replaced.map(|()| next)
    }
}

fn pace(refresh: Duration, settings: SvidSettings) -> Pace {
    let spreads = LOOKS * refresh;
    // Other replicas may sign with the old one for as long as the new one takes to spread.
    Pace { spreads, lasts: settings.lifetime.max(LONGEST_OTHER) + settings.clock_skew + 2 * spreads }
}

fn load(trust_domain: &TrustDomain, secret: &CaSecret, settings: SvidSettings) -> Result<LocalCa, CaError> {
    let CaSecret { certificates, key, roots } = secret;
    LocalCa::load(trust_domain.clone(), &CaTexts { certificates, key, bundle: roots.as_deref() }, settings)
}

fn texts<'a>(secret: &'a CaSecret, roots: &'a str) -> CaTexts<'a> {
    CaTexts { certificates: &secret.certificates, key: &secret.key, bundle: Some(roots) }
}

async fn make(kubernetes: &Kubernetes, trust_domain: &TrustDomain, settings: SvidSettings) -> Result<(), RunError> {
    let ca = LocalCa::create(trust_domain.clone(), settings, SystemTime::now())?;
    let secret = CaSecret { certificates: ca.certificate_pem().to_owned(), key: ca.key_pem(), roots: None };
    if kubernetes.create_ca_secret(SECRET, &secret).await? {
        tracing::info!(target: "audit", { ca.signer = ca.anchors().signer }, "made the cluster's CA");
    }
    Ok(())
}

async fn held(kubernetes: &Kubernetes, trust_domain: &TrustDomain) -> Result<Held, RunError> {
    let Some((texts, version)) = kubernetes.config_texts(TRUST_BUNDLE).await? else {
        return Ok(Held { published: Published::default(), version: None });
    };
    let text = |key: &str| texts.get(key).map(String::as_str).unwrap_or_default();
    let published = Published::read(text(TRUST_BUNDLE_KEY), text(TRUST_TIMES_KEY), trust_domain);
    let published = published.map_err(|source| RunError::UnfitCa(source.into()))?;
    Ok(Held { published, version })
}

/// Returns whether it did: not if somebody else has changed it since it had this version.
async fn publish(
    kubernetes: &Kubernetes,
    published: &Published,
    version: Option<String>,
) -> Result<bool, KubernetesError> {
    let (roots, times) = published.write();
    let texts = [(TRUST_BUNDLE_KEY, roots), (TRUST_TIMES_KEY, times)];
    let done = kubernetes.set_config_texts(TRUST_BUNDLE, texts, version).await?;
    if done {
        tracing::info!(target: "audit", roots = published.roots().len(), "published the roots");
    }
    Ok(done)
}

#[cfg(test)]
mod tests;
