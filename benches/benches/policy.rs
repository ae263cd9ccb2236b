//! What a decision on one connection costs: it must not grow with policies for other workloads.
//!
//! 100 policies select the workload that is asked about, all others other workloads. The connection matches the last
//! that is looked at, so every one is.

use std::fmt::Write as _;
use std::hint::black_box;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use divan::Bencher;
use mesh_agent::config::{SourceFile, parse};
use mesh_agent::model::spiffe::SpiffeId;
use mesh_agent::model::workload::WorkloadUid;
use mesh_agent::policy::Connection;
use mesh_agent::state::MeshState;

/// How many policies select the workload.
const OWN: usize = 100;

fn main() {
    divan::main();
}

/// What the rules of the policies are made of.
#[derive(Clone, Copy, Debug)]
enum Shape {
    /// Three identities and two ports each.
    Exact,
    /// Two patterns and a range of addresses each.
    Patterns,
    /// Anybody, at the weekend: what costs most is asked of each.
    Hours,
}

impl Shape {
    fn rule(self, number: usize) -> String {
        let sa = |index: usize| format!("test/ns/n{}/sa/s{}", (number + index) % 97, number * 3 + index);
        match self {
            Self::Exact => format!(
                "from: [{{source: {{principals: [{}, {}, {}]}}}}], to: [{{operation: {{ports: [80, {}]}}}}]",
                sa(0),
                sa(1),
                sa(2),
                1000 + number % 1000
            ),
            Self::Hours => {
                "when: [{time: {days: [Sat..Sun], from: '08:00', to: '18:00', timeZone: Europe/Berlin}}]".to_owned()
            }
            Self::Patterns => format!(
                "from: [{{source: {{principals: ['{}*', '*{}'], ipBlocks: [10.{}.0.0/16]}}}}]",
                sa(0),
                sa(1),
                number % 250
            ),
        }
    }
}

/// `count` policies, of which [`OWN`] (or all, if there are fewer) select shop/web and the last of these matches.
fn state(shape: Shape, count: usize) -> MeshState {
    let head = "---\napiVersion: mesh.hauberk.dev/v1alpha1\nkind:";
    let mut text = format!(
        "{head} Mesh\nmetadata: {{name: mesh}}\nspec: {{trustDomain: test, issuer: {{embedded: {{certificate: c, key: k}}}}}}\n"
    );
    let mut write = |line: String| text.write_str(&line).expect("a string takes all");
    write(format!(
        "{head} Workload\nmetadata: {{name: web, namespace: shop, labels: {{app: web}}}}\nspec: {{node: a, addresses: [10.0.0.2]}}\n"
    ));
    for other in 0..count.div_ceil(OWN) {
        let (high, low) = (other / 250, other % 250 + 1);
        write(format!(
            "{head} Workload\nmetadata: {{name: w{other}, namespace: shop, labels: {{app: w{other}}}}}\nspec: {{node: a, addresses: [10.1.{high}.{low}]}}\n"
        ));
    }
    for number in 0..count {
        let own = number < OWN.min(count);
        let app = if own { "web".to_owned() } else { format!("w{}", number / OWN) };
        let rule = if number + 1 == OWN.min(count) {
            "from: [{source: {principals: [test/ns/client/sa/client]}}]".to_owned()
        } else {
            shape.rule(number)
        };
        write(format!(
            "{head} AuthorizationPolicy\nmetadata: {{name: p{number:06}, namespace: shop}}\n\
             spec: {{selector: {{matchLabels: {{app: {app}}}}}, rules: [{{{rule}}}]}}\n"
        ));
    }
    // A file has at most 16 MiB.
    let files = text.split_inclusive("---\n").collect::<Vec<_>>();
    let files = files.chunks(20_000).map(|documents| SourceFile { name: "mesh.yaml".into(), text: documents.concat() });
    MeshState::new(parse(&files.collect::<Vec<_>>()).expect("a valid mesh"))
}

/// A Monday at noon.
fn noon() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_795_435_200)
}

fn evaluate(bencher: Bencher<'_, '_>, shape: Shape, count: usize) {
    let state = state(shape, count);
    let (web, peer) =
        (WorkloadUid::new("shop", "web"), SpiffeId::parse("spiffe://test/ns/client/sa/client").expect("an ID"));
    let connection = Connection {
        peer: Some(&peer),
        source: "10.0.0.9".parse().expect("an address"),
        destination: "10.0.0.2:80".parse().expect("an address"),
        now: noon(),
    };
    assert!(state.policies().evaluate(&web, &connection).is_allowed());
    bencher.bench(|| state.policies().evaluate(black_box(&web), black_box(&connection)));
}

#[divan::bench(args = [10, 1_000, 100_000])]
fn exact(bencher: Bencher<'_, '_>, policies: usize) {
    evaluate(bencher, Shape::Exact, policies);
}

#[divan::bench(args = [10, 1_000, 100_000])]
fn patterns(bencher: Bencher<'_, '_>, policies: usize) {
    evaluate(bencher, Shape::Patterns, policies);
}

#[divan::bench(args = [10, 1_000])]
fn hours(bencher: Bencher<'_, '_>, policies: usize) {
    evaluate(bencher, Shape::Hours, policies);
}
