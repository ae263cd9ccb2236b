//! The binary: arguments in, exit code out. 0: done; 1: it failed; 2: the configuration or the command line is wrong.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use clap::Parser;
use mesh_agent::admin::explain::ExplainRequest;
use mesh_agent::app::check::CheckError;
use mesh_agent::app::explain::{self, ExplainError};
use mesh_agent::app::inspect::View;
use mesh_agent::app::schema::SchemaError;
use mesh_agent::app::{self, RunError, authority};
use mesh_agent::args::audit::{AuditCommand, AuditVerifyArgs};
use mesh_agent::args::inspect::InspectArgs;
use mesh_agent::args::{BundleFormat, CaBundleArgs, CaCommand, Cli, Command, PolicyCommand, RotateStep};
use mesh_agent::bpf::Kernel;
use mesh_agent::identity::rotate::CaDirectory;
use mesh_agent::identity::token::JoinToken;
use mesh_agent::identity::{EmbeddedIssuer, ca, export};
use mesh_agent::model::bundle;
use mesh_agent::model::mesh::{CaFiles, SvidSettings};
use mesh_agent::model::spiffe::{SpiffeId, TrustDomain};
use mesh_agent::telemetry::audit::{AuditError, AuditLog};
use mesh_agent::telemetry::log;

