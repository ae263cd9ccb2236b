//! All workloads by name.

use std::sync::Arc;

use crate::model::workload::{Workload, WorkloadUid};

/// All workloads. Clones share.
#[derive(Clone, Debug)]
pub struct Roster(Arc<[Arc<Workload>]>);

impl Roster {
    /// Of workloads with different names; in the order of these it takes no time to speak of.
    pub fn new(mut workloads: Vec<Arc<Workload>>) -> Self {
        workloads.sort_by(|one, other| one.uid.cmp(&other.uid));
        Self(workloads.into())
    }

    /// The workload of this name.
    pub fn get(&self, uid: &WorkloadUid) -> Option<&Arc<Workload>> {
        self.0.binary_search_by(|workload| workload.uid.cmp(uid)).ok().map(|index| &self.0[index])
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.0.iter()
    }
}
