//! Files that others read while they are replaced, and how a change of one is seen from outside.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

/// Replaces a file in one step, or makes it: who reads it meanwhile sees the old one or the new one. Nobody who `mode`
/// keeps out can open it at any moment.
pub fn replace(path: &Path, mode: u32, bytes: &[u8]) -> io::Result<()> {
    place(path, mode, bytes, |temporary| fs::rename(temporary, path))
}

/// The same, of a file that others write too: only if it still has what was `read` of it (`None`: there was none). Returns
/// whether it had; what somebody else has written meanwhile stays.
pub fn replace_if(path: &Path, mode: u32, bytes: &[u8], read: Option<&[u8]>) -> io::Result<bool> {
    place(path, mode, bytes, |temporary| {
        let Some(read) = read else {
            return match renameat_with(CWD, temporary, CWD, path, RenameFlags::NOREPLACE) {
                Ok(()) => Ok(true),
                Err(Errno::EXIST) => fs::remove_file(temporary).map(|()| false),
                Err(error) => Err(error.into()),
            };
        };
        match exchange(temporary, path) {
            Ok(()) => {}
            // It has been removed meanwhile.
            Err(Errno::NOENT) => return fs::remove_file(temporary).map(|()| false),
            // Not every file system can: then there is a moment in which a change is lost.
            Err(Errno::INVAL | Errno::NOSYS) if fs::read(path)? == read => {
                return fs::rename(temporary, path).map(|()| true);
            }
            Err(Errno::INVAL | Errno::NOSYS) => return fs::remove_file(temporary).map(|()| false),
            Err(error) => return Err(error.into()),
        }
        let taken_out = fs::read(temporary)?;
        let was_as_read = taken_out == read;
        if !was_as_read {
            put_back(temporary, path, bytes.to_vec(), taken_out)?;
        }
        fs::remove_file(temporary).map(|()| was_as_read)
    })
}

/// Puts back what was `taken_out` of `path` for what was `placed` there, until nothing else comes out: somebody may be as
/// quick again, and then that is the newest.
fn put_back(temporary: &Path, path: &Path, mut placed: Vec<u8>, mut taken_out: Vec<u8>) -> io::Result<()> {
    loop {
        exchange(temporary, path)?;
        let now = fs::read(temporary)?;
        if now == placed {
            return Ok(());
        }
        (placed, taken_out) = (taken_out, now);
    }
}

fn exchange(one: &Path, other: &Path) -> rustix::io::Result<()> {
    renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)
}

/// Writes a file beside `path`, and lets `put` bring it there.
fn place<T>(path: &Path, mode: u32, bytes: &[u8], put: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
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
    let placed = written.and_then(|()| put(&temporary));
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
    #[test]
    fn what_somebody_else_has_written_meanwhile_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("net.conflist");
        let replace = |read: Option<&str>| replace_if(&path, 0o644, b"ours", read.map(str::as_bytes)).unwrap();
        let now = || fs::read_to_string(&path).ok();
        assert!(!replace(Some("theirs")) && now().is_none(), "it is gone");
        assert!(replace(None));
        assert_eq!(now().as_deref(), Some("ours"));
        fs::write(&path, "theirs, anew").unwrap();
        for read in [None, Some("theirs")] {
            assert!(!replace(read));
            assert_eq!(now().as_deref(), Some("theirs, anew"));
        }
        assert!(replace(Some("theirs, anew")));
        assert_eq!(now().as_deref(), Some("ours"));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
