//! A container runtime as far as CNI goes: drives the plugins of a configuration as the specification says.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::process::Place;

/// A pod's sandbox, as a runtime names it.
#[derive(Clone, Debug)]
pub struct Sandbox {
    /// The runtime's name for it.
    pub container: String,
    /// Its network namespace.
    pub netns: PathBuf,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's uid.
    pub uid: String,
}

/// What a plugin printed.
#[derive(Clone, Debug)]
pub struct Printed {
    /// Whether its exit code was 0.
    pub succeeded: bool,
    /// Standard output.
    pub text: String,
}

impl Printed {
    /// The code and message of an error; an error if it is none.
    pub fn error(&self) -> Result<(u64, String)> {
        let read: Value = serde_json::from_str(&self.text).with_context(|| format!("no JSON: {}", self.text))?;
        match (self.succeeded, read["code"].as_u64(), read["msg"].as_str()) {
            (false, Some(code), Some(message)) if read["cniVersion"].is_string() => Ok((code, message.to_owned())),
            _ => bail!("succeeded={}: {}", self.succeeded, self.text),
        }
    }

    fn success(self, plugin: &str) -> Result<String> {
        if self.succeeded { Ok(self.text) } else { bail!("{plugin}: {}", self.text) }
    }
}

/// A runtime of one node.
#[derive(Debug)]
pub struct Runtime {
    place: Place,
    configuration: PathBuf,
    plugins: Vec<PathBuf>,
}

impl Runtime {
    /// Runs plugins of these directories in `place`, as the list in the file `configuration` says.
    pub fn new(place: Place, configuration: PathBuf, plugins: Vec<PathBuf>) -> Self {
        Self { place, configuration, plugins }
    }

    /// Makes a sandbox's network. Returns what the plugin before the last said, and the last.
    pub fn add(&self, sandbox: &Sandbox) -> Result<(String, Printed)> {
        let (mut before, mut last) = (String::new(), None::<Printed>);
        for plugin in self.chain()? {
            if let Some(last) = last.take() {
                before = last.success("ADD")?;
            }
            let previous = serde_json::from_str(&before).unwrap_or(Value::Null);
            last = Some(self.run("ADD", &plugin, Some(sandbox), &previous)?);
        }
        Ok((before, last.context("an empty list")?))
    }

    /// Makes a sandbox's network without the plugin `kind`, as if somebody had taken it out of the list. Returns the result.
    pub fn add_without(&self, sandbox: &Sandbox, kind: &str) -> Result<String> {
        let mut result = String::new();
        for plugin in self.chain()?.iter().filter(|plugin| plugin["type"] != kind) {
            let previous = serde_json::from_str(&result).unwrap_or(Value::Null);
            result = self.run("ADD", plugin, Some(sandbox), &previous)?.success("ADD")?;
        }
        Ok(result)
    }

    /// Asks every plugin whether all is as it was made.
    pub fn check(&self, sandbox: &Sandbox, result: &str) -> Result<()> {
        for plugin in self.chain()? {
            self.run("CHECK", &plugin, Some(sandbox), &serde_json::from_str(result)?)?.success("CHECK")?;
        }
        Ok(())
    }

    /// Takes a sandbox's network away, the last plugin first.
    pub fn del(&self, sandbox: &Sandbox, result: &str) -> Result<()> {
        self.del_without(sandbox, result, "")
    }

    /// The same, as if somebody had taken the plugin `kind` out of the list.
    pub fn del_without(&self, sandbox: &Sandbox, result: &str, kind: &str) -> Result<()> {
        for plugin in self.chain()?.iter().rev().filter(|plugin| plugin["type"] != kind) {
            let previous = serde_json::from_str(result).unwrap_or(Value::Null);
            self.run("DEL", plugin, Some(sandbox), &previous)?.success("DEL")?;
        }
        Ok(())
    }

    /// Tells one plugin which sandboxes are left; `None`: without saying it, as a runtime must not.
    pub fn collect(&self, kind: &str, left: Option<&[&Sandbox]>) -> Result<Printed> {
        let found = self.chain()?.into_iter().find(|plugin| plugin["type"] == kind);
        let mut plugin = found.context("not in the list")?;
        plugin["cniVersion"] = json!("1.1.0");
        if let Some(left) = left {
            let left = left.iter().map(|sandbox| json!({"containerID": sandbox.container, "ifname": "eth0"}));
            plugin["cni.dev/valid-attachments"] = left.collect();
        }
        self.exec(kind, &[("CNI_COMMAND", "GC")], plugin.to_string().as_bytes())
    }

    /// Runs one plugin with a verb of its own choice.
    pub fn ask(&self, kind: &str, command: &str) -> Result<Printed> {
        let plugin = self.chain()?.into_iter().find(|plugin| plugin["type"] == kind).context("not in the list")?;
        self.run(command, &plugin, None, &Value::Null)
    }

    /// Runs one plugin with this standard input and environment.
    pub fn exec(&self, kind: &str, environment: &[(&str, &str)], input: &[u8]) -> Result<Printed> {
        let found = self.plugins.iter().map(|directory| directory.join(kind)).find(|path| path.exists());
        let mut command = self.place.command(found.with_context(|| format!("no plugin {kind}"))?);
        let path = std::env::join_paths(&self.plugins)?;
        command.env("CNI_PATH", path).envs(environment.iter().copied());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().context("start a plugin")?;
        // A plugin may end without reading.
        drop(child.stdin.take().context("no pipe")?.write_all(input));
        let output = child.wait_with_output()?;
        let text = String::from_utf8(output.stdout).context("a plugin prints text")?;
        Ok(Printed { succeeded: output.status.success(), text })
    }

    fn run(&self, command: &str, plugin: &Value, sandbox: Option<&Sandbox>, previous: &Value) -> Result<Printed> {
        let mut input = plugin.clone();
        let list = self.list()?;
        (input["cniVersion"], input["name"]) = (list["cniVersion"].clone(), list["name"].clone());
        if !previous.is_null() {
            input["prevResult"] = previous.clone();
        }
        if command == "STATUS" {
            input["cniVersion"] = json!("1.1.0");
        }
        let kind = plugin["type"].as_str().context("a plugin has a type")?;
        let mut environment = vec![("CNI_COMMAND".to_owned(), command.to_owned())];
        if let Some(Sandbox { container, netns, namespace, name, uid }) = sandbox {
            let arguments = format!(
                "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_INFRA_CONTAINER_ID={container};K8S_POD_UID={uid}"
            );
            environment.extend([
                ("CNI_CONTAINERID".to_owned(), container.clone()),
                ("CNI_NETNS".to_owned(), netns.display().to_string()),
                ("CNI_IFNAME".to_owned(), "eth0".to_owned()),
                ("CNI_ARGS".to_owned(), arguments),
            ]);
        }
        let environment: Vec<_> = environment.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        self.exec(kind, &environment, input.to_string().as_bytes())
    }

    fn list(&self) -> Result<Value> {
        let text = std::fs::read_to_string(&self.configuration)?;
        serde_json::from_str(&text).with_context(|| format!("read {text}"))
    }

    fn chain(&self) -> Result<Vec<Value>> {
        Ok(self.list()?["plugins"].as_array().context("no plugins")?.clone())
    }
}
