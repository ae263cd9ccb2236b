//! The file by which an agent tells the next one of the pods that were handed to it.
//!
//! It lies beside the socket and need not outlive a reboot, which no sandbox does.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::model::cluster::ObjectName;
use crate::model::workload::PodUid;
use crate::pod::Record;
use crate::sys::file;

#[derive(Deserialize, Serialize)]
struct Line {
    namespace: String,
    name: String,
    container: String,
    addresses: Vec<IpAddr>,
    #[serde(default)]
    netns: Option<u64>,
}

/// Writes all, as a whole or not at all.
pub(super) fn write(path: &Path, records: Vec<(PodUid, Record)>) -> io::Result<()> {
    let line = |(uid, record): (PodUid, Record)| {
        let Record { pod: ObjectName { namespace, name }, container, addresses, netns } = record;
        (uid.as_str().to_owned(), Line { namespace, name, container, addresses, netns })
    };
    let lines: BTreeMap<_, _> = records.into_iter().map(line).collect();
    file::replace(path, 0o600, &serde_json::to_vec(&lines)?)
}

/// Reads all. What can't be understood is put aside, and is none: its pods are enrolled in place, and an agent that can't
/// start serves nobody.
pub(super) fn take(path: &Path) -> io::Result<Vec<(PodUid, Record)>> {
    match read(path) {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            let aside = path.with_extension("json.broken");
            tracing::error!(
                target: "audit", %error, path = %path.display(), aside = %aside.display(),
                "the pods that were handed over can't be read: they are enrolled in place"
            );
            std::fs::rename(path, aside).map(|()| Vec::new())
        }
        records => records,
    }
}

/// Reads all; none where there is no file. What is no such file is `InvalidData`.
pub(super) fn read(path: &Path) -> io::Result<Vec<(PodUid, Record)>> {
    let lines: BTreeMap<String, Line> = match std::fs::read(path) {
        Ok(bytes) => {
            serde_json::from_slice(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
        Err(error) => return Err(error),
    };
    let record = |(uid, line): (String, Line)| {
        let Line { namespace, name, container, addresses, netns } = line;
        Some((PodUid::parse(&uid)?, Record { pod: ObjectName { namespace, name }, container, addresses, netns }))
    };
    Ok(lines.into_iter().filter_map(record).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cni.sandboxes.json");
        assert_eq!(read(&path).unwrap(), []);
        let pod = ObjectName { namespace: "shop".to_owned(), name: "web".to_owned() };
        let addresses = vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        let records =
            vec![(PodUid::parse("u-1").unwrap(), Record { pod, container: "c".to_owned(), addresses, netns: Some(7) })];
        write(&path, records.clone()).unwrap();
        assert_eq!(read(&path).unwrap(), records);
        // As agents wrote it that did not know the namespace.
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace(",\"netns\":7", "")).unwrap();
        assert_eq!(read(&path).unwrap()[0].1, Record { netns: None, ..records[0].1.clone() });
        for broken in ["", "{", "[]", "null"] {
            std::fs::write(&path, broken).unwrap();
            assert_eq!(read(&path).unwrap_err().kind(), io::ErrorKind::InvalidData);
            assert_eq!(take(&path).unwrap(), []);
            let aside = directory.path().join("cni.sandboxes.json.broken");
            assert_eq!((std::fs::read_to_string(aside).unwrap().as_str(), path.exists()), (broken, false));
        }
    }
}
