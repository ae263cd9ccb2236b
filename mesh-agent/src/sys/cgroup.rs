//! Cgroups as the kernel programs see them: ids and levels.
//!
//! A cgroup's id is the inode number of its directory (KERNEL.md §1), its level the depth below the cgroup2 mount.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A cgroup's id and depth.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Cgroup {
    /// What `bpf_get_current_cgroup_id` returns in it.
    pub id: u64,
    /// 0 for the mount itself.
    pub level: u32,
}

/// The cgroup2 mount, from `/proc/self/mountinfo`.
pub fn mount_point() -> io::Result<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    parse_mount(&mounts).ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no cgroup2 file system is mounted"))
}

/// Looks up a cgroup below `mount`.
pub fn lookup(mount: &Path, path: &Path) -> io::Result<Cgroup> {
    let below = path.strip_prefix(mount).map_err(|_outside| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("not below the cgroup2 mount {}", mount.display()))
    })?;
    let level = u32::try_from(below.components().count()).map_err(io::Error::other)?;
    Ok(Cgroup { id: std::fs::metadata(path)?.ino(), level })
}

/// This process' own cgroup, as a path below `mount`.
pub fn own(mount: &Path) -> io::Result<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/cgroup")?;
    // The unified hierarchy is number 0 (cgroups(7)).
    let path = text.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    Ok(mount.join(path))
}

fn parse_mount(mountinfo: &str) -> Option<PathBuf> {
    // proc_pid_mountinfo(5): fields up to " - ", then type, source, options; field 4 is the root, field 5 the point.
    mountinfo.lines().find_map(|line| {
        let (fields, tail) = line.split_once(" - ")?;
        let mut fields = fields.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        (tail.starts_with("cgroup2 ") && root == "/").then(|| PathBuf::from(point))
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
        assert_eq!(parse_mount(mountinfo), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(parse_mount("30 23 0:26 / / rw - ext4 /dev/vda rw\n"), None);
    }

    #[test]
    fn a_cgroup_elsewhere_is_refused() {
        let error = lookup(Path::new("/sys/fs/cgroup"), Path::new("/tmp")).unwrap_err();
        assert_eq!(error.to_string(), "not below the cgroup2 mount /sys/fs/cgroup");
    }
}
