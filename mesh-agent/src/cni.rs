//! The chained CNI plugin: a pod is in the mesh before its first process runs, or its sandbox fails.
//!
//! The runtime starts the plugin (`plugin`), which is this same binary under another name. It hands the pod's network
//! namespace to the node's agent (`wire`, `server`), which holds the pod and says so; it never waits for an SVID. When
//! nobody answers, `known` says which pods may not start. `installer` keeps the plugin in the node's configuration.

pub mod call;
pub mod conflist;
pub mod installer;
pub mod known;
pub mod plugin;
pub mod server;
pub mod wire;

/// The plugin's name: the type in a configuration, and the file that a runtime looks for.
pub const PLUGIN: &str = "hauberk-cni";
