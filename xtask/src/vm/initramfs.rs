//! The guest's first files: a shell and the few modules that it takes to mount this machine's root.
use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use ebpf_build::find_program;

use super::kernel::Kernel;

const INIT: &str = include_str!("guest/init.sh");
const DIRECTORIES: [&str; 8] = ["bin", "dev", "host", "modules", "proc", "root", "sys", "written"];
const MODULES: [&str; 4] = ["virtio_pci", "9p", "9pnet_virtio", "overlay"];

/// Makes the initramfs of `kernel` in `directory`; it is small and quick, so always anew.
pub(super) fn make(kernel: &Kernel, directory: &Path) -> Result<PathBuf> {
    let tree = directory.join("initramfs");
    for name in DIRECTORIES {
        let path = tree.join(name);
        fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
    }
    let busybox = find_program("busybox").context("busybox is not installed")?;
    fs::copy(&busybox, tree.join("bin/busybox")).with_context(|| format!("copy {}", busybox.display()))?;
    write(&tree.join("init"), INIT.as_bytes())?;
    fs::set_permissions(tree.join("init"), fs::Permissions::from_mode(0o755)).context("make init a program")?;
    let modules = kernel.modules().canonicalize().with_context(|| format!("find {}", kernel.modules().display()))?;
    write(&tree.join("modules-path"), format!("{}\n", modules.display()).as_bytes())?;
    for (index, file) in kernel.insertion_order(&MODULES)?.iter().enumerate() {
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        // In the order of their names.
        write(&tree.join("modules").join(format!("{index:02}-{name}")), &module(file)?)?;
    }
    let archive = directory.join("initramfs.cpio");
    pack(&tree, &archive)?;
    Ok(archive)
}

/// A module's bytes, uncompressed: the shell's insmod takes no other.
fn module(file: &Path) -> Result<Vec<u8>> {
    if file.extension().is_some_and(|extension| extension == "ko") {
        return fs::read(file).with_context(|| format!("read {}", file.display()));
    }
    let output = Command::new("busybox").args(["xzcat"]).arg(file).output().context("start busybox xzcat")?;
    if !output.status.success() {
        bail!("unpack {}: {}", file.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output.stdout)
}

fn pack(tree: &Path, archive: &Path) -> Result<()> {
    let file = fs::File::create(archive).with_context(|| format!("create {}", archive.display()))?;
    let mut cpio = Command::new("busybox")
        .args(["cpio", "-o", "-H", "newc"])
        .current_dir(tree)
        .stdin(Stdio::piped())
        .stdout(file)
        .stderr(Stdio::null())
        .spawn()
        .context("start busybox cpio")?;
    if let Some(mut names) = cpio.stdin.take() {
        names.write_all(listing(tree)?.as_bytes()).context("write to busybox cpio")?;
    }
    let status = cpio.wait()?;
    if !status.success() {
        bail!("busybox cpio: {status}");
    }
    Ok(())
}

/// Every path below `tree`, directories before what is in them.
fn listing(tree: &Path) -> Result<String> {
    let mut directories = vec![tree.to_owned()];
    let mut names = String::new();
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).with_context(|| format!("list {}", directory.display()))? {
            let path = entry?.path();
            names += &format!("{}\n", path.strip_prefix(tree)?.display());
            if path.is_dir() {
                directories.push(path);
            }
        }
    }
    Ok(names)
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    fs::write(path, content).with_context(|| format!("write {}", path.display()))
}
