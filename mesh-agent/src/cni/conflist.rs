//! Puts the plugin into a node's network configuration and takes it out again: functions of the files' text.
//!
//! Others own these files. So what they wrote stays byte by byte: our part is cut in and out of the text.

use std::fmt;

use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::PLUGIN;
use super::call::VERSIONS;

/// Ends the name of a configuration that we have put aside: no runtime reads it.
const ASIDE: &str = ".hauberk-aside";
/// Ends the name of the list that we have made of one. In the order of names it stands right before what it replaces.
const MADE: &str = "-hauberk.conflist";

/// A file of the configuration's directory.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConfigFile {
    /// Its name.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// What is to be done to the directory, one after the other.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Step {
    /// Give a file this text.
    Write {
        /// Its name.
        name: String,
        /// The text.
        text: String,
    },
    /// Give a file another name.
    Rename {
        /// The present one.
        from: String,
        /// The new one.
        to: String,
    },
    /// Remove a file.
    Remove {
        /// Its name.
        name: String,
    },
}

/// Without the text, which is not ours to tell.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write { name, .. } => write!(f, "write {name}"),
            Self::Rename { from, to } => write!(f, "rename {from} to {to}"),
            Self::Remove { name } => write!(f, "remove {name}"),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct List<'a> {
    cni_version: Option<String>,
    /// Others: a runtime takes the newest that it knows.
    #[serde(default)]
    cni_versions: Vec<String>,
    #[serde(borrow)]
    plugins: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Single {
    cni_version: Option<String>,
    #[serde(default)]
    name: String,
    #[serde(rename = "type")]
    kind: String,
}

/// Whether a file of this name is looked at here.
pub fn is_ours_to_read(name: &str) -> bool {
    is_list(name) || is_single(name) || name.ends_with(ASIDE)
}

/// The plugin's own part of a configuration.
pub fn entry(socket: &str, known: &str) -> String {
    json!({"type": PLUGIN, "socket": socket, "known": known}).to_string()
}

/// What puts `entry` into the configuration that runtimes take: the first by name that they can read. It goes out of all
/// others, and out of that one too if there is an [`obstacle`]. Nothing: all is as it should be, as far as it can be.
pub fn install(files: &[ConfigFile], entry: &str) -> Vec<Step> {
    let mut usable = usable(files).into_iter().peekable();
    let mut steps = Vec::new();
    let Some(active) = usable.next_if(|active| foreign_version(active).is_none()) else {
        return usable.filter_map(taken_out).collect();
    };
    if is_list(&active.name) {
        let text = with_entry(&active.text, entry).filter(|text| *text != active.text);
        steps.extend(text.map(|text| Step::Write { name: active.name.clone(), text }));
    } else if let Ok(single) = serde_json::from_str(&active.text) {
        let list = Step::Write { name: made_of(&active.name), text: list_of(&single, &active.text, entry) };
        steps.extend([list, Step::Rename { from: active.name.clone(), to: active.name.clone() + ASIDE }]);
    }
    steps.extend(usable.filter_map(taken_out));
    steps
}

/// Why the plugin can't be in the chain: in a configuration of a version that it doesn't know it would fail every pod of the
/// node, those that the cluster and the mesh need too.
pub fn obstacle(files: &[ConfigFile]) -> Option<String> {
    let active = *usable(files).first()?;
    let version = foreign_version(active)?;
    let known = VERSIONS.join(", ");
    Some(format!(
        "{} has {version}; the CNI plugin can be chained into {known}: pods start outside the mesh",
        active.name
    ))
}

/// Those that runtimes can read, in their order.
fn usable(files: &[ConfigFile]) -> Vec<&ConfigFile> {
    let mut usable: Vec<_> = files.iter().filter(|file| !is_outdated(file, files) && is_usable(file)).collect();
    usable.sort_by(|one, other| one.name.cmp(&other.name));
    usable
}

fn taken_out(file: &ConfigFile) -> Option<Step> {
    let text = is_list(&file.name).then(|| without_entry(&file.text)).flatten()?;
    Some(Step::Write { name: file.name.clone(), text })
}

