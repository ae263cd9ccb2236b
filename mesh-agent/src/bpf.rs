//! The kernel side as the agent sees it: load, pin, attach, and typed maps.
//!
//! Nothing here decides what is enrolled or diverted; `mesh-common` has the rules and `pod` the order of events.

mod attach;
mod clsact;
mod events;
mod maps;
mod object;
pub mod support;

pub use events::Denial;
pub use maps::Maps;
pub use object::{BpfError, Kernel, check_bpffs};
