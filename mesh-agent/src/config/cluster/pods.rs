//! Makes workloads of pods. What is made of a pod stays until something of it changes: a cluster has thousands of them, and few
//! change at a time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::{Cluster, Membership};
use crate::config::MeshConfig;
use crate::model::cluster::{ObjectName, Pod, SandboxState};
use crate::model::spiffe::{SpiffeId, TrustDomain};
use crate::model::workload::{Exclusions, Workload, WorkloadUid};

/// What the pods make.
#[derive(Debug, Default)]
pub(super) struct Made {
    /// What it was made with besides the pods.
    with: Option<TrustDomain>,
    pods: BTreeMap<WorkloadUid, MadePod>,
    /// How many claim each address.
    owners: HashMap<IpAddr, usize>,
    /// Which workload has each address.
    at: HashMap<IpAddr, WorkloadUid>,
    /// The addresses that more than one claims: nobody has them.
    pub(super) contested: BTreeSet<IpAddr>,
    /// Those whose claims are known and whose workloads are of before.
    stale: BTreeSet<ObjectName>,
    /// How often a pod was looked at anew.
    #[cfg(test)]
    pub(super) lowered: usize,
}

impl Made {
    /// Whether a pod claims an address.
    pub(super) fn is_claimed(&self, address: IpAddr) -> bool {
        self.owners.contains_key(&address)
    }

    /// The namespace of the workload that has an address.
    pub(super) fn namespace_at(&self, address: IpAddr) -> Option<&str> {
        self.pods.get(self.at.get(&address)?)?.workload.as_ref().map(|workload| workload.namespace())
    }

    fn leave(&mut self, workload: &Workload) {
        for address in &workload.addresses {
            if self.at.get(address) == Some(&workload.uid) {
                self.at.remove(address);
            }
        }
    }
}

/// What one pod makes.
#[derive(Debug, Default)]
struct MadePod {
    /// The addresses that it claims.
    claims: Vec<IpAddr>,
    /// If it is in the mesh, with what nobody else claims.
    workload: Option<Arc<Workload>>,
    /// If it is not: what nobody else claims.
    outside: Vec<IpAddr>,
}

impl Cluster {
    /// Finds out anew who claims which address.
    pub(super) fn claim(&mut self) {
        let changed = self.changed_pods().unwrap_or_else(|| {
            self.made = Made { with: self.made.with.take(), ..Made::default() };
            self.kept.forget();
            self.pods.iter().map(|(name, _)| name.clone()).collect()
        });
        let disturbed = self.claim_of(&changed);
        self.made.stale.extend(changed);
        if !disturbed.is_empty() {
            let shares = |pod: &Pod| self.claims(pod).iter().any(|address| disturbed.contains(address));
            let others = self.pods.iter().filter(|(_, pod)| shares(pod)).map(|(name, _)| name.clone());
            let others: Vec<_> = others.collect();
            self.made.stale.extend(others);
        }
    }

    /// Adds the pods to the configuration that the documents have made.
    pub(super) fn add_pods(&mut self, config: &mut MeshConfig) {
        if self.made.with.as_ref() != Some(&config.mesh.trust_domain) {
            self.made.with = Some(config.mesh.trust_domain.clone());
            self.made.stale = self.pods.iter().map(|(name, _)| name.clone()).collect();
            self.kept.forget();
        }
        let stale = std::mem::take(&mut self.made.stale);
        self.lower(&stale);
        let only_pods = config.workloads.is_empty();
        config.workloads.extend(self.made.pods.values().filter_map(|made| made.workload.clone()));
        if !only_pods {
            config.workloads.sort_by(|one, other| one.uid.cmp(&other.uid));
        }
        config.outside.extend(self.made.pods.values().flat_map(|made| &made.outside));
    }

