//! Finds the paths of a source: `use a::{b, c::d}` and `a::b::f()` alike, each written out, with its line.
use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

/// A path as it stands in the source. A lone identifier or keyword is a path of one segment.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct SourcePath {
    /// `crate::{a, b::c}` gives `crate::a` and `crate::b::c`.
    pub(crate) segments: Vec<String>,
    /// Counted from 1.
    pub(crate) line: usize,
    /// How many `mod name { … }` blocks of this file are around it: each takes one `super` to leave.
    pub(crate) inline_modules: usize,
}

/// The tokens of a file, or the line at which it stops being Rust. Comments are gone.
pub(crate) fn parse(text: &str) -> Result<TokenStream, usize> {
    text.parse().map_err(|error: proc_macro2::LexError| error.span().start().line)
}

/// Every path in `tokens`, in order.
pub(crate) fn collect(tokens: &TokenStream) -> Vec<SourcePath> {
    let mut collector = Collector { paths: Vec::new(), inline_modules: 0 };
    collector.stream(tokens.clone(), &[]);
    collector.paths
}

struct Collector {
    paths: Vec<SourcePath>,
    inline_modules: usize,
}

impl Collector {
    /// Walks over one level of tokens; `prefix` is what stands before the braces of a `use` group.
    fn stream(&mut self, tokens: TokenStream, prefix: &[String]) {
        let tokens: Vec<_> = tokens.into_iter().collect();
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            at = match token {
                // Inside a `use` group, the new name is no path.
                TokenTree::Ident(word) if word == "as" => at + 2,
                TokenTree::Ident(word) if word == "mod" => self.module(&tokens, at),
                TokenTree::Ident(_) => self.path(&tokens, at, prefix),
                TokenTree::Group(group) => {
                    self.stream(group.stream(), &[]);
                    at + 1
                }
                TokenTree::Literal(_) | TokenTree::Punct(_) => at + 1,
            };
        }
    }

    /// `mod name { … }`, or only the keyword of `mod name;`.
    fn module(&mut self, tokens: &[TokenTree], at: usize) -> usize {
        let Some(TokenTree::Group(body)) = tokens.get(at + 2).filter(|token| is_braces(token)) else { return at + 1 };
        self.inline_modules += 1;
        self.stream(body.stream(), &[]);
        self.inline_modules -= 1;
        at + 3
    }

    /// The path that begins at `at`; returns what comes after it.
    fn path(&mut self, tokens: &[TokenTree], mut at: usize, prefix: &[String]) -> usize {
        let line = tokens[at].span().start().line;
        let mut segments = prefix.to_vec();
        loop {
            match tokens.get(at) {
                Some(TokenTree::Ident(word)) => segments.push(word.to_string()),
                Some(TokenTree::Group(group)) if is_use_group(group) => {
                    self.stream(group.stream(), &segments);
                    return at + 1;
                }
                // `*`, or the `<` of a turbofish: the path so far says enough.
                _ => break,
            }
            if !is_path_separator(tokens, at + 1) {
                at += 1;
                break;
            }
            at += 3;
        }
        self.paths.push(SourcePath { segments, line, inline_modules: self.inline_modules });
        at
    }
}

fn is_use_group(group: &Group) -> bool {
    group.delimiter() == Delimiter::Brace
}

fn is_braces(token: &TokenTree) -> bool {
    matches!(token, TokenTree::Group(group) if group.delimiter() == Delimiter::Brace)
}

fn is_path_separator(tokens: &[TokenTree], at: usize) -> bool {
    let colon = |token: Option<&TokenTree>| matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == ':');
    colon(tokens.get(at)) && colon(tokens.get(at + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(source: &str, expected: &[&str]) {
        let paths = collect(&parse(source).unwrap());
        let found: Vec<_> = paths.iter().map(|path| path.segments.join("::")).filter(|p| p.contains("::")).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn groups_are_written_out() {
        check("use crate::{a::{B, c::D as E}, f::*};", &["crate::a::B", "crate::a::c::D", "crate::f"]);
    }

    #[test]
    fn paths_inside_expressions_types_and_macros_count() {
        check("fn f() -> crate::a::T { g(vec![crate::b::X]) }", &["crate::a::T", "crate::b::X"]);
        check("let x = Vec::<crate::c::T>::new();", &["crate::c::T"]);
    }

    #[test]
    fn comments_and_strings_hold_no_paths() {
        check("// use crate::a;\n/// [`crate::b::C`]\nconst S: &str = \"crate::d::E\";", &[]);
    }

    #[test]
    fn the_depth_of_inline_modules_is_known() {
        let paths = collect(&parse("mod t {\n  mod u { use super::super::X; }\n}\nuse a::b;").unwrap());
        assert_eq!((paths[1].inline_modules, paths[1].line), (2, 2));
        assert_eq!((paths[paths.len() - 1].inline_modules, paths[paths.len() - 1].line), (0, 4));
    }

    #[test]
    fn what_is_no_rust_is_reported_with_its_line() {
        assert_eq!(parse("fn f() {\n}\n}\n").unwrap_err(), 3);
    }
}
