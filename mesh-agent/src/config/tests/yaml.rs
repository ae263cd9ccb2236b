//! What is no YAML, or too much of it.

use super::{MESH, WORKLOAD, file, refused};
use crate::config::parse;

#[test]
fn yaml_itself_is_strict_and_bounded() {
    let bomb = "a: &a [1,1,1,1,1,1,1,1,1]
b: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]
c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]
d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]
e: [*d,*d,*d,*d,*d,*d,*d,*d,*d]";
    let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
    for (text, expected) in [
        ("a: 1\na: 2", "duplicate mapping key `a` is not allowed here at line 2, column 1"),
        ("a: [1, 2", "unclosed bracket '[' at line 1, column 4"),
        ("a: &a [*a]", "Recursive reference not allowed here at line 1, column 8"),
        (&deep, "YAML document too large or too complex: limits breached: Depth { depth: 33 } at line 1, column 33"),
        (
            bomb,
            "YAML document too large or too complex: total_replayed_events=10001 > 10000 at line 1, column 18 \
             (defined at line 4, column 7) (used at line 5, column 5)",
        ),
    ] {
        refused(text, &[&format!("web.yaml: document 1: {expected}")]);
    }
}

#[test]
fn a_mistake_in_one_documents_yaml_does_not_hide_the_next_document() {
    let text = format!("a: 1\na: 2\n---{}", WORKLOAD.replace("node: a", ""));
    let errors = parse(&[file("mesh.yaml", MESH), file("web.yaml", &text)]).unwrap_err();
    assert_eq!(errors.0.len(), 2);
    assert_eq!(errors.0[1].to_string(), "web.yaml: document 2 (Workload shop/web): spec.node: is required");
}
