//! Other trust domains: who vouches for them, and who may be of them.

use mesh_pki::Authority;

use super::{MESH, file, parse};

const HEAD: &str = "apiVersion: mesh.hauberk.dev/v1alpha1\nkind:";

fn federated(name: &str, trust_domain: &str, bundle: &str) -> String {
    let bundle: String = bundle.lines().map(|line| format!("    {line}\n")).collect();
    format!(
        "{HEAD} FederatedTrustDomain\nmetadata: {{name: {name}}}\nspec:\n  trustDomain: {trust_domain}\n  bundle: |\n{bundle}"
    )
}

fn workload(trust_domain: &str) -> String {
    format!(
        "{HEAD} Workload\nmetadata: {{name: db, namespace: shop}}\nspec: {{node: far, trustDomain: {trust_domain}, \
         serviceAccount: db, addresses: [10.1.2.3]}}\n"
    )
}

/// The workloads' identities, or the mistakes.
fn check(documents: &[String]) -> Result<Vec<String>, String> {
    let mut files = vec![file("mesh.yaml", MESH)];
    files.extend(documents.iter().enumerate().map(|(index, text)| file(&format!("{index}.yaml"), text)));
    let config = parse(&files).map_err(|error| error.to_string())?;
    Ok(config.workloads.iter().map(|workload| workload.identity.to_string()).collect())
}

#[test]
fn a_workload_may_be_of_a_trust_domain_that_somebody_vouches_for() {
    let root = Authority::root("other");
    let other = federated("other", "other.test", &root.certificate_pem());
    assert_eq!(
        check(&[other.clone(), workload("other.test")]),
        Ok(vec!["spiffe://other.test/ns/shop/sa/db".to_owned()])
    );
    let revocation =
        format!("{HEAD} Revocation\nmetadata: {{name: r}}\nspec: {{spiffeIds: ['spiffe://other.test/x']}}\n");
    assert_eq!(check(&[other, revocation]), Ok(vec![]));
    let expected = "0.yaml: document 1 (Workload shop/db): spec.trustDomain: `other.test` is neither the Mesh's nor that of a \
                    FederatedTrustDomain";
    assert_eq!(check(&[workload("other.test")]), Err(expected.to_owned()));
}

#[test]
fn mistakes_of_a_federated_trust_domain() {
    let (root, leaf) =
        (Authority::root("other").certificate_pem(), mesh_pki::cases(&Authority::root("r"), "spiffe://other.test/x"));
    let leaf = mesh_pki::Case::pem(&leaf[0].chain[..1]);
    let at = "0.yaml: document 1 (FederatedTrustDomain other): spec";
    for (trust_domain, bundle, expected) in [
        ("cluster.local", &*root, "trustDomain: is the Mesh's own: its roots come from its issuer"),
        (
            "Other",
            &root,
            "trustDomain: `Other` has a trust domain with a character other than a-z, 0-9, `.`, `-` and `_`",
        ),
        ("other.test", "nonsense", "bundle: can't be used: the bundle has no certificate"),
        ("other.test", &leaf, "bundle: certificate 0 is not one of a CA that may sign certificates"),
    ] {
        assert_eq!(check(&[federated("other", trust_domain, bundle)]), Err(format!("{at}.{expected}")));
    }
    let twice = [federated("other", "other.test", &root), federated("again", "other.test", &root)];
    let expected = "1.yaml: document 1 (FederatedTrustDomain again): spec.trustDomain: is already in 0.yaml document 1";
    assert_eq!(check(&twice), Err(expected.to_owned()));
}
