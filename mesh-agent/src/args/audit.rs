//! The flags of the audit log, and the `audit` commands.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::telemetry::audit::{AuditSettings, Destination};

/// Where the audit log goes.
#[derive(Args, Debug)]
pub struct AuditArgs {
    /// File of the audit log, or `-` for stdout. Its signing key is made beside it (.key, .pub). Without it, security
    /// events are in the log alone (target `audit`).
    #[arg(long, env = "HAUBERK_AUDIT_LOG", value_name = "FILE")]
    pub audit_log: Option<PathBuf>,
    /// Size at which the file is set aside, in MiB.
    #[arg(long, env = "HAUBERK_AUDIT_MAX_SIZE_MIB", value_name = "MIB", default_value_t = 100)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    pub audit_max_size: u64,
    /// How many files that were set aside are kept.
    #[arg(long, env = "HAUBERK_AUDIT_KEEP", value_name = "COUNT", default_value_t = 10)]
    pub audit_keep: usize,
    /// Seconds after a record until a checkpoint is signed; one is also signed every 1000 records.
    #[arg(long, env = "HAUBERK_AUDIT_CHECKPOINT_SECONDS", value_name = "SECONDS", default_value_t = 60)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub audit_checkpoint: u64,
}

impl AuditArgs {
    /// What `node` shall write; `None`: nothing.
    pub fn settings(&self, node: &str) -> Option<AuditSettings> {
        let path = self.audit_log.clone()?;
        let to_stdout = path.as_os_str() == "-";
        Some(AuditSettings {
            destination: if to_stdout { Destination::Stdout } else { Destination::File(path) },
            max_bytes: self.audit_max_size << 20,
            keep: self.audit_keep,
            checkpoint_every: Duration::from_secs(self.audit_checkpoint),
            node: node.to_owned(),
        })
    }
}

/// The `audit` commands.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Check audit files: find what was changed, removed, swapped, cut off or rewritten. Exit code 1: something was.
    Verify(AuditVerifyArgs),
}

/// For `audit verify`.
#[derive(Args, Debug)]
pub struct AuditVerifyArgs {
    /// The files of one audit log, in any order: `audit.jsonl*`.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// The public key that must have signed every checkpoint (PEM), as the agent wrote it beside the log (.pub).
    #[arg(long, value_name = "PUB")]
    pub key: Option<PathBuf>,
    /// Checkpoints that were kept elsewhere: lines of the audit log whose event is `checkpoint`.
    #[arg(long, value_name = "FILE")]
    pub checkpoint: Option<PathBuf>,
}
