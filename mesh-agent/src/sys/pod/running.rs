//! Which pods of this machine have processes.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::{MAX_DEPTH, cgroup, entries, is_gone};

/// Whether any process of the pod `uid` is there.
pub fn runs(root: &Path, uid: &str) -> io::Result<bool> {
    match cgroup(root, uid)? {
        Some(cgroup) => is_populated(&cgroup),
        None => Ok(false),
    }
}

/// The uid and the cgroup's id of every pod below `root` that has a process.
pub fn running(root: &Path) -> io::Result<Vec<(String, u64)>> {
    let (mut level, mut found) = (vec![root.to_owned()], Vec::new());
    for _ in 0..MAX_DEPTH {
        let mut next = Vec::new();
        for directory in level {
            for entry in entries(&directory)? {
                if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    continue;
                }
                let Some(uid) = uid(&entry.file_name().to_string_lossy()) else {
                    next.push(entry.path());
                    continue;
                };
                match entry.metadata() {
                    // The id of a cgroup is the number of its directory (kernfs).
                    Ok(found_at) if is_populated(&entry.path())? => found.push((uid, found_at.ino())),
                    Ok(_) => {}
                    Err(error) if is_gone(&error) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        level = next;
    }
    Ok(found)
}

/// The uid in the name of a pod's cgroup, of either driver.
pub(super) fn uid(name: &str) -> Option<String> {
    let is_uid = |uid: &&str| !uid.is_empty() && uid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    let uid = match name.strip_suffix(".slice") {
        Some(slice) => slice.rsplit('-').next()?.strip_prefix("pod")?.replace('_', "-"),
        None => name.strip_prefix("pod")?.to_owned(),
    };
    is_uid(&uid.as_str()).then_some(uid)
}

/// `populated` of cgroup.events: in it or below it is a process (Documentation/admin-guide/cgroup-v2.rst).
fn is_populated(cgroup: &Path) -> io::Result<bool> {
    match fs::read_to_string(cgroup.join("cgroup.events")) {
        Ok(text) => Ok(!text.lines().any(|line| line == "populated 0")),
        Err(error) if is_gone(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0e6ae9a4-1c4b-4d1e-8a43-1f3a5c2d9b10";

    #[test]
    fn pods_of_both_cgroup_drivers_are_known_by_their_uid() {
        let slice = UID.replace('-', "_");
        for (name, expected) in [
            (format!("pod{UID}"), Some(UID)),
            (format!("kubepods-pod{slice}.slice"), Some(UID)),
            (format!("kubelet-kubepods-burstable-pod{slice}.slice"), Some(UID)),
            ("kubepods".to_owned(), None),
            ("kubepods.slice".to_owned(), None),
            ("pods".to_owned(), None),
            ("system.slice".to_owned(), None),
        ] {
            assert_eq!(uid(&name).as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn a_pod_runs_while_a_process_is_in_its_cgroup_or_below() {
        let root = tempfile::tempdir().unwrap();
        let pod = root.path().join(format!("kubepods/burstable/pod{UID}"));
        fs::create_dir_all(pod.join("container")).unwrap();
        let set = |populated: &str| fs::write(pod.join("cgroup.events"), format!("populated {populated}\nfrozen 0\n"));
        set("1").unwrap();
        assert!(runs(root.path(), UID).unwrap());
        let found = running(root.path()).unwrap();
        assert_eq!(found, [(UID.to_owned(), fs::metadata(&pod).unwrap().ino())]);
        set("0").unwrap();
        assert!(!runs(root.path(), UID).unwrap() && running(root.path()).unwrap().is_empty());
        fs::remove_dir_all(&pod).unwrap();
        assert!(!runs(root.path(), UID).unwrap());
    }
}
