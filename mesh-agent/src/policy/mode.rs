//! What an inbound connection must be, by workload and port. The narrowest document decides, within the operator's bound.

use std::sync::Arc;

use super::Roster;
use super::select::{Scopes, selects};
use crate::model::mesh::{Mesh, MtlsMode};
use crate::model::policy::{PeerAuthentication, PolicyBounds, PolicyName};
use crate::model::workload::WorkloadUid;

/// What a connection must be, and who says so.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EffectiveMode {
    /// What it must be.
    pub mode: MtlsMode,
    /// The document; `None`: the Mesh.
    pub by: Option<PolicyName>,
    /// The document wanted something looser than the operator allows.
    pub is_limited: bool,
}

/// The modes of all workloads, worked out when they are asked for: most workloads are on other nodes.
#[derive(Debug)]
pub struct Modes {
    documents: Arc<Documents>,
    workloads: Roster,
}

/// All documents, and what holds where nothing narrower does.
#[derive(Debug)]
struct Documents {
    mode: MtlsMode,
    bounds: PolicyBounds,
    all: Arc<[PeerAuthentication]>,
    scopes: Scopes,
    whole: EffectiveMode,
}

/// Documents of one level: those for the workload itself, then those for its namespace.
type Level<'d> = Vec<&'d PeerAuthentication>;

impl Modes {
    /// Indexes documents. What others have made of the same ones is taken over.
    pub fn new(mesh: &Mesh, workloads: &Roster, documents: &Arc<[PeerAuthentication]>, before: Option<&Self>) -> Self {
        let before = before.map(|before| &before.documents).filter(|before| before.are_of(mesh, documents));
        let documents = before.map_or_else(|| Arc::new(Documents::of(mesh, documents)), Arc::clone);
        Self { documents, workloads: workloads.clone() }
    }

    /// What holds where no document of a namespace says something else.
    pub fn whole(&self) -> &EffectiveMode {
        &self.documents.whole
    }

    /// What a connection to this port must be.
    pub fn of(&self, workload: &WorkloadUid, port: u16) -> EffectiveMode {
        self.documents.resolve(&self.levels(workload), Some(port))
    }

    /// Whether any port of the workload takes mutual TLS alone.
    pub fn is_strict_anywhere(&self, workload: &WorkloadUid) -> bool {
        let levels = self.levels(workload);
        let listed = levels[0].iter().flat_map(|document| document.ports.keys().copied()).map(Some);
        listed.chain([None]).any(|port| self.documents.resolve(&levels, port).mode == MtlsMode::Strict)
    }

    fn levels(&self, workload: &WorkloadUid) -> [Level<'_>; 2] {
        let mut levels = [Level::new(), Level::new()];
        let documents = &self.documents;
        if documents.scopes.is_empty() {
            return levels;
        }
        let Some(workload) = self.workloads.get(workload) else { return levels };
        let candidates = documents.scopes.candidates(workload).into_iter().map(|place| &documents.all[place]);
        let narrow = |document: &&PeerAuthentication| document.scope.namespace.is_some();
        for document in candidates.filter(narrow).filter(|document| selects(&document.scope, workload)) {
            levels[usize::from(document.scope.labels.is_empty())].push(document);
        }
        levels
    }
}

impl Documents {
    fn of(mesh: &Mesh, all: &Arc<[PeerAuthentication]>) -> Self {
        let wide = all.iter().filter(|document| document.scope.namespace.is_none());
        let said = strictest(wide.filter_map(|document| Some((document, document.mode?))).map(wanted));
        let base = EffectiveMode { mode: mesh.mode, by: None, is_limited: false };
        let whole = limited(said.unwrap_or(base), mesh.bounds.minimum_mode.unwrap_or(MtlsMode::Disable));
        let scopes = Scopes::of(all.iter().map(|document| &document.scope));
        Self { mode: mesh.mode, bounds: mesh.bounds.clone(), all: Arc::clone(all), scopes, whole }
    }

    fn are_of(&self, mesh: &Mesh, documents: &Arc<[PeerAuthentication]>) -> bool {
        (self.mode, &self.bounds) == (mesh.mode, &mesh.bounds) && Arc::ptr_eq(&self.all, documents)
    }

    /// `None`: of the ports that no document lists.
    fn resolve(&self, levels: &[Level<'_>; 2], port: Option<u16>) -> EffectiveMode {
        let by_port = port.and_then(|port| {
            let said = levels[0].iter().filter_map(|document| Some((*document, (*document.ports.get(&port)?)?)));
            strictest(said.map(|said| self.bounded(said)))
        });
        let by_level = || {
            levels.iter().find_map(|level| {
                let said = level.iter().filter_map(|document| Some((*document, document.mode?)));
                strictest(said.map(|said| self.bounded(said)))
            })
        };
        by_port.or_else(by_level).unwrap_or_else(|| self.whole.clone())
    }

    fn bounded(&self, said: (&PeerAuthentication, MtlsMode)) -> EffectiveMode {
        let free = self.bounds.may_loosen(&said.0.name);
        let minimum = if free { MtlsMode::Disable } else { self.bounds.minimum_mode.unwrap_or(self.whole.mode) };
        limited(wanted(said), minimum)
    }
}

fn wanted((document, mode): (&PeerAuthentication, MtlsMode)) -> EffectiveMode {
    EffectiveMode { mode, by: Some(document.name.clone()), is_limited: false }
}

fn limited(wanted: EffectiveMode, minimum: MtlsMode) -> EffectiveMode {
    let is_limited = wanted.mode < minimum;
    EffectiveMode { mode: wanted.mode.max(minimum), is_limited, ..wanted }
}

/// Of documents that are equally narrow; of two that say the same, the first by name.
fn strictest(said: impl Iterator<Item = EffectiveMode>) -> Option<EffectiveMode> {
    said.reduce(|first, next| if next.mode > first.mode { next } else { first })
}
