//! Flags of `check`.

use std::path::PathBuf;

use clap::Args;

use super::cni::CniPlace;
use super::inspect::InspectArgs;
use crate::cni::plugin::KNOWN;

/// For `check`. The variables are those of `run`: in the agent's own container they say the same.
#[derive(Args, Debug)]
pub struct DoctorArgs {
    /// Look at the cluster too, found by the pod's service account or by a kubeconfig.
    #[arg(long, env = "HAUBERK_KUBERNETES")]
    pub kubernetes: bool,
    /// Look at the cluster alone: this machine is none of its nodes.
    #[arg(long, requires = "kubernetes")]
    pub no_node: bool,
    /// Cgroup that holds the agent and its pods, as for `run`.
    #[arg(long, env = "HAUBERK_CGROUP_ROOT", value_name = "DIR")]
    pub cgroup_root: Option<PathBuf>,
    /// Cgroup of the kubelet, as for `run`.
    #[arg(long, env = "HAUBERK_KUBELET_CGROUP", value_name = "DIR")]
    pub kubelet_cgroup: Option<PathBuf>,
    /// Directory for pins, which should be on a bpf file system.
    #[arg(long, env = "HAUBERK_BPFFS", value_name = "DIR", default_value = "/sys/fs/bpf/hauberk")]
    pub bpffs: PathBuf,
    /// The socket that the CNI plugin should be told.
    #[arg(long, env = "HAUBERK_CNI_SOCKET", value_name = "PATH", default_value = "/run/hauberk/cni.sock")]
    pub cni_socket: PathBuf,
    /// The file of enrolled namespaces that the CNI plugin should be told.
    #[arg(long, env = "HAUBERK_CNI_KNOWN", value_name = "FILE", default_value = KNOWN)]
    pub cni_known: PathBuf,
    /// Where the plugin should be; without it nobody looks.
    #[command(flatten)]
    pub place: CniPlace,
    /// Where the agent is, and how to print.
    #[command(flatten)]
    pub inspect: InspectArgs,
}
