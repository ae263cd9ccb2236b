//! The plugin itself: a process that a container runtime starts for one question, and that ends with its answer.
//!
//! It prints one JSON document and nothing else, whatever happens. It needs no runtime of its own and starts no thread.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use super::PLUGIN;
use super::call::{self, Attachment, Call, Code, Command, Failure};
use super::known::Known;
use super::wire::{PodName, Reply, Request, ask};

/// Where the agent listens, unless the configuration says otherwise.
pub const SOCKET: &str = "/run/hauberk/cni.sock";
/// Where it writes what it knows of namespaces; outlives a reboot.
pub const KNOWN: &str = "/var/lib/hauberk/namespaces.json";

/// Longer than an agent takes to decide, which has limits of its own.
const LIMIT: Duration = Duration::from_secs(25);
/// A DEL is quick, and fails nothing.
const DEL_LIMIT: Duration = Duration::from_secs(5);
/// More than any network configuration.
const MAX_INPUT: u64 = 4 << 20;

/// Whether the process was started by the plugin's name.
pub fn is_called() -> bool {
    let name = std::env::args_os().next().map(PathBuf::from);
    name.is_some_and(|name| name.file_name().is_some_and(|name| name == PLUGIN))
}

/// Answers the runtime. The exit code is 0 exactly if the answer is no error.
pub fn run() -> ExitCode {
    // Its message goes to standard error, which runtimes log; standard output stays whole.
    let answered = std::panic::catch_unwind(answer).unwrap_or_else(|_panic| {
        let version = call::VERSIONS[call::VERSIONS.len() - 1].to_owned();
        Err(Failure { version, code: Code::Internal, message: format!("{PLUGIN} failed: its standard error says how") })
    });
    let (text, code) = match answered {
        Ok(text) => (text, ExitCode::SUCCESS),
        Err(failure) => (failure.to_json(), ExitCode::FAILURE),
    };
    match io::stdout().lock().write_all(text.as_bytes()) {
        Ok(()) => code,
        Err(_closed) => ExitCode::FAILURE,
    }
}

fn answer() -> Result<String, Failure> {
    let variable = |name: &str| std::env::var(name).ok();
    let command = call::command(&variable)?;
    if command == Command::Version {
        return Ok(call::versions());
    }
    let mut input = String::new();
    let read = io::stdin().take(MAX_INPUT).read_to_string(&mut input);
    // What isn't text is no JSON either.
    let input = if read.is_ok() { input } else { String::new() };
    let call = Call::read(command, &variable, &input)?;
    let socket = call.socket.clone().unwrap_or_else(|| SOCKET.into());
    let known = Known::read(call.known.as_deref().unwrap_or(Path::new(KNOWN)));
    let known = known.unwrap_or_else(|error| {
        note(&format!("what is known of namespaces can't be read: {error}"));
        Known::lost()
    });
    let agent = Agent { socket, known };
    match &call.attachment {
        Some(attachment) => agent.attached(&call, attachment),
        None => agent.unattached(&call),
    }
}

/// What the agent gets with a request.
struct Handed {
    netns: Option<File>,
    addresses: Vec<IpAddr>,
}

/// The node's agent, as the plugin sees it.
struct Agent {
    socket: PathBuf,
    known: Known,
}

impl Agent {
    /// ADD, CHECK and DEL.
    fn attached(&self, call: &Call<'_>, attachment: &Attachment) -> Result<String, Failure> {
        let result = match call.command {
            Command::Add => call.previous.map(|previous| previous.get().to_owned()).unwrap_or_default(),
            _ => String::new(),
        };
        let container = attachment.container.clone();
        let Some(pod) = attachment.pod.clone() else {
            let refused = call.unsupported.clone().filter(|_| call.command != Command::Del);
            return refused.map_or(Ok(result), Err);
        };
        if call.command == Command::Del {
            let netns = attachment.netns.as_ref().and_then(|path| File::open(path).ok());
            let request = Request::Del { pod, container };
            if let Err(error) = ask(&self.socket, &request, netns.as_ref().map(|netns| netns.as_fd()), DEL_LIMIT) {
                note(&format!("the agent was not told: {error}"));
            }
            return Ok(result);
        }
        // What the mesh itself needs never waits for the mesh.
        if self.known.is_system(&pod.namespace) {
            return Ok(result);
        }
        let handed = self.handed(call, attachment, &pod)?;
        let request = match call.command {
            Command::Add => Request::Add { pod: pod.clone(), container, addresses: handed.addresses },
            _ => Request::Check { pod: pod.clone(), container },
        };
        match ask(&self.socket, &request, handed.netns.as_ref().map(|netns| netns.as_fd()), LIMIT) {
            Ok(Reply::Done) => Ok(result),
            Ok(Reply::Failed { message, again }) => {
                Err(call.failure(if again { Code::TryAgain } else { Code::Internal }, message))
            }
            Err(error) => match self.without_agent(&pod, &error) {
                None => Ok(result),
                Some(message) => Err(call.failure(Code::TryAgain, message)),
            },
        }
    }

