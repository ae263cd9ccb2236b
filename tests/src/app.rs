//! The program that tests run inside pods: clients and servers that report what they see as JSON lines.
//!
//! A separate process, because the kernel attests the caller's cgroup and a thread can't have one of its own. The types
//! of its reports are used on both sides.

mod act;
mod burst;
mod bypass;
mod client;
mod mix;
mod server;
mod storm;
mod udp;
mod uring;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser;
use serde::{Deserialize, Serialize};

use crate::cluster::{self, Plan};
use crate::demo::{self, DemoOptions, kubernetes::ClusterDemo};

pub use act::{Step, pattern_sum};
pub use mix::{Job, Kind, Outcome, Tally};

/// What a server that speaks first says.
pub const GREETING: &str = "220 the server speaks first";

/// What the server puts before the line that it answers.
pub const ANSWER: &str = "answer: ";

/// A server's report.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Served {
    /// A connection reached the application.
    Accepted {
        /// The client, as accept() told.
        peer: SocketAddr,
        /// The client, as getpeername() told.
        getpeername: SocketAddr,
        /// The server's end.
        local: SocketAddr,
    },
    /// A line reached the application.
    Line {
        /// The line, without its end.
        text: String,
    },
    /// Clients may come.
    Listening,
}

/// A client's report of one connection.
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct Called {
    /// The client's end, as getsockname() told; absent if connect() failed.
    pub local: Option<SocketAddr>,
    /// The server, as getpeername() told.
    pub peer: Option<SocketAddr>,
    /// What the server said unasked.
    pub greeting: Option<String>,
    /// What the server answered.
    pub answer: Option<String>,
    /// Why there is no answer.
    pub error: Option<String>,
}

/// The outcome of one connection of a storm.
#[derive(Debug, Deserialize, Serialize)]
pub struct Attempt {
    /// Whether the answer came.
    pub answered: bool,
}

/// What one step of a script came to.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Acted {
    /// The step's name.
    pub step: String,
    /// Bytes that it sent.
    pub sent: u64,
    /// Bytes that it received.
    pub received: u64,
    /// The checksum of all bytes received so far.
    pub sum: u64,
    /// The script's own end.
    pub local: Option<SocketAddr>,
    /// How long it took.
    pub ms: u64,
    /// The error that ended the script; an orderly end of data is none.
    pub end: Option<String>,
}

/// What came of many connections.
#[derive(Debug, Deserialize, Serialize)]
pub struct Burst {
    /// Connections that got what they wanted.
    pub answered: usize,
    /// The others, by what went wrong.
    pub failures: BTreeMap<String, usize>,
    /// How long all took.
    pub seconds: f64,
}

