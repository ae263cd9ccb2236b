//! The agent as an OCI image: one static program and nothing else.
//!
//! Static, with glibc: no library has to be gathered and none can be missing; musl's allocator would cost what the data path gains.
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail};
use mesh_tests::oci::{Entry, Image};

use crate::{
    build,
    process::say,
    setup::{self, Purpose},
    workspace,
};

mod sbom;

/// Make an OCI image archive of the agent, with an SBOM beside it
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The archive; the SBOM gets the same name with `.cdx.json`. Default: below cargo's target directory
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The image's name and tag
    #[arg(long, default_value_t = default_name())]
    name: String,
    /// Build it once more, elsewhere and from nothing, and fail if the bytes differ
    #[arg(long)]
    verify: bool,
}

/// An image that was written.
pub(crate) struct Written {
    /// The archive.
    pub(crate) archive: PathBuf,
    /// The image's digest.
    pub(crate) digest: String,
    /// The agent that is in it.
    pub(crate) agent: PathBuf,
}

impl Options {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        setup::ensure(Purpose::Build)?;
        let out = self.out.clone().map_or_else(default_archive, Ok)?;
        let written = write(&self.name, &out)?;
        if self.verify {
            verify(&self.name, &written)?;
        }
        say(format_args!("image: {}, {}\narchive: {}", self.name, written.digest, written.archive.display()));
        Ok(ExitCode::SUCCESS)
    }
}

/// What the image is called if nobody says how.
pub(crate) fn default_name() -> String {
    format!("localhost/mesh-agent:{}", env!("CARGO_PKG_VERSION"))
}

/// Where the archive is if nobody says where.
pub(crate) fn default_archive() -> Result<PathBuf> {
    Ok(workspace::target()?.join("image/mesh-agent.tar"))
}

/// Builds the agent and writes its image and its SBOM.
pub(crate) fn write(name: &str, archive: &Path) -> Result<Written> {
    let made = make(name, &workspace::target()?)?;
    if let Some(directory) = archive.parent() {
        fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    }
    for (path, bytes) in [(archive.with_extension("cdx.json"), &made.sbom), (archive.to_owned(), &made.archive)] {
        fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(Written { archive: archive.to_owned(), digest: made.digest, agent: made.agent })
}

/// An image in memory.
struct Made {
    archive: Vec<u8>,
    digest: String,
    sbom: Vec<u8>,
    agent: PathBuf,
}

fn make(name: &str, target_directory: &Path) -> Result<Made> {
    let agent = build::run(build::release_command(target_directory)?)?.agent;
    let sbom = sbom::document(&build::host()?)?;
    let (archive, digest) = image(name, Entry::program(&agent)?, sbom.clone()).archive()?;
    Ok(Made { archive, digest, sbom, agent })
}

/// Fails if another build gives other bytes than `first`.
pub(crate) fn verify(name: &str, first: &Written) -> Result<()> {
    let elsewhere = workspace::target()?.join("image/again");
    if elsewhere.exists() {
        fs::remove_dir_all(&elsewhere).with_context(|| format!("remove {}", elsewhere.display()))?;
    }
    let second = make(name, &elsewhere)?;
    let archive = fs::read(&first.archive).with_context(|| format!("read {}", first.archive.display()))?;
    if archive != second.archive {
        bail!(
            "built again it is another image: {}, then {}; {} is left",
            first.digest,
            second.digest,
            elsewhere.display()
        );
    }
    say("built again it has the same bytes");
    fs::remove_dir_all(&elsewhere).with_context(|| format!("remove {}", elsewhere.display()))
}

fn image(name: &str, agent: Entry, sbom: Vec<u8>) -> Image {
    let labels = [("title", "mesh-agent"), ("version", env!("CARGO_PKG_VERSION")), ("licenses", "Apache-2.0")];
    Image {
        reference: name.to_owned(),
        entrypoint: vec!["/bin/mesh-agent".to_owned()],
        labels: labels.map(|(key, value)| (format!("org.opencontainers.image.{key}"), value.to_owned())).into(),
        files: BTreeMap::from([("bin/mesh-agent".to_owned(), agent), ("tmp".to_owned(), Entry::Scratch)]),
        attached: vec![(sbom::MEDIA_TYPE.to_owned(), sbom)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_has_the_agent_and_a_scratch_directory_alone() {
        let image = image("x/agent:1", Entry::Program(b"agent".to_vec()), b"{}".to_vec());
        assert_eq!(image.files.keys().collect::<Vec<_>>(), ["bin/mesh-agent", "tmp"]);
        assert_eq!(
            mesh_tests::oci::digest(b""),
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }
}
