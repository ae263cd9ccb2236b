//! Sets up logging: text for people, flat JSON for machines, both to stderr.

use std::error::Error;

use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum LogFormat {
    /// One flat JSON object a line.
    Json,
    /// Text, coloured on a terminal.
    Text,
}

/// Installs the process' subscriber. `filter` has tracing-subscriber's `EnvFilter` syntax, such as `info,access=off`.
pub fn init(format: LogFormat, filter: &str) -> Result<(), Box<dyn Error + Send + Sync>> {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_new(filter)?)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    match format {
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init(),
        LogFormat::Text => builder.try_init(),
    }
}
