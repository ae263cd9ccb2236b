//! Flags of the CNI plugin: the agent's end of it, and where it is installed.

use std::path::PathBuf;

use clap::Args;

use crate::cni::plugin::KNOWN;

/// For `run`.
#[derive(Args, Debug)]
pub struct CniArgs {
    /// UNIX socket on which the CNI plugin hands pods over before they run; mode 0600. With --kubernetes.
    #[arg(long, env = "HAUBERK_CNI_SOCKET", value_name = "PATH", requires = "kubernetes")]
    pub cni_socket: Option<PathBuf>,
    /// File that tells the plugin which namespaces are enrolled while no agent runs. It should outlive a reboot.
    #[arg(long, env = "HAUBERK_CNI_KNOWN", value_name = "FILE", default_value = KNOWN)]
    pub cni_known: PathBuf,
    /// Where the plugin is installed.
    #[command(flatten)]
    pub place: CniPlace,
}

/// Where a node's runtime finds plugins: both, or the plugin is not installed.
#[derive(Args, Debug)]
pub struct CniPlace {
    /// Directory in which the runtime looks for CNI plugins, such as /opt/cni/bin.
    #[arg(long, env = "HAUBERK_CNI_BIN_DIR", value_name = "DIR", requires = "cni_conf_dir")]
    pub cni_bin_dir: Option<PathBuf>,
    /// Directory of the runtime's network configuration, such as /etc/cni/net.d.
    #[arg(long, env = "HAUBERK_CNI_CONF_DIR", value_name = "DIR", requires = "cni_bin_dir")]
    pub cni_conf_dir: Option<PathBuf>,
}
