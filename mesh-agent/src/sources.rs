//! Where configuration comes from.

pub mod file;
pub mod watch;
