//! TypeScript to what Node loads: CommonJS, or an ES module where the project's manifest or the file's ending says so.
//!
//! `oxc` strips the types, turns newer TypeScript constructs into JavaScript and, for CommonJS, rewrites imports and
//! exports with their scopes; a few lines in front of the result give its helper names their CommonJS meaning. A module
//! that awaits at its top level cannot be CommonJS: it stays an ES module.
//!
//! Not a bundler: each file is rewritten on its own, and of its imports only the names of the project's own files change.
//! Nothing is read of `tsconfig.json`.

use std::path::Path;

use oxc::allocator::{Allocator, FromIn};
use oxc::ast::ast::{
    Argument, CallExpression, ExportAllDeclaration, ExportFromDeclaration, Expression, ImportDeclaration,
    ImportExpression, StringLiteral, TSExternalModuleReference,
};
use oxc::ast_visit::{VisitMut, walk_mut};
use oxc::codegen::Codegen;
use oxc::parser::Parser;
use oxc::semantic::SemanticBuilder;
use oxc::span::SourceType;
use oxc::transformer::{TransformOptions, Transformer};
use oxc::transformer_plugins::ModuleRunnerTransform;

/// How a file came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transpiled {
    /// The JavaScript.
    pub code: String,
    /// Whether it is an ES module.
    pub is_module: bool,
}

/// What Node takes the file for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A script, unless it cannot be one.
    CommonJs,
    /// An ES module.
    Module,
}

/// The new name of what a file imports by a relative name, where it gets one.
pub type Rename<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A file that is not what its ending says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(pub String);

/// In front of a rewritten module. `default` of a module that was never an ES module is the module itself; a named
/// import is looked up when it is used, as ES modules do.
const PRELUDE: &str = r#""use strict";
Object.defineProperty(exports, "__esModule", { value: true });
const __vite_ssr_exports__ = exports;
const __vite_ssr_wrap__ = (m) => m !== null && typeof m === "object" && m.__esModule ? m : new Proxy(Object(m), { get: (t, k) => k === "default" ? m : Reflect.get(t, k) });
const __vite_ssr_import__ = (id) => __vite_ssr_wrap__(require(id));
const __vite_ssr_dynamic_import__ = (id) => import(id);
const __vite_ssr_exportAll__ = (m) => { for (const k of Object.keys(m)) if (k !== "default" && !(k in exports)) Object.defineProperty(exports, k, { enumerable: true, get: () => m[k] }); };
const __vite_ssr_import_meta__ = { url: require("url").pathToFileURL(__filename).href, filename: __filename, dirname: __dirname };
"#;

/// Rewrites one file. `path` decides by its ending what the source is and stands in errors.
pub fn transpile(path: &Path, source: &str, format: Format, rename: Rename<'_>) -> Result<Transpiled, Error> {
    let plain = print(path, source, Modules::Kept, rename)?;
    if format == Format::Module {
        return Ok(Transpiled { code: plain, is_module: true });
    }
    let has_modules = plain.lines().any(|line| line.starts_with("import ") || line.starts_with("export "));
    if !has_modules && !plain.contains("import(") && !plain.contains("import.meta") {
        return Ok(Transpiled { code: plain, is_module: false });
    }
    let rewritten = print(path, source, Modules::Rewritten, rename)?;
    let code: String = rewritten.lines().map(without_await).fold(PRELUDE.to_owned(), |all, line| all + &line + "\n");
    // In module code `await` is reserved, and inside a plain function it is an error: a top-level await shows itself.
    let allocator = Allocator::default();
    let wrapped = format!("function check() {{\n{code}\n}}");
    let parsed = Parser::new(&allocator, &wrapped, SourceType::mjs()).parse();
    let checked = SemanticBuilder::new().with_check_syntax_error(true).build(&parsed.program);
    let is_script = parsed.diagnostics.is_empty() && checked.diagnostics.is_empty();
    Ok(if is_script {
        Transpiled { code: code + &announced(&rewritten)?, is_module: false }
    } else {
        Transpiled { code: plain, is_module: true }
    })
}

