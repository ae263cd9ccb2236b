//! `mesh-agent schema`: prints what `api` makes of the documents' types.

use crate::api::{Kind, any_schema, crd, schema as schema_of};

/// Why nothing is printed.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// There is no such kind.
    #[error("`{given}` is not a kind of this mesh: it has {known}")]
    Kind {
        /// What was asked for.
        given: String,
        /// What there is.
        known: String,
    },
    /// It is in files alone.
    #[error("a {0} of this mesh is in files alone: a cluster has its own")]
    FileKind(&'static str),
    /// It can't be written as text.
    #[error("write the schema")]
    Json(#[from] serde_json::Error),
    /// It can't be written as text.
    #[error("write the definition")]
    Yaml(#[from] serde_saphyr::ser::Error),
}

/// The JSON Schema of a kind's documents (without a kind: of any document); with `crds` CustomResourceDefinitions in YAML.
pub fn schema(kind: Option<&str>, crds: bool) -> Result<String, SchemaError> {
    let kind = kind.map(find).transpose()?;
    if !crds {
        return Ok(serde_json::to_string_pretty(&kind.map_or_else(any_schema, schema_of))? + "\n");
    }
    if let Some(kind) = kind.filter(|kind| !kind.in_kubernetes) {
        return Err(SchemaError::FileKind(kind.name));
    }
    let kinds = Kind::in_kubernetes().filter(|one| kind.is_none_or(|kind| kind.name == one.name));
    let documents: Result<Vec<_>, _> = kinds.map(definition).collect();
    Ok(documents?.join("---\n"))
}

fn definition(kind: &Kind) -> Result<String, SchemaError> {
    Ok(format!("# Made by `mesh-agent schema --crds`.\n{}", serde_saphyr::to_string(&crd(kind))?))
}

fn find(name: &str) -> Result<&'static Kind, SchemaError> {
    Kind::of_name(name)
        .ok_or_else(|| SchemaError::Kind { given: name.to_owned(), known: Kind::ALL.map(|kind| kind.name).join(", ") })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_definitions_in_deploy_are_what_the_types_say() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("deploy/crds");
        for kind in Kind::in_kubernetes() {
            let name = format!("{}.yaml", kind.plural);
            let text = std::fs::read_to_string(directory.join(&name)).unwrap_or_default();
            assert!(text == schema(Some(kind.name), true).unwrap(), "deploy/crds/{name}: run `cargo xtask crds`");
        }
    }

    #[test]
    fn what_is_printed_can_be_read_back() {
        let text = schema(None, true).unwrap();
        let documents: Vec<serde_json::Value> = serde_saphyr::from_multiple(&text).unwrap();
        assert_eq!(documents, Kind::in_kubernetes().map(crd).collect::<Vec<_>>());
        let one: serde_json::Value = serde_json::from_str(&schema(Some("mesh"), false).unwrap()).unwrap();
        assert_eq!(one["title"], "Mesh");
        let any: serde_json::Value = serde_json::from_str(&schema(None, false).unwrap()).unwrap();
        assert!(Kind::ALL.iter().all(|kind| any["$defs"][kind.name]["title"] == kind.name));
    }

    #[test]
    fn a_kind_that_is_not_there_is_told_with_those_that_are() {
        let error = schema(Some("Pod"), true).unwrap_err().to_string();
        assert!(error.starts_with("`Pod` is not a kind of this mesh: it has AuthorizationPolicy, "), "{error}");
        let error = schema(Some("service"), true).unwrap_err().to_string();
        assert_eq!(error, "a Service of this mesh is in files alone: a cluster has its own");
    }
}
