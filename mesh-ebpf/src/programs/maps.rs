//! Every map: key, value, who writes, who reads, why this capacity, what happens when it is full.
//!
//! The names repeat `mesh_common::names`, since attributes take literals; the agent's loader checks them.
use aya_ebpf::{
    btf_maps::SkStorage,
    macros::{btf_map, map},
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf, SockMap, lpm_trie::Key},
};
use mesh_common::{
    addr::IpKey,
    conn::{ConnKey, SockFacts},
    divert::{DIVERTED, Destination, PodDivert, Settings},
    event::Counter,
    steer::{LISTENERS_PER_POD, PodSteer},
};

/// Pods of one node: four times the kubelet's usual limit of 250.
const MAX_PODS: u32 = 1024;
/// Addresses of the whole mesh, the ranges of pods and services, and what is exempt in them.
const MAX_DESTINATIONS: u32 = 65_536;
const NO_PREALLOC: u32 = 1;

/// Netns cookie → pod. Written by the agent on enrol; full: the enrolment fails.
#[map(name = "mesh_pods")]
static PODS: HashMap<u64, PodDivert> = HashMap::with_max_entries(MAX_PODS, 0);
/// Cgroup id → pod number. Written by the agent on enrol; full: the enrolment fails.
#[map(name = "mesh_cgroups")]
static CGROUPS: HashMap<u64, u32> = HashMap::with_max_entries(MAX_PODS, 0);
/// Address → pod of this node. Written by the agent on enrol; full: the enrolment fails.
#[map(name = "mesh_addresses")]
static ADDRESSES: HashMap<IpKey, PodSteer> = HashMap::with_max_entries(MAX_PODS * 4, 0);
/// Prefix → whether it is diverted; the longest one decides. Written by the agent from its snapshot; full: the update fails and is reported.
#[map(name = "mesh_dests")]
static DESTINATIONS: LpmTrie<IpKey, u32> = LpmTrie::with_max_entries(MAX_DESTINATIONS, NO_PREALLOC);
/// Pod number and prefix → 1. Written by the agent on enrol; full: the enrolment fails.
#[map(name = "mesh_excluded")]
static EXCLUDED: LpmTrie<[u32; 5], u32> = LpmTrie::with_max_entries(MAX_PODS * 16, NO_PREALLOC);
/// The agent's listeners. A closed listener leaves its slot by itself: connections are refused then.
#[map(name = "mesh_listeners")]
static LISTENERS: SockMap = SockMap::with_max_entries(MAX_PODS * LISTENERS_PER_POD, 0);
/// Facts of one socket; they die with it.
#[btf_map(name = "mesh_sockets")]
static SOCKETS: SkStorage<SockFacts> = SkStorage::new();
/// Facts between SYN and accept, in a few microseconds. LRU: a refused SYN leaves its entry behind.
#[map(name = "mesh_pending")]
static PENDING: LruHashMap<ConnKey, SockFacts> = LruHashMap::with_max_entries(32_768, 0);
/// Original destinations by connection, to show and nothing else. LRU: an old MPTCP connection then shows the agent.
#[map(name = "mesh_peers")]
static PEERS: LruHashMap<ConnKey, SockFacts> = LruHashMap::with_max_entries(16_384, 0);
/// The agent's connections between SYN and establishment. LRU: an evicted one shows as a dropped SYN retransmission.
#[map(name = "mesh_flows")]
static FLOWS: LruHashMap<ConnKey, u32> = LruHashMap::with_max_entries(32_768, 0);
/// The kubelet's probes between SYN and establishment. LRU: an evicted one meets the agent, and fails in strict mode.
#[map(name = "mesh_probes")]
static PROBES: LruHashMap<ConnKey, u32> = LruHashMap::with_max_entries(4096, 0);

/// By [`Counter`]. Read by the agent's metrics.
#[map(name = "mesh_counters")]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counter::ALL.len() as u32, 0);
/// Denials. Drained by the agent; full: counted as lost.
#[map(name = "mesh_events")]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(256 * 1024, 0);
/// One entry, written by the agent.
#[map(name = "mesh_settings")]
static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);

/// The pod whose namespace has this cookie.
#[inline(always)]
pub fn pod(netns: u64) -> Option<&'static PodDivert> {
    // SAFETY: the agent replaces entries whole, and a reader of a half old, half new one decides about a pod that is
    // being enrolled or withdrawn in this instant.
    unsafe { PODS.get(&netns) }
}

