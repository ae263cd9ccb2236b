//! Builds the agent with a real eBPF object and says where it is.
//!
//! A plain `cargo build` may put a stub into a debug agent; this command fails instead.
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, Result, bail};
use ebpf_build::describe;
use serde_json::Value;

use crate::{
    process::{self, say},
    setup::{self, Purpose},
    workspace,
};

mod release;

pub(crate) use release::{host, release_command};

/// Build mesh-agent with a real eBPF object
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Build with optimisations
    #[arg(long)]
    release: bool,
}

/// What a build gives.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Built {
    /// The agent's executable.
    pub(crate) agent: PathBuf,
    /// The eBPF object inside it.
    pub(crate) object: PathBuf,
}

impl Options {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        setup::ensure(Purpose::Build)?;
        let built = build(self.release)?;
        say(format_args!("agent: {}\neBPF object: {}", built.agent.display(), built.object.display()));
        Ok(ExitCode::SUCCESS)
    }
}

/// Builds the agent; fails if its eBPF object is a stub.
pub(crate) fn build(release: bool) -> Result<Built> {
    let built = run(agent_command(release)?)?;
    if !is_stub(&built.object)? {
        return Ok(built);
    }
    // Left from a time without a toolchain: cargo cannot see everything that brings one (rustup's nightly).
    process::run(workspace::cargo().args(["clean", "--package", "mesh-agent"]))?;
    let built = run(agent_command(release)?)?;
    if is_stub(&built.object)? {
        bail!("the agent has a stub for its eBPF object: `cargo xtask setup` installs the toolchain");
    }
    Ok(built)
}

/// Runs a build of the agent that may have more arguments than [`agent_command`]. Only a debug build gives a stub.
pub(crate) fn run(mut command: Command) -> Result<Built> {
    // Cargo itself says where things are: no guess at target directories.
    command.args(["--message-format", "json-render-diagnostics"]).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let shown = describe(&command);
    say(format_args!("$ {shown}"));
    let output = command.output().with_context(|| format!("start `{shown}`"))?;
    if !output.status.success() {
        bail!("`{shown}` failed: {}", output.status);
    }
    parse_messages(&String::from_utf8(output.stdout)?)
}

/// The build as a command, for callers that put a limit on its time.
pub(crate) fn agent_command(release: bool) -> Result<Command> {
    if release { release_command(&workspace::target()?) } else { Ok(debug_command()) }
}

fn debug_command() -> Command {
    let mut command = workspace::cargo();
    command.args(["build", "--locked", "--package", "mesh-agent", "--bin", "mesh-agent"]);
    command
}

fn parse_messages(lines: &str) -> Result<Built> {
    let (mut agent, mut object) = (None, None);
    for line in lines.lines() {
        // Build scripts of dependencies may print anything.
        let Ok(message) = serde_json::from_str::<Value>(line) else { continue };
        match message["reason"].as_str() {
            Some("compiler-artifact") if message["target"]["name"] == "mesh-agent" => {
                agent = message["executable"].as_str().map(PathBuf::from).or(agent);
            }
            Some("build-script-executed") if is_agent(&message["package_id"]) => {
                object = message["out_dir"].as_str().map(|directory| Path::new(directory).join("mesh-ebpf"));
            }
            _ => {}
        }
    }
    Ok(Built {
        agent: agent.context("cargo named no executable of mesh-agent")?,
        object: object.context("cargo named no output directory of mesh-agent's build script")?,
    })
}

/// Package ids look like `path+file:///where/mesh-agent#0.1.0`.
fn is_agent(package_id: &Value) -> bool {
    let path = package_id.as_str().and_then(|id| id.split('#').next());
    path.is_some_and(|path| path.ends_with("/mesh-agent"))
}

fn is_stub(object: &Path) -> Result<bool> {
    let content = fs::read(object).with_context(|| format!("read {}", object.display()))?;
    Ok(content == ebpf_build::STUB)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_says_where_the_agent_and_its_object_are() {
        let messages = r#"
not json
{"reason":"build-script-executed","package_id":"path+file:///w/other#0.1.0","out_dir":"/t/other/out"}
{"reason":"build-script-executed","package_id":"path+file:///w/mesh-agent#0.1.0","out_dir":"/t/agent/out"}
{"reason":"compiler-artifact","target":{"name":"mesh_agent"},"executable":null}
{"reason":"compiler-artifact","target":{"name":"mesh-agent"},"executable":"/t/debug/mesh-agent"}
"#;
        let built = parse_messages(messages).unwrap();
        assert_eq!(built, Built { agent: "/t/debug/mesh-agent".into(), object: "/t/agent/out/mesh-ebpf".into() });
    }

    #[test]
    fn a_stub_is_known_by_its_whole_content() {
        let path = std::env::temp_dir().join(format!("hauberk-stub-{}", std::process::id()));
        fs::write(&path, ebpf_build::STUB).unwrap();
        let stub = is_stub(&path);
        fs::write(&path, [ebpf_build::STUB, b"!"].concat()).unwrap();
        let other = is_stub(&path);
        fs::remove_file(&path).unwrap();
        assert!(stub.unwrap());
        assert!(!other.unwrap());
    }
}
