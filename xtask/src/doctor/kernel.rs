//! Probes the kernel: its release, its file systems, and every program and map type that the mesh loads.
use std::{fs, io, path::PathBuf};

use aya::{
    maps::MapType,
    programs::{ProgramType, SchedClassifier, TcAttachType},
    sys::{BpfHelper, is_helper_supported, is_map_supported},
};

use super::{
    defects::{KernelDefect, defects_of, parse_version},
    table::{Row, Status},
};
use crate::sys;

/// The oldest kernel with every hook that the mesh cannot do without: netns cookies in sock_ops.
const OLDEST: (u32, u32) = (5, 15);

/// A kind of program that the mesh attaches; the numbers are those of `linux/bpf.h`.
pub(crate) struct Hook {
    name: &'static str,
    program_type: u32,
    pub(crate) attach_type: u32,
    follows: &'static str,
}

const fn hook(name: &'static str, program_type: u32, attach_type: u32, follows: &'static str) -> Hook {
    Hook { name, program_type, attach_type, follows }
}

impl Hook {
    /// The hook without the family of its program type.
    pub(crate) fn short_name(&self) -> &'static str {
        self.name.rsplit('/').next().unwrap_or(self.name)
    }
}

/// What is attached at the cgroup root.
pub(crate) const CGROUP_HOOKS: [Hook; 6] = [
    hook("cgroup/connect4", 18, 10, "no IPv4 connection can be diverted"),
    hook("cgroup/connect6", 18, 11, "no IPv6 connection can be diverted"),
    hook("cgroup/getpeername4", 18, 29, "applications would see the agent's address (kernel 5.8)"),
    hook("cgroup/getpeername6", 18, 30, "applications would see the agent's address (kernel 5.8)"),
    hook("cgroup/sock_ops", 13, 3, "the agent cannot learn the original destination"),
    hook("cgroup/skb_egress", 8, 1, "raw sockets of a pod could bypass the mesh"),
];

/// What is attached to a pod's namespace and to the host's side of its veth.
const POD_HOOKS: [Hook; 2] = [
    hook("sk_lookup", 30, 36, "incoming connections cannot be steered to the agent (kernel 5.9)"),
    hook("tc classifier", 3, 0, "AF_PACKET sockets of a pod could bypass the mesh"),
];

const HELPERS: [(&str, ProgramType, BpfHelper, &str); 5] = [
    (
        "netns cookie in connect",
        ProgramType::CgroupSockAddr,
        BpfHelper::BPF_FUNC_get_netns_cookie,
        "a pod's connections are not recognised (kernel 5.7)",
    ),
    (
        "netns cookie in sock_ops",
        ProgramType::SockOps,
        BpfHelper::BPF_FUNC_get_netns_cookie,
        "facts do not reach the agent's socket (kernel 5.15)",
    ),
    (
        "storage in connect",
        ProgramType::CgroupSockAddr,
        BpfHelper::BPF_FUNC_sk_storage_get,
        "the original destination cannot be kept (kernel 5.8)",
    ),
    (
        "storage in sock_ops",
        ProgramType::SockOps,
        BpfHelper::BPF_FUNC_sk_storage_get,
        "the original destination cannot be handed over (kernel 5.8)",
    ),
    (
        "assign in sk_lookup",
        ProgramType::SkLookup,
        BpfHelper::BPF_FUNC_sk_assign,
        "incoming connections cannot be steered to the agent (kernel 5.9)",
    ),
];

const MAPS: [(&str, MapType, &str); 6] = [
    ("hash", MapType::Hash, "no pod can be enrolled"),
    ("LRU hash", MapType::LruHash, "facts in transit cannot be bounded"),
    ("LPM trie", MapType::LpmTrie, "destinations cannot be matched by range"),
    ("ring buffer", MapType::RingBuf, "denials in the kernel are not reported (kernel 5.8)"),
    ("socket map", MapType::SockMap, "sk_lookup has nothing to steer to"),
    ("socket storage", MapType::SkStorage, "the original destination cannot be kept (kernel 5.2)"),
];

/// Everything about the kernel.
pub(crate) fn rows() -> Vec<Row> {
    let mut rows = vec![release(), btf(), cgroup2_row(), bpffs_row()];
    rows.extend(tls_defects());
    rows.extend(CGROUP_HOOKS.iter().chain(&POD_HOOKS).map(hook_row));
    rows.push(tcx());
    rows.extend(HELPERS.map(|(name, program, helper, follows)| {
        let known = is_helper_supported(program, helper).map_err(program_error);
        support(format!("helper: {name}"), known, follows)
    }));
    rows.extend(MAPS.map(|(name, map, follows)| {
        support(format!("map: {name}"), is_map_supported(map).map_err(|error| error.io_error), follows)
    }));
    rows
}

