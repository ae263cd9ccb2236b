//! Our own kinds: what each document says, and what all say together.
//!
//! A document that is wrong, in itself or beside the others, holds nobody else back: its last good form stays in force, or it is
//! left out where it never had one.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::Verdict;
use crate::config::assemble::{Assembly, Place};
use crate::config::error::ConfigError;
use crate::config::walk::Report;
use crate::config::{ConfigDigest, ConfigErrors, MeshConfig, object, read};
use crate::model::cluster::ObjectName;
use crate::model::mesh::Mesh;

/// What a document is called: its kind, and its name in it.
type Key = (String, ObjectName);

/// A form of a document, and what is wrong with it: field and reason.
pub(super) type Wrong = (Arc<Value>, Vec<(String, String)>);

/// A document as the API server has it.
#[derive(Clone, Debug, Default)]
pub struct Written {
    /// Which generation of it this is.
    pub generation: i64,
    /// When it was made, in seconds since 1970: of two that can't both be, the older stands.
    pub created: i64,
    /// What its author wrote.
    pub content: Value,
    /// What its status says of it.
    pub told: Option<Told>,
}

/// What a document's condition `Accepted` says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Told {
    /// Of which generation.
    pub generation: i64,
    /// Whether it is accepted.
    pub accepted: bool,
    /// Why not.
    pub message: String,
    /// Since when (RFC 3339).
    pub since: String,
}

/// A document, and how it was judged.
#[derive(Debug)]
struct Document {
    created: i64,
    /// The newest without a mistake of its own.
    good: Option<Arc<Value>>,
    /// What counts.
    in_force: Option<Arc<Value>>,
    verdict: Verdict,
    /// What is wrong with it beside the others.
    beside: Option<ConfigErrors>,
}

/// All documents.
#[derive(Debug, Default)]
pub(super) struct Documents {
    all: BTreeMap<Key, Document>,
    /// The Mesh that was in force last. It stands while there is no other.
    mesh: Option<Arc<Value>>,
    /// The settings that the mesh began to run with.
    running: Option<Mesh>,
    /// What of those the documents would have otherwise, by field path.
    pending_restart: Vec<&'static str>,
    /// Forms that are wrong in this cluster.
    foreign: Vec<Wrong>,
    /// What they make together; `None`: something has changed since.
    together: Option<Result<MeshConfig, ConfigErrors>>,
    judged: bool,
}

impl Documents {
    /// Takes a document. A mistake is in the verdict, and its last good form stays.
    pub(super) fn set(&mut self, kind: &str, name: &ObjectName, written: Written) -> &Verdict {
        let Written { generation, created, content, told } = written;
        let report = Report::default();
        let lowered = object::lower(&content, &report);
        let mistakes = named(&content, report.into_mistakes());
        let mistakes = (!mistakes.is_empty() || lowered.is_none()).then_some(ConfigErrors(mistakes));
        let key = (kind.to_owned(), name.clone());
        let before = self.all.remove(&key);
        let (known, in_force, beside) = before.map_or_else(Default::default, |known| {
            let Document { good, in_force, beside, .. } = known;
            (good, in_force, beside)
        });
        let good = match (&mistakes, &known) {
            (Some(_), _) => known.clone(),
            (None, Some(known)) if **known == content => Some(Arc::clone(known)),
            (None, _) => Some(Arc::new(content)),
        };
        if good != known {
            self.together = None;
        }
        self.judged = true;
        let verdict = Verdict { kind: kind.to_owned(), name: name.clone(), generation, mistakes, told };
        &self.all.entry(key).or_insert(Document { created, good, in_force, verdict, beside }).verdict
    }

    /// Forgets a document.
    pub(super) fn remove(&mut self, kind: &str, name: &ObjectName) {
        let Some(known) = self.all.remove(&(kind.to_owned(), name.clone())) else { return };
        self.judged = true;
        if known.good.is_some() {
            self.together = None;
        }
    }

    /// The names of all documents of a kind.
    pub(super) fn names(&self, kind: &str) -> Vec<ObjectName> {
        self.all.keys().filter(|(known, _)| known == kind).map(|(_, name)| name.clone()).collect()
    }

    /// The forms of a kind's documents that are right in themselves: the newest of each, and the one that counts.
    pub(super) fn forms<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = (&'a ObjectName, &'a Arc<Value>)> {
        let of_kind = self.all.iter().filter(move |((known, _), _)| known == kind);
        of_kind.flat_map(|((_, name), document)| {
            let earlier = document.in_force.iter().filter(|form| document.good.as_ref() != Some(form));
            document.good.iter().chain(earlier).map(move |form| (name, form))
        })
    }

    /// Notes which forms are wrong in this cluster, whatever the documents say together.
    pub(super) fn refuse(&mut self, foreign: Vec<Wrong>) {
        if self.foreign != foreign {
            (self.foreign, self.together, self.judged) = (foreign, None, true);
        }
    }

    /// From now on the mesh runs with these settings, of which not all can be changed.
    pub(super) fn begin(&mut self, mesh: &Mesh) {
        self.running = Some(mesh.clone());
    }

    /// The settings, by field path, that only a restart takes over as documents have them.
    pub(super) fn pending_restart(&self) -> &[&'static str] {
        &self.pending_restart
    }

