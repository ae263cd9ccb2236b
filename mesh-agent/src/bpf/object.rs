//! Loads the eBPF object and knows where everything is pinned.
//!
//! Maps live in a folder named by the ABI, so that an agent with another layout never writes into them; links live beside
//! it and are updated in place, so that no moment is without a program.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aya::programs::{Program, ProgramError};
use aya::{Ebpf, EbpfError, EbpfLoader};
use mesh_common::{ABI_VERSION, names};

use super::clsact;
use super::maps::Maps;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/mesh-ebpf"));

/// What build.rs writes where the BPF toolchain is missing.
const STUB: &[u8] = b"hauberk-ebpf-stub";

/// `BPF_FS_MAGIC` of the kernel's linux/magic.h.
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// Why the kernel side doesn't stand.
#[derive(Debug, thiserror::Error)]
pub enum BpfError {
    /// An attachment failed.
    #[error("attach `{program}` to {target}")]
    Attach {
        /// Its name.
        program: String,
        /// Cgroup, namespace or interface.
        target: String,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The kernel refuses the object.
    #[error("load the eBPF object")]
    Load(#[from] EbpfError),
    /// A map can't be used.
    #[error("use map `{name}`")]
    Map {
        /// Its name.
        name: &'static str,
        /// The cause.
        source: aya::maps::MapError,
    },
    /// The object lacks a map or program, or it has another type.
    #[error("the eBPF object has no `{0}` of the right type")]
    Missing(String),
    /// The pin directory isn't on a bpffs.
    #[error("{} is not on a bpf file system: mount one there with `mount -t bpf bpf DIR`", .0.display())]
    NotBpffs(PathBuf),
    /// A pin can't be made, read or removed.
    #[error("{operation} {}", path.display())]
    Pin {
        /// What was tried.
        operation: &'static str,
        /// Where.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The verifier refuses a program.
    #[error("load program `{name}`")]
    Program {
        /// Its name.
        name: String,
        /// The cause, with the verifier's log.
        source: ProgramError,
    },
    /// This agent was built without the BPF toolchain.
    #[error(
        "this agent was built without its eBPF object: build it with `cargo xtask build`, which installs or names the \
         BPF toolchain"
    )]
    Stub,
}

/// The loaded programs, and where their links are pinned.
pub struct Kernel {
    pub(super) ebpf: Ebpf,
    pub(super) links: PathBuf,
    maps: Arc<Maps>,
}

impl Kernel {
    /// Loads every program, on the maps that an earlier agent left in `bpffs`, if any.
    pub fn load(bpffs: &Path) -> Result<Self, BpfError> {
        if OBJECT == STUB {
            return Err(BpfError::Stub);
        }
        let (map_pins, links) = (bpffs.join(format!("v{ABI_VERSION}")), bpffs.join("links"));
        check_bpffs(bpffs)?;
        for directory in [&map_pins, &links] {
            // Who can open a pinned map can write into it: nobody but root.
            let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
            made.map_err(pin_error("create", directory))?;
        }
        let mut loader = EbpfLoader::new();
        for name in names::MAPS {
            loader.map_pin_path(name, map_pins.join(name));
        }
        let mut ebpf = loader.load(OBJECT)?;
        for (name, program) in ebpf.programs_mut() {
            load_program(name, program)?;
        }
        let maps = Arc::new(Maps::take(&mut ebpf)?);
        Ok(Self { ebpf, links, maps })
    }

    /// The maps.
    pub fn maps(&self) -> Arc<Maps> {
        Arc::clone(&self.maps)
    }

    /// Removes everything that agents have pinned below `bpffs`; the programs detach with that.
    pub fn uninstall(bpffs: &Path) -> Result<(), BpfError> {
        // Links first: a program without its maps' pins still works, a map without programs decides nothing.
        let links = bpffs.join("links");
        for entry in std::fs::read_dir(&links).into_iter().flatten().flatten() {
            clsact::detach_marked(&entry.path()).map_err(pin_error("remove the filter of", &entry.path()))?;
        }
        let mut directories = vec![links];
        for entry in std::fs::read_dir(bpffs).map_err(pin_error("list", bpffs))?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.strip_prefix('v').is_some_and(|version| version.parse::<u32>().is_ok()) {
                directories.push(entry.path());
            }
        }
        for directory in directories.into_iter().filter(|directory| directory.exists()) {
            std::fs::remove_dir_all(&directory).map_err(pin_error("remove", &directory))?;
        }
        match std::fs::remove_dir(bpffs) {
            // Somebody else has put something there.
            Err(error) if error.kind() != io::ErrorKind::DirectoryNotEmpty => Err(pin_error("remove", bpffs)(error)),
            _ => Ok(()),
        }
    }
}

/// Looks at the nearest directory that exists, so that nothing is made on a disk.
/// Whether pins can be made in this directory: it, or what will hold it, is on a bpf file system.
pub fn check_bpffs(bpffs: &Path) -> Result<(), BpfError> {
    let existing = bpffs.ancestors().find(|path| path.exists()).unwrap_or(bpffs);
    let kind = rustix::fs::statfs(existing).map_err(|errno| pin_error("read", existing)(errno.into()))?.f_type;
    match u64::try_from(kind) {
        Ok(kind) if kind & 0xffff_ffff == BPF_FS_MAGIC => Ok(()),
        _ => Err(BpfError::NotBpffs(bpffs.to_owned())),
    }
}

fn load_program(name: &str, program: &mut Program) -> Result<(), BpfError> {
    match program {
        Program::CgroupSkb(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        Program::SkLookup(program) => program.load(),
        Program::SockOps(program) => program.load(),
        _ => return Err(BpfError::Missing(name.to_owned())),
    }
    .map_err(|source| BpfError::Program { name: name.to_owned(), source })
}

/// Makes an error of `operation` at `path`.
pub(super) fn pin_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BpfError {
    let path = path.to_owned();
    move |source| BpfError::Pin { operation, path, source }
}
