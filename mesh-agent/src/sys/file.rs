//! Files that others read while they are replaced, and how a change of one is seen from outside.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

/// Replaces a file in one step, or makes it: who reads it meanwhile sees the old one or the new one. Nobody who `mode`
/// keeps out can open it at any moment.
pub fn replace(path: &Path, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}", std::process::id()));
    // Of an earlier process with our number, which was killed.
    remove(&temporary)?;
    let made = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary);
    let written = made.and_then(|mut file| {
        file.write_all(bytes)?;
        // The umask may have taken some of it.
        file.set_permissions(Permissions::from_mode(mode))?;
        file.sync_all()
    });
    let placed = written.and_then(|()| fs::rename(&temporary, path));
    if placed.is_err() {
        // The first error says more.
        drop(fs::remove_file(&temporary));
    }
    placed
}

/// Removes a file, if it is there.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// What a file looks like from outside: device, inode and size, times of modification and of change (an old file that is
/// moved to its place shows by the latter only). Links are followed: a swapped one shows another file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Look([u64; 3], [i64; 4]);

impl Look {
    /// Looks at a file.
    pub fn at(path: &Path) -> io::Result<Self> {
        let seen = fs::metadata(path)?;
        let times = [seen.mtime(), seen.mtime_nsec(), seen.ctime(), seen.ctime_nsec()];
        Ok(Self([seen.dev(), seen.ino(), seen.size()], times))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_with_its_mode_and_nothing_is_left_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let left = directory.path().join(format!(".key.{}", std::process::id()));
        fs::write(&left, "of a process that was killed").unwrap();
        for (mode, text) in [(0o600, "one"), (0o755, "two")] {
            let before = Look::at(&path).ok();
            replace(&path, mode, text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode);
            assert_ne!(Look::at(&path).ok(), before);
            assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        }
        remove(&path).unwrap();
        remove(&path).unwrap();
        replace(&directory.path().join("missing/key"), 0o600, b"x").unwrap_err();
    }
}