    /// Whether they have changed since [`Self::together`].
    pub(super) fn have_changed(&self) -> bool {
        self.together.is_none()
    }

    /// Whether any was judged since this was asked for.
    pub(super) fn were_judged(&self) -> bool {
        self.judged
    }

    /// The same, and from now on none was.
    pub(super) fn take_judged(&mut self) -> bool {
        std::mem::take(&mut self.judged)
    }

    /// What became of each, alone and beside the others.
    pub(super) fn verdicts(&self) -> Vec<Verdict> {
        let judge = |document: &Document| {
            let mut verdict = document.verdict.clone();
            verdict.mistakes = verdict.mistakes.or_else(|| document.beside.clone());
            verdict
        };
        self.all.values().map(judge).collect()
    }

    /// What they make together. An error only if there never was a Mesh.
    pub(super) fn together(&mut self) -> Result<MeshConfig, ConfigErrors> {
        let together = match self.together.take() {
            Some(together) => together,
            None => self.assemble(),
        };
        let shared = together.clone();
        self.together = Some(together);
        shared
    }

    fn assemble(&mut self) -> Result<MeshConfig, ConfigErrors> {
        self.judged = true;
        let mut forms: BTreeMap<Key, Arc<Value>> = self
            .all
            .iter()
            .filter_map(|(name, document)| Some((name.clone(), Arc::clone(document.good.as_ref()?))))
            .collect();
        let mut refused: BTreeMap<Key, Vec<ConfigError>> = BTreeMap::new();
        let made = loop {
            let mistakes = match self.try_with(&forms) {
                Ok(config) => break Ok(config),
                Err(mistakes) => mistakes,
            };
            let mut wrong: BTreeMap<_, Vec<_>> = BTreeMap::new();
            for mistake in &mistakes.0 {
                let is_its = |(_, form): &(&Key, &Arc<Value>)| object::describe(form) == mistake.object;
                if let Some((name, _)) = forms.iter().find(is_its) {
                    wrong.entry(name.clone()).or_default().push(mistake.clone());
                }
            }
            if wrong.is_empty() {
                break Err(mistakes);
            }
            for (name, mistakes) in wrong {
                // Its earlier form is tried once; if that is no better, it is left out.
                let earlier = if refused.contains_key(&name) { None } else { self.all[&name].in_force.clone() };
                match earlier.filter(|earlier| Some(earlier) != forms.get(&name)) {
                    Some(earlier) => drop(forms.insert(name.clone(), earlier)),
                    None => drop(forms.remove(&name)),
                }
                refused.entry(name).or_insert(mistakes);
            }
        };
        let mesh = forms.iter().find(|((kind, _), _)| kind == "Mesh").map(|(_, form)| Arc::clone(form));
        for (name, document) in &mut self.all {
            document.beside = refused.remove(name).map(ConfigErrors);
            if made.is_ok() {
                document.in_force = forms.remove(name);
            }
        }
        let mut config = made?;
        self.mesh = mesh.or_else(|| self.mesh.take());
        if let Some(running) = &self.running {
            self.pending_restart = running.needs_restart(&config.mesh);
            config.mesh.keep_fixed(running);
        }
        Ok(config)
    }

    fn try_with(&self, forms: &BTreeMap<Key, Arc<Value>>) -> Result<MeshConfig, ConfigErrors> {
        let counts = |wrong: &&Wrong| forms.values().any(|form| Arc::ptr_eq(form, &wrong.0));
        let foreign = self.foreign.iter().filter(counts);
        let foreign: Vec<_> = foreign.flat_map(|(form, mistakes)| named(form, mistakes.clone())).collect();
        if !foreign.is_empty() {
            return Err(ConfigErrors(foreign));
        }
        let has_mesh = forms.keys().any(|(kind, _)| kind == "Mesh");
        let mut by_age: Vec<_> = forms.iter().map(|(name, form)| (self.all[name].created, name, form)).collect();
        by_age.sort_by_key(|(created, name, _)| (*created, *name));
        let mut assembly = Assembly::default();
        for form in by_age.iter().map(|(_, _, form)| *form).chain(self.mesh.iter().filter(|_| !has_mesh)) {
            read(&mut assembly, Place { file: None, object: None }, form);
        }
        let config = assembly.finish()?;
        if let Some(running) = &self.running
            && running.trust_domain != config.mesh.trust_domain
            && let Some(mesh) = forms.iter().find(|((kind, _), _)| kind == "Mesh").map(|(_, form)| form)
        {
            let reason = format!("the mesh runs as `{}`, which can't be changed", running.trust_domain);
            return Err(ConfigErrors(named(mesh, [("spec.trustDomain".to_owned(), reason)])));
        }
        // Of what authors write: `metadata` and `status` change by themselves.
        let parts = forms
            .iter()
            .map(|((kind, name), form)| (format!("{kind} {}/{}", name.namespace, name.name), form["spec"].to_string()));
        Ok(MeshConfig { digest: ConfigDigest::of_parts(parts), ..config })
    }
}

fn named(document: &Value, mistakes: impl IntoIterator<Item = (String, String)>) -> Vec<ConfigError> {
    let place = Place { file: None, object: object::describe(document) };
    mistakes.into_iter().map(|(field, reason)| place.mistake(field, reason)).collect()
}

#[cfg(test)]
mod tests;
