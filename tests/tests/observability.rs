//! What a running agent shows to Prometheus, and what its access lines say of the path.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use mesh_tests::agent::Agent;
use mesh_tests::claims;
use mesh_tests::mesh::{Mesh, Mode};
use mesh_tests::metrics;
use mesh_tests::stage::{MARKER, PORT};
use mesh_tests::wait::{LIMIT, wait_until};
use mesh_tests::world::{Family, World};
use serde_json::Value;

/// Where the test's Prometheus listens: on the loopback of its node.
const PROMETHEUS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 15190);

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn prometheus_finds_nothing_wrong_with_the_metrics_and_scrapes_them() -> Result<()> {
    let world = World::standard()?;
    let _server = world.pod("server").serve(PORT)?;
    let mesh = Mesh::start(&world, Mode::Strict)?;
    for family in Family::BOTH {
        claims::answer_is_right(&world.pod("client").call(world.address("server", family, PORT), MARKER)?)?;
    }
    let agent = mesh.agent("a");
    let line = agent.wait_access(&[("direction", "outbound"), ("outcome", "ok")])?;
    ensure!(line.field("rtt_ms").parse::<f64>().is_ok_and(|rtt| rtt > 0.0 && rtt < 10_000.0), "{line:?}");
    ensure!(line.field("retransmits").parse::<u32>().is_ok(), "{line:?}");
    promtool_is_content(agent)?;
    prometheus_scrapes(agent)
}

fn promtool_is_content(agent: &Agent) -> Result<()> {
    let file = agent.audit().with_file_name("metrics.txt");
    std::fs::write(&file, agent.metrics()?)?;
    let mut command = agent.place().command("sh");
    command.args(["-c", "promtool check metrics < \"$0\""]).arg(&file);
    let found = agent.place().run(&mut command)?;
    ensure!(found.status.success() && found.stdout.is_empty() && found.stderr.is_empty(), "{found:?}");
    Ok(())
}

fn prometheus_scrapes(agent: &Agent) -> Result<()> {
    let directory = agent.audit().with_file_name("prometheus");
    std::fs::create_dir_all(&directory)?;
    let job = format!("job_name: mesh, static_configs: [{{targets: ['{}']}}]", agent.admin());
    let config = format!("global: {{scrape_interval: 200ms, scrape_timeout: 200ms}}\nscrape_configs: [{{{job}}}]\n");
    std::fs::write(directory.join("prometheus.yml"), config)?;
    let mut command = agent.place().command("prometheus");
    command.arg(format!("--config.file={}", directory.join("prometheus.yml").display()));
    command.arg(format!("--storage.tsdb.path={}", directory.join("data").display()));
    command.arg(format!("--web.listen-address={PROMETHEUS}"));
    let prometheus = agent.place().spawn(&mut command)?;
    let sample = |query: &str| -> Result<Option<String>> {
        // Until it listens, connecting fails.
        let Ok(answer) = metrics::get(&agent.place().netns, PROMETHEUS, &format!("/api/v1/query?query={query}")) else {
            return Ok(None);
        };
        // It listens before it can answer.
        let Some(start) = answer.body.find('{') else { return Ok(None) };
        let value: Value =
            serde_json::Deserializer::from_str(&answer.body[start..]).into_iter().next().context("no JSON")??;
        Ok(value["data"]["result"][0]["value"][1].as_str().map(str::to_owned))
    };
    let wait = |query: &str, expected: &str| {
        let what = format!("Prometheus says {expected} to {query}");
        wait_until(LIMIT, &what, || Ok(sample(query)?.filter(|value| value == expected).map(drop)))
            .with_context(|| prometheus.stderr().unwrap_or_default())
    };
    wait("up", "1")?;
    wait("mesh_connections_opened_total%7Bdirection=%22outbound%22%7D", "2")?;
    wait("sum(mesh_handshake_seconds_count)", "2")?;
    wait("mesh_config_in_force", "1")
}

const ALERTS: &str = include_str!("../../deploy/components/monitoring/rules.yaml");
const ALERTS_TEST: &str = include_str!("../../deploy/components/monitoring/rules.test.yaml");

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs promtool: cargo xtask test native")]
fn alerts_fire_when_they_should_and_not_before() -> Result<()> {
    let directory = tempfile::tempdir()?;
    // The operator's object has Prometheus' own file in its spec.
    let (_, spec) = ALERTS.split_once("\nspec:\n").context("no spec")?;
    let rules: String = spec.lines().map(|line| line.strip_prefix("  ").unwrap_or(line).to_owned() + "\n").collect();
    std::fs::write(directory.path().join("rules"), rules)?;
    std::fs::write(directory.path().join("test.yaml"), ALERTS_TEST)?;
    let mut promtool = std::process::Command::new("promtool");
    let tested = promtool.args(["test", "rules", "test.yaml"]).current_dir(directory.path()).output()?;
    ensure!(tested.status.success(), "{}", String::from_utf8_lossy(&tested.stderr));
    Ok(())
}
