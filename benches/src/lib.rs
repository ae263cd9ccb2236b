//! What the mesh costs, measured beside no mesh and beside a peer: `cargo xtask bench`.
//!
//! Every mode has a world of its own (`bed`), and they take turns, one measurement at a time: what disturbs the machine
//! disturbs all of them. `noise` says when that was too much. `counted`
//! counts instructions instead, on emulated processors and other kernels. The micro-benchmarks of the pure rules are in `benches/`.
#![forbid(unsafe_code)]

mod bed;
pub mod counted;
mod haproxy;
pub mod load;
mod noise;
mod plan;
mod report;
mod run;
mod table;
mod usage;

pub use run::{BenchOptions, run};
