//! Builds the eBPF object; shared by mesh-agent/build.rs and xtask.