/// What of a configuration's version keeps the plugin out.
fn foreign_version(file: &ConfigFile) -> Option<String> {
    let (version, others) = if is_list(&file.name) {
        let list: List<'_> = serde_json::from_str(&file.text).ok()?;
        (list.cni_version, list.cni_versions)
    } else {
        (serde_json::from_str::<Single>(&file.text).ok()?.cni_version, Vec::new())
    };
    if version.is_none() && others.is_empty() {
        return Some("no cniVersion".to_owned());
    }
    let foreign = version.into_iter().chain(others).find(|version| !VERSIONS.contains(&version.as_str()))?;
    Some(format!("cniVersion {foreign}"))
}

/// What makes the directory as if we had never been there.
pub fn remove(files: &[ConfigFile]) -> Vec<Step> {
    let mut steps = Vec::new();
    for file in files {
        if let Some(original) = file.name.strip_suffix(ASIDE) {
            steps.push(match files.iter().any(|other| other.name == original) {
                // Somebody has written it anew meanwhile.
                true => Step::Remove { name: file.name.clone() },
                false => Step::Rename { from: file.name.clone(), to: original.to_owned() },
            });
            let made = made_of(original);
            if files.iter().any(|other| other.name == made) {
                steps.push(Step::Remove { name: made });
            }
        } else if is_list(&file.name) && !file.name.ends_with(MADE) {
            let text = without_entry(&file.text);
            steps.extend(text.map(|text| Step::Write { name: file.name.clone(), text }));
        }
    }
    steps
}

/// A list with the plugin at its end, unless it is somewhere in it already; `None`: it is no list.
fn with_entry(text: &str, entry: &str) -> Option<String> {
    let list: List<'_> = serde_json::from_str(text).ok()?;
    let last = list.plugins.last()?;
    let wanted: serde_json::Value = serde_json::from_str(entry).ok()?;
    let is_wanted =
        |plugin: &&RawValue| serde_json::from_str(plugin.get()).is_ok_and(|held: serde_json::Value| held == wanted);
    match list.plugins.iter().filter(|plugin| is_ours(plugin)).count() {
        0 => {}
        1 if list.plugins.iter().skip(1).any(is_wanted) => return Some(text.to_owned()),
        _ => return with_entry(&without_entry(text)?, entry),
    }
    let end = start(text, last) + last.get().len();
    Some(format!("{},\n    {entry}{}", &text[..end], &text[end..]))
}

/// A list without the plugin; `None`: it has none.
fn without_entry(text: &str) -> Option<String> {
    let list: List<'_> = serde_json::from_str(text).ok()?;
    let position = list.plugins.iter().position(|plugin| is_ours(plugin))?;
    let ours = list.plugins[position];
    let mut cut = start(text, ours)..start(text, ours) + ours.get().len();
    if let Some(before) = position.checked_sub(1) {
        cut.start = start(text, list.plugins[before]) + list.plugins[before].get().len();
    } else if let Some(after) = list.plugins.get(1) {
        cut.end = start(text, after);
    }
    let rest = [&text[..cut.start], &text[cut.end..]].concat();
    Some(without_entry(&rest).unwrap_or(rest))
}

fn list_of(single: &Single, text: &str, entry: &str) -> String {
    let Single { cni_version, name, kind: _ } = single;
    let (version, name) = (json!(cni_version), json!(name));
    let text = text.trim();
    format!(
        "{{\n  \"cniVersion\": {version},\n  \"name\": {name},\n  \"plugins\": [\n    {text},\n    {entry}\n  ]\n}}\n"
    )
}

fn is_ours(plugin: &RawValue) -> bool {
    serde_json::from_str(plugin.get()).is_ok_and(|plugin: Single| plugin.kind == PLUGIN)
}

/// Where a part of `text` stands in it.
fn start(text: &str, part: &RawValue) -> usize {
    part.get().as_ptr().addr() - text.as_ptr().addr()
}