    /// What the agent gets of a pod. What is missing stops a pod here only if it is known to be enrolled. Of another the
    /// agent gets what there is: it lets go those that aren't its own, and nobody else must fail for our trouble.
    fn handed(&self, call: &Call<'_>, attachment: &Attachment, pod: &PodName) -> Result<Handed, Failure> {
        let path = attachment.netns.clone().unwrap_or_default();
        let netns = File::open(&path)
            .map_err(|error| call.failure(Code::Io, format!("open the network namespace {}: {error}", path.display())));
        let (supported, addresses) = (call.unsupported.clone().map_or(Ok(()), Err), call.addresses());
        let trouble = [supported.as_ref().err(), netns.as_ref().err(), addresses.as_ref().err()];
        for trouble in trouble.into_iter().flatten() {
            if self.known.holds_up(&pod.namespace) {
                return Err(trouble.clone());
            }
            note(&trouble.message);
        }
        Ok(Handed { netns: netns.ok(), addresses: addresses.unwrap_or_default() })
    }

    /// Why a pod can't start while nobody answers.
    fn without_agent(&self, pod: &PodName, error: &io::Error) -> Option<String> {
        self.known.holds_up(&pod.namespace).then(|| {
            format!(
                "hauberk's agent does not answer on {} ({error}): pod {}/{} is in an enrolled namespace",
                self.socket.display(),
                pod.namespace,
                pod.name
            )
        })
    }

    /// GC and STATUS. Neither fails for want of an agent: without one every pod that isn't enrolled can still start, and a
    /// runtime that hears otherwise starts none at all.
    fn unattached(&self, call: &Call<'_>) -> Result<String, Failure> {
        let request = match call.command {
            Command::Gc => Request::Gc { containers: call.valid.clone() },
            _ => Request::Status,
        };
        match ask(&self.socket, &request, None, DEL_LIMIT) {
            Ok(Reply::Done) => {}
            Ok(Reply::Failed { message, .. }) => note(&message),
            Err(error) => note(&format!("hauberk's agent does not answer on {}: {error}", self.socket.display())),
        }
        Ok(String::new())
    }
}

/// For the runtime's log; whether anybody reads it changes nothing.
fn note(text: &str) {
    drop(writeln!(io::stderr(), "{PLUGIN}: {text}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &str = r#"{"enrolled":["shop"],"own":"hauberk-system"}"#;
    const ADDRESS: &str = r#"{"address":"10.1.2.3/24"}"#;

    /// What becomes of a pod's ADD where no agent answers.
    fn add(namespace: &str, version: &str, address: &str, netns: &str, known: &Known) -> Result<String, Failure> {
        let agent = Agent { socket: "/nonexistent/cni.sock".into(), known: known.clone() };
        let input = format!(r#"{{{version}"name":"n","prevResult":{{"ips":[{address}]}}}}"#);
        let arguments = format!("K8S_POD_NAMESPACE={namespace};K8S_POD_NAME=p;K8S_POD_UID=u-1");
        let variable = |name: &str| match name {
            "CNI_CONTAINERID" | "CNI_IFNAME" => Some("c".to_owned()),
            "CNI_NETNS" => Some(netns.to_owned()),
            "CNI_ARGS" => Some(arguments.clone()),
            _ => None,
        };
        let call = Call::read(Command::Add, &variable, &input)?;
        agent.attached(&call, call.attachment.as_ref().unwrap())
    }

    #[test]
    fn our_own_trouble_stops_only_pods_that_are_known_to_be_enrolled() {
        let known: Known = serde_json::from_str(KNOWN).unwrap();
        let (good, netns) = (r#""cniVersion":"1.0.0","#, "/proc/self/ns/net");
        for (version, address, netns, code) in [
            (r#""cniVersion":"0.2.0","#, ADDRESS, netns, Code::Incompatible),
            (r#""cniVersion":"2.0.0","#, ADDRESS, netns, Code::Incompatible),
            ("", ADDRESS, netns, Code::Incompatible),
            (good, ADDRESS, "/nonexistent/netns", Code::Io),
            (good, r#"{"address":"strange"}"#, netns, Code::Decode),
            (good, ADDRESS, netns, Code::TryAgain),
        ] {
            let failure = add("shop", version, address, netns, &known).unwrap_err();
            assert_eq!(failure.code, code, "{failure:?}");
            for namespace in ["plain", "kube-system", "hauberk-system"] {
                let result = add(namespace, version, address, netns, &known).unwrap();
                assert_eq!(result, format!(r#"{{"ips":[{address}]}}"#), "what came before us goes on");
            }
        }
    }

    #[test]
    fn what_is_not_known_any_more_may_be_enrolled() {
        let add = |namespace| add(namespace, r#""cniVersion":"1.0.0","#, ADDRESS, "/proc/self/ns/net", &Known::lost());
        assert_eq!(add("plain").unwrap_err().code, Code::TryAgain);
        assert!(add("kube-system").is_ok() && add("hauberk-system").is_ok());
    }
}
