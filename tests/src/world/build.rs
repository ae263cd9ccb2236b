//! Makes the namespaces, links, routes and cgroups of a world.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use rustix::mount::{MountFlags, mount};

use super::layout::{self, GATEWAY_V6, Range, WIRE};
use super::pod::{Kind, Pod, PodSpec};
use super::{Family, Node, World};
use crate::cgroup;
use crate::guard::{Cleanup, Undo};
use crate::netns::Netns;
use crate::process::Place;

/// What a world shall be.
#[derive(Debug, Default)]
pub struct Builder {
    nodes: Vec<(String, Vec<PodSpec>)>,
}

impl Builder {
    /// Adds a node; the pods that follow are on it.
    pub fn node(mut self, name: &str) -> Self {
        self.nodes.push((name.to_owned(), Vec::new()));
        self
    }

    /// Adds a pod to the last node.
    pub fn pod(mut self, spec: PodSpec) -> Self {
        match self.nodes.last_mut() {
            Some((_, pods)) => pods.push(spec),
            None => panic!("a pod before the first node: a mistake in the test"),
        }
        self
    }

    /// Makes the world. Needs root.
    pub fn build(self) -> Result<World> {
        ensure!(rustix::process::geteuid().is_root(), "a world needs root: run as root");
        ensure!(self.nodes.len() == 2, "a world has two nodes, joined by one wire");
        let site = Site::prepare()?;
        let mut world = World {
            name: site.name.clone(),
            nodes: Vec::new(),
            pods: Vec::new(),
            directory: site.directory.clone(),
            cleanup: site.cleanup,
        };
        for (index, (name, _)) in (0..).zip(&self.nodes) {
            let node = make_node(&world, &site.cgroup, index, name)?;
            world.nodes.push(node);
        }
        join_nodes(&world.nodes)?;
        for (node_index, (_, specs)) in (0..).zip(self.nodes) {
            for (index, spec) in (0..).zip(specs) {
                let pod = make_pod(&world, &site.cgroup, node_index, index, spec)?;
                world.pods.push(pod);
            }
        }
        Ok(world)
    }
}

/// What a world stands on: a name, a directory with a bpffs, a cgroup.
struct Site {
    name: String,
    directory: PathBuf,
    cgroup: PathBuf,
    cleanup: Cleanup,
}

impl Site {
    fn prepare() -> Result<Self> {
        let name = format!("hbk-{}", random_hex()?);
        let cleanup = Cleanup::new()?;
        let directory = std::env::temp_dir().join(&name);
        cleanup.make(Undo::Dir(directory.clone()), || make_directory(&directory))?;
        let bpffs = bpffs(&directory);
        cleanup.make(Undo::Mount(bpffs.clone()), || {
            make_directory(&bpffs)?;
            mount("bpf", &bpffs, "bpf", MountFlags::empty(), None).context("mount a bpffs")
        })?;
        let cgroup = cgroup::mount_point()?.join(&name);
        cleanup.make(Undo::Cgroup(cgroup.clone()), || make_directory(&cgroup))?;
        Ok(Self { name, directory, cgroup, cleanup })
    }
}

fn bpffs(directory: &Path) -> PathBuf {
    directory.join("bpffs")
}

fn make_directory(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).with_context(|| format!("make {}", path.display()))
}