/// What is never run and lets Node see a script's exports before it runs it, as ES modules that import it must.
fn announced(rewritten: &str) -> Result<String, Error> {
    let pattern = regex_lite::Regex::new(r#"(?m)^Object\.defineProperty\(__vite_ssr_exports__, "([A-Za-z_$][\w$]*)""#)
        .map_err(|error| Error(error.to_string()))?;
    let names: Vec<&str> =
        pattern.captures_iter(rewritten).filter_map(|found| found.get(1)).map(|m| m.as_str()).collect();
    let list: Vec<String> =
        names.iter().filter(|name| **name != "default").map(|name| format!("exports.{name} = ")).collect();
    Ok(if list.is_empty() { String::new() } else { format!("0 && ({}0);\n", list.concat()) })
}

/// Specifiers that a script imports or requires by a literal name, types left out.
pub fn imports(path: &Path, source: &str) -> Result<Vec<String>, Error> {
    let printed = print(path, source, Modules::Kept, &|_| None)?;
    let pattern = regex_lite::Regex::new(
        r#"(?m)(?:^\s*(?:import|export)\b[^;\n]*?\bfrom\s*|^\s*import\s*|\brequire\s*\(\s*|\bimport\s*\(\s*)["']([^"'\n]+)["']"#,
    )
    .map_err(|error| Error(error.to_string()))?;
    let mut names: Vec<String> = pattern.captures_iter(&printed).map(|found| found[1].to_owned()).collect();
    names.sort();
    names.dedup();
    Ok(names)
}

#[derive(Clone, Copy, PartialEq)]
enum Modules {
    Kept,
    Rewritten,
}

fn print(path: &Path, source: &str, modules: Modules, rename: Rename<'_>) -> Result<String, Error> {
    let source_type = SourceType::from_path(path).map_err(|_| Error(format!("{}: not a script", path.display())))?;
    let allocator = Allocator::default();
    let parsed = Parser::new(&allocator, source, source_type).parse();
    if let Some(first) = parsed.diagnostics.first() {
        let offset = first.labels.first().map_or(0, |label| label.offset());
        let (line, column) = line_and_column(source, offset as usize);
        return Err(Error(format!("{}:{line}:{column}: {}", path.display(), first.message)));
    }
    let mut program = parsed.program;
    Renamer { allocator: &allocator, rename }.visit_program(&mut program);
    let scoping =
        SemanticBuilder::new().with_excess_capacity(2.0).with_enum_eval(true).build(&program).semantic.into_scoping();
    let mut options = TransformOptions::default();
    options.typescript.only_remove_type_imports = false;
    let transformed = Transformer::new(&allocator, path, &options).build_with_scoping(scoping, &mut program);
    if let Some(first) = transformed.diagnostics.first() {
        return Err(Error(format!("{}: {}", path.display(), first.message)));
    }
    if modules == Modules::Rewritten {
        let scoping = SemanticBuilder::new().build(&program).semantic.into_scoping();
        ModuleRunnerTransform::new().transform(&allocator, &mut program, scoping);
    }
    Ok(Codegen::new().build(&program).code)
}

/// Gives the project's own files the names that they have in the package.
struct Renamer<'a, 'b> {
    allocator: &'a Allocator,
    rename: Rename<'b>,
}

impl<'a> Renamer<'a, '_> {
    fn apply(&self, literal: &mut StringLiteral<'a>) {
        if let Some(name) = (self.rename)(literal.value.as_str()) {
            literal.value = FromIn::from_in(name.as_str(), self.allocator);
            literal.raw = None;
        }
    }
}

impl<'a> VisitMut<'a> for Renamer<'a, '_> {
    fn visit_import_declaration(&mut self, it: &mut ImportDeclaration<'a>) {
        self.apply(&mut it.source);
    }

    fn visit_export_all_declaration(&mut self, it: &mut ExportAllDeclaration<'a>) {
        self.apply(&mut it.source);
    }

    fn visit_export_from_declaration(&mut self, it: &mut ExportFromDeclaration<'a>) {
        self.apply(&mut it.source);
    }

    fn visit_ts_external_module_reference(&mut self, it: &mut TSExternalModuleReference<'a>) {
        self.apply(&mut it.expression);
    }

    fn visit_import_expression(&mut self, it: &mut ImportExpression<'a>) {
        if let Expression::StringLiteral(source) = &mut it.source {
            self.apply(source);
        }
        walk_mut::walk_import_expression(self, it);
    }

