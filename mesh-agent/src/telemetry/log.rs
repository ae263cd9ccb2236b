//! Sets up logging: text for people, flat JSON for machines, both to stderr.

use std::error::Error;

use tracing_subscriber::filter::{LevelFilter, filter_fn};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use super::audit::{AuditLayer, TARGET};

/// How log lines look.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum LogFormat {
    /// One flat JSON object a line.
    Json,
    /// Text, coloured on a terminal.
    Text,
}

/// Installs the process' subscriber. `filter` has tracing-subscriber's `EnvFilter` syntax, such as `info,access=off`; it
/// says nothing about what goes to the audit log.
pub fn init(format: LogFormat, filter: &str, audit: Option<AuditLayer>) -> Result<(), Box<dyn Error + Send + Sync>> {
    let filter = EnvFilter::try_new(filter)?;
    let text = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    let text = match format {
        LogFormat::Json => {
            text.json().flatten_event(true).with_current_span(false).with_span_list(false).with_filter(filter).boxed()
        }
        LogFormat::Text => text.with_filter(filter).boxed(),
    };
    let security_events = filter_fn(|metadata| metadata.target() == TARGET).with_max_level_hint(LevelFilter::INFO);
    let audit = audit.map(|layer| layer.with_filter(security_events));
    Ok(tracing_subscriber::registry().with(text).with(audit).try_init()?)
}
