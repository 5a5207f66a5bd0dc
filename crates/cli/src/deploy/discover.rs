//! From a path to a project: a serverless.yml, or a bare handler file or folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::package;
use super::php;
use super::project::{Events, Function, Project, UrlConfig, Vpc};
use super::serverless;
use super::variables::Sources;
use super::web;
use crate::yaml::Node;

/// Options of a deployment that variables and names depend on.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// `--stage`.
    pub stage: Option<String>,
    /// `--region`.
    pub region: Option<String>,
    /// `--param name=value`.
    pub params: BTreeMap<String, String>,
    /// `--runtime`, for bare handlers.
    pub runtime: Option<String>,
}

/// A project, and whether it is a single file.
pub struct Found {
    /// What to deploy.
    pub project: Project,
    /// The one file that is packed, for a bare handler file.
    pub single_file: Option<PathBuf>,
}

const FILES: &[&str] = &["serverless.yml", "serverless.yaml"];
const OTHER_FILES: &[&str] =
    &["template.yaml", "template.yml", "serverless.ts", "serverless.json", "serverless.js", "cdk.json", "main.tf"];
const HANDLERS: &[&str] = &["handler", "index", "app", "main", "lambda_function", "function"];
const ENDINGS: &[&str] = &["ts", "mjs", "cjs", "js", "mts", "py", "rb", "php"];

/// Where frameworks for PHP have the page that gets every request.
const PUBLIC_PAGE: &str = "public/index.php";

/// Finds what `path` holds.
pub fn discover(path: &Path, options: &Options, account: &str) -> Result<Found> {
    let real = std::fs::canonicalize(path).with_context(|| format!("{} does not exist", path.display()))?;
    if real.is_dir() {
        for name in FILES {
            if real.join(name).is_file() {
                return from_serverless(&real.join(name), path, options, account)
                    .map(|project| Found { project, single_file: None });
            }
        }
        if let Some(name) = OTHER_FILES.iter().find(|name| real.join(name).is_file()) {
            bail!(
                "{name} is not supported yet; there is support for serverless.yml and for bare handler files and folders"
            );
        }
        return bare_folder(&real, options).map(|project| Found { project, single_file: None });
    }
    let name = real.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if name.ends_with(".yml") || name.ends_with(".yaml") {
        return from_serverless(&real, path, options, account).map(|project| Found { project, single_file: None });
    }
    if name.ends_with(".wasm") {
        return Ok(Found { project: program(&real, options), single_file: None });
    }
    let project = bare(&real, real.parent().unwrap_or(Path::new("/")), stem(&real), options)?;
    Ok(Found { project, single_file: Some(real) })
}

fn from_serverless(file: &Path, shown: &Path, options: &Options, account: &str) -> Result<Project> {
    let text = std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
    let folder = file.parent().unwrap_or(Path::new("/"));
    // Messages name the file as the user would.
    let shown = if shown.is_dir() { shown.join(file.file_name().unwrap_or_default()) } else { shown.to_owned() };
    let document = Node::parse(&shown, &text)?;
    let environment = |name: &str| std::env::var(name).ok();
    let mut given = BTreeMap::new();
    given.extend(options.stage.clone().map(|stage| ("stage".to_owned(), stage)));
    given.extend(options.region.clone().map(|region| ("region".to_owned(), region)));
    let sources = Sources {
        document: &document,
        folder: folder.to_owned(),
        options: given,
        params: options.params.clone(),
        environment: &environment,
        account: account.to_owned(),
    };
    let (stage, region) = (sources.stage()?, sources.region()?);
    let resolved = sources.resolve_all()?;
    Ok(serverless::project(&resolved, folder, stage, region, account)?)
}