    /// Why nobody can be connected to a pod of the mesh, though it has an address; `None`: it can, or it has none yet, or no more.
    pub(super) fn why_unaddressed(&self, name: &ObjectName, pod: &Pod) -> Option<&'static str> {
        let made = self.made.pods.get(&WorkloadUid::new(&name.namespace, &name.name))?;
        let sandbox = self.sandboxes.get(pod.runtime_uid());
        let has_none = pod.addresses.is_empty() && !matches!(sandbox, Some(SandboxState::Runs(_)));
        if made.workload.is_some() || pod.finished || has_none || sandbox == Some(&SandboxState::Ended) {
            return None;
        }
        Some(if made.claims.is_empty() {
            "its addresses are not of its node's pod ranges"
        } else if made.claims.iter().all(|address| self.made.contested.contains(address)) {
            "another pod claims its address too"
        } else if self.membership(name, pod) == Membership::Unknown {
            "its namespace is not known yet"
        } else {
            "its service account can't be part of an identity"
        })
    }

    /// The pods that may make something else than before; `None`: all of them.
    fn changed_pods(&mut self) -> Option<BTreeSet<ObjectName>> {
        let mut changed = self.pods.take_changed();
        let everybody = self.namespaces.has_changed() || self.nodes.has_changed();
        self.namespaces.take_changed();
        self.nodes.take_changed();
        let sandboxes = self.sandboxes.take_changed();
        if !sandboxes.is_empty() {
            let theirs = self.pods.iter().filter(|(_, pod)| sandboxes.contains(pod.runtime_uid()));
            changed.extend(theirs.map(|(name, _)| name.clone()));
        }
        (!everybody).then_some(changed)
    }

    /// Takes what these pods claim now. Returns the addresses that are contested since, or no longer.
    fn claim_of(&mut self, changed: &BTreeSet<ObjectName>) -> BTreeSet<IpAddr> {
        let mut touched = BTreeSet::new();
        for name in changed {
            let claims = self.pods.get(name).map(|pod| self.claims(pod)).unwrap_or_default();
            touched.extend(claims.iter().copied());
            for address in &claims {
                *self.made.owners.entry(*address).or_default() += 1;
            }
            let uid = WorkloadUid::new(&name.namespace, &name.name);
            let before = match self.pods.get(name) {
                Some(_) => self.made.pods.insert(uid, MadePod { claims, ..MadePod::default() }),
                None => self.made.pods.remove(&uid),
            };
            let before = before.unwrap_or_default();
            if let Some(workload) = &before.workload {
                self.made.leave(workload);
            }
            for address in before.claims {
                touched.insert(address);
                if let Some(owners) = self.made.owners.get_mut(&address) {
                    *owners -= 1;
                    if *owners == 0 {
                        self.made.owners.remove(&address);
                    }
                }
            }
        }
        self.kept.touch(touched.iter().copied());
        let mut disturbed = BTreeSet::new();
        for address in touched {
            let is_contested = self.made.owners.get(&address).is_some_and(|owners| *owners > 1);
            let differs =
                if is_contested { self.made.contested.insert(address) } else { self.made.contested.remove(&address) };
            if differs {
                disturbed.insert(address);
            }
        }
        disturbed
    }

    /// Makes what these pods are to the mesh, from what is known of all.
    fn lower(&mut self, names: &BTreeSet<ObjectName>) {
        let Some(trust_domain) = self.made.with.clone() else { return };
        for name in names {
            let Some(pod) = self.pods.get(name) else { continue };
            let membership = self.membership(name, pod);
            let uid = WorkloadUid::new(&name.namespace, &name.name);
            let Some(made) = self.made.pods.get(&uid) else { continue };
            #[cfg(test)]
            {
                self.made.lowered += 1;
            }
            let free = |address: &IpAddr| !self.made.contested.contains(address);
            let addresses: Vec<_> = made.claims.iter().copied().filter(free).collect();
            let (now, outside) = match membership {
                Membership::In if addresses.is_empty() => (None, Vec::new()),
                Membership::In => (workload(&trust_domain, name, pod, addresses).map(Arc::new), Vec::new()),
                // It may be one of the mesh's.
                Membership::Unknown => (None, Vec::new()),
                _ => (None, addresses),
            };
            let before = self.made.pods.get_mut(&uid).and_then(|made| {
                made.outside = outside;
                std::mem::replace(&mut made.workload, now.clone())
            });
            if let Some(before) = before {
                self.made.leave(&before);
            }
            for address in now.iter().flat_map(|workload| &workload.addresses) {
                self.made.at.insert(*address, uid.clone());
            }
        }
    }

    /// The addresses that a pod has by its own word, in its node's ranges, where these are known.
    fn claims(&self, pod: &Pod) -> Vec<IpAddr> {
        let sandbox = self.sandboxes.get(pod.runtime_uid());
        if pod.finished || pod.host_network || sandbox == Some(&SandboxState::Ended) {
            return Vec::new();
        }
        // The API may still show those of an earlier sandbox.
        let known = match sandbox {
            Some(SandboxState::Runs(addresses)) => addresses,
            _ => &pod.addresses,
        };
        let ranges = pod.node.as_ref().and_then(|node| self.nodes.get(node)).map(|node| &node.pod_ranges[..]);
        let fits = |address: &IpAddr| {
            let mut of_family =
                ranges.unwrap_or_default().iter().filter(|range| super::is_of_family(range, address)).peekable();
            of_family.peek().is_none() || of_family.any(|range| range.contains(address))
        };
        known.iter().copied().filter(|address| fits(address)).collect()
    }
}

/// `None`: its service account can't be part of an identity, or it is on no node.
fn workload(trust_domain: &TrustDomain, name: &ObjectName, pod: &Pod, addresses: Vec<IpAddr>) -> Option<Workload> {
    Some(Workload {
        uid: WorkloadUid::new(&name.namespace, &name.name),
        identity: SpiffeId::of_service_account(trust_domain, &name.namespace, &pod.service_account).ok()?,
        labels: pod.labels.clone(),
        node: pod.node.clone()?,
        addresses,
        netns: None,
        cgroup: None,
        pod: Some(pod.runtime_uid().clone()),
        announced: pod.served,
        exclude: Exclusions::default(),
    })
}
