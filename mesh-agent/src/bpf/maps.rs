//! Typed handles of the maps. One lock a map, held for one system call at a time.

use std::collections::{BTreeSet, HashSet};
use std::hash::Hash;
use std::os::fd::AsRawFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, RingBuf, SkStorage, SockMap};
use aya::{Ebpf, Pod};
use ipnet::IpNet;
use mesh_common::addr::IpKey;
use mesh_common::conn::SockFacts;
use mesh_common::divert::{DIVERTED, EXEMPT, PodDivert, Settings};
use mesh_common::event::Counter;
use mesh_common::names;
use mesh_common::steer::PodSteer;

use super::object::BpfError;

/// Every map that the agent reads or writes.
pub struct Maps {
    pods: Mutex<HashMap<MapData, u64, PodDivert>>,
    cgroups: Mutex<HashMap<MapData, u64, u32>>,
    addresses: Mutex<HashMap<MapData, IpKey, PodSteer>>,
    destinations: Mutex<LpmTrie<MapData, IpKey, u32>>,
    excluded: Mutex<LpmTrie<MapData, [u32; 5], u32>>,
    listeners: Mutex<SockMap<MapData>>,
    sockets: Mutex<SkStorage<MapData, SockFacts>>,
    settings: Mutex<Array<MapData, Settings>>,
    counters: PerCpuArray<MapData, u64>,
    pub(super) events: Mutex<RingBuf<MapData>>,
}

/// Exempt addresses that the kernel is told of: they leave the map room for workloads.
const MAX_EXEMPT: usize = 16_384;

impl Maps {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, BpfError> {
        Ok(Self {
            pods: Mutex::new(take(ebpf, names::PODS)?),
            cgroups: Mutex::new(take(ebpf, names::CGROUPS)?),
            addresses: Mutex::new(take(ebpf, names::ADDRESSES)?),
            destinations: Mutex::new(take(ebpf, names::DESTINATIONS)?),
            excluded: Mutex::new(take(ebpf, names::EXCLUDED)?),
            listeners: Mutex::new(take(ebpf, names::LISTENERS)?),
            sockets: Mutex::new(take(ebpf, names::SOCKETS)?),
            settings: Mutex::new(take(ebpf, names::SETTINGS)?),
            counters: take(ebpf, names::COUNTERS)?,
            events: Mutex::new(take(ebpf, names::EVENTS)?),
        })
    }

    /// The pods that are enrolled, by netns cookie; also those of an agent that ran before.
    pub fn pods(&self) -> Result<Vec<(u64, PodDivert)>, BpfError> {
        lock(&self.pods).iter().collect::<Result<_, _>>().map_err(in_map(names::PODS))
    }

    /// Adds or replaces a pod. From here on its connects are diverted.
    pub fn set_pod(&self, cookie: u64, pod: &PodDivert) -> Result<(), BpfError> {
        if pod.cgroup != 0 {
            lock(&self.cgroups).insert(pod.cgroup, pod.pod, 0).map_err(in_map(names::CGROUPS))?;
            self.add_level(pod.cgroup_level)?;
        }
        lock(&self.pods).insert(cookie, pod, 0).map_err(in_map(names::PODS))
    }

    /// Removes a pod with all that goes by its number or cookie. Its traffic is plain again.
    pub fn remove_pod(&self, cookie: u64, pod: &PodDivert) -> Result<(), BpfError> {
        absent_is_fine(lock(&self.pods).remove(&cookie)).map_err(in_map(names::PODS))?;
        absent_is_fine(lock(&self.cgroups).remove(&pod.cgroup)).map_err(in_map(names::CGROUPS))?;
        let mut addresses = lock(&self.addresses);
        let stale: Vec<IpKey> = addresses.iter().flatten().filter(|(_, s)| s.netns == cookie).map(|(k, _)| k).collect();
        for address in stale {
            absent_is_fine(addresses.remove(&address)).map_err(in_map(names::ADDRESSES))?;
        }
        drop(addresses);
        self.set_exclusions(pod.pod, &[])
    }

    /// Adds or replaces one address of a pod. From here on connections to it are steered.
    pub fn set_address(&self, address: IpKey, pod: &PodSteer) -> Result<(), BpfError> {
        lock(&self.addresses).insert(address, pod, 0).map_err(in_map(names::ADDRESSES))
    }

    /// Replaces the ranges that pod number `pod` keeps out of the mesh.
    pub fn set_exclusions(&self, pod: u32, ranges: &[IpNet]) -> Result<(), BpfError> {
        let wanted: Vec<_> = ranges.iter().map(|range| (exclusion(pod, range), 1)).collect();
        let of_pod = |key: &[u32; 5]| key[0] == pod;
        replace_keys(&mut lock(&self.excluded), &wanted, of_pod).map_err(in_map(names::EXCLUDED))
    }