fn main() -> ExitCode {
    if mesh_agent::cni::plugin::is_called() {
        return mesh_agent::cni::plugin::run();
    }
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{error:#}");
            let misconfigured = matches!(error.downcast_ref(), Some(RunError::Config(_)))
                || error.is::<CheckError>()
                || error.is::<ExplainError>()
                || error.is::<SchemaError>();
            ExitCode::from(if misconfigured { 2 } else { 1 })
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    // Before the audit log is opened: it has a key.
    if matches!(cli.command, Command::Run(_) | Command::Ca(CaCommand::Serve(_))) {
        mesh_agent::sys::harden::no_core_dumps().context("keep keys out of core dumps")?;
    }
    let audit = open_audit(&cli.command);
    let layer = audit.as_ref().ok().and_then(|log| Some(log.as_ref()?.layer()));
    log::init(cli.log_format, &cli.log, layer).map_err(|error| anyhow::anyhow!(error)).context("set up logging")?;
    let audit = audit?;
    match cli.command {
        Command::Run(args) => runtime()?.block_on(app::run(args, audit.as_ref().map(AuditLog::handle)))?,
        Command::Status(args) => print(&inspect(View::Status, &args)?)?,
        Command::Workloads(args) => print(&inspect(View::Workloads, &args)?)?,
        Command::Connections(args) => print(&inspect(View::Connections, &args)?)?,
        Command::Certificates(args) => print(&inspect(View::Certificates, &args)?)?,
        Command::Policy(PolicyCommand::Check(args)) => {
            let checked = app::check::check_documents(&args.directory, args.output)?;
            print(&checked.text)?;
            return Ok(ExitCode::from(checked.code));
        }
        Command::Check(args) => {
            let examined = runtime()?.block_on(app::doctor::examine(&args))?;
            print(&examined.text)?;
            return Ok(if examined.fit { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Explain(args) => {
            let asked = ExplainRequest { source: args.source, destination: args.destination };
            let InspectArgs { admin_socket, output } = args.inspect;
            let explained = match &args.config {
                Some(directory) => explain::explain_documents(directory, &asked, output, SystemTime::now())?,
                None => runtime()?.block_on(explain::explain_running(&admin_socket, &asked, output))?,
            };
            print(&explained.text)?;
            return Ok(ExitCode::from(explained.code));
        }
        Command::Schema(args) => print(&app::schema::schema(args.kind.as_deref(), args.crds)?)?,
        Command::Audit(AuditCommand::Verify(args)) => return verify(&args),
        Command::Ca(command) => run_ca(command)?,
        Command::Svid(args) => {
            let config = mesh_agent::sources::file::load(&args.config).map_err(RunError::from)?;
            let ca = app::issuer::embedded(&config.mesh)?;
            let id = SpiffeId::of_service_account(&config.mesh.trust_domain, &args.namespace, &args.service_account)?;
            runtime()?.block_on(export::export(&ca, &id, &args.out))?;
        }
        Command::Probe => print(&app::describe_probe()?)?,
        Command::Cni => return Ok(mesh_agent::cni::plugin::run()),
        Command::Uninstall(args) if args.kubernetes => {
            runtime()?.block_on(app::uninstall_cluster(Duration::from_secs(args.timeout)))?;
        }
        Command::Uninstall(args) => {
            // First what would start pods in the mesh.
            app::uninstall_plugin(&args.place, &args.cni_known).context("take the CNI plugin off the node")?;
            Kernel::uninstall(&args.bpffs)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn inspect(view: View, args: &InspectArgs) -> anyhow::Result<String> {
    Ok(runtime()?.block_on(app::inspect::inspect(view, args))?)
}

fn open_audit(command: &Command) -> Result<Option<AuditLog>, AuditError> {
    let settings = match command {
        Command::Run(args) => args.audit.settings(&args.node),
        Command::Ca(CaCommand::Serve(args)) => args.audit.settings("ca"),
        _ => None,
    };
    settings.map(|settings| AuditLog::open(&settings)).transpose()
}

fn verify(args: &AuditVerifyArgs) -> anyhow::Result<ExitCode> {
    let (text, whole) = app::verify_audit(args)?;
    print(&text)?;
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run_ca(command: CaCommand) -> anyhow::Result<()> {
    let now = SystemTime::now();
    let trust_domain = |name: &str| TrustDomain::parse(name).context("--trust-domain");
    match command {
        CaCommand::Init(args) => ca::init_dir(&args.dir, trust_domain(&args.trust_domain)?, now)?,
        CaCommand::Intermediate(args) => {
            ca::intermediate_dir(&args.root, &args.dir, &trust_domain(&args.trust_domain)?, now)?;
        }
        CaCommand::Serve(args) => {
            runtime()?.block_on(authority::serve(args))?;
        }
        CaCommand::Token(args) => {
            let issuer = open_ca(&args.dir, trust_domain(&args.trust_domain)?)?;
            let token = JoinToken::issue(&issuer.ca(), &args.node, Duration::from_secs(args.lifetime), now)?;
            print(&format!("{token}\n"))?;
        }
        CaCommand::RevokeNode(args) => {
            let trust_domain = trust_domain(&args.trust_domain)?;
            print(&authority::revoke_node(&args.dir, &trust_domain, &args.node, now)?)?;
        }
        CaCommand::Bundle(args) => print_bundle(&args, trust_domain(&args.trust_domain)?)?,
        CaCommand::Rotate(args) => {
            let directory = CaDirectory { path: &args.dir, trust_domain: &trust_domain(&args.trust_domain)? };
            match args.step {
                RotateStep::Prepare => directory.prepare(now)?,
                RotateStep::Activate => directory.activate()?,
                RotateStep::Retire => directory.retire(Duration::from_secs(args.min_age), now)?,
            }
        }
    }
    Ok(())
}

fn print_bundle(args: &CaBundleArgs, trust_domain: TrustDomain) -> anyhow::Result<()> {
    let issuer = open_ca(&args.dir, trust_domain)?;
    let ca = issuer.ca();
    let roots = &ca.anchors().bundle.roots;
    let text = match args.format {
        BundleFormat::Pem => bundle::to_pem(roots),
        BundleFormat::Spiffe => format!("{:#}\n", bundle::to_spiffe(roots)?),
    };
    print(&text)
}

fn open_ca(directory: &Path, trust_domain: TrustDomain) -> anyhow::Result<EmbeddedIssuer> {
    Ok(EmbeddedIssuer::open(trust_domain, CaFiles::of_directory(directory), SvidSettings::default())?)
}

fn print(text: &str) -> anyhow::Result<()> {
    std::io::stdout().write_all(text.as_bytes()).context("print")
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")
}
