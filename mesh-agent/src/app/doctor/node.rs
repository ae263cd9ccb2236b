//! What this machine says: kernel, privileges, file systems, and the CNI plugin's place.

use std::io;
use std::path::{Path, PathBuf};

use rustix::thread::CapabilitySet;

use super::{Finding, told};
use crate::app::paths::known_defects;
use crate::app::placement::cgroup_root;
use crate::app::prober;
use crate::args::doctor::DoctorArgs;
use crate::bpf::{BpfError, check_bpffs, support};
use crate::cni::PLUGIN;
use crate::cni::conflist::{self, ConfigFile};
use crate::cni::installer;
use crate::sys::cgroup;
use crate::tls::probe::{ProbeError, probe};

/// The first with every hook that the mesh needs: netns cookies in sock_ops.
const OLDEST: (u32, u32) = (5, 15);
const BTF: &str = "/sys/kernel/btf/vmlinux";
/// As the DaemonSet has them. Without the last the agent starts, in a cluster it just finds no pods.
const CAPABILITIES: [(&str, CapabilitySet); 5] = [
    ("CAP_BPF", CapabilitySet::BPF),
    ("CAP_NET_ADMIN", CapabilitySet::NET_ADMIN),
    ("CAP_NET_BIND_SERVICE", CapabilitySet::NET_BIND_SERVICE),
    ("CAP_SYS_ADMIN", CapabilitySet::SYS_ADMIN),
    ("CAP_SYS_PTRACE", CapabilitySet::SYS_PTRACE),
];

/// `installed`: the mesh runs here already.
pub(super) fn findings(args: &DoctorArgs, installed: bool) -> Vec<Finding> {
    let held = rustix::thread::capabilities(None).map(|sets| sets.effective).unwrap_or(CapabilitySet::empty());
    let mut findings = kernel();
    findings.extend([
        capabilities(held),
        ebpf(support::lacks()),
        cgroup2(cgroup::mount_point()),
        bpffs(&args.bpffs),
        tls(),
    ]);
    if args.kubernetes {
        findings.push(kubelet(cgroup::mount_point().map_err(|error| told(&error)).and_then(|mount| {
            let root = cgroup_root(args.cgroup_root.as_deref(), true, &mount).map_err(|error| told(&error))?;
            prober::known_by(args.kubelet_cgroup.as_deref(), &mount, &root)
        })));
    }
    if let (Some(plugins), Some(configuration)) = (&args.place.cni_bin_dir, &args.place.cni_conf_dir) {
        let entry = conflist::entry(&args.cni_socket.to_string_lossy(), &args.cni_known.to_string_lossy());
        findings.push(plugin(plugins, installer::read(configuration), &entry, installed));
    }
    findings
}

fn kernel() -> Vec<Finding> {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy();
    let btf = if Path::new(BTF).exists() {
        Finding::ok("BTF", BTF)
    } else {
        Finding::warn(
            "BTF",
            "the kernel has none",
            "take a kernel with CONFIG_DEBUG_INFO_BTF, as distributions build it",
        )
    };
    vec![release_of(&release), btf]
}

fn release_of(release: &str) -> Finding {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit()).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= OLDEST => Finding::ok("kernel", release),
        _ => Finding::fail("kernel", release, format!("Linux {}.{} or newer", OLDEST.0, OLDEST.1)),
    }
}

fn capabilities(held: CapabilitySet) -> Finding {
    let missing: Vec<_> =
        CAPABILITIES.iter().filter(|(_, capability)| !held.contains(*capability)).map(|(name, _)| *name).collect();
    if missing.is_empty() {
        return Finding::ok("capabilities", "those that the agent needs");
    }
    let remedy = "check as root, or in the agent's own container; there: `securityContext` of the DaemonSet";
    Finding::fail("capabilities", format!("no {}", missing.join(", ")), remedy)
}

fn ebpf(lacks: io::Result<Vec<&'static str>>) -> Finding {
    match lacks {
        Ok(lacks) if lacks.is_empty() => Finding::ok("eBPF", "every kind of program and map that the mesh needs"),
        Ok(lacks) => Finding::fail(
            "eBPF",
            format!("no {}", lacks.join(", ")),
            "a kernel with CONFIG_BPF_SYSCALL and CONFIG_CGROUP_BPF",
        ),
        Err(error) => {
            Finding::fail("eBPF", told(&error), "see the check `capabilities`; a seccomp profile may forbid bpf(2)")
        }
    }
}

fn cgroup2(mount: io::Result<PathBuf>) -> Finding {
    match mount {
        Ok(mount) => Finding::ok("cgroup v2", mount.display().to_string()),
        Err(error) => Finding::fail("cgroup v2", told(&error), "boot with systemd.unified_cgroup_hierarchy=1"),
    }
}

fn kubelet(cgroup: Result<PathBuf, String>) -> Finding {
    let (name, remedy) = ("kubelet", "name the kubelet's cgroup with HAUBERK_KUBELET_CGROUP");
    match cgroup {
        Ok(path) => Finding::ok(name, format!("its probes are known by {}", path.display())),
        Err(why) => Finding::warn(name, format!("its probes are refused in strict mode: {why}"), remedy),
    }
}