/// Where the cgroup2 hierarchy is mounted.
pub(crate) fn cgroup2_root() -> Option<PathBuf> {
    mount_point(&fs::read_to_string("/proc/self/mountinfo").ok()?, "cgroup2")
}

fn release() -> Row {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let name = "kernel";
    if parse_release(release).is_some_and(|version| version >= OLDEST) {
        Row::ok(name, release)
    } else {
        Row::missing(name, release, format!("the mesh needs {}.{} or newer", OLDEST.0, OLDEST.1))
    }
}

/// What is known against the TLS of kernels of this version, whether or not it has TLS.
fn tls_defects() -> impl Iterator<Item = Row> {
    let name = rustix::system::uname();
    let version = parse_version(&name.release().to_string_lossy(), &name.version().to_string_lossy());
    let row = |defect: &KernelDefect| {
        Row::degraded("kTLS defect", defect.cve, format!("{}; update, or `tls.dataPath: Userspace`", defect.summary))
    };
    version.into_iter().flat_map(defects_of).map(row)
}

fn btf() -> Row {
    let path = "/sys/kernel/btf/vmlinux";
    let size = fs::metadata(path).map(|meta| format!("{path}, {} KiB", meta.len() / 1024));
    Row::probed("BTF", size, Status::Degraded, "no tool can trace the kernel's types; our programs load without it")
}

fn cgroup2_row() -> Row {
    match cgroup2_root() {
        Some(root) => Row::ok("cgroup2", root.display()),
        None => Row::missing("cgroup2", "not mounted", "nothing to attach to: mount -t cgroup2 none /sys/fs/cgroup"),
    }
}

fn bpffs_row() -> Row {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    match mount_point(&mounts, "bpf") {
        Some(path) => Row::ok("bpffs", path.display()),
        None => Row::degraded(
            "bpffs",
            "not mounted",
            "the agent cannot pin its programs: mount -t bpf bpf /sys/fs/bpf (tests and demo mount their own)",
        ),
    }
}

fn hook_row(hook: &Hook) -> Row {
    let loaded = sys::load_program(hook.program_type, hook.attach_type).map(|_| "loads");
    Row::probed(hook.name, loaded, Status::Missing, hook.follows)
}

/// A query tells the two ways of attaching apart, without attaching anything.
fn tcx() -> Row {
    let queried = SchedClassifier::query_tcx("lo", TcAttachType::Ingress).map(|_| "tcx").map_err(program_error);
    Row::probed("tc attachment", queried, Status::Degraded, "clsact is used instead of tcx (kernel 6.6)")
}

fn support(name: String, known: io::Result<bool>, follows: &str) -> Row {
    let known = known.and_then(|yes| if yes { Ok("supported") } else { Err(io::ErrorKind::Unsupported.into()) });
    Row::probed(name, known, Status::Missing, follows)
}

/// The system call's own error, which says whether only privileges are missing.
fn program_error(error: aya::programs::ProgramError) -> io::Error {
    match error {
        aya::programs::ProgramError::SyscallError(error) => error.io_error,
        other => io::Error::other(other),
    }
}

fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// The first mount of `kind` in a `mountinfo`: the fields after " - " begin with the type.
fn mount_point(mountinfo: &str, kind: &str) -> Option<PathBuf> {
    let mount = |line: &str| {
        let (place, what) = line.split_once(" - ")?;
        (what.split(' ').next() == Some(kind)).then(|| place.split(' ').nth(4).map(PathBuf::from))?
    };
    mountinfo.lines().find_map(mount)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_compared_by_its_numbers() {
        assert_eq!(parse_release("6.18.44-fc-v769"), Some((6, 18)));
        assert_eq!(parse_release("5.9"), Some((5, 9)));
        assert!(parse_release("5.9").unwrap() < OLDEST && parse_release("5.15-rc1").unwrap() >= OLDEST);
        assert_eq!(parse_release("unknown"), None);
    }

    #[test]
    fn a_mount_is_found_by_its_type_not_by_its_name() {
        let mountinfo = "\
30 25 0:26 / /sys/fs/cgroup rw,relatime - tmpfs cgroup2 rw
31 30 0:27 / /sys/fs/cgroup/unified rw,relatime shared:4 - cgroup2 none rw
";
        assert_eq!(mount_point(mountinfo, "cgroup2"), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(mount_point(mountinfo, "bpf"), None);
    }

    #[test]
    fn an_unsupported_map_stops_the_mesh() {
        assert_eq!(support("map: x".into(), Ok(false), "no").status(), Status::Missing);
    }
}
