//! eBPF programs.

fn main() {}
