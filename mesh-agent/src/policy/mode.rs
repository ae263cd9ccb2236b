//! What an inbound connection must be, by workload and port. The narrowest document decides, within the operator's bound.

use std::collections::{BTreeMap, HashMap};

use super::select::Selector;
use crate::model::mesh::{Mesh, MtlsMode};
use crate::model::policy::{PeerAuthentication, PolicyName};
use crate::model::workload::{Workload, WorkloadUid};

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

/// The modes of all workloads.
#[derive(Debug)]
pub struct Modes {
    whole: EffectiveMode,
    /// Those that documents of their namespace are about.
    workloads: HashMap<WorkloadUid, WorkloadModes>,
}

#[derive(Debug)]
struct WorkloadModes {
    others: EffectiveMode,
    ports: BTreeMap<u16, EffectiveMode>,
}

/// Where documents of one level are looked up: those for the workload itself, then its namespace, then the mesh.
type Level<'d> = Vec<&'d PeerAuthentication>;

impl Modes {
    /// Works out every mode.
    pub fn new<'w>(
        mesh: &Mesh,
        workloads: impl Iterator<Item = &'w Workload>,
        documents: &[PeerAuthentication],
    ) -> Self {
        let bound = Bound::of(mesh, documents);
        let mut levels: HashMap<WorkloadUid, [Level<'_>; 2]> = HashMap::new();
        let selector = Selector::of(workloads);
        for document in documents.iter().filter(|document| document.scope.namespace.is_some()) {
            for workload in selector.select(&document.scope) {
                let [own, namespace] = levels.entry(workload.uid.clone()).or_default();
                if document.scope.labels.is_empty() { namespace.push(document) } else { own.push(document) }
            }
        }
        let of = |levels: [Level<'_>; 2]| bound.workload(&levels);
        Self { workloads: levels.into_iter().map(|(uid, levels)| (uid, of(levels))).collect(), whole: bound.whole }
    }

    /// What holds where no document of a namespace says something else.
    pub fn whole(&self) -> &EffectiveMode {
        &self.whole
    }

    /// What a connection to this port must be.
    pub fn of(&self, workload: &WorkloadUid, port: u16) -> &EffectiveMode {
        let Some(modes) = self.workloads.get(workload) else { return &self.whole };
        modes.ports.get(&port).unwrap_or(&modes.others)
    }

    /// Whether any port of the workload takes mutual TLS alone.
    pub fn is_strict_anywhere(&self, workload: &WorkloadUid) -> bool {
        let Some(modes) = self.workloads.get(workload) else { return self.whole.mode == MtlsMode::Strict };
        modes.ports.values().chain([&modes.others]).any(|effective| effective.mode == MtlsMode::Strict)
    }
}

/// What holds where nothing narrower does, and how loose the narrower may be.
struct Bound<'m> {
    mesh: &'m Mesh,
    whole: EffectiveMode,
}

impl<'m> Bound<'m> {
    fn of(mesh: &'m Mesh, documents: &[PeerAuthentication]) -> Self {
        let wide = documents.iter().filter(|document| document.scope.namespace.is_none());
        let said = strictest(wide.filter_map(|document| Some((document, document.mode?))).map(wanted));
        let base = EffectiveMode { mode: mesh.mode, by: None, is_limited: false };
        let whole = limited(said.unwrap_or(base), mesh.bounds.minimum_mode.unwrap_or(MtlsMode::Disable));
        Self { mesh, whole }
    }

    fn workload(&self, levels: &[Level<'_>; 2]) -> WorkloadModes {
        let listed = levels[0].iter().flat_map(|document| document.ports.keys().copied());
        let ports = listed.map(|port| (port, self.resolve(levels, Some(port)))).collect();
        WorkloadModes { others: self.resolve(levels, None), ports }
    }

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
        let bounds = &self.mesh.bounds;
        let free = bounds.may_loosen(&said.0.name);
        let minimum = if free { MtlsMode::Disable } else { bounds.minimum_mode.unwrap_or(self.whole.mode) };
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
