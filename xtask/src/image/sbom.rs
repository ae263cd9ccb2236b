//! What is in the image's program, as a CycloneDX document: by cargo's own word, without a date, so that it is the same each time.
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::workspace;

/// As registered for CycloneDX.
pub(super) const MEDIA_TYPE: &str = "application/vnd.cyclonedx+json";

/// What is linked: the agent, and the kernel's programs inside it.
const ROOTS: [&str; 2] = ["mesh-agent", "mesh-ebpf"];

/// A crate of one version.
type Crate = (String, String);

/// The document for a build for `target`.
pub(super) fn document(target: &str) -> Result<Vec<u8>> {
    let linked = linked(target)?;
    let lock = fs::read_to_string(workspace::root().join("Cargo.lock")).context("read Cargo.lock")?;
    let metadata = metadata(target)?;
    let document = describe(&linked, &checksums(&lock), &metadata, &system()?)?;
    Ok(serde_json::to_vec_pretty(&document)?)
}

/// Every crate that is linked into one of the roots. `cargo tree` knows which features a package really has; metadata doesn't.
fn linked(target: &str) -> Result<BTreeSet<Crate>> {
    let mut crates = BTreeSet::new();
    for root in ROOTS {
        let mut tree = workspace::cargo();
        tree.args(["tree", "--locked", "--edges=normal,no-proc-macro", "--prefix=none", "--package", root]);
        crates.extend(listed(&output(tree.args(["--target", target]))?));
    }
    Ok(crates)
}

/// The crates in lines such as `name v1.2.3 (*)`.
fn listed(tree: &str) -> impl Iterator<Item = Crate> {
    tree.lines().filter_map(|line| {
        let mut words = line.split(' ');
        Some((words.next()?.to_owned(), words.next()?.strip_prefix('v')?.to_owned()))
    })
}

fn metadata(target: &str) -> Result<Value> {
    let mut command = workspace::cargo();
    command.args(["metadata", "--locked", "--format-version=1", "--filter-platform", target]);
    serde_json::from_str(&output(&mut command)?).context("read cargo's metadata")
}

/// What is linked and is no crate, with its version and license.
fn system() -> Result<[(&'static str, String, &'static str); 2]> {
    let glibc = output(Command::new("getconf").arg("GNU_LIBC_VERSION"))?;
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let rustc = output(Command::new(rustc).arg("--version"))?;
    let second = |text: &str| text.split_whitespace().nth(1).map(str::to_owned).context("a version comes second");
    Ok([("glibc", second(&glibc)?, "LGPL-2.1-or-later"), ("rust-std", second(&rustc)?, "MIT OR Apache-2.0")])
}

