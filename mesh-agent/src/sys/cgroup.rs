//! Cgroups as the kernel programs see them: ids and levels.
//!
//! A cgroup's id is the inode number of its directory (KERNEL.md §1), its level the depth below the cgroup2 mount.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// A cgroup's id and depth.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Cgroup {
    /// What `bpf_get_current_cgroup_id` returns in it.
    pub id: u64,
    /// 0 for the mount itself.
    pub level: u32,
}

/// The mount of the machine's whole cgroup2 hierarchy, from `/proc/self/mountinfo`. In a cgroup namespace of its own a
/// container sees that as one above the root (cgroup_namespaces(7)).
pub fn mount_point() -> io::Result<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    let found = parse_mount(&mounts, is_above).or_else(|| parse_mount(&mounts, is_root));
    found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no cgroup2 file system is mounted"))
}

/// Looks up a cgroup below `mount`.
pub fn lookup(mount: &Path, path: &Path) -> io::Result<Cgroup> {
    let below = path.strip_prefix(mount).map_err(|_outside| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("not below the cgroup2 mount {}", mount.display()))
    })?;
    let level = u32::try_from(below.components().count()).map_err(io::Error::other)?;
    Ok(Cgroup { id: std::fs::metadata(path)?.ino(), level })
}

/// A process' cgroup, as a path below `mount`.
pub fn of_process(mount: &Path, pid: u32) -> io::Result<PathBuf> {
    let path = listed(&pid.to_string())?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    if parse_mount(&mounts, is_above).is_none() {
        return Ok(mount.join(path));
    }
    // Elsewhere than below our namespace's root it begins with `..`.
    let mut below = own(mount)?;
    for part in Path::new(&path).components() {
        if part != Component::ParentDir {
            below.push(part);
        } else if !below.pop() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("no cgroup: {path}")));
        }
    }
    Ok(below)
}

/// What a process' entry in procfs says, from our cgroup namespace's root on.
fn listed(process: &str) -> io::Result<String> {
    let text = std::fs::read_to_string(format!("/proc/{process}/cgroup"))?;
    // The unified hierarchy is number 0 (cgroups(7)).
    Ok(text.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default().to_owned())
}

/// This process' own cgroup, as a path below `mount`.
pub fn own(mount: &Path) -> io::Result<PathBuf> {
    let path = listed("self")?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    if parse_mount(&mounts, is_above).is_none() {
        return Ok(mount.join(path));
    }
    // The path counts from our namespace's root, of which the mount doesn't tell where it is.
    let lost = || io::Error::new(io::ErrorKind::NotFound, "the agent's own cgroup is not below the cgroup2 mount");
    let ours = parse_mount(&mounts, is_root).ok_or_else(lost)?.join(path);
    find(mount, std::fs::metadata(ours)?.ino())?.ok_or_else(lost)
}

/// The cgroup of this id at or below `directory`.
fn find(directory: &Path, id: u64) -> io::Result<Option<PathBuf>> {
    if std::fs::metadata(directory)?.ino() == id {
        return Ok(Some(directory.to_owned()));
    }
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            continue;
        }
        match find(&entry.path(), id) {
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            found => return found,
        }
    }
    Ok(None)
}

fn is_root(root: &str) -> bool {
    root == "/"
}

fn is_above(root: &str) -> bool {
    root.strip_prefix('/').is_some_and(|rest| !rest.is_empty() && rest.split('/').all(|part| part == ".."))
}

fn parse_mount(mountinfo: &str, is_wanted: fn(&str) -> bool) -> Option<PathBuf> {
    // proc_pid_mountinfo(5): fields up to " - ", then type, source, options; field 4 is the root, field 5 the point.
    mountinfo.lines().find_map(|line| {
        let (fields, tail) = line.split_once(" - ")?;
        let mut fields = fields.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        (tail.starts_with("cgroup2 ") && is_wanted(root)).then(|| PathBuf::from(point))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroup2_mount_is_found_among_others() {
        let mountinfo = "30 23 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n\
            31 30 0:27 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n\
            32 30 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n";
        assert_eq!(parse_mount(mountinfo, is_root), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(parse_mount("30 23 0:26 / / rw - ext4 /dev/vda rw\n", is_root), None);
    }

    #[test]
    fn a_container_with_a_cgroup_namespace_of_its_own_knows_the_machines_mount() {
        let mountinfo = "40 30 0:27 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw\n\
            41 30 0:27 /../../.. /host/cgroup ro - cgroup2 cgroup2 rw\n";
        assert_eq!(parse_mount(mountinfo, is_above), Some(PathBuf::from("/host/cgroup")));
        assert!(!is_above("/") && !is_above("/../kubepods") && !is_above("/kubepods"));
    }

    #[test]
    fn a_cgroup_is_found_by_its_id() {
        let root = tempfile::tempdir().unwrap();
        let below = root.path().join("kubepods/pod1/agent");
        std::fs::create_dir_all(&below).unwrap();
        let id = std::fs::metadata(&below).unwrap().ino();
        assert_eq!(find(root.path(), id).unwrap(), Some(below));
        assert_eq!(find(root.path(), 0).unwrap(), None);
    }

    #[test]
    fn a_cgroup_elsewhere_is_refused() {
        let error = lookup(Path::new("/sys/fs/cgroup"), Path::new("/tmp")).unwrap_err();
        assert_eq!(error.to_string(), "not below the cgroup2 mount /sys/fs/cgroup");
    }
}
