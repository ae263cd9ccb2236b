//! What a reader of an archive relies on, checked on the bytes alone.

use std::collections::BTreeMap;
use std::io::Read as _;

use serde_json::Value;

use super::{Entry, Image, digest};

fn image() -> Image {
    let files = [
        ("bin/tool", Entry::Program(b"program".to_vec())),
        ("bin/alias", Entry::Link("tool".to_owned())),
        ("etc/name", Entry::File(b"text".to_vec())),
        ("tmp", Entry::Scratch),
    ];
    Image {
        reference: "example.org/tool:1".to_owned(),
        entrypoint: vec!["/bin/tool".to_owned()],
        labels: BTreeMap::from([("org.opencontainers.image.version".to_owned(), "1".to_owned())]),
        files: files.map(|(path, entry)| (path.to_owned(), entry)).into(),
        attached: vec![("application/vnd.cyclonedx+json".to_owned(), b"{}\n".to_vec())],
    }
}

fn unpack(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(archive).entries().unwrap() {
        let mut entry = entry.unwrap();
        assert_eq!((entry.header().mtime().unwrap(), entry.header().uid().unwrap()), (0, 0));
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        files.insert(entry.path().unwrap().display().to_string(), bytes);
    }
    files
}

/// The blob that a descriptor names, whose digest and size must be its own.
fn follow<'a>(files: &'a BTreeMap<String, Vec<u8>>, descriptor: &Value) -> &'a [u8] {
    let name = descriptor["digest"].as_str().unwrap();
    let blob = &files[&format!("blobs/{}", name.replace(':', "/"))];
    assert_eq!((digest(blob), blob.len() as u64), (name.to_owned(), descriptor["size"].as_u64().unwrap()));
    blob
}

#[test]
fn every_descriptor_leads_to_the_bytes_that_it_names() {
    let (archive, name) = image().archive().unwrap();
    let files = unpack(&archive);
    let index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
    assert_eq!(index["manifests"][0]["digest"], name);
    assert_eq!(index["manifests"][0]["annotations"]["io.containerd.image.name"], "example.org/tool:1");
    let manifest: Value = serde_json::from_slice(follow(&files, &index["manifests"][0])).unwrap();
    let config: Value = serde_json::from_slice(follow(&files, &manifest["config"])).unwrap();
    let layer = follow(&files, &manifest["layers"][0]);
    assert_eq!(config["rootfs"]["diff_ids"][0], digest(layer));
    assert_eq!(config["config"]["Entrypoint"][0], "/bin/tool");
    let names: Vec<_> = unpack(layer).into_keys().collect();
    assert_eq!(names, ["bin", "bin/alias", "bin/tool", "etc", "etc/name", "tmp"]);
    let attached: Value = serde_json::from_slice(follow(&files, &index["manifests"][1])).unwrap();
    assert_eq!(attached["subject"]["digest"], name);
    assert_eq!(follow(&files, &attached["layers"][0]), b"{}\n");
    follow(&files, &attached["config"]);
    // Six blobs, and nothing that nobody names.
    assert_eq!(files.keys().filter(|path| path.starts_with("blobs/sha256/")).count(), 6);
}

#[test]
fn the_same_contents_are_the_same_bytes() {
    assert_eq!(image().archive().unwrap(), image().archive().unwrap());
    let mut other = image();
    other.files.insert("etc/name".to_owned(), Entry::File(b"texT".to_vec()));
    assert_ne!(image().archive().unwrap().1, other.archive().unwrap().1);
}
