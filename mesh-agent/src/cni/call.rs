//! What a container runtime asks of the plugin, and what it is told: the words of the CNI specification 1.1.0, as values.
//!
//! Everything here is a function of the environment and of standard input. Nothing here asks anybody.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::wire::PodName;

/// What we can be chained into: from 0.3.0 on a plugin gets the results of those before it.
pub const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// An error's code, as the specification numbers them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u16)]
pub enum Code {
    /// The configuration is of a version that we don't know.
    Incompatible = 1,
    /// The environment lacks something, or it is wrong.
    Environment = 4,
    /// Something can't be read or written.
    Io = 5,
    /// Standard input is not what it should be.
    Decode = 6,
    /// The configuration makes no sense.
    Config = 7,
    /// It may work a little later.
    TryAgain = 11,
    /// A mistake of ours.
    Internal = 100,
}

/// What goes to the runtime in place of a result.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Failure {
    /// The version that the runtime speaks, as far as it is known.
    pub version: String,
    /// What kind of error.
    pub code: Code,
    /// What is wrong.
    pub message: String,
}

impl Failure {
    /// As the specification wants it.
    pub fn to_json(&self) -> String {
        json!({"cniVersion": self.version, "code": self.code as u16, "msg": self.message}).to_string()
    }
}

/// A verb of the specification.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Command {
    /// A sandbox has been made.
    Add,
    /// Is it still as it was made?
    Check,
    /// A sandbox goes.
    Del,
    /// These are left; forget the others.
    Gc,
    /// Can sandboxes be made?
    Status,
    /// Which versions are known?
    Version,
}

/// The container's end of what is asked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Attachment {
    /// The runtime's name for the sandbox.
    pub container: String,
    /// The sandbox's network namespace; `None` where it is gone.
    pub netns: Option<PathBuf>,
    /// The pod; `None`: it is none of Kubernetes'.
    pub pod: Option<PodName>,
}

/// What is asked.
#[derive(Debug)]
pub struct Call<'a> {
    /// The verb.
    pub command: Command,
    /// The version to answer in.
    pub version: String,
    /// The agent's socket, if the configuration names another than the usual one.
    pub socket: Option<PathBuf>,
    /// Where the agent writes which namespaces are enrolled, as above.
    pub known: Option<PathBuf>,
    /// For ADD, CHECK and DEL.
    pub attachment: Option<Attachment>,
    /// The result of the plugins before us, as it came.
    pub previous: Option<&'a RawValue>,
    /// For GC: the sandboxes that are left.
    pub valid: Vec<String>,
    /// What is wrong with the version, if we don't know it. Whom that stops is not said here.
    pub unsupported: Option<Failure>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NetworkConfig<'a> {
    cni_version: Option<String>,
    #[serde(borrow)]
    prev_result: Option<&'a RawValue>,
    socket: Option<PathBuf>,
    known: Option<PathBuf>,
    #[serde(rename = "cni.dev/valid-attachments")]
    valid: Option<Vec<ValidAttachment>>,
}

#[derive(Deserialize)]
struct ValidAttachment {
    #[serde(rename = "containerID")]
    container: String,
}

#[derive(Deserialize)]
struct Previous {
    #[serde(default)]
    ips: Vec<PreviousAddress>,
}

#[derive(Deserialize)]
struct PreviousAddress {
    /// With the length of its prefix.
    address: String,
}

/// Reads a verb, which is all that VERSION needs.
pub fn command(variable: &dyn Fn(&str) -> Option<String>) -> Result<Command, Failure> {
    match variable("CNI_COMMAND").as_deref() {
        Some("ADD") => Ok(Command::Add),
        Some("CHECK") => Ok(Command::Check),
        Some("DEL") => Ok(Command::Del),
        Some("GC") => Ok(Command::Gc),
        Some("STATUS") => Ok(Command::Status),
        Some("VERSION") => Ok(Command::Version),
        other => {
            let got = other.map_or("is not set".to_owned(), |other| format!("is `{other}`"));
            let message = format!(
                "CNI_COMMAND {got}: this is a CNI plugin, which a container runtime starts (ADD, CHECK, DEL, GC, STATUS, VERSION)"
            );
            Err(failure(None, Code::Environment, message))
        }
    }
}

