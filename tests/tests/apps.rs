//! Real, unmodified programs through the mesh: what users run, with what those programs do to sockets.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use mesh_tests::app::GREETING;
use mesh_tests::claims;
use mesh_tests::mesh::{Mesh, Mode};
use mesh_tests::process::Process;
use mesh_tests::scale;
use mesh_tests::stage::MARKER;
use mesh_tests::world::{Family, ServerKind, World};

/// Redis' own.
const PORT: u16 = 6379;

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn redis_cli_and_redis_benchmark_work() -> Result<()> {
    let world = World::standard()?;
    let _server = start_redis(&world)?;
    let _mesh = Mesh::start(&world, Mode::Strict)?;
    let capture = world.capture()?;
    let client = world.pod("client");
    for family in Family::BOTH {
        let host = world.pod("server").address(family).to_string();
        let redis = |arguments: &[&str]| {
            let mut command = client.command("redis-cli");
            client.run(command.args(["-h", &host]).args(arguments))?.success()
        };
        assert_eq!(redis(&["set", "key", MARKER])?.trim(), "OK");
        assert_eq!(redis(&["get", "key"])?.trim(), MARKER);
        let info = redis(&["client", "info"])?;
        let from = match client.address(family) {
            std::net::IpAddr::V4(ip) => format!(" addr={ip}:"),
            std::net::IpAddr::V6(ip) => format!(" addr=[{ip}]:"),
        };
        ensure!(info.contains(&from), "redis saw another client than{from} {info}");
        let mut benchmark = client.command("redis-benchmark");
        let requests = scale::less(2000).to_string();
        benchmark.args(["-h", &host, "-t", "set,get,lrange_100", "-n", &requests, "-c", "20", "--csv"]);
        let figures = client.run(&mut benchmark)?.success()?;
        ensure!(figures.contains("\"GET\""), "{figures}");
        let trace = capture.trace()?;
        trace.all_tls13(world.address("server", family, PORT))?;
        ensure!(!trace.contains(MARKER), "the marker is on the wire");
    }
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn curl_gets_a_big_file_from_nginx_with_sendfile() -> Result<()> {
    let world = World::standard()?;
    let content = big_file();
    let _server = start_nginx(&world, &content)?;
    let _mesh = Mesh::start(&world, Mode::Strict)?;
    let capture = world.capture()?;
    let client = world.pod("client");
    for family in Family::BOTH {
        let to = world.address("server", family, 8080);
        let out = world.directory().join("out");
        let mut curl = client.command("curl");
        // Twice on one connection.
        let url = format!("http://{to}/big");
        curl.args(["-sS", "--fail", "--globoff", "-o"]).arg(&out).arg(&url).arg("-o").arg(&out).arg(&url);
        client.run(curl.args(["-w", "%{num_connects} %{local_ip}\\n"]))?.success()?;
        ensure!(std::fs::read(&out)? == content.as_bytes(), "{family}: the file differs");
        let trace = capture.trace()?;
        trace.all_tls13(to)?;
        ensure!(!trace.contains(MARKER), "the marker is on the wire");
    }
    let log = std::fs::read_to_string(world.directory().join("nginx/access.log"))?;
    for family in Family::BOTH {
        let from = client.address(family).to_string();
        ensure!(log.lines().filter(|line| line.starts_with(&from)).count() == 2, "nginx saw other clients: {log}");
    }
    Ok(())
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn a_server_that_speaks_first_is_heard() -> Result<()> {
    let world = World::standard()?;
    let server = world.pod("server").serve_as(ServerKind::SpeaksFirst, PORT)?;
    let _mesh = Mesh::start(&world, Mode::Strict)?;
    let capture = world.capture()?;
    for family in Family::BOTH {
        let to = world.address("server", family, PORT);
        let called = world.pod("client").call_with(to, MARKER, &["--greeted"])?;
        assert_eq!(called.greeting.as_deref(), Some(GREETING), "{called:?}");
        claims::answer_is_right(&called)?;
        let trace = capture.trace()?;
        trace.all_tls13(to)?;
        ensure!(!trace.contains(GREETING) && !trace.contains(MARKER), "plaintext on the wire");
    }
    // A client outside doesn't hear even the greeting. Once: a silent client is only refused at the handshake deadline.
    let to = world.address("server", Family::V4, PORT);
    claims::is_refused(&world.pod("outsider").call_with(to, MARKER, &["--greeted"])?)?;
    assert_eq!(server.accepted()?.len(), 2, "only the member of the mesh reached the application");
    Ok(())
}

fn start_redis(world: &World) -> Result<Process> {
    let server = world.pod("server");
    let mut command = server.command("redis-server");
    command.args(["--port", &PORT.to_string(), "--bind", "0.0.0.0", "::", "--protected-mode", "no", "--save", ""]);
    let mut process = server.spawn(command.arg("--dir").arg(world.directory()))?;
    process.wait_line("redis listens", |line| line.contains("Ready to accept connections"))?;
    Ok(process)
}

/// Several megabytes (less on a slow machine), no two lines alike, the marker in each.
fn big_file() -> String {
    let lines = u64::from(scale::less(120_000));
    (0..lines).map(|line| format!("{line:08} {MARKER} {:08x}\n", line * 2_654_435_761)).collect()
}

fn start_nginx(world: &World, content: &str) -> Result<Process> {
    let directory: PathBuf = world.directory().join("nginx");
    std::fs::create_dir(&directory)?;
    std::fs::write(directory.join("big"), content)?;
    let root = directory.display();
    let config = format!(
        "daemon off; user root; worker_processes 2; pid {root}/pid; error_log stderr info;\n\
         events {{}}\n\
         http {{\n  access_log {root}/access.log;\n  sendfile on; tcp_nopush on;\n  \
           client_body_temp_path {root}/body; proxy_temp_path {root}/proxy; fastcgi_temp_path {root}/fastcgi;\n  \
           uwsgi_temp_path {root}/uwsgi; scgi_temp_path {root}/scgi;\n  \
           server {{ listen 8080; listen [::]:8080; root {root}; }}\n}}\n"
    );
    std::fs::write(directory.join("nginx.conf"), config)?;
    let server = world.pod("server");
    let mut command = server.command("nginx");
    let process = server.spawn(command.arg("-e").arg("stderr").arg("-c").arg(directory.join("nginx.conf")))?;
    mesh_tests::wait::wait_until(mesh_tests::wait::LIMIT, "nginx listens", || {
        Ok(process.stderr()?.contains("start worker process ").then_some(()))
    })?;
    Ok(process)
}
