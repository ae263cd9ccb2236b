//! Writes OCI image archives: one layer from nothing, without a container engine, and the same bytes for the same contents.
//!
//! The format is the OCI image layout 1.0 in a tar file, as `ctr image import` and `docker load` read it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// An image to be.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// The name that it is imported as, with a tag.
    pub reference: String,
    /// The program and its first arguments; nothing if each container says what it runs.
    pub entrypoint: Vec<String>,
    /// What is said about it, by the keys of the OCI annotations.
    pub labels: BTreeMap<String, String>,
    /// What is in it, by paths without a leading slash. Directories come by themselves.
    pub files: BTreeMap<String, Entry>,
    /// Documents about the image, each with its media type: they are attached by OCI's `subject`.
    pub attached: Vec<(String, Vec<u8>)>,
}

/// A file of an image.
#[derive(Clone, Debug)]
pub enum Entry {
    /// A program.
    Program(Vec<u8>),
    /// A file that nobody executes.
    File(Vec<u8>),
    /// A directory that anybody may write to.
    Scratch,
    /// A symbolic link to a path.
    Link(String),
}

impl Entry {
    /// The program in the file at `path`.
    pub fn program(path: &Path) -> Result<Self> {
        Ok(Self::Program(fs::read(path).with_context(|| format!("read {}", path.display()))?))
    }
}

impl Image {
    /// The archive, and the digest of the image in it.
    pub fn archive(&self) -> Result<(Vec<u8>, String)> {
        let (_, tag) = self.reference.rsplit_once(':').context("an image's name has a tag")?;
        let mut blobs = BTreeMap::new();
        let layer = tar(&self.files)?;
        let diff = digest(&layer);
        let layer = keep(&mut blobs, LAYER, layer);
        let platform = json!({"architecture": architecture()?, "os": "linux"});
        let mut config = platform.clone();
        config["config"] =
            json!({"Entrypoint": self.entrypoint, "Env": ["PATH=/bin"], "WorkingDir": "/", "Labels": self.labels});
        config["rootfs"] = json!({"type": "layers", "diff_ids": [diff]});
        let config = keep(&mut blobs, CONFIG, serde_json::to_vec(&config)?);
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer],
            "annotations": self.labels});
        let mut image = keep(&mut blobs, MANIFEST, serde_json::to_vec(&manifest)?);
        let name = image["digest"].as_str().context("a descriptor has a digest")?.to_owned();
        let mut manifests = Vec::new();
        for (media_type, document) in &self.attached {
            manifests.push(attach(&mut blobs, &image, media_type, document)?);
        }
        image["platform"] = platform;
        image["annotations"] =
            json!({"io.containerd.image.name": self.reference, "org.opencontainers.image.ref.name": tag});
        manifests.insert(0, image);
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
        let mut files = BTreeMap::from([
            ("index.json".to_owned(), Entry::File(serde_json::to_vec(&index)?)),
            ("oci-layout".to_owned(), Entry::File(br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec())),
        ]);
        let path = |digest: &str| format!("blobs/{}", digest.replace(':', "/"));
        files.extend(blobs.into_iter().map(|(digest, blob)| (path(&digest), Entry::File(blob))));
        Ok((tar(&files)?, name))
    }
}

/// A manifest for `document` that names `image` as its subject (OCI 1.1, artifacts).
fn attach(blobs: &mut BTreeMap<String, Vec<u8>>, image: &Value, media_type: &str, document: &[u8]) -> Result<Value> {
    let empty = keep(blobs, "application/vnd.oci.empty.v1+json", b"{}".to_vec());
    let layer = keep(blobs, media_type, document.to_vec());
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "artifactType": media_type, "config": empty,
        "layers": [layer], "subject": image});
    let mut descriptor = keep(blobs, MANIFEST, serde_json::to_vec(&manifest)?);
    descriptor["artifactType"] = media_type.into();
    Ok(descriptor)
}

/// Keeps a blob under its digest and returns its descriptor.
fn keep(blobs: &mut BTreeMap<String, Vec<u8>>, media_type: &str, blob: Vec<u8>) -> Value {
    let (digest, size) = (digest(&blob), blob.len());
    blobs.insert(digest.clone(), blob);
    json!({"mediaType": media_type, "digest": digest, "size": size})
}

/// A blob's name in OCI.
pub fn digest(blob: &[u8]) -> String {
    let hex: String = Sha256::digest(blob).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// This machine's architecture in OCI's words, which are Go's.
pub fn architecture() -> Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => bail!("no image is made for {other}"),
    }
}

/// A tar file whose bytes depend on nothing but `files`: sorted, owned by root, from the beginning of time.
fn tar(files: &BTreeMap<String, Entry>) -> Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    let parents = files.keys().flat_map(|path| Path::new(path).ancestors().skip(1)).map(Path::to_owned);
    let parents: BTreeSet<PathBuf> = parents.filter(|path| !path.as_os_str().is_empty()).collect();
    for directory in parents {
        builder.append_data(&mut header(EntryType::Directory, 0o755, 0), directory, &[][..])?;
    }
    for (path, entry) in files {
        match entry {
            Entry::Program(bytes) => {
                builder.append_data(&mut header(EntryType::Regular, 0o755, bytes.len()), path, &bytes[..])?
            }
            Entry::File(bytes) => {
                builder.append_data(&mut header(EntryType::Regular, 0o644, bytes.len()), path, &bytes[..])?
            }
            Entry::Scratch => builder.append_data(&mut header(EntryType::Directory, 0o1777, 0), path, &[][..])?,
            Entry::Link(target) => builder.append_link(&mut header(EntryType::Symlink, 0o777, 0), path, target)?,
        }
    }
    builder.into_inner().context("write a tar file")
}

fn header(kind: EntryType, mode: u32, size: usize) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size as u64);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// The image of every pod's sandbox: it waits, and reaps whom nobody else does.
pub fn pause() -> Result<Image> {
    let wait = "trap 'exit 0' TERM INT; while :; do sleep 1000000 & wait; done";
    Ok(Image {
        reference: "localhost/pause:1".to_owned(),
        entrypoint: ["/bin/busybox", "sh", "-c", wait].map(str::to_owned).to_vec(),
        files: BTreeMap::from([("bin/busybox".to_owned(), busybox()?)]),
        ..Image::default()
    })
}

/// A shell and small tools, for test pods, which say what runs.
pub fn test_box() -> Result<Image> {
    const APPLETS: [&str; 24] = [
        "cat", "cp", "date", "echo", "env", "grep", "head", "hostname", "httpd", "ip", "kill", "ls", "mkdir", "nc",
        "netstat", "ps", "rm", "sh", "sleep", "tail", "test", "touch", "true", "wget",
    ];
    let links = APPLETS.map(|applet| (format!("bin/{applet}"), Entry::Link("busybox".to_owned())));
    let mut files = BTreeMap::from(links);
    files.insert("bin/busybox".to_owned(), busybox()?);
    files.insert("tmp".to_owned(), Entry::Scratch);
    Ok(Image { reference: "localhost/box:1".to_owned(), files, ..Image::default() })
}

/// Debian's static one needs nothing else in the image.
fn busybox() -> Result<Entry> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&path).map(|directory| directory.join("busybox"));
    Entry::program(&places.find(|place| place.is_file()).context("no busybox (Debian package busybox-static)")?)
}

#[cfg(test)]
mod tests;
