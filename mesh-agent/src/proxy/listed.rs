//! Which certificates the revocation lists of trusted CAs have, worked out once for each snapshot and set of roots.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use crate::model::revocation::CertificateId;
use crate::model::svid::Trust;
use crate::state::MeshState;

/// The lists that count.
#[derive(Debug, Default)]
pub(super) struct Listed(Mutex<Option<Made>>);

/// What was worked out, and from what.
#[derive(Debug)]
struct Made {
    state: Arc<MeshState>,
    trust: Arc<Trust>,
    certificates: Arc<HashSet<CertificateId>>,
}

impl Listed {
    /// Whether a list that counts has one of these certificates: the leaf, or a CA above it.
    pub(super) fn has(&self, state: &Arc<MeshState>, trust: &Arc<Trust>, chain: &[CertificateId]) -> bool {
        if state.crls().is_empty() {
            return false;
        }
        let certificates = self.newest(state, trust);
        chain.iter().any(|certificate| certificates.contains(certificate))
    }

    fn newest(&self, state: &Arc<MeshState>, trust: &Arc<Trust>) -> Arc<HashSet<CertificateId>> {
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let current = made.as_ref().filter(|made| Arc::ptr_eq(&made.state, state) && Arc::ptr_eq(&made.trust, trust));
        if let Some(made) = current {
            return Arc::clone(&made.certificates);
        }
        let certificates = Arc::new(read(state, trust));
        let (state, trust) = (Arc::clone(state), Arc::clone(trust));
        *made = Some(Made { state, trust, certificates: Arc::clone(&certificates) });
        certificates
    }
}

/// A list that nobody whom we trust has signed is none: anybody could have written it. It is said loudly.
fn read(state: &MeshState, trust: &Trust) -> HashSet<CertificateId> {
    let bundles = || std::iter::once(&*trust.bundle).chain(&**state.federated());
    let (counting, others): (Vec<_>, Vec<_>) = state.crls().iter().partition(|crl| crl.is_vouched_for(bundles()));
    if !others.is_empty() {
        tracing::error!(
            target: "audit",
            lists = others.len(),
            "revocation lists that no trusted CA has signed are ignored; a list of a CA below the root needs its certificate beside it"
        );
    }
    counting.into_iter().flat_map(|crl| crl.certificates()).collect()
}