fn bpffs(pins: &Path) -> Finding {
    match check_bpffs(pins) {
        Ok(()) => Finding::ok("bpffs", pins.display().to_string()),
        Err(BpfError::NotBpffs(path)) => {
            let found = format!("{} is on no bpf file system", path.display());
            Finding::fail("bpffs", found, "mount -t bpf bpf /sys/fs/bpf, and in a container give it the node's")
        }
        Err(error) => Finding::fail("bpffs", told(&error), "see the check `capabilities`"),
    }
}

fn tls() -> Finding {
    let name = "TLS records";
    match probe() {
        Ok(support) => {
            let ciphers: Vec<_> = support.ciphers.iter().map(|cipher| cipher.name()).collect();
            in_kernel(&ciphers.join(", "), &known_defects().map(|defect| defect.cve).collect::<Vec<_>>())
        }
        // The same features, and not slower.
        Err(ProbeError::NoTls(_)) => Finding::ok(name, "in user space: the kernel has no TLS"),
        Err(error) => Finding::warn(name, told(&error), "bring up the interface `lo`"),
    }
}

fn in_kernel(ciphers: &str, defects: &[&str]) -> Finding {
    let (name, found) = ("TLS records", format!("in the kernel: {ciphers}"));
    if defects.is_empty() {
        return Finding::ok(name, found);
    }
    let found = format!("{found}; known defects: {}", defects.join(", "));
    Finding::warn(name, found, "update the kernel, or `spec.tls.dataPath: Userspace`")
}

fn plugin(plugins: &Path, files: io::Result<Vec<ConfigFile>>, entry: &str, installed: bool) -> Finding {
    let name = "CNI plugin";
    let files = match files {
        Ok(files) if !files.is_empty() => files,
        Ok(_) => {
            return Finding::fail(
                name,
                "the node has no network configuration",
                "install a CNI plugin for the pods' network",
            );
        }
        Err(error) => return Finding::fail(name, told(&error), "point --cni-conf-dir to the runtime's directory"),
    };
    if let Some(obstacle) = conflist::obstacle(&files) {
        return Finding::fail(name, obstacle, "give the network configuration a cniVersion that the plugin knows");
    }
    if installer::is_in_place(plugins, &files, entry) {
        return Finding::ok(name, "in the chain");
    }
    let found = if plugins.join(PLUGIN).is_file() { "not in the chain" } else { "not installed" };
    if installed {
        return Finding::fail(
            name,
            found,
            "the agent's log says why; --cni-bin-dir and --cni-conf-dir must be the runtime's",
        );
    }
    Finding::warn(name, found, "the agent installs it")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::State;
    use super::*;

    #[test]
    fn an_old_kernel_fails() {
        assert_eq!(release_of("5.10.0-28-amd64").state, State::Fail);
        assert_eq!(release_of("5.15.0").state, State::Ok);
        assert_eq!(release_of("6.1.0-56-amd64").state, State::Ok);
        assert_eq!(release_of("strange").state, State::Fail);
    }

    #[test]
    fn what_a_kernel_or_a_container_lacks_is_named() {
        assert!(ebpf(Ok(vec!["sk_lookup"])).found.contains("sk_lookup"));
        assert_eq!(ebpf(Err(io::ErrorKind::PermissionDenied.into())).state, State::Fail);
        let found = capabilities(CapabilitySet::BPF).found;
        assert_eq!(found, "no CAP_NET_ADMIN, CAP_NET_BIND_SERVICE, CAP_SYS_ADMIN, CAP_SYS_PTRACE");
        assert_eq!(bpffs(Path::new("/proc/self/pins")).state, State::Fail);
        assert_eq!(kubelet(Ok("/sys/fs/cgroup/kubelet".into())).state, State::Ok);
        assert_eq!(kubelet(Err("there is none".to_owned())).state, State::Warn);
        assert_eq!(in_kernel("x", &[]).state, State::Ok);
        assert_eq!(in_kernel("x", &["CVE-1"]).state, State::Warn);
    }

    #[test]
    fn the_capabilities_are_those_of_the_daemonset() {
        let manifest = include_str!("../../../../deploy/base/agent.yaml");
        let daemonset: serde_json::Value = serde_saphyr::from_str(manifest).unwrap();
        let given = daemonset.pointer("/spec/template/spec/containers/0/securityContext/capabilities/add");
        let expected: Vec<_> = CAPABILITIES.iter().map(|(name, _)| name.trim_start_matches("CAP_")).collect();
        assert_eq!(given.unwrap(), &serde_json::json!(expected));
    }

    #[test]
    fn the_plugin_must_be_there_and_in_the_chain_once_an_agent_runs() {
        let plugins = tempfile::tempdir().unwrap();
        let entry = conflist::entry("/run/cni.sock", "/var/lib/known");
        let files = |text: &str| Ok(vec![ConfigFile { name: "10-net.conflist".to_owned(), text: text.to_owned() }]);
        let plain = r#"{"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "bridge"}]}"#;
        let chained = plain.replace("\"bridge\"}", &format!("\"bridge\"}}, {entry}"));
        let state = |text: &str, installed| plugin(plugins.path(), files(text), &entry, installed).state;
        assert_eq!(state(plain, false), State::Warn);
        assert_eq!(state(plain, true), State::Fail);
        assert_eq!(state(&chained, true), State::Fail);
        fs::write(plugins.path().join(PLUGIN), "").unwrap();
        assert_eq!(state(&chained, true), State::Ok);
        assert_eq!(plugin(plugins.path(), Ok(Vec::new()), &entry, false).state, State::Fail);
        assert_eq!(state(&plain.replace("1.0.0", "0.2.0"), false), State::Fail);
    }
}
