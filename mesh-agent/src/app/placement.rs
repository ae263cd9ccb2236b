//! Where the agent and its pods are among the machine's cgroups.

use std::path::{Path, PathBuf};

use super::error::{RunError, cgroup_error};
use crate::model::workload::NodeName;
use crate::state::MeshState;
use crate::sys::{cgroup, pod};

/// The cgroup that holds the agent and its pods: what is configured, or in a pod what the kubelet calls its root, or all.
pub(super) fn cgroup_root(configured: Option<&Path>, kubernetes: bool, mount: &Path) -> Result<PathBuf, RunError> {
    if let Some(root) = configured {
        return Ok(root.to_owned());
    }
    let own = cgroup::own(mount).map_err(|source| cgroup_error(Path::new("/proc/self/cgroup"), source))?;
    let above = kubernetes.then(|| pod::root_above(&own)).flatten();
    Ok(above.unwrap_or(mount).to_owned())
}

/// sock_ops programs run by the socket's cgroup, so the agent's sockets must be below the root; and a pod's cgroup around
/// the agent would make the agent that pod. Returns the id of the agent's own.
pub(super) fn check_placement(state: &MeshState, node: &NodeName, mount: &Path, root: &Path) -> Result<u64, RunError> {
    let own = cgroup::own(mount).map_err(|source| cgroup_error(Path::new("/proc/self/cgroup"), source))?;
    let problem = if !own.starts_with(root) {
        format!("is not below the cgroup root {}: start it there", root.display())
    } else if let Some(pod) =
        state.on_node(node).find(|workload| workload.cgroup.as_ref().is_some_and(|cgroup| own.starts_with(cgroup)))
    {
        format!("belongs to the workload {}: start it elsewhere", pod.uid)
    } else {
        return cgroup::lookup(mount, &own).map(|own| own.id).map_err(|source| cgroup_error(&own, source));
    };
    Err(RunError::Placement { own, problem })
}
