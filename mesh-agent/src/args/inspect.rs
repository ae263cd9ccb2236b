//! The flags of the commands that ask a running agent.

use std::path::PathBuf;

use clap::Args;

/// The default of the admin socket.
pub const ADMIN_SOCKET: &str = "/run/hauberk/agent.sock";

/// How a command prints.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum Output {
    /// JSON, for programs.
    Json,
    /// Tables for people, cut to fit a terminal.
    Table,
    /// YAML.
    Yaml,
}

/// For `status`, `workloads`, `connections` and `certificates`.
#[derive(Args, Debug)]
pub struct InspectArgs {
    /// The agent's admin socket.
    #[arg(long, env = "HAUBERK_ADMIN_SOCKET", value_name = "PATH", default_value = ADMIN_SOCKET)]
    pub admin_socket: PathBuf,
    /// How to print.
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

/// For `explain`.
#[derive(Args, Debug)]
pub struct ExplainArgs {
    /// Directory of YAML documents to go by, instead of what the running agent has in force.
    #[arg(long, value_name = "DIR")]
    pub config: Option<PathBuf>,
    /// Who connects: `namespace/name` or an address.
    #[arg(value_name = "SRC")]
    pub source: String,
    /// To what: `10.1.2.3:80`, `[fd00::1]:80`, or `namespace/name:80` of a workload or a service.
    #[arg(value_name = "DST:PORT")]
    pub destination: String,
    /// Where and how.
    #[command(flatten)]
    pub inspect: InspectArgs,
}
