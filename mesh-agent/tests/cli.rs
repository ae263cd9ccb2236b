//! The binary as an operator meets it: exit codes, and what it says of a broken configuration. Needs no privilege.

#![expect(clippy::unwrap_used, reason = "helpers of tests, outside of a #[test] function")]

use std::path::Path;
use std::process::{Command, Output};

fn agent(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mesh-agent")).args(arguments).output().unwrap()
}

fn run_with(documents: &str) -> (Option<i32>, String) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("mesh.yaml"), documents).unwrap();
    let output = agent(&["run", "--node", "a", "--config", directory.path().to_str().unwrap()]);
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_broken_configuration_ends_with_code_2_and_every_mistake_with_its_place() {
    let (code, said) = run_with(
        "apiVersion: mesh.hauberk.dev/v1alpha1\n\
         kind: Mesh\n\
         metadata: {name: mesh}\n\
         spec: {trustDomain: 'Example Org', mtsl: {mode: STRICT}}\n\
         ---\n\
         apiVersion: mesh.hauberk.dev/v1alpha1\n\
         kind: Workload\n\
         metadata: {name: web, namespace: shop}\n\
         spec: {node: a, addresses: [10.0.0]}\n",
    );
    assert_eq!(code, Some(2), "{said}");
    for mistake in [
        "document 1 (Mesh mesh): spec.trustDomain: ",
        "document 1 (Mesh mesh): spec.mtsl: ",
        "document 1 (Mesh mesh): spec.issuer: is required",
        "document 2 (Workload shop/web): spec.addresses[0]: `10.0.0` is not an IP address",
    ] {
        assert!(said.contains(&format!("mesh.yaml: {mistake}")), "`{mistake}` is not in\n{said}");
    }
}

#[test]
fn a_missing_directory_is_named() {
    let output = agent(&["run", "--node", "a", "--config", "/nonexistent"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("list /nonexistent"));
}

#[test]
fn what_cannot_be_told_ends_with_code_2() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("no.sock").display().to_string();
    for (arguments, said) in [
        (&["policy", "check", "/nonexistent"][..], "list /nonexistent"),
        (&["explain", "--config", "/nonexistent", "shop/web", "shop/db:80"], "list /nonexistent"),
        (&["explain", "--admin-socket", &socket, "shop/web", "shop/db:80"], "does it run here, and are you root?"),
    ] {
        let output = agent(arguments);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(said), "{output:?}");
    }
}

#[test]
fn the_example_is_valid_and_its_identities_can_be_issued() {
    let (directory, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (config, out) = (directory.path().to_str().unwrap(), out.path().to_str().unwrap());
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/two-pods.yaml");
    std::fs::copy(example, directory.path().join("two-pods.yaml")).unwrap();
    let init = ["ca", "init", "--dir", config, "--trust-domain", "example.org"];
    assert!(agent(&init).status.success());
    assert_eq!(agent(&init).status.code(), Some(1), "a second CA must not replace the first");
    let svid = ["svid", "--config", config, "--namespace", "shop", "--service-account", "client", "--out", out];
    let output = agent(&svid);
    assert!(output.status.success(), "{output:?}");
    let key = std::fs::metadata(Path::new(out).join("tls.key")).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&key.permissions()) & 0o777, 0o600);
}
