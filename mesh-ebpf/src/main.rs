//! The kernel programs: one entry point a hook. No decision is taken here; the rules are in `mesh-common`.
//!
//! Empty on the host, so that `cargo check --workspace` passes without the BPF toolchain.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(target_arch = "bpf", expect(unreachable_pub, reason = "nothing links against this crate"))]

#[cfg(target_arch = "bpf")]
mod programs;

#[cfg(not(target_arch = "bpf"))]
fn main() {}
