//! The ABI between the kernel programs and the agent, and the rules that the kernel runs.
//!
//! Nothing else may live here: the crate is compiled for BPF too, and whatever stands here is decided in one place for
//! both sides and tested on the host with plain `cargo test`.
#![cfg_attr(not(test), no_std)]

/// Raised with every change of a map's layout; it names the folder that the maps are pinned in.
pub const ABI_VERSION: u32 = 2;

pub mod names;

pub mod addr;
pub mod conn;

pub mod divert;
pub mod egress;
pub mod packet;
pub mod steer;

pub mod event;
#[cfg(feature = "user")]
mod pod;

/// Ports that a workload may exclude, for each direction. Fixed, since the kernel walks them.
pub const EXCLUDED_PORTS: usize = 16;

/// A list of ports in host order; 0 marks a free slot.
pub type PortList = [u16; EXCLUDED_PORTS];

/// Whether `port` is listed. Port 0 never is: it marks the free slots.
pub fn lists(ports: &PortList, port: u16) -> bool {
    port != 0 && ports.contains(&port)
}