fn is_usable(file: &ConfigFile) -> bool {
    if is_list(&file.name) {
        serde_json::from_str(&file.text).is_ok_and(|list: List<'_>| list.plugins.iter().any(|plugin| !is_ours(plugin)))
    } else {
        is_single(&file.name) && serde_json::from_str::<Single>(&file.text).is_ok()
    }
}

/// Whether it is a list of ours whose original somebody has written anew.
fn is_outdated(file: &ConfigFile, files: &[ConfigFile]) -> bool {
    files.iter().any(|other| is_single(&other.name) && made_of(&other.name) == file.name)
}

fn made_of(single: &str) -> String {
    let stem = single.rsplit_once('.').map_or(single, |(stem, _)| stem);
    stem.to_owned() + MADE
}

fn is_list(name: &str) -> bool {
    name.ends_with(".conflist")
}

fn is_single(name: &str) -> bool {
    name.ends_with(".conf") || name.ends_with(".json")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "{ \"name\":\"n\",\n\t\"plugins\": [ {\"type\":\"bridge\", \"b\":1.50, \"a\":{}} , {\"type\":\"portmap\"}\n ],\n \"cniVersion\":\"1.0.0\", \"x\": [ ] }\n";
    const SINGLE: &str = "{\"cniVersion\":\"0.3.1\",\"type\":\"bridge\",\"name\":\"n\"}\n";

    fn ours() -> String {
        entry("/run/s", "/var/k")
    }

    fn file(name: &str, text: &str) -> ConfigFile {
        ConfigFile { name: name.to_owned(), text: text.to_owned() }
    }

    /// What a directory is after these steps.
    fn after(files: &[ConfigFile], steps: &[Step]) -> Vec<ConfigFile> {
        let mut files: std::collections::BTreeMap<_, _> =
            files.iter().map(|file| (file.name.clone(), file.text.clone())).collect();
        for step in steps {
            match step.clone() {
                Step::Write { name, text } => drop(files.insert(name, text)),
                Step::Rename { from, to } => {
                    let text = files.remove(&from).unwrap();
                    files.insert(to, text);
                }
                Step::Remove { name } => drop(files.remove(&name).unwrap()),
            }
        }
        files.into_iter().map(|(name, text)| ConfigFile { name, text }).collect()
    }

    fn installed(files: &[ConfigFile]) -> Vec<ConfigFile> {
        let installed = after(files, &install(files, &ours()));
        assert_eq!(install(&installed, &ours()), [], "once is enough");
        installed
    }

    #[test]
    fn a_list_gets_the_plugin_and_is_left_as_it_was() {
        let before = [file("10-a.conflist", LIST)];
        let now = installed(&before);
        let read: serde_json::Value = serde_json::from_str(&now[0].text).unwrap();
        let kinds: Vec<_> = read["plugins"].as_array().unwrap().iter().map(|plugin| plugin["type"].clone()).collect();
        assert_eq!(kinds, ["bridge", "portmap", PLUGIN]);
        assert_eq!(read["plugins"][2]["socket"], "/run/s");
        assert!(now[0].text.contains("\"b\":1.50, \"a\":{}} , {"), "others' part stays as it was");
        assert_eq!(after(&now, &remove(&now)), before);
    }

    #[test]
    fn the_first_by_name_that_can_be_read_gets_it() {
        let before = [
            file("20-b.conflist", LIST),
            file("05-broken.conflist", "{"),
            file("06-empty.conflist", r#"{"plugins":[]}"#),
            file("10-a.conflist", LIST),
        ];
        let now = installed(&before);
        let with: Vec<_> = now.iter().filter(|file| file.text.contains(PLUGIN)).map(|file| &file.name[..]).collect();
        assert_eq!(with, ["10-a.conflist"]);
        // Another network comes first now.
        let mut more = now.clone();
        more.push(file("01-new.conflist", LIST));
        let moved = installed(&more);
        let with: Vec<_> = moved.iter().filter(|file| file.text.contains(PLUGIN)).map(|file| &file.name[..]).collect();
        assert_eq!(with, ["01-new.conflist"]);
        assert_eq!(moved.iter().find(|file| file.name == "10-a.conflist").unwrap().text, LIST);
    }

    #[test]
    fn a_single_configuration_becomes_a_list() {
        for name in ["10-a.conf", "10-a.json"] {
            let before = [file(name, SINGLE), file("10-a.conflist", LIST), file("99-loopback.conf", SINGLE)];
            let now = installed(&before);
            let first = now.iter().find(|file| !file.name.ends_with(ASIDE)).unwrap();
            if name == "10-a.json" {
                // The list comes first anyway.
                assert!(first.name == "10-a.conflist" && first.text.contains(PLUGIN));
            } else {
                assert_eq!(first.name, "10-a-hauberk.conflist");
                let read: serde_json::Value = serde_json::from_str(&first.text).unwrap();
                assert_eq!((&read["name"], &read["cniVersion"]), (&json!("n"), &json!("0.3.1")));
                assert_eq!(read["plugins"].as_array().unwrap().len(), 2);
            }
            let mut before = before.to_vec();
            before.sort_by(|one, other| one.name.cmp(&other.name));
            assert_eq!(after(&now, &remove(&now)), before);
        }
    }

    #[test]
    fn a_single_configuration_that_is_written_anew_counts() {
        let mut now = installed(&[file("10-a.conf", SINGLE)]);
        let anew = SINGLE.replace("\"n\"", "\"new\"");
        now.push(file("10-a.conf", &anew));
        let again = installed(&now);
        assert!(again.iter().any(|file| file.name == "10-a-hauberk.conflist" && file.text.contains("\"new\"")));
        assert_eq!(after(&again, &remove(&again)), [file("10-a.conf", &anew)]);
    }

    #[test]
    fn a_version_that_the_plugin_does_not_know_keeps_it_out() {
        let of = |version: &str| LIST.replace("\"cniVersion\":\"1.0.0\"", version);
        for (version, said) in [
            ("\"cniVersion\":\"0.2.0\"", "cniVersion 0.2.0"),
            ("\"cniVersion\":\"2.0.0\"", "cniVersion 2.0.0"),
            ("\"cniVersion\":\"\"", "cniVersion "),
            ("\"v\":1", "no cniVersion"),
            ("\"cniVersion\":\"1.0.0\", \"cniVersions\":[\"1.1.0\",\"1.2.0\"]", "cniVersion 1.2.0"),
        ] {
            let files = [file("10-a.conflist", &of(version)), file("20-b.conflist", LIST)];
            assert_eq!(install(&files, &ours()), [], "{version}: no runtime would take the second");
            let why = obstacle(&files).unwrap();
            assert!(why.contains(&format!("10-a.conflist has {said};")), "{why}");
            // Somebody has given it another version, and left us in it.
            let with_us = [file("10-a.conflist", &with_entry(&of(version), &ours()).unwrap())];
            assert_eq!(after(&with_us, &install(&with_us, &ours())), files[..1]);
        }
        let several = of("\"cniVersions\":[\"0.4.0\",\"1.0.0\"]");
        for good in [LIST, &several] {
            let files = [file("10-a.conflist", good)];
            assert!(obstacle(&files).is_none() && install(&files, &ours()).len() == 1);
        }
        let single = file("10-a.conf", &SINGLE.replace("\"cniVersion\":\"0.3.1\",", ""));
        assert!(obstacle(std::slice::from_ref(&single)).is_some() && install(&[single], &ours()).is_empty());
        assert_eq!(obstacle(&[]), None);
    }

    #[test]
    fn an_old_entry_is_replaced_and_a_place_before_others_is_kept() {
        let old = with_entry(LIST, &entry("/old", "/old")).unwrap();
        assert_eq!(with_entry(&old, &ours()), with_entry(LIST, &ours()));
        let before_others = with_entry(LIST, &ours()).unwrap().replace(" , {\"type\":\"portmap\"}", "");
        let before_others = before_others.replace("\n ],", ",{\"type\":\"portmap\"}],");
        assert_eq!(with_entry(&before_others, &ours()).as_deref(), Some(&before_others[..]));
        assert!(!without_entry(&before_others).unwrap().contains(PLUGIN));
        assert!(without_entry(LIST).is_none() && with_entry("[]", &ours()).is_none());
        let first = format!("{{\"plugins\":[{}, {{\"type\":\"bridge\"}}]}}", ours());
        assert_eq!(without_entry(&first).unwrap(), r#"{"plugins":[{"type":"bridge"}]}"#);
    }
}
