//! The binary: arguments in, exit code out. 0: done; 1: it failed; 2: the configuration or the command line is wrong.

use std::io::Write;
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::Context;
use clap::Parser;
use mesh_agent::app::{self, RunError};
use mesh_agent::args::{CaCommand, Cli, Command};
use mesh_agent::bpf::Kernel;
use mesh_agent::identity::{ca, export};
use mesh_agent::model::spiffe::{SpiffeId, TrustDomain};
use mesh_agent::telemetry::log;

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            let misconfigured = matches!(error.downcast_ref(), Some(RunError::Config(_)));
            ExitCode::from(if misconfigured { 2 } else { 1 })
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    log::init(cli.log_format, &cli.log).map_err(|error| anyhow::anyhow!(error)).context("set up logging")?;
    match cli.command {
        Command::Run(args) => {
            mesh_agent::sys::harden::no_core_dumps().context("keep keys out of core dumps")?;
            runtime()?.block_on(app::run(args))?;
        }
        Command::Ca(CaCommand::Init(args)) => {
            let trust_domain = TrustDomain::parse(&args.trust_domain).context("--trust-domain")?;
            ca::init_dir(&args.dir, trust_domain, SystemTime::now())?;
        }
        Command::Svid(args) => {
            let config = mesh_agent::sources::file::load(&args.config).map_err(RunError::from)?;
            let ca = app::load_ca(&config.mesh)?;
            let id = SpiffeId::of_service_account(&config.mesh.trust_domain, &args.namespace, &args.service_account)?;
            runtime()?.block_on(export::export(&ca, &id, &args.out))?;
        }
        Command::Probe => {
            let text = app::describe_probe()?;
            std::io::stdout().lock().write_all(text.as_bytes()).context("write to stdout")?;
        }
        Command::Uninstall(args) => Kernel::uninstall(&args.bpffs)?,
    }
    Ok(())
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")
}