fn random_hex() -> Result<String> {
    let mut bytes = [0; 3];
    let mut source = std::fs::File::open("/dev/urandom").context("open /dev/urandom")?;
    std::io::Read::read_exact(&mut source, &mut bytes).context("read /dev/urandom")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn make_node(world: &World, cgroup: &Path, index: u8, name: &str) -> Result<Node> {
    let netns = Netns::create(&world.cleanup, &format!("{}-{name}", world.name))?;
    netns.sysctl(&[
        ("ipv6/conf/all/accept_dad", "0"),
        ("ipv6/conf/default/accept_dad", "0"),
        ("ipv4/ip_forward", "1"),
        ("ipv6/conf/all/forwarding", "1"),
    ])?;
    netns.ip("link set lo up\n")?;
    let cgroup_root = cgroup.join(name);
    let agent = cgroup_root.join("agent");
    make_directory(&agent)?;
    let bpffs = bpffs(&world.directory).join(name);
    make_directory(&bpffs)?;
    let place = Place { netns, cgroup: agent, logs: world.directory.clone() };
    debug_assert_eq!(usize::from(index), world.nodes.len(), "nodes are made in order");
    let address = layout::wire_address(index, Family::V4);
    Ok(Node { name: name.to_owned(), place, address, cgroup_root, bpffs })
}

/// Joins two nodes by the wire and routes each other's pods over it.
fn join_nodes(nodes: &[Node]) -> Result<()> {
    let [first, second] = nodes else { panic!("checked by build") };
    let other = second.place.netns.name();
    let [own, far] = [0, 1].map(layout::wire_link_address);
    first.place.netns.ip(&format!(
        "link add {WIRE} address {own} mtu 1500 type veth peer name {WIRE} address {far} mtu 1500 netns {other}\n"
    ))?;
    for (index, node) in (0..).zip(nodes) {
        let mut commands = String::new();
        for (family, prefix) in [(Family::V4, 24), (Family::V6, 64)] {
            let address = layout::wire_address(index, family);
            commands += &format!("address add {address}/{prefix} dev {WIRE}\n");
        }
        commands += &format!("link set {WIRE} up\n");
        node.place.netns.ip(&commands)?;
    }
    for (index, node) in (0..).zip(nodes) {
        let far = 1 - index;
        let mut commands = String::new();
        for family in Family::BOTH {
            let (address, link) = (layout::wire_address(far, family), layout::wire_link_address(far));
            commands += &format!("neighbour add {address} lladdr {link} dev {WIRE}\n");
        }
        for range in layout::node_ranges(far) {
            let family = if range.contains(':') { Family::V6 } else { Family::V4 };
            commands += &format!("route add {range} via {}\n", layout::wire_address(far, family));
        }
        node.place.netns.ip(&commands)?;
    }
    Ok(())
}

fn make_pod(world: &World, cgroup: &Path, node_index: u8, index: u8, spec: PodSpec) -> Result<Pod> {
    let node = &world.nodes[usize::from(node_index)];
    let netns = Netns::create(&world.cleanup, &format!("{}-{}", world.name, spec.name))?;
    netns.sysctl(&[("ipv6/conf/all/accept_dad", "0"), ("ipv6/conf/default/accept_dad", "0")])?;
    let range = if spec.kind == Kind::Stranger { Range::Outside } else { Range::Pods };
    let [v4, v6] = Family::BOTH.map(|family| layout::pod_address(range, node_index, index, family));
    let gateway = layout::gateway_v4(node_index);
    let (port, name) = (format!("pod{index}"), netns.name());
    let [host_end, pod_end] = layout::link_addresses(node_index, index);
    // The neighbours are written down: no first packet waits for a lookup, so "it is not on the wire" means never.
    node.place.netns.ip(&format!(
        "link add {port} address {host_end} type veth peer name eth0 address {pod_end} netns {name}\n\
         address add {gateway}/32 dev {port}\n\
         address add {GATEWAY_V6}/64 dev {port} nodad\n\
         link set {port} up\n\
         route add {v4}/32 dev {port}\n\
         route add {v6}/128 dev {port}\n\
         neighbour add {v4} lladdr {pod_end} dev {port}\n\
         neighbour add {v6} lladdr {pod_end} dev {port}\n"
    ))?;
    netns.ip(&format!(
        "link set lo up\n\
         link set eth0 up\n\
         address add {v4}/32 dev eth0\n\
         address add {v6}/128 dev eth0 nodad\n\
         route add {gateway}/32 dev eth0\n\
         route add default via {gateway}\n\
         route add default via {GATEWAY_V6} dev eth0\n\
         neighbour add {gateway} lladdr {host_end} dev eth0\n\
         neighbour add {GATEWAY_V6} lladdr {host_end} dev eth0\n"
    ))?;
    let cgroup = match spec.kind {
        Kind::Workload => node.cgroup_root.join("pods").join(&spec.name),
        Kind::Outsider | Kind::Stranger => cgroup.join("outside").join(&spec.name),
    };
    make_directory(&cgroup)?;
    let place = Place { netns, cgroup, logs: world.directory.clone() };
    Ok(Pod::new(spec, node.name.clone(), host_end, place, [v4, v6]))
}