    fn visit_call_expression(&mut self, it: &mut CallExpression<'a>) {
        if it.callee.is_specific_id("require")
            && let [Argument::StringLiteral(name)] = it.arguments.as_mut_slice()
        {
            self.apply(name);
        }
        walk_mut::walk_call_expression(self, it);
    }
}

/// Imports are synchronous in CommonJS.
fn without_await(line: &str) -> String {
    if line.starts_with("const __vite_ssr_import_")
        || line.starts_with("__vite_ssr_exportAll__(")
        || line.starts_with("await __vite_ssr_import__(")
    {
        line.replacen("await __vite_ssr_import__(", "__vite_ssr_import__(", 1)
    } else {
        line.to_owned()
    }
}

fn line_and_column(source: &str, offset: usize) -> (usize, usize) {
    let before = source.get(..offset.min(source.len())).unwrap_or("");
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |rest| rest.chars().count()) + 1;
    (line, column)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(_: &str) -> Option<String> {
        None
    }

    fn code(source: &str) -> Transpiled {
        transpile(Path::new("handler.ts"), source, Format::CommonJs, &same).unwrap()
    }

    #[test]
    fn types_go_and_exports_become_common_js() {
        let out = code(
            "import { APIGatewayEvent } from 'aws-lambda';\nimport { DynamoDB } from 'aws-sdk';\nconst db = new DynamoDB.DocumentClient();\nexport const main = async (event: APIGatewayEvent): Promise<string> => { enum E { A = 1 } return db.x + E.A; };\n",
        );
        assert!(!out.is_module);
        assert!(!out.code.contains("aws-lambda"), "{}", out.code);
        assert!(out.code.contains("__vite_ssr_import__(\"aws-sdk\""), "{}", out.code);
        assert!(!out.code.contains("await __vite"), "{}", out.code);
        assert!(out.code.ends_with("0 && (exports.main = 0);\n"), "{}", out.code);
        assert!(!out.code.contains(": APIGatewayEvent"), "{}", out.code);
    }

    #[test]
    fn a_script_without_modules_stays_as_it_is() {
        let out =
            transpile(Path::new("a.js"), "const a = require('b');\nexports.h = a;\n", Format::CommonJs, &same).unwrap();
        assert_eq!(out, Transpiled { code: "const a = require(\"b\");\nexports.h = a;\n".into(), is_module: false });
    }

    #[test]
    fn a_top_level_await_stays_a_module() {
        let out = code("import x from 'y';\nconst a: number = await x();\nexport const h = () => a;\n");
        assert!(out.is_module);
        assert!(out.code.contains("import x from"), "{}", out.code);
    }

    #[test]
    fn own_files_get_their_names_in_the_package_wherever_they_are_named() {
        let rename = |name: &str| name.starts_with("./").then(|| format!("{name}.js"));
        let source = "import a from './a';\nexport * from './b';\nexport { c } from './c';\nconst d = require('./d');\nexport const e = () => [a, d, import('./e'), import('node:fs')];\n";
        let out = transpile(Path::new("h.ts"), source, Format::Module, &rename).unwrap();
        assert!(out.is_module);
        for name in ["a", "b", "c", "d", "e"] {
            assert!(out.code.contains(&format!("\"./{name}.js\"")), "{}", out.code);
        }
        assert!(out.code.contains("export * from") && out.code.contains("\"node:fs\""), "{}", out.code);
        let out = transpile(
            Path::new("h.ts"),
            "import x = require('./x');\nexport const y = x;\n",
            Format::CommonJs,
            &rename,
        );
        assert!(out.as_ref().is_ok_and(|out| out.code.contains("require(\"./x.js\")")), "{out:?}");
    }

    #[test]
    fn syntax_errors_have_a_place() {
        let error = transpile(Path::new("src/h.ts"), "const a = ;\n", Format::CommonJs, &same).unwrap_err().to_string();
        assert!(error.starts_with("src/h.ts:1:11:"), "{error}");
    }

    #[test]
    fn imports_are_found_and_types_are_not() {
        let source = "import { S3 } from '@aws-sdk/client-s3';\nimport type { A } from 'aws-lambda';\nimport { B } from 'unused-types';\nconst c = require('./c');\nlet b: B; new S3();\n";
        assert_eq!(imports(Path::new("h.ts"), source).unwrap(), ["./c", "@aws-sdk/client-s3"]);
    }
}
