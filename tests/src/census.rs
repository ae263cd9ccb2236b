//! Counts what a mesh holds on the machine, so that a test can say that it ends where it began.
//!
//! From outside: /proc for processes and namespaces, the pinned maps for the kernel side. Socket storage can't be
//! counted by itself, but dies with its socket; so each namespace's sockets are counted, TIME_WAIT excluded, which are
//! no sockets any more and hold no storage.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use aya::Pod as Plain;
use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{HashMap, Map, MapData};
use mesh_common::addr::IpKey;
use mesh_common::conn::{ConnKey, SockFacts};
use mesh_common::divert::PodDivert;
use mesh_common::names;
use mesh_common::steer::PodSteer;

use crate::agent::Agent;
use crate::mesh::Mesh;
use crate::netns::Netns;
use crate::world::{Node, World};

/// What was counted, each with its place.
pub type Counts = BTreeMap<String, u64>;

/// One moment's counts.
#[derive(Clone, Debug, Default)]
pub struct Census {
    /// What must end where it began.
    pub exact: Counts,
    /// Entries of the maps that make room by themselves: what is in them may be stale, and their size is their bound.
    pub evicting: Counts,
    /// Resident bytes of each agent.
    pub resident: Counts,
}

impl Census {
    /// Counts. The mesh should be idle: what comes and goes meanwhile is counted or not.
    pub fn take(world: &World, mesh: &Mesh) -> Result<Self> {
        let mut census = Self::default();
        for agent in mesh.agents() {
            census.count_process(agent)?;
        }
        for node in world.nodes() {
            census.count_pins(node)?;
            census.count_sockets(node.name(), &node.place().netns)?;
        }
        for pod in world.pods() {
            census.count_sockets(pod.name(), &pod.netns)?;
        }
        Ok(census)
    }

    /// What is not as it was in `before`: the name, then and now.
    pub fn changes(&self, before: &Self) -> Vec<String> {
        let names = self.exact.keys().chain(before.exact.keys().filter(|name| !self.exact.contains_key(*name)));
        let value = |counts: &Counts, name| counts.get(name).copied().unwrap_or(0);
        names
            .map(|name| (name, value(&before.exact, name), value(&self.exact, name)))
            .filter(|(_, then, now)| then != now)
            .map(|(name, then, now)| format!("{name}: {then}, now {now}"))
            .collect()
    }

    fn count_process(&mut self, agent: &Agent) -> Result<()> {
        let id = agent.id().context("the agent was stopped")?;
        let node = agent.node();
        for entry in std::fs::read_dir(format!("/proc/{id}/fd")).context("list the agent's descriptors")? {
            // One that has been closed meanwhile is none.
            let Ok(target) = std::fs::read_link(entry?.path()) else { continue };
            let target = target.display().to_string();
            let kind = match target.split_once(':') {
                Some(("anon_inode", name)) => name,
                Some((kind, _)) => kind,
                None => "file",
            };
            *self.exact.entry(format!("{node}: descriptors, {kind}")).or_default() += 1;
        }
        let threads = std::fs::read_dir(format!("/proc/{id}/task")).context("list the agent's threads")?.count();
        self.exact.insert(format!("{node}: threads"), threads.try_into()?);
        self.resident.insert(node.to_owned(), agent.resident_bytes()?);
        Ok(())
    }

    fn count_pins(&mut self, node: &Node) -> Result<()> {
        let pins = node.pins()?;
        self.exact.insert(format!("{}: pins", node.name()), pins.len().try_into()?);
        for pin in pins {
            let name = pin.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let key = format!("{}: entries of {name}", node.name());
            match name.as_str() {
                names::PODS => drop(self.exact.insert(key, hash::<u64, PodDivert>(&pin)?)),
                names::CGROUPS => drop(self.exact.insert(key, hash::<u64, u32>(&pin)?)),
                names::ADDRESSES => drop(self.exact.insert(key, hash::<IpKey, PodSteer>(&pin)?)),
                names::DESTINATIONS => drop(self.exact.insert(key, trie::<IpKey>(&pin)?)),
                names::EXCLUDED => drop(self.exact.insert(key, trie::<[u32; 5]>(&pin)?)),
                names::FLOWS => drop(self.exact.insert(key, hash::<ConnKey, u32>(&pin)?)),
                names::PEERS | names::PENDING => {
                    self.evicting.insert(key, hash::<ConnKey, SockFacts>(&pin)?);
                }
                // Of a fixed size, or of sockets, which are counted; or no map.
                _ => {}
            }
        }
        Ok(())
    }

    fn count_sockets(&mut self, place: &str, netns: &Netns) -> Result<()> {
        // This thread's namespace; the process is elsewhere.
        let text = netns.enter(|| Ok(std::fs::read_to_string("/proc/thread-self/net/sockstat")?))?;
        let used = text.lines().find_map(|line| line.strip_prefix("sockets: used ")).context("no line of sockets")?;
        self.exact.insert(format!("{place}: sockets"), used.trim().parse().context("read the number of sockets")?);
        Ok(())
    }
}

fn hash<K: Plain, V: Plain>(pin: &Path) -> Result<u64> {
    let map: HashMap<MapData, K, V> = open(pin)?.try_into().with_context(|| format!("use {}", pin.display()))?;
    count(map.keys())
}

fn trie<K: Plain>(pin: &Path) -> Result<u64> {
    let map: LpmTrie<MapData, K, u32> = open(pin)?.try_into().with_context(|| format!("use {}", pin.display()))?;
    count(map.keys())
}

fn open(pin: &Path) -> Result<Map> {
    let data = MapData::from_pin(pin).with_context(|| format!("open {}", pin.display()))?;
    Map::from_map_data(data).with_context(|| format!("open {}", pin.display()))
}

fn count<K, E: std::error::Error + Send + Sync + 'static>(keys: impl Iterator<Item = Result<K, E>>) -> Result<u64> {
    let mut count = 0;
    for key in keys {
        if let Err(error) = key {
            bail!("list the keys of a map: {error}");
        }
        count += 1;
    }
    Ok(count)
}
