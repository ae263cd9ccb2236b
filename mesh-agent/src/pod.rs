//! Makes this node's workloads part of the mesh, and takes them out again.

mod enrol;
mod manager;
mod numbers;
mod older;
mod readiness;
mod sandboxes;

pub use enrol::{Enrolled, PodError};
pub use manager::PodManager;
pub use readiness::{Readiness, Stage};
pub use sandboxes::{Record, Sandbox, Sandboxes};