fn bare_folder(folder: &Path, options: &Options) -> Result<Project> {
    if let Some(command) = web::command_of_folder(folder) {
        let mut project = bare_project(folder, serverless::folder_name(folder), web::HANDLER, options);
        let function = &mut project.functions[0];
        function.memory_mb = WEB_MEMORY_MB;
        function.environment.insert(model::web::COMMAND.to_owned(), command.into());
        return Ok(project);
    }
    for stem in HANDLERS {
        for ending in ENDINGS {
            let file = folder.join(format!("{stem}.{ending}"));
            if file.is_file() {
                return bare(&file, folder, serverless::folder_name(folder), options);
            }
        }
    }
    if folder.join(PUBLIC_PAGE).is_file() {
        let name = serverless::folder_name(folder);
        return Ok(bare_php(Path::new(PUBLIC_PAGE), folder, &named(&name), "", options));
    }
    if folder.join("bootstrap").is_file() || folder.join(package::PROGRAM).is_file() {
        let mut project = bare_project(folder, serverless::folder_name(folder), "bootstrap", options);
        project.functions[0].runtime.get_or_insert_with(|| "provided.al2023".into());
        return Ok(project);
    }
    bail!(
        "{} holds neither serverless.yml nor a handler file ({} with one of .{}) nor bootstrap nor bootstrap.wasm nor a \
         Procfile with a web process; name the file to deploy",
        folder.display(),
        HANDLERS.join(", "),
        ENDINGS.join(", .")
    )
}

/// A program alone: what is in it says whether it takes HTTP.
fn program(file: &Path, options: &Options) -> Project {
    let folder = file.parent().unwrap_or(Path::new("/"));
    let mut project = bare_project(folder, named(&stem(file)), "bootstrap", options);
    let function = &mut project.functions[0];
    function.runtime.get_or_insert_with(|| "provided.al2023".into());
    function.artifact = file.file_name().map(PathBuf::from);
    project
}

/// A name as functions can have it.
fn named(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '-' }).collect()
}

fn stem(file: &Path) -> String {
    file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
}

fn bare(file: &Path, folder: &Path, name: String, options: &Options) -> Result<Project> {
    let ending = file.extension().and_then(|ending| ending.to_str()).unwrap_or("");
    if !ENDINGS.contains(&ending) {
        bail!("{} is no handler file; handlers end in .{} or .wasm", file.display(), ENDINGS.join(", ."));
    }
    let source = std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
    if ending == "php" {
        return Ok(bare_php(file, folder, &named(&name), &source, options));
    }
    let export = export_of(&source, ending)
        .with_context(|| format!("{} exports none of: {}", file.display(), EXPORTS.join(", ")))?;
    let mut project = bare_project(folder, named(&name), &format!("{}.{export}", stem(file)), options);
    // Who writes a handler that may stream wants to see it stream; answers that come whole pass there too.
    let stream = export == "default" || source.contains("awslambda.streamifyResponse");
    project.functions[0].url = Some(UrlConfig { stream, ..UrlConfig::default() });
    Ok(project)
}

/// A PHP file: what returns something is a handler, anything else a page.
fn bare_php(file: &Path, folder: &Path, name: &str, source: &str, options: &Options) -> Project {
    let handler = file.strip_prefix(folder).unwrap_or(file).to_string_lossy().into_owned();
    let mut project = bare_project(folder, name.to_owned(), &handler, options);
    let function = &mut project.functions[0];
    if function.runtime.is_none() && !php::returns_handler(source) {
        function.environment.insert(model::web::COMMAND.to_owned(), php::web_command(&handler).into());
        function.environment.insert(model::web::CONCURRENCY.to_owned(), "1".into());
    }
    project.notes = php::adapt(function);
    function.runtime.get_or_insert_with(|| "provided.al2023".into());
    project
}

fn bare_project(folder: &Path, name: String, handler: &str, options: &Options) -> Project {
    let function = Function {
        key: name.clone(),
        name: name.clone(),
        image: None,
        handler: handler.to_owned(),
        runtime: options.runtime.clone(),
        memory_mb: 128,
        timeout_s: 30,
        description: String::new(),
        environment: BTreeMap::new(),
        layers: Vec::new(),
        logging: serde_json::Map::new(),
        vpc: Vpc::default(),
        file_system: None,
        tags: BTreeMap::new(),
        events: Events::default(),
        reserved_concurrency: None,
        provisioned: None,
        snap_start: false,
        tmp_mb: None,
        rest: Vec::new(),
        http: Vec::new(),
        streams: Vec::new(),
        url: Some(UrlConfig::default()),
        patterns: Vec::new(),
        artifact: None,
    };
    Project {
        service: name,
        stage: options.stage.clone().unwrap_or_else(|| "dev".into()),
        region: options.region.clone().unwrap_or_else(|| "us-east-1".into()),
        root: folder.to_owned(),
        functions: vec![function],
        layers: Vec::new(),
        tables: Vec::new(),
        http_api_cors: None,
        notes: Vec::new(),
    }
}

