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
    with: Option<(TrustDomain, Vec<IpAddr>)>,
    pods: BTreeMap<WorkloadUid, MadePod>,
    /// How many claim each address, documents included.
    owners: HashMap<IpAddr, usize>,
    /// The addresses that more than one claims: nobody has them.
    pub(super) contested: BTreeSet<IpAddr>,
    /// How often a pod was looked at anew.
    #[cfg(test)]
    pub(super) lowered: usize,
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
    /// Adds the pods to the configuration that the documents have made.
    pub(super) fn add_pods(&mut self, config: &mut MeshConfig) {
        // Only pods have a cluster's addresses: a Workload that claims one is as good as a second pod.
        let written: Vec<_> = config.workloads.iter().flat_map(|workload| workload.addresses.iter().copied()).collect();
        let changed = self.changed_pods();
        let with = Some((config.mesh.trust_domain.clone(), written));
        let changed = if changed.is_none() || self.made.with != with {
            let owners = with.iter().flat_map(|(_, written)| written).map(|address| (*address, 1)).collect();
            self.made = Made { with, owners, ..Made::default() };
            self.pods.iter().map(|(name, _)| name.clone()).collect()
        } else {
            changed.unwrap_or_default()
        };
        self.make(&changed);
        // The node may have come after the document.
        config.workloads.retain(|workload| self.nodes.get(&workload.node).is_none());
        config.workloads.retain_mut(|workload| {
            if workload.addresses.iter().any(|address| self.made.contested.contains(address)) {
                let own = Arc::make_mut(workload);
                own.addresses.retain(|address| !self.made.contested.contains(address));
            }
            !workload.addresses.is_empty()
        });
        let only_pods = config.workloads.is_empty();
        config.workloads.extend(self.made.pods.values().filter_map(|made| made.workload.clone()));
        if !only_pods {
            config.workloads.sort_by(|one, other| one.uid.cmp(&other.uid));
            config.workloads.dedup_by(|one, other| one.uid == other.uid);
        }
        config.outside.extend(self.made.pods.values().flat_map(|made| &made.outside));
    }

    /// Everything is to be made anew, once the documents go together.
    pub(super) fn forget_made(&mut self) {
        self.changed_pods();
        self.forget_changed_services();
        self.made = Made::default();
    }

    /// The pods that may make something else than before; `None`: all of them.
    fn changed_pods(&mut self) -> Option<BTreeSet<ObjectName>> {
        let mut changed = self.pods.take_changed();
        let everybody = self.namespaces.has_changed() || self.nodes.has_changed();
        self.namespaces.take_changed();
        self.nodes.take_changed();
        let sandboxes = self.sandboxes.take_changed();
        if !sandboxes.is_empty() {
            let theirs = self.pods.iter().filter(|(_, pod)| sandboxes.contains(&pod.uid));
            changed.extend(theirs.map(|(name, _)| name.clone()));
        }
        (!everybody).then_some(changed)
    }

    /// Makes these pods anew, and those that they share an address with, or did.
    fn make(&mut self, changed: &BTreeSet<ObjectName>) {
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
            for address in before.into_iter().flat_map(|before| before.claims) {
                touched.insert(address);
                if let Some(owners) = self.made.owners.get_mut(&address) {
                    *owners -= 1;
                    if *owners == 0 {
                        self.made.owners.remove(&address);
                    }
                }
            }
        }
        let mut disturbed = BTreeSet::new();
        for address in touched {
            let is_contested = self.made.owners.get(&address).is_some_and(|owners| *owners > 1);
            let differs =
                if is_contested { self.made.contested.insert(address) } else { self.made.contested.remove(&address) };
            if differs {
                disturbed.insert(address);
            }
        }
        self.lower(changed);
        if !disturbed.is_empty() {
            let shares = |pod: &Pod| self.claims(pod).iter().any(|address| disturbed.contains(address));
            let others = self.pods.iter().filter(|(name, pod)| !changed.contains(name) && shares(pod));
            let others: BTreeSet<_> = others.map(|(name, _)| name.clone()).collect();
            self.lower(&others);
        }
    }

    /// Makes what these pods are to the mesh, from what is known of all.
    fn lower(&mut self, names: &BTreeSet<ObjectName>) {
        let Some((trust_domain, _)) = self.made.with.clone() else { return };
        for name in names {
            let Some(pod) = self.pods.get(name) else { continue };
            let membership = self.membership(name, pod);
            let Some(made) = self.made.pods.get_mut(&WorkloadUid::new(&name.namespace, &name.name)) else { continue };
            #[cfg(test)]
            {
                self.made.lowered += 1;
            }
            let free = |address: &IpAddr| !self.made.contested.contains(address);
            let addresses: Vec<_> = made.claims.iter().copied().filter(free).collect();
            (made.workload, made.outside) = match membership {
                Membership::In if addresses.is_empty() => (None, Vec::new()),
                Membership::In => (workload(&trust_domain, name, pod, addresses).map(Arc::new), Vec::new()),
                // The labels that may put it into the mesh haven't come yet: it is nobody until then.
                Membership::NotLabelled if self.namespaces.get(&name.namespace).is_none() => (None, Vec::new()),
                _ => (None, addresses),
            };
        }
    }

    /// The addresses that a pod has by its own word, in its node's ranges, where these are known.
    fn claims(&self, pod: &Pod) -> Vec<IpAddr> {
        let sandbox = self.sandboxes.get(&pod.uid);
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
        pod: Some(pod.uid.clone()),
        announced: pod.served,
        exclude: Exclusions::default(),
    })
}
