//! Where records are protected: in the kernel where it can and may, in user space elsewhere, and never a guess.

use anyhow::{Context as _, Result, ensure};
use mesh_tests::claims;
use mesh_tests::mesh::{Mesh, Mode, agent_bin};
use mesh_tests::stage::{self, MARKER, PORT};
use mesh_tests::world::{Family, Pod, World};

/// Asks the kernel, in another way than the agent does.
fn kernel_has_tls(pod: &Pod) -> Result<bool> {
    // Its own status says nothing: TLS may be built in.
    drop(pod.run(pod.command("modprobe").arg("tls")));
    Ok(std::fs::read_to_string("/proc/sys/net/ipv4/tcp_available_ulp")?.split_whitespace().any(|name| name == "tls"))
}

/// Sessions that this kernel has protected in the pod's namespace: both directions, with both.
fn kernel_sessions(pod: &Pod) -> Result<(u64, u64)> {
    let text = pod.netns.enter(|| Ok(std::fs::read_to_string("/proc/thread-self/net/tls_stat").unwrap_or_default()))?;
    let counter = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.map_or(Ok(0), |value| value.trim().parse().context("a counter"))
    };
    Ok((counter("TlsTxSw")?, counter("TlsRxSw")?))
}

/// Calls over both families and expects these data paths at the client's and the server's node.
fn check(world: &World, mesh: &Mesh, client: &str, server: &str) -> Result<()> {
    let _server = world.pod("server").serve(PORT)?;
    let capture = world.capture()?;
    for family in Family::BOTH {
        let before = [kernel_sessions(world.pod("client"))?, kernel_sessions(world.pod("server"))?];
        let to = world.address("server", family, PORT);
        let called = world.pod("client").call(to, MARKER)?;
        claims::answer_is_right(&called)?;
        let local = called.local.context("the client's address")?.to_string();
        for (node, pod, expected, before) in [("a", "client", client, before[0]), ("b", "server", server, before[1])] {
            let line = mesh.agent(node).wait_access(&[("src.addr", &local)])?;
            ensure!(line.field("datapath") == expected, "node {node}, {family}: {line:?}");
            let (sent, received) = kernel_sessions(world.pod(pod))?;
            let one = u64::from(expected == "kernel");
            ensure!(
                (sent, received) == (before.0 + one, before.1 + one),
                "node {node}, {family}: {before:?}, {sent}, {received}"
            );
        }
        ensure!(!capture.trace()?.contains(MARKER), "the marker is on the wire");
    }
    for (node, direction, expected) in [("a", "outbound", client), ("b", "inbound", server)] {
        let labels = [("direction", direction), ("datapath", expected)];
        ensure!(mesh.agent(node).metric("mesh_tls_sessions_total", &labels)? >= 2.0, "node {node}");
    }
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn auto_takes_the_kernel_where_it_has_tls_and_says_so() -> Result<()> {
    let world = stage::world()?;
    let mesh = Mesh::start(&world, Mode::Strict)?;
    let (path, carried) = if kernel_has_tls(world.pod("client"))? { ("kernel", 1.0) } else { ("userspace", 0.0) };
    mesh.agent("a").wait_log("the data path", |line| line.contains(&format!("\"datapath\":\"{path}\"")))?;
    for cipher in ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"] {
        ensure!(mesh.agent("a").metric("mesh_kernel_tls", &[("cipher", cipher)])? == carried, "{cipher}");
    }
    check(&world, &mesh, path, path)
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn a_mesh_that_wants_the_kernel_gets_it_or_does_not_start() -> Result<()> {
    let world = stage::world()?;
    let started = Mesh::setup(&world, &agent_bin()?, Mode::Strict).tls("dataPath: Kernel").start();
    if kernel_has_tls(world.pod("client"))? {
        return check(&world, &started?, "kernel", "kernel");
    }
    let refusal = format!("{:#}", started.err().context("it started")?);
    ensure!(refusal.contains("this kernel has no TLS"), "{refusal}");
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn either_end_may_be_in_user_space() -> Result<()> {
    for userspace in ["a", "b"] {
        let world = stage::world()?;
        let setup = Mesh::setup(&world, &agent_bin()?, Mode::Strict).tls_on(userspace, "dataPath: Userspace");
        let mesh = setup.start()?;
        let other = if kernel_has_tls(world.pod("client"))? { "kernel" } else { "userspace" };
        let paths = if userspace == "a" { ("userspace", other) } else { (other, "userspace") };
        check(&world, &mesh, paths.0, paths.1)?;
    }
    Ok(())
}

/// Takes the kernel's TLS away: the module, and the way to load it.
struct WithoutModule(String);

impl WithoutModule {
    const HELPER: &str = "/proc/sys/kernel/modprobe";

    fn begin(pod: &Pod) -> Result<Self> {
        let guard = Self(std::fs::read_to_string(Self::HELPER)?);
        std::fs::write(Self::HELPER, "/nonexistent")?;
        pod.run(pod.command("rmmod").arg("tls"))?.success()?;
        Ok(guard)
    }
}

impl Drop for WithoutModule {
    fn drop(&mut self) {
        drop(std::fs::write(Self::HELPER, self.0.trim()));
    }
}

// Not natively: it would take the module from the whole machine.
#[test]
#[ignore = "needs a kernel with TLS: cargo xtask test vm"]
fn without_the_module_auto_goes_on_in_user_space_and_kernel_refuses_to_start() -> Result<()> {
    let world = stage::world()?;
    ensure!(kernel_has_tls(world.pod("client"))?, "this kernel has no TLS to take away");
    let _without = WithoutModule::begin(world.pod("client"))?;
    let refused = Mesh::setup(&world, &agent_bin()?, Mode::Strict).tls("dataPath: Kernel").start();
    let refusal = format!("{:#}", refused.err().context("it started")?);
    ensure!(refusal.contains("this kernel has no TLS"), "{refusal}");
    let world = stage::world()?;
    let mesh = Mesh::start(&world, Mode::Strict)?;
    mesh.agent("a").wait_log("the reason", |line| line.contains("the kernel has no TLS"))?;
    check(&world, &mesh, "userspace", "userspace")
}

#[test]
#[ignore = "needs a kernel with TLS: cargo xtask test vm"]
fn a_module_that_goes_away_later_costs_no_connection() -> Result<()> {
    let world = stage::world()?;
    ensure!(kernel_has_tls(world.pod("client"))?, "this kernel has no TLS to take away");
    let mesh = Mesh::start(&world, Mode::Strict)?;
    let _without = WithoutModule::begin(world.pod("client"))?;
    check(&world, &mesh, "userspace", "userspace")
}
