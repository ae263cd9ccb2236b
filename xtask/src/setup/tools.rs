//! Which programs the build, the native tests, the demo and the bench start, and what each is for. The one list of them.

/// A program that must be there.
pub(crate) struct Tool {
    /// The file to look for.
    pub(crate) program: &'static str,
    /// The Debian package that brings it.
    pub(crate) package: &'static str,
    /// Why we need it.
    pub(crate) purpose: &'static str,
}

const fn tool(program: &'static str, package: &'static str, purpose: &'static str) -> Tool {
    Tool { program, package, purpose }
}

/// What `bpf-linker` and the agent's dependencies need to compile, besides the BPF toolchain itself.
pub(crate) const BUILD_TOOLS: [Tool; 2] = [
    tool("cc", "gcc", "compiles the TLS library's C and assembler code"),
    tool("c++", "g++", "compiles bpf-linker's binding to LLVM"),
];

/// What the native tests and the demo run.
pub(crate) const RUN_TOOLS: [Tool; 11] = [
    tool("curl", "curl", "an HTTP client that knows nothing of the mesh"),
    tool("ip", "iproute2", "makes nodes and pods from network namespaces"),
    tool("nginx", "nginx-light", "an HTTP server that uses sendfile"),
    tool("nsenter", "util-linux", "starts a program inside a pod"),
    tool("openssl", "openssl", "a TLS client and server that are not ours"),
    tool("prometheus", "prometheus", "scrapes an agent's metrics"),
    tool("promtool", "prometheus", "says what is wrong with an agent's metrics"),
    tool("python3", "python3", "small clients and servers with unusual socket use"),
    tool("redis-benchmark", "redis-tools", "many connections and pipelined requests"),
    tool("redis-cli", "redis-tools", "a client that knows nothing of the mesh"),
    tool("redis-server", "redis-server", "a server that knows nothing of the mesh"),
];

/// What the VM tier runs besides, from Debian's own suites.
pub(crate) const VM_TOOLS: [Tool; 3] = [
    tool("busybox", "busybox-static", "the guest's first shell: it needs no library"),
    tool("depmod", "kmod", "indexes a kernel's modules"),
    tool("modprobe", "kmod", "says which modules a guest needs, and loads them there"),
];

/// What the Kubernetes cluster runs besides.
pub(crate) const CLUSTER_TOOLS: [Tool; 9] = [
    tool("busybox", "busybox-static", "the nodes' first process, and what is in test images"),
    tool("containerd", "containerd", "runs the pods"),
    tool("ctr", "containerd", "imports images"),
    tool("iptables-save", "iptables", "shows whether the mesh has left rules"),
    tool("nft", "nftables", "what kube-proxy writes its rules with"),
    tool("runc", "runc", "starts the containers"),
    tool("setsid", "util-linux", "starts what outlives the command"),
    tool("tc", "iproute2", "shows whether the mesh has left filters"),
    tool("unshare", "util-linux", "makes the nodes' namespaces"),
];

/// Plugins are not in PATH: the package is told by one of them.
pub(crate) const CNI_PLUGINS: Tool =
    tool("/usr/lib/cni/bridge", "containernetworking-plugins", "gives pods their interfaces");

/// What boots kernels. Debian 12's own QEMU 7.2 has crashed under these tests; its backports have 10.
pub(crate) const EMULATOR: Tool = tool("qemu-system-x86_64", "qemu-system-x86", "boots other kernels");

/// Packages that come with [`EMULATOR`] from the same suite: the release's own BIOS takes half a minute for an initramfs.
pub(crate) const EMULATOR_COMPANIONS: [&str; 1] = ["seabios"];

/// What the bench runs besides, and nothing else needs: `setup` leaves it to the bench.
pub(crate) const BENCH_TOOLS: [Tool; 1] = [tool("haproxy", "haproxy", "the proxy that the mesh is measured against")];

/// The tools that `find` does not find.
pub(crate) fn missing(tools: &[Tool], find: impl Fn(&str) -> bool) -> Vec<&Tool> {
    tools.iter().filter(|tool| !find(tool.program)).collect()
}

/// The packages of `tools`, each once.
pub(crate) fn packages(tools: &[&Tool]) -> Vec<String> {
    let mut packages: Vec<_> = tools.iter().map(|tool| tool.package.to_owned()).collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_programs_of_one_package_install_it_once() {
        let missing = missing(&RUN_TOOLS, |program| !program.starts_with("redis"));
        assert_eq!(packages(&missing), ["redis-server", "redis-tools"]);
    }
}
