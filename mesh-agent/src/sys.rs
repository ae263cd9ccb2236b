//! Every system call that has no safe wrapper elsewhere, as safe functions over borrowed descriptors.
//!
//! The only module of the agent with `unsafe`. Nothing here decides anything.

pub mod bpf;
pub mod cgroup;
pub mod file;
pub mod harden;
pub mod http;
pub mod interrupt;
pub mod ktls;
pub mod kubelet;
pub mod link;
pub mod netns;
pub mod pod;
pub mod sockdiag;
pub mod sockopt;
pub mod stream;
pub mod unix;
