//! What the mesh says of an object that it read from Kubernetes. Documents of a directory have no status.

use schemars::JsonSchema;

/// What became of the object. Written by the CA deployment's leader.
#[derive(Clone, Debug, Eq, JsonSchema, PartialEq)]
#[schemars(rename_all = "camelCase")]
pub struct Status {
    /// One of each type. `Accepted`: the object is in force, or `reason` and `message` say why not.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Option<Vec<StatusCondition>>,
}

/// What is so, and since when.
#[derive(Clone, Debug, Eq, JsonSchema, PartialEq)]
#[schemars(rename_all = "camelCase")]
pub struct StatusCondition {
    /// What it is about, such as `Accepted`.
    #[schemars(rename = "type", length(max = 316), regex(pattern = "^[A-Za-z0-9]([A-Za-z0-9_./-]*[A-Za-z0-9])?$"))]
    pub kind: String,
    /// Whether it is so.
    pub status: ConditionStatus,
    /// The `metadata.generation` that was judged.
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,
    /// Since when the status is what it is (RFC 3339).
    #[schemars(extend("format" = "date-time"))]
    pub last_transition_time: String,
    /// Why, in one word for programs.
    #[schemars(length(min = 1, max = 1024), regex(pattern = "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"))]
    pub reason: String,
    /// Why, for people: every mistake on a line of its own. May be empty.
    #[schemars(length(max = 32768))]
    pub message: String,
}

/// Whether something is so.
#[derive(Clone, Copy, Debug, Eq, JsonSchema, PartialEq)]
pub enum ConditionStatus {
    /// it is not
    False,
    /// it is
    True,
    /// nobody knows
    Unknown,
}
