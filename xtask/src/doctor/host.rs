//! Probes what is not the kernel's code: our privileges, other owners of the cgroup root, and installed programs.
use std::{collections::HashMap, fs::File, io, os::fd::AsFd as _};

use aya::programs::loaded_programs;
use ebpf_build::{Compiler, Toolchain, find_program};
use rustix::thread::CapabilitySet;

use super::{
    kernel::{CGROUP_HOOKS, cgroup2_root},
    table::{Row, Status},
};
use crate::{
    setup::tools::{BUILD_TOOLS, RUN_TOOLS, Tool},
    sys,
};

/// How the names of our own programs begin (`mesh-common/src/names.rs`).
const OURS: &str = "mesh_";

const CAPABILITIES: [(&str, CapabilitySet, Status, &str); 6] = [
    ("CAP_BPF", CapabilitySet::BPF, Status::Missing, "no eBPF program loads"),
    ("CAP_NET_ADMIN", CapabilitySet::NET_ADMIN, Status::Missing, "no eBPF program attaches"),
    ("CAP_SYS_ADMIN", CapabilitySet::SYS_ADMIN, Status::Missing, "the agent cannot open sockets inside a pod"),
    ("CAP_NET_RAW", CapabilitySet::NET_RAW, Status::Degraded, "tests cannot capture or forge packets"),
    ("CAP_SYS_PTRACE", CapabilitySet::SYS_PTRACE, Status::Degraded, "namespaces of other users' pods stay closed"),
    (
        "CAP_SYS_RESOURCE",
        CapabilitySet::SYS_RESOURCE,
        Status::Degraded,
        "limits cannot be raised: before kernel 5.11 they bound the size of maps",
    ),
];

/// Everything about the host.
pub(crate) fn rows() -> Vec<Row> {
    let mut rows = capability_rows();
    rows.extend(foreign_programs());
    rows.push(toolchain());
    rows.extend([programs("build tools", &BUILD_TOOLS), programs("test tools", &RUN_TOOLS)]);
    rows
}

fn capability_rows() -> Vec<Row> {
    let held = rustix::thread::capabilities(None).map(|sets| sets.effective).unwrap_or(CapabilitySet::empty());
    let row = |(name, capability, lacking, follows): (&str, CapabilitySet, Status, &str)| {
        let probe = if held.contains(capability) { Ok("held") } else { Err(io::Error::other("not held")) };
        Row::probed(name, probe, lacking, follows)
    };
    CAPABILITIES.map(row).into()
}

/// Programs at the cgroup root run one after the other: those of others see, and may change, what ours see.
fn foreign_programs() -> Vec<Row> {
    let Some(root) = cgroup2_root() else { return Vec::new() };
    let name = "foreign programs";
    let attached = match attached_at(&root) {
        Ok(attached) => attached,
        Err(error) => return vec![Row::probed(name, Err::<String, _>(error), Status::Degraded, "not known")],
    };
    let shown = describe_foreign(&attached);
    if shown.is_empty() {
        return vec![Row::ok(name, format!("none at {}", root.display()))];
    }
    let follows = "they run before or after ours and may rewrite the same connections: mind the order";
    shown.into_iter().map(|value| Row::degraded(name, value, follows)).collect()
}

/// The hook and the program's name and id, for each program at the root.
type Attached = (&'static str, String, u32);

fn attached_at(root: &std::path::Path) -> io::Result<Vec<Attached>> {
    let cgroup = File::open(root)?;
    let names: HashMap<u32, String> = loaded_programs()
        .flatten()
        .map(|program| (program.id(), program.name_as_str().unwrap_or_default().to_owned()))
        .collect();
    let mut attached = Vec::new();
    for hook in &CGROUP_HOOKS {
        for id in sys::attached_programs(cgroup.as_fd(), hook.attach_type)? {
            attached.push((hook.short_name(), names.get(&id).cloned().unwrap_or_default(), id));
        }
    }
    Ok(attached)
}

fn describe_foreign(attached: &[Attached]) -> Vec<String> {
    let foreign = attached.iter().filter(|(_, name, _)| !name.starts_with(OURS));
    foreign
        .map(|(hook, name, id)| {
            let name = if name.is_empty() { "without a name" } else { name };
            format!("{hook}: {name} (id {id})")
        })
        .collect()
}

fn toolchain() -> Row {
    let name = "BPF toolchain";
    match Toolchain::find_native() {
        Ok(Toolchain { compiler: Compiler::Nightly, linker }) => {
            Row::ok(name, format!("rustup's nightly, {}", linker.display()))
        }
        Ok(Toolchain { compiler: Compiler::Shipped(rustc), linker }) => {
            Row::ok(name, format!("{}, {}", rustc.display(), linker.display()))
        }
        Err(error) => {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default().to_owned();
            Row::degraded(name, first, "only a ready-built agent runs: `cargo xtask setup` installs it")
        }
    }
}

fn programs(name: &str, tools: &[Tool]) -> Row {
    let missing: Vec<_> = tools.iter().filter(|tool| find_program(tool.program).is_none()).collect();
    if missing.is_empty() {
        return Row::ok(name, format!("{} of {}", tools.len(), tools.len()));
    }
    let shown: Vec<_> = missing.iter().map(|tool| format!("{} ({})", tool.program, tool.purpose)).collect();
    Row::degraded(name, format!("without {}", shown.join(", ")), "`cargo xtask setup` installs them")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_other_peoples_programs_are_foreign() {
        let attached =
            [("connect4", "mesh_connect4".into(), 7), ("connect4", "cil_sock4".into(), 8), ("skb", String::new(), 9)];
        assert_eq!(describe_foreign(&attached), ["connect4: cil_sock4 (id 8)", "skb: without a name (id 9)"]);
    }
}