fn output(command: &mut Command) -> Result<String> {
    let shown = ebpf_build::describe(command);
    let output = command.output().with_context(|| format!("start `{shown}`"))?;
    if !output.status.success() {
        bail!("`{shown}`: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// The SHA-256 of each crate that comes from a registry. A lock file is TOML of a fixed form.
fn checksums(lock: &str) -> BTreeMap<Crate, String> {
    let value = |package: &str, key: &str| {
        let line = package.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = \""));
        Some(line?.trim_end_matches('"').to_owned())
    };
    let packages = lock.split("[[package]]");
    let one = |package| Some(((value(package, "name")?, value(package, "version")?), value(package, "checksum")?));
    packages.filter_map(one).collect()
}

fn describe(
    linked: &BTreeSet<Crate>,
    checksums: &BTreeMap<Crate, String>,
    metadata: &Value,
    system: &[(&str, String, &str)],
) -> Result<Value> {
    let packages = metadata["packages"].as_array().context("metadata has packages")?;
    let name = |package: &Value, key: &str| package[key].as_str().unwrap_or_default().to_owned();
    let by_crate: BTreeMap<Crate, &Value> =
        packages.iter().map(|package| ((name(package, "name"), name(package, "version")), package)).collect();
    let by_id: BTreeMap<String, &Crate> = by_crate.iter().map(|(key, package)| (name(package, "id"), key)).collect();
    let mut components = Vec::new();
    for key in linked {
        let license = by_crate.get(key).and_then(|package| package["license"].as_str());
        components.push(component(key, license, checksums.get(key)));
    }
    for (name, version, license) in system {
        let reference = format!("{name}@{version}");
        components.push(json!({"type": "library", "bom-ref": reference, "name": name, "version": version,
            "licenses": [{"expression": license}]}));
    }
    let mut dependencies = Vec::new();
    for node in metadata["resolve"]["nodes"].as_array().context("metadata has a graph")? {
        let Some(key) = by_id.get(&name(node, "id")).filter(|key| linked.contains(**key)) else { continue };
        let below = node["dependencies"].as_array().into_iter().flatten();
        let below = below.filter_map(|id| by_id.get(id.as_str()?)).filter(|key| linked.contains(**key));
        let below: BTreeSet<_> = below.map(|key| reference(key)).collect();
        dependencies.push((reference(key), below));
    }
    dependencies.sort();
    let dependencies: Vec<_> =
        dependencies.into_iter().map(|(from, to)| json!({"ref": from, "dependsOn": to})).collect();
    let subject = json!({"type": "application", "bom-ref": "image", "name": "mesh-agent",
        "version": env!("CARGO_PKG_VERSION"), "licenses": [{"expression": "Apache-2.0"}]});
    Ok(json!({"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "metadata": {"component": subject},
        "components": components, "dependencies": dependencies}))
}

fn component(key: &Crate, license: Option<&str>, checksum: Option<&String>) -> Value {
    let (name, version) = key;
    let mut component = json!({"type": "library", "bom-ref": reference(key), "name": name, "version": version,
        "purl": reference(key)});
    if let Some(license) = license {
        // The slash is cargo's old way to say "or", which SPDX does not know.
        component["licenses"] = json!([{"expression": license.replace('/', " OR ")}]);
    }
    if let Some(checksum) = checksum {
        component["hashes"] = json!([{"alg": "SHA-256", "content": checksum}]);
    }
    component
}

/// The package URL, which names a component here too.
fn reference((name, version): &Crate) -> String {
    format!("pkg:cargo/{name}@{version}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agents_own_crates_are_in_it_with_their_checksums_and_no_date() {
        let target = crate::build::host().unwrap();
        let text = document(&target).unwrap();
        assert_eq!(text, document(&target).unwrap());
        let document: Value = serde_json::from_slice(&text).unwrap();
        assert!(document["metadata"]["timestamp"].is_null());
        let components = document["components"].as_array().unwrap();
        let find = |name: &str| components.iter().find(|component| component["name"] == name);
        let rustls = find("rustls").unwrap();
        assert_eq!(rustls["hashes"][0]["content"].as_str().unwrap().len(), 64);
        assert!(rustls["licenses"][0]["expression"].as_str().unwrap().contains("Apache-2.0"));
        for expected in ["mesh-agent", "aya-ebpf", "glibc", "rust-std"] {
            assert!(find(expected).is_some(), "{expected}");
        }
        for linked_nowhere in ["clap_derive", "mesh-tests", "divan"] {
            assert!(find(linked_nowhere).is_none(), "{linked_nowhere}");
        }
        let references: BTreeSet<_> = components.iter().map(|component| component["bom-ref"].to_string()).collect();
        assert_eq!(references.len(), components.len());
        for dependency in document["dependencies"].as_array().unwrap() {
            assert!(references.contains(&dependency["ref"].to_string()), "{dependency}");
        }
    }

    #[test]
    fn a_tree_line_names_a_crate_and_its_version() {
        let tree = "mesh-agent v0.1.0 (/w/mesh-agent)\nserde v1.0.2 (*)\n\n";
        let crates: Vec<_> = listed(tree).collect();
        assert_eq!(crates, [("mesh-agent", "0.1.0"), ("serde", "1.0.2")].map(|(a, b)| (a.to_owned(), b.to_owned())));
    }
}
