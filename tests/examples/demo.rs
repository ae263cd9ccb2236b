//! temp
fn main() -> anyhow::Result<std::process::ExitCode> {
    let a: Vec<String> = std::env::args().collect();
    mesh_tests::demo::run(
        a[1].as_ref(),
        mesh_tests::demo::DemoOptions { check: a.contains(&"--check".into()), keep: a.contains(&"--keep".into()) },
    )
}