    /// Replaces the ranges that are diverted, and those in them that are not.
    pub fn set_destinations(&self, diverted: &BTreeSet<IpNet>, exempt: &BTreeSet<IpNet>) -> Result<(), BpfError> {
        // The exempt come first, or else they would be diverted for a moment. What is too much is diverted, which the agent bears.
        let exempt = exempt.difference(diverted).take(MAX_EXEMPT).map(|range| (prefix(range), EXEMPT));
        let wanted: Vec<_> = exempt.chain(diverted.iter().map(|range| (prefix(range), DIVERTED))).collect();
        replace_keys(&mut lock(&self.destinations), &wanted, |_| true).map_err(in_map(names::DESTINATIONS))
    }

    /// Puts a listener into its slot; it leaves by itself when it is closed.
    pub fn set_listener(&self, slot: u32, listener: &impl AsRawFd) -> Result<(), BpfError> {
        lock(&self.listeners).set(slot, listener, 0).map_err(in_map(names::LISTENERS))
    }

    /// The facts of a socket; `None` if it has none.
    pub fn facts(&self, socket: &impl AsRawFd) -> Option<SockFacts> {
        lock(&self.sockets).get(socket, 0).ok()
    }

    /// Flags one of the agent's own sockets, before it connects.
    pub fn set_facts(&self, socket: &impl AsRawFd, facts: &SockFacts) -> Result<(), BpfError> {
        lock(&self.sockets).insert(socket, facts, 0).map_err(in_map(names::SOCKETS))
    }

    /// The counters since the maps were made, by label.
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        let total = |counter: Counter| {
            let values = self.counters.get(&(counter as u32), 0);
            values.map_or(0, |values| values.iter().sum())
        };
        Counter::ALL.into_iter().map(|(counter, label)| (label, total(counter))).collect()
    }

    /// Says whether the mesh is strict.
    pub fn set_strict(&self, strict: bool) -> Result<(), BpfError> {
        self.change_settings(|settings| settings.strict = u32::from(strict))
    }

    /// Says whose connections are probes: processes below `cgroup` in the namespace with this cookie.
    pub fn set_prober(&self, cgroup: u64, level: u32, netns: u64) -> Result<(), BpfError> {
        self.change_settings(|settings| {
            (settings.prober, settings.prober_level, settings.prober_netns) = (cgroup, level, netns);
        })
    }

    fn add_level(&self, level: u32) -> Result<(), BpfError> {
        self.change_settings(|settings| settings.pod_levels |= 1_u32.checked_shl(level).unwrap_or(0))
    }

    fn change_settings(&self, change: impl FnOnce(&mut Settings)) -> Result<(), BpfError> {
        let mut map = lock(&self.settings);
        let mut settings = map.get(&0, 0).map_err(in_map(names::SETTINGS))?;
        change(&mut settings);
        map.set(0, settings, 0).map_err(in_map(names::SETTINGS))
    }
}

/// The wanted keys come in before the others leave: a range that stays is never missing.
fn replace_keys<K: Pod + Eq + Hash>(
    map: &mut LpmTrie<MapData, K, u32>,
    wanted: &[(Key<K>, u32)],
    ours: impl Fn(&K) -> bool,
) -> Result<(), MapError> {
    for (key, value) in wanted {
        map.insert(key, *value, 0)?;
    }
    let wanted: HashSet<(u32, K)> = wanted.iter().map(|(key, _)| (key.prefix_len(), key.data())).collect();
    let present: Vec<Key<K>> = map.keys().collect::<Result<_, _>>()?;
    for key in present.iter().filter(|key| ours(&key.data()) && !wanted.contains(&(key.prefix_len(), key.data()))) {
        absent_is_fine(map.remove(key))?;
    }
    Ok(())
}

fn prefix(range: &IpNet) -> Key<IpKey> {
    let mapped = if range.addr().is_ipv4() { 96 } else { 0 };
    Key::new(mapped + u32::from(range.prefix_len()), IpKey::from(range.network()))
}

fn exclusion(pod: u32, range: &IpNet) -> Key<[u32; 5]> {
    let key = prefix(range);
    let [a, b, c, d] = key.data().words();
    Key::new(32 + key.prefix_len(), [pod, a, b, c, d])
}

fn take<T: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, BpfError> {
    let map = ebpf.take_map(name).ok_or_else(|| BpfError::Missing(name.to_owned()))?;
    T::try_from(map).map_err(in_map(name))
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The kernel keeps the state; a panic elsewhere leaves nothing half done here.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn absent_is_fine(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn in_map(name: &'static str) -> impl FnOnce(MapError) -> BpfError {
    move |source| BpfError::Map { name, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv4_ranges_are_mapped_prefixes() {
        let key = prefix(&"10.1.0.0/16".parse().unwrap());
        assert_eq!((key.prefix_len(), key.data()), (112, IpKey::from("10.1.0.0".parse::<std::net::IpAddr>().unwrap())));
        assert_eq!(prefix(&"fd77::/16".parse().unwrap()).prefix_len(), 16);
        assert_eq!(exclusion(3, &"10.1.0.0/16".parse().unwrap()).prefix_len(), 144);
    }
}