impl<'a> Call<'a> {
    /// Reads what is asked.
    pub fn read(command: Command, variable: &dyn Fn(&str) -> Option<String>, input: &'a str) -> Result<Self, Failure> {
        let config: NetworkConfig<'a> = serde_json::from_str(input).map_err(|error| {
            failure(None, Code::Decode, format!("standard input is no network configuration: {error}"))
        })?;
        let version = config.cni_version.unwrap_or_else(|| "0.1.0".to_owned());
        let unsupported = (!VERSIONS.contains(&version.as_str())).then(|| {
            let message = format!("the configuration has version {version}; known are {}", VERSIONS.join(", "));
            failure(None, Code::Incompatible, message)
        });
        let attachment = match command {
            Command::Add | Command::Check | Command::Del => Some(attachment(command, variable)),
            Command::Gc | Command::Status | Command::Version => None,
        };
        let attachment =
            attachment.transpose().map_err(|message| failure(Some(&version), Code::Environment, message))?;
        if matches!(command, Command::Add | Command::Check) && config.prev_result.is_none() {
            if let Some(unsupported) = unsupported {
                return Err(unsupported);
            }
            let message = "no prevResult: this plugin gives no addresses, it must come after one that does".to_owned();
            return Err(failure(Some(&version), Code::Config, message));
        }
        // A list that isn't there is not an empty one, which would end every sandbox.
        if command == Command::Gc && config.valid.is_none() {
            let message = "GC without `cni.dev/valid-attachments`: nothing says which sandboxes are left".to_owned();
            return Err(failure(Some(&version), Code::Config, message));
        }
        let valid = config.valid.unwrap_or_default().into_iter().map(|valid| valid.container).collect();
        let (socket, known, previous) = (config.socket, config.known, config.prev_result);
        Ok(Self { command, version, socket, known, attachment, previous, valid, unsupported })
    }

    /// The pod's addresses, as the plugins before us gave them.
    pub fn addresses(&self) -> Result<Vec<IpAddr>, Failure> {
        let Some(previous) = self.previous else { return Ok(Vec::new()) };
        let wrong = |why: String| self.failure(Code::Decode, format!("prevResult is no result of a plugin: {why}"));
        let previous: Previous = serde_json::from_str(previous.get()).map_err(|error| wrong(error.to_string()))?;
        let address = |ip: PreviousAddress| match ip.address.parse::<IpNet>() {
            Ok(parsed) => Ok(parsed.addr()),
            Err(error) => Err(wrong(format!("`{}`: {error}", ip.address))),
        };
        previous.ips.into_iter().map(address).collect()
    }

    /// An answer that says no.
    pub fn failure(&self, code: Code, message: String) -> Failure {
        failure(Some(&self.version), code, message)
    }
}

/// What VERSION answers.
pub fn versions() -> String {
    let newest = VERSIONS[VERSIONS.len() - 1];
    json!({"cniVersion": newest, "supportedVersions": VERSIONS}).to_string()
}

fn failure(version: Option<&str>, code: Code, message: String) -> Failure {
    let version = version.unwrap_or(VERSIONS[VERSIONS.len() - 1]).to_owned();
    Failure { version, code, message }
}

fn attachment(command: Command, variable: &dyn Fn(&str) -> Option<String>) -> Result<Attachment, String> {
    let given = |name: &str| variable(name).filter(|value| !value.is_empty());
    let required = |name: &str| given(name).ok_or_else(|| format!("{name} is not set"));
    let container = required("CNI_CONTAINERID")?;
    // The specification's own rule for an identifier.
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    if !container.bytes().all(is_name) || !container.as_bytes()[0].is_ascii_alphanumeric() {
        return Err(format!("CNI_CONTAINERID `{container}` is no identifier"));
    }
    required("CNI_IFNAME")?;
    let netns = if command == Command::Del { given("CNI_NETNS") } else { Some(required("CNI_NETNS")?) };
    let arguments = arguments(&given("CNI_ARGS").unwrap_or_default())?;
    let pod = match (arguments.get("K8S_POD_NAMESPACE"), arguments.get("K8S_POD_NAME")) {
        (Some(namespace), Some(name)) => {
            let uid = arguments.get("K8S_POD_UID").cloned();
            Some(PodName { namespace: namespace.clone(), name: name.clone(), uid })
        }
        _ => None,
    };
    Ok(Attachment { container, netns: netns.map(PathBuf::from), pod })
}