/// Whether an enrolled pod has this cgroup.
#[inline(always)]
pub fn is_pod_cgroup(cgroup: u64) -> bool {
    // SAFETY: only presence is used.
    unsafe { CGROUPS.get(&cgroup) }.is_some()
}

/// The pod of this node that has this address.
#[inline(always)]
pub fn steer(address: &IpKey) -> Option<&'static PodSteer> {
    // SAFETY: as for `pod`.
    unsafe { ADDRESSES.get(address) }
}

/// What the maps know of `address`, for pod number `pod`.
#[inline(always)]
pub fn destination(address: &IpKey, pod: Option<u32>) -> Destination {
    if DESTINATIONS.get(Key::new(128, *address)) != Some(&DIVERTED) {
        return Destination::Outside;
    }
    let [a, b, c, d] = address.words();
    match pod {
        Some(pod) if EXCLUDED.get(Key::new(160, [pod, a, b, c, d])).is_some() => Destination::Excluded,
        _ => Destination::Mesh,
    }
}

/// The listeners, for `ctx::assign`.
#[inline(always)]
pub fn listeners() -> &'static SockMap {
    &LISTENERS
}

/// The socket storage, for `ctx`.
#[inline(always)]
pub fn sockets() -> &'static SkStorage<SockFacts> {
    &SOCKETS
}

/// Leaves facts for the accepting end of a local connection.
#[inline(always)]
pub fn leave_facts(key: &ConnKey, facts: &SockFacts) -> bool {
    PENDING.insert(key, facts, 0).is_ok()
}

/// Takes the facts that the connecting end left.
#[inline(always)]
pub fn take_facts(key: &ConnKey) -> Option<SockFacts> {
    // SAFETY: a key is written once, before its SYN, and read once, after it.
    let facts = unsafe { PENDING.get(key) }.copied();
    if facts.is_some() {
        // An entry that is gone already was evicted: nothing is lost.
        let _ = PENDING.remove(key);
    }
    facts
}

/// Keeps what getpeername shows on a socket that has no facts.
#[inline(always)]
pub fn remember_peer(key: &ConnKey, facts: &SockFacts) {
    // Without it an MPTCP socket shows the agent's address: nothing depends on that.
    let _ = PEERS.insert(key, facts, 0);
}

/// What [`remember_peer`] kept.
#[inline(always)]
pub fn peer(key: &ConnKey) -> Option<&'static SockFacts> {
    // SAFETY: an entry is written before its connection can ask, and only for that connection.
    unsafe { PEERS.get(key) }
}

/// Lets the SYNs of one of the agent's connections pass the pod's interface.
#[inline(always)]
pub fn open_flow(key: &ConnKey) -> bool {
    FLOWS.insert(key, &1, 0).is_ok()
}

/// The connection is established or closed: its SYN has no business any more.
#[inline(always)]
pub fn close_flow(key: &ConnKey) {
    let _ = FLOWS.remove(key);
}

/// Whether the agent is opening this connection.
#[inline(always)]
pub fn is_flow(key: &ConnKey) -> bool {
    // SAFETY: only presence is used.
    unsafe { FLOWS.get(key) }.is_some()
}

/// Lets the SYNs of one probe reach the application.
#[inline(always)]
pub fn open_probe(key: &ConnKey) -> bool {
    PROBES.insert(key, &1, 0).is_ok()
}

/// The probe is established or has failed.
#[inline(always)]
pub fn close_probe(key: &ConnKey) {
    let _ = PROBES.remove(key);
}

/// Whether this is a probe that is being opened.
#[inline(always)]
pub fn is_probe(key: &ConnKey) -> bool {
    // SAFETY: only presence is used.
    unsafe { PROBES.get(key) }.is_some()
}

/// Node-wide values.
#[inline(always)]
pub fn settings() -> Settings {
    SETTINGS.get(0).copied().unwrap_or_default()
}

/// Levels at which pods have their cgroups, as bits.
#[inline(always)]
pub fn pod_levels() -> u32 {
    SETTINGS.get(0).map_or(0, |settings| settings.pod_levels)
}

/// Whether the mesh is strict. The agent says so before it enrols its first pod.
#[inline(always)]
pub fn is_strict() -> bool {
    SETTINGS.get(0).is_none_or(|settings| settings.strict != 0)
}

/// Counts one event.
#[inline(always)]
pub fn count(counter: Counter) {
    if let Some(slot) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: the slot is this CPU's, and the kernel does not interrupt it with the same hook.
        unsafe { *slot += 1 }
    }
}
