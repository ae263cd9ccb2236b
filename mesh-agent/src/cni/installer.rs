//! Keeps the plugin on the node: its file where runtimes look for plugins, its part in their configuration.
//!
//! The directories are looked at twice a second, like that of our own documents and for the same reasons
//! (`sources/watch.rs`). When the agent ends everything stays: enrolled pods must not start without it.

use std::convert::Infallible;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::PLUGIN;
use super::conflist::{self, ConfigFile, Step};
use crate::sys::file::{self, Look};

/// A change is answered once two looks in a row have seen it: within a second, and not while somebody still writes.
const LOOK: Duration = Duration::from_millis(500);
/// The plugin is this program.
const OWN: &str = "/proc/self/exe";

/// The installer's task.
#[derive(Debug)]
pub struct Installer {
    plugins: PathBuf,
    configuration: PathBuf,
    entry: String,
    binary: Option<Look>,
    seen: Vec<ConfigFile>,
    said: Option<String>,
}

impl Installer {
    /// Will keep the plugin in `plugins` and `entry` (`conflist::entry`) in the configuration.
    pub fn new(plugins: PathBuf, configuration: PathBuf, entry: String) -> Self {
        Self { plugins, configuration, entry, binary: None, seen: Vec::new(), said: None }
    }

    /// Looks and puts right, for ever; while `leave` says so, it takes the plugin off the node instead, and tells `left` once
    /// that is done. Tells `placed` once that the plugin is in place.
    pub async fn run(
        mut self,
        mut leave: watch::Receiver<bool>,
        left: watch::Sender<bool>,
        placed: watch::Sender<bool>,
    ) -> Infallible {
        loop {
            let leaves = *leave.borrow_and_update();
            let was_placed = *placed.borrow();
            // Never cut off: what it does must not come after what is done next.
            let look = spawn_blocking(move || {
                let outcome = if leaves { self.leave() } else { self.look() };
                let is_placed = was_placed || self.is_placed();
                (self, outcome, is_placed)
            });
            let (installer, outcome, is_placed) =
                look.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
            self = installer;
            let has_left = leaves && outcome.is_ok();
            left.send_if_modified(|known| std::mem::replace(known, has_left) != has_left);
            placed.send_if_modified(|known| std::mem::replace(known, is_placed) != is_placed);
            self.report(outcome);
            tokio::select! {
                () = sleep(LOOK) => {}
                Ok(()) = leave.changed() => {}
            }
        }
    }

    fn report(&mut self, outcome: io::Result<Vec<Step>>) {
        match outcome {
            Ok(steps) => {
                self.said = None;
                for step in steps {
                    tracing::info!(target: "audit", %step, "network configuration changed");
                }
            }
            Err(error) => {
                let error = error.to_string();
                if self.said.as_ref() != Some(&error) {
                    tracing::error!(error, "the CNI plugin is not as it should be");
                    self.said = Some(error);
                }
            }
        }
    }

    fn is_placed(&self) -> bool {
        read(&self.configuration).is_ok_and(|files| is_in_place(&self.plugins, &files, &self.entry))
    }

    fn leave(&mut self) -> io::Result<Vec<Step>> {
        (self.binary, self.seen) = (None, Vec::new());
        uninstall(&self.plugins, &self.configuration)
    }

    /// The plugin first: a configuration must not name what isn't there.
    fn look(&mut self) -> io::Result<Vec<Step>> {
        let path = self.plugins.join(PLUGIN);
        if self.binary.is_none() || Look::at(&path).ok() != self.binary {
            if !is_same(&path)? {
                let mut own = Vec::new();
                File::open(OWN)?.read_to_end(&mut own)?;
                file::replace(&path, 0o755, &own)?;
                tracing::info!(path = %path.display(), "CNI plugin installed");
            }
            self.binary = Some(Look::at(&path)?);
        }
        let files = read(&self.configuration)?;
        if files != self.seen {
            self.seen = files;
            return Ok(Vec::new());
        }
        let steps = conflist::install(&files, &self.entry);
        take(&self.configuration, &steps, &files)?;
        match conflist::obstacle(&files).filter(|_| steps.is_empty()) {
            Some(obstacle) => Err(io::Error::other(obstacle)),
            None => Ok(steps),
        }
    }
}

/// Takes the plugin off the node: out of the configuration first, then its file.
pub fn uninstall(plugins: &Path, configuration: &Path) -> io::Result<Vec<Step>> {
    let files = read(configuration)?;
    let steps = conflist::remove(&files);
    take(configuration, &steps, &files)?;
    file::remove(&plugins.join(PLUGIN))?;
    Ok(steps)
}

/// Whether the runtime finds the plugin, in the configuration that it takes.
pub fn is_in_place(plugins: &Path, files: &[ConfigFile], entry: &str) -> bool {
    let is_chained = conflist::install(files, entry).is_empty() && !conflist::remove(files).is_empty();
    is_chained && conflist::obstacle(files).is_none() && plugins.join(PLUGIN).is_file()
}

/// All files of a configuration; none where there is no directory yet.
pub fn read(directory: &Path) -> io::Result<Vec<ConfigFile>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let Ok(name) = entry?.file_name().into_string() else { continue };
        if conflist::is_ours_to_read(&name) {
            match fs::read_to_string(directory.join(&name)) {
                Ok(text) => files.push(ConfigFile { name, text }),
                // Gone meanwhile, or no text: runtimes can't read it either.
                Err(error) if [io::ErrorKind::NotFound, io::ErrorKind::InvalidData].contains(&error.kind()) => {}
                Err(error) => return Err(error),
            }
        }
    }
    files.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(files)
}