/// Memory of a bare web server, which is more than a handler.
const WEB_MEMORY_MB: u64 = 512;
const EXPORTS: &[&str] = &["handler", "lambda_handler", "main", "handle", "default"];

/// The first of the usual names that the source exports (or defines, in Python and Ruby).
fn export_of(source: &str, ending: &str) -> Option<&'static str> {
    EXPORTS.iter().copied().find(|name| {
        let pattern = if ending == "rb" {
            format!(r"(?m)^def\s+{name}\b")
        } else if ending == "py" {
            format!(r"(?m)^(?:async\s+)?(?:def\s+{name}\s*\(|{name}\s*=)")
        } else if *name == "default" {
            r"(?m)^\s*export\s+default\b".to_owned()
        } else {
            format!(
                r"(?m)(?:^\s*export\s+(?:async\s+)?(?:const|let|var|function\*?|class)\s+{name}\b|\bexports\.{name}\s*=|^\s*export\s*\{{[^}}]*\b{name}\b|module\.exports\s*=\s*\{{[^}}]*\b{name}\b)"
            )
        };
        regex_lite::Regex::new(&pattern).is_ok_and(|regex| regex.is_match(source))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_exports_are_found() {
        for (source, ending, expected) in [
            ("exports.handler = async () => 1;", "js", Some("handler")),
            ("module.exports = { main, other };", "js", Some("main")),
            ("export async function handler() {}", "mjs", Some("handler")),
            ("export const main = 1", "ts", Some("main")),
            ("def lambda_handler(event, context):\n  pass", "py", Some("lambda_handler")),
            ("require 'json'\ndef lambda_handler(event:, context:)\nend", "rb", Some("lambda_handler")),
            ("module A\n  def handler\n  end\nend", "rb", None),
            ("const x = 1", "js", None),
        ] {
            assert_eq!(export_of(source, ending), expected, "{source}");
        }
    }

    #[test]
    fn a_bare_file_becomes_a_function_with_a_url() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("hello.py");
        std::fs::write(&file, "def handler(event, context):\n    return 1\n").unwrap();
        let found = discover(&file, &Options::default(), "000000000000").unwrap();
        let function = &found.project.functions[0];
        assert_eq!((function.name.as_str(), function.handler.as_str()), ("hello", "hello.handler"));
        assert!(function.url.is_some() && found.single_file.is_some());
    }

    #[test]
    fn a_php_file_is_a_handler_or_a_page() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("hello.php");
        let found = |source: &str, runtime: Option<&str>| {
            std::fs::write(&file, source).unwrap();
            let options = Options { runtime: runtime.map(str::to_owned), ..Options::default() };
            discover(&file, &options, "000000000000").unwrap().project.functions.remove(0)
        };
        let handler = "<?php\nreturn fn ($event) => $event;\n";
        let function = found(handler, None);
        assert_eq!((function.handler.as_str(), function.runtime.as_deref()), ("hello.php", Some("provided.al2023")));
        assert!(function.environment.is_empty() && function.url.is_some());
        assert_eq!(found(handler, Some("php-83")).environment[model::runtime::PHP_VERSION], "8.3");
        let page = found("<p><?= 'hello' ?></p>\n", None);
        assert_eq!(page.environment[model::web::COMMAND], "exec php -S 127.0.0.1:$PORT -t . 'hello.php'");
        std::fs::remove_file(&file).unwrap();
        std::fs::create_dir(folder.path().join("public")).unwrap();
        std::fs::write(folder.path().join("public/index.php"), "<?php echo 1;").unwrap();
        let site = discover(folder.path(), &Options::default(), "000000000000").unwrap().project.functions.remove(0);
        assert_eq!(site.environment[model::web::COMMAND], "exec php -S 127.0.0.1:$PORT -t 'public' 'public/index.php'");
    }

    #[test]
    fn what_cannot_be_deployed_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let error = |path: &Path| discover(path, &Options::default(), "000000000000").err().unwrap().to_string();
        assert!(error(folder.path()).contains("holds neither"));
        std::fs::write(folder.path().join("template.yaml"), "").unwrap();
        assert!(error(folder.path()).contains("template.yaml is not supported yet"));
        assert!(error(&folder.path().join("none")).contains("does not exist"));
        std::fs::write(folder.path().join("serverless.yml"), "functions: [").unwrap();
        assert!(error(folder.path()).contains("serverless.yml:"));
    }
}