#[derive(Debug, Parser)]
enum Arguments {
    /// Connects once and follows a script (see `Step`).
    Act {
        #[arg(long)]
        to: SocketAddr,
        /// Bind this address and port.
        #[arg(long)]
        from: Option<SocketAddr>,
        steps: Vec<Step>,
    },
    /// Follows a script on every connection.
    ActServe {
        #[arg(long)]
        port: u16,
        steps: Vec<Step>,
    },
    /// Makes many short connections.
    Burst {
        #[arg(long, required = true)]
        to: Vec<SocketAddr>,
        #[arg(long)]
        count: usize,
        #[arg(long)]
        parallel: usize,
    },
    /// Connects once, says a line, prints a report.
    Call {
        #[arg(long)]
        to: SocketAddr,
        #[arg(long)]
        say: String,
        /// Wait for a greeting before speaking.
        #[arg(long)]
        greeted: bool,
        /// Use an IPv6 socket for an IPv4 address.
        #[arg(long)]
        mapped: bool,
    },
    /// Opens connections and says nothing.
    HalfOpen {
        #[arg(long)]
        to: SocketAddr,
        #[arg(long)]
        count: usize,
    },
    /// Plays the demo: for tests of the demo itself.
    Demo {
        #[arg(long)]
        agent: PathBuf,
        /// On a cluster, of what the Kubernetes tier hands over.
        #[arg(long)]
        kubernetes: bool,
    },
    /// Makes all kinds of connections until killed, and prints running totals.
    Mix {
        #[arg(long = "job", required = true)]
        jobs: Vec<Job>,
    },
    /// Serves all kinds of connections.
    MixServe {
        #[arg(long)]
        port: u16,
    },
    /// Sends a SYN as a raw Ethernet frame, past the socket layer.
    PacketSyn {
        #[arg(long)]
        from: SocketAddr,
        #[arg(long)]
        to: SocketAddr,
        /// The hardware address of the next hop.
        #[arg(long)]
        gateway: String,
    },
    /// Sends a SYN through a raw IP socket, past connect().
    RawSyn {
        #[arg(long)]
        from: SocketAddr,
        #[arg(long)]
        to: SocketAddr,
    },
    /// Answers lines, and reports connections and lines.
    Serve {
        #[arg(long)]
        port: u16,
        #[arg(long)]
        dual_stack: bool,
        #[arg(long)]
        greeting: Option<String>,
    },
    /// Connects again and again from several threads until killed.
    Storm {
        #[arg(long)]
        to: SocketAddr,
        #[arg(long)]
        say: String,
        #[arg(long)]
        threads: usize,
    },
    /// Sends one datagram and prints the answer.
    UdpCall {
        #[arg(long)]
        to: SocketAddr,
        #[arg(long)]
        say: String,
    },
    /// Connects once through io_uring, says a line, prints a report.
    UringCall {
        #[arg(long)]
        to: SocketAddr,
        #[arg(long)]
        say: String,
    },
    /// Answers datagrams.
    UdpServe {
        #[arg(long)]
        address: IpAddr,
        #[arg(long)]
        port: u16,
    },
}

/// Runs the program.
pub fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            drop(writeln!(std::io::stderr(), "{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<ExitCode> {
    match arguments {
        Arguments::Act { to, from, steps } => act::connect(to, from, &steps),
        Arguments::ActServe { port, steps } => act::listen(port, &steps),
        Arguments::Burst { to, count, parallel } => burst::run(&to, count, parallel),
        Arguments::Demo { agent, kubernetes } => return play(agent, kubernetes),
        Arguments::Call { to, say, greeted, mapped } => report(&client::call(to, &say, greeted, mapped)),
        Arguments::HalfOpen { to, count } => burst::half_open(to, count),
        Arguments::Mix { jobs } => mix::run(&jobs),
        Arguments::MixServe { port } => mix::serve(port),
        Arguments::PacketSyn { from, to, gateway } => bypass::packet_syn(from, to, &gateway),
        Arguments::RawSyn { from, to } => bypass::raw_syn(from, to),
        Arguments::Serve { port, dual_stack, greeting } => server::serve(port, dual_stack, greeting),
        Arguments::Storm { to, say, threads } => storm::run(to, &say, threads),
        Arguments::UdpCall { to, say } => udp::call(to, &say),
        Arguments::UringCall { to, say } => report(&uring::call(to, &say)),
        Arguments::UdpServe { address, port } => udp::serve(SocketAddr::new(address, port)),
    }?;
    Ok(ExitCode::SUCCESS)
}

fn play(agent: PathBuf, kubernetes: bool) -> Result<ExitCode> {
    let options = DemoOptions { check: true, keep: false };
    if !kubernetes {
        return demo::run(&agent, options);
    }
    let demo = ClusterDemo { plan: Plan::from_environment(2)?, image: cluster::image_from_environment()?, agent };
    demo::kubernetes::run(&demo, options)
}

/// Prints one line at once: somebody may be waiting for it.
fn report(value: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_string(value).context("write a report")?;
    line.push('\n');
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(line.as_bytes())?;
    stdout.flush().context("print a report")
}

/// Finds the program: cargo puts it beside the program that asks, or one directory up for a test.
pub fn find() -> Result<PathBuf> {
    let own = std::env::current_exe().context("find the running program")?;
    let beside = own.ancestors().skip(1).take(2).map(|directory| directory.join("mesh-test-app"));
    let from_environment = std::env::var_os("MESH_TEST_APP").map(PathBuf::from);
    let found = from_environment.into_iter().chain(beside).find(|path| path.is_file());
    found.context("no mesh-test-app beside this program: `cargo build -p mesh-tests --bins`")
}