/// Takes the steps that these files have led to. An error where somebody else has changed one of them meanwhile: what they
/// have written stays, and leads to other steps.
fn take(directory: &Path, steps: &[Step], files: &[ConfigFile]) -> io::Result<()> {
    for step in steps {
        let read = |name: &str| files.iter().find(|file| file.name == name).map(|file| file.text.as_bytes());
        let is_as_read = |name: &str| Ok::<_, io::Error>(Some(&fs::read(directory.join(name))?[..]) == read(name));
        let taken = match step {
            Step::Write { name, text } => {
                let path = directory.join(name);
                let mode = fs::metadata(&path).map_or(0o644, |found| found.permissions().mode() & 0o777);
                file::replace_if(&path, mode, text.as_bytes(), read(name))?
            }
            Step::Rename { from, to } => {
                is_as_read(from)? && fs::rename(directory.join(from), directory.join(to)).map(|()| true)?
            }
            Step::Remove { name } => is_as_read(name)? && fs::remove_file(directory.join(name)).map(|()| true)?,
        };
        if !taken {
            return Err(io::Error::other(format!(
                "somebody else changes the network configuration: {step} is not done"
            )));
        }
    }
    Ok(())
}

/// Whether the plugin at `path` is this very program.
fn is_same(path: &Path) -> io::Result<bool> {
    let (mut own, mut other) = match File::open(path) {
        Ok(other) => (File::open(OWN)?, other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let found = other.metadata()?;
    if own.metadata()?.len() != found.len() || found.permissions().mode() & 0o777 != 0o755 {
        return Ok(false);
    }
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    own.read_to_end(&mut ours)?;
    other.read_to_end(&mut theirs)?;
    Ok(ours == theirs)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"bridge"}]}"#;

    #[test]
    fn the_plugin_comes_back_when_somebody_else_writes_and_goes_without_a_trace() {
        let directory = tempfile::tempdir().unwrap();
        let [plugins, configuration] = ["bin", "net.d"].map(|name| directory.path().join(name));
        fs::create_dir(&plugins).unwrap();
        let mut installer = Installer::new(plugins.clone(), configuration.clone(), conflist::entry("/s", "/k"));
        assert_eq!(installer.look().unwrap(), [], "no network yet");
        fs::create_dir(&configuration).unwrap();
        let list = configuration.join("10-a.conflist");
        for name in ["n", "other"] {
            fs::write(&list, LIST.replace("\"n\"", &format!("\"{name}\""))).unwrap();
            fs::set_permissions(&list, fs::Permissions::from_mode(0o600)).unwrap();
            assert_eq!(installer.look().unwrap(), [], "somebody may still be writing");
            assert!(!is_in_place(&plugins, &read(&configuration).unwrap(), &installer.entry));
            assert_eq!(installer.look().unwrap().len(), 1);
            assert!(is_in_place(&plugins, &read(&configuration).unwrap(), &installer.entry));
            assert!(fs::read_to_string(&list).unwrap().contains(PLUGIN));
            assert_eq!(fs::metadata(&list).unwrap().permissions().mode() & 0o777, 0o600);
            installer.look().unwrap();
            assert_eq!(installer.look().unwrap(), []);
        }
        fs::write(&list, LIST.replace("1.0.0", "0.2.0")).unwrap();
        installer.look().unwrap();
        let error = installer.look().unwrap_err().to_string();
        assert!(error.contains("10-a.conflist has cniVersion 0.2.0"), "{error}");
        fs::write(&list, LIST.replace("\"n\"", "\"other\"")).unwrap();
        for _ in 0..2 {
            installer.look().unwrap();
        }
        let own = fs::read(OWN).unwrap();
        let plugin = plugins.join(PLUGIN);
        assert!(fs::read(&plugin).unwrap() == own);
        fs::write(&plugin, "something else").unwrap();
        installer.look().unwrap();
        assert!(fs::read(&plugin).unwrap() == own);
        uninstall(&plugins, &configuration).unwrap();
        assert_eq!(fs::read_to_string(&list).unwrap(), LIST.replace("\"n\"", "\"other\""));
        assert_eq!([&plugins, &configuration].map(|directory| fs::read_dir(directory).unwrap().count()), [0, 1]);
        uninstall(&plugins, &configuration).unwrap();
    }
    #[test]
    fn what_another_writes_between_our_look_and_our_step_stays() {
        let directory = tempfile::tempdir().unwrap();
        let configuration = directory.path();
        let list = configuration.join("10-a.conflist");
        let of = |name: &str| LIST.replace("\"n\"", &format!("\"{name}\""));
        fs::write(&list, of("n")).unwrap();
        let files = read(configuration).unwrap();
        let steps = conflist::install(&files, &conflist::entry("/s", "/k"));
        fs::write(&list, of("quicker")).unwrap();
        assert!(take(configuration, &steps, &files).is_err());
        assert_eq!(fs::read_to_string(&list).unwrap(), of("quicker"));
        fs::remove_file(&list).unwrap();
        assert!(take(configuration, &steps, &files).is_err());
        assert_eq!(fs::read_dir(configuration).unwrap().count(), 0, "what was removed stays so");
        // The same of a single configuration, which would be put aside.
        let single = configuration.join("10-a.conf");
        let text = r#"{"cniVersion":"1.0.0","name":"n","type":"bridge"}"#;
        fs::write(&single, text).unwrap();
        let files = read(configuration).unwrap();
        let steps = conflist::install(&files, &conflist::entry("/s", "/k"));
        fs::write(&single, text.replace("bridge", "other")).unwrap();
        assert!(take(configuration, &steps, &files).is_err());
        assert!(fs::read_to_string(&single).unwrap().contains("other"));
    }
}