/// `KEY=VALUE;KEY=VALUE`.
fn arguments(text: &str) -> Result<HashMap<String, String>, String> {
    let pair = |pair: &str| match pair.split_once('=') {
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
        None => Err(format!("CNI_ARGS has `{pair}`, which is no KEY=VALUE")),
    };
    text.split(';').filter(|part| !part.is_empty()).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"{"cniVersion":"1.0.0","name":"n","type":"hauberk-cni","socket":"/s","prevResult":{"ips":[{"address":"10.1.2.3/24"},{"address":"fd00::3/64"}],  "dns":{}}}"#;
    const GIVEN: [(&str, &str); 4] = [
        ("CNI_CONTAINERID", "c0ffee"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_NETNS", "/run/netns/x"),
        ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=u-1"),
    ];

    fn environment<'a>(changed: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
        move |name| {
            let all = changed.iter().chain(&GIVEN);
            all.filter(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()).next()
        }
    }

    fn refusal(command: Command, changed: &[(&str, &str)], input: &str) -> (Code, String) {
        let failure = Call::read(command, &environment(changed), input).unwrap_err();
        (failure.code, failure.message)
    }

    #[test]
    fn what_a_runtime_says_is_read() {
        let call = Call::read(Command::Add, &environment(&[]), CONFIG).unwrap();
        let attachment = call.attachment.clone().unwrap();
        let pod = attachment.pod.unwrap();
        assert_eq!(
            (attachment.container.as_str(), pod.namespace.as_str(), pod.name.as_str()),
            ("c0ffee", "shop", "web-0")
        );
        assert_eq!((pod.uid.as_deref(), call.version.as_str()), (Some("u-1"), "1.0.0"));
        assert_eq!(call.addresses().unwrap(), ["10.1.2.3", "fd00::3"].map(|text| text.parse::<IpAddr>().unwrap()));
        assert!(call.previous.unwrap().get().ends_with(r#"],  "dns":{}}"#), "as it came, spaces too");
    }

    #[test]
    fn garbage_is_told_from_a_wrong_version_and_a_poor_environment() {
        assert_eq!(refusal(Command::Add, &[], "\u{0}{").0, Code::Decode);
        assert_eq!(refusal(Command::Add, &[], "").0, Code::Decode);
        assert_eq!(refusal(Command::Add, &[], r#"{"cniVersion":1}"#).0, Code::Decode);
        assert_eq!(refusal(Command::Add, &[], r#"{"cniVersion":"2.0.0"}"#).0, Code::Incompatible);
        assert_eq!(refusal(Command::Add, &[], "{}").0, Code::Incompatible);
        assert_eq!(refusal(Command::Add, &[], r#"{"cniVersion":"1.0.0"}"#).0, Code::Config);
        for (variable, value) in [
            ("CNI_CONTAINERID", ""),
            ("CNI_CONTAINERID", "../x"),
            ("CNI_IFNAME", ""),
            ("CNI_NETNS", ""),
            ("CNI_ARGS", "K8S_POD_NAME"),
        ] {
            let (code, message) = refusal(Command::Add, &[(variable, value)], CONFIG);
            assert!(code == Code::Environment && message.contains(variable), "{message}");
        }
        for wrong in [Some("ADDD"), Some(""), None] {
            assert_eq!(command(&|_| wrong.map(str::to_owned)).unwrap_err().code, Code::Environment);
        }
        let odd = CONFIG.replace("10.1.2.3/24", "10.1.2.3/99");
        let call = Call::read(Command::Add, &environment(&[]), &odd).unwrap();
        assert_eq!(call.addresses().unwrap_err().code, Code::Decode);
    }

    #[test]
    fn a_sandbox_that_goes_needs_neither_a_namespace_nor_a_result() {
        let call = Call::read(Command::Del, &environment(&[("CNI_NETNS", "")]), r#"{"cniVersion":"0.3.1"}"#).unwrap();
        assert_eq!(call.attachment.unwrap().netns, None);
    }

    #[test]
    fn the_sandboxes_that_are_left_are_read() {
        let input = r#"{"cniVersion":"1.1.0","cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"}]}"#;
        assert_eq!(Call::read(Command::Gc, &|_| None, input).unwrap().valid, ["a"]);
        let none = input.replace(r#"{"containerID":"a","ifname":"eth0"}"#, "");
        assert!(Call::read(Command::Gc, &|_| None, &none).unwrap().valid.is_empty());
    }

    #[test]
    fn a_list_of_sandboxes_that_is_missing_is_not_an_empty_one() {
        let (code, message) = refusal(Command::Gc, &[], r#"{"cniVersion":"1.1.0","name":"n"}"#);
        assert!(code == Code::Config && message.contains("valid-attachments"), "{message}");
        assert!(Call::read(Command::Status, &|_| None, r#"{"cniVersion":"1.1.0"}"#).is_ok());
    }

    #[test]
    fn a_version_that_is_not_known_is_told_and_the_rest_is_read() {
        for (version, shown) in
            [(r#""cniVersion":"2.0.0","#, "2.0.0"), (r#""cniVersion":"0.2.0","#, "0.2.0"), ("", "0.1.0")]
        {
            let config = CONFIG.replace(r#""cniVersion":"1.0.0","#, version);
            let call = Call::read(Command::Add, &environment(&[]), &config).unwrap();
            let failure = call.unsupported.clone().unwrap();
            assert!(failure.code == Code::Incompatible && failure.message.contains(shown), "{failure:?}");
            assert!(call.attachment.is_some_and(|attachment| attachment.pod.is_some()) && call.previous.is_some());
        }
        assert_eq!(Call::read(Command::Add, &environment(&[]), CONFIG).unwrap().unsupported, None);
    }

    #[test]
    fn a_failure_has_the_form_of_the_specification() {
        let failure = Failure { version: "1.0.0".to_owned(), code: Code::TryAgain, message: "a \"b\"".to_owned() };
        let shown: serde_json::Value = serde_json::from_str(&failure.to_json()).unwrap();
        assert_eq!(shown, json!({"cniVersion": "1.0.0", "code": 11, "msg": "a \"b\""}));
    }
}
