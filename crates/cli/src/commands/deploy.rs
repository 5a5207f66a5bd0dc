//! `dunlin deploy [PATH]`: shows what would change, changes it, prints each URL.

use std::collections::BTreeMap;
use std::io::{BufRead, IsTerminal};
use std::net::ToSocketAddrs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value as Json, json};

use crate::client::Client;
use crate::deploy::discover::{self, Found, Options};
use crate::deploy::interpreters;
use crate::deploy::layers::Layers;
use crate::deploy::package::{self, Package};
use crate::deploy::packs;
use crate::deploy::php;
use crate::deploy::plan::{self, Ready, Step};
use crate::deploy::project::{Function, Project};
use crate::deploy::{http_api, rest_api, web};
use crate::output;

use super::runtimes;

/// Flags of `dunlin deploy`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A serverless.yml, a folder, or a handler file
    #[arg(default_value = ".")]
    path: PathBuf,
    /// Stage, part of made-up names [default: provider.stage, else dev]
    #[arg(long)]
    stage: Option<String>,
    /// Region [default: provider.region, else us-east-1]
    #[arg(long)]
    region: Option<String>,
    /// Value of ${param:NAME}
    #[arg(long = "param", value_name = "NAME=VALUE", value_parser = pair)]
    params: Vec<(String, String)>,
    /// Runtime of a bare handler, such as nodejs20.x [default: what the handler's file and the platform's interpreters say]
    #[arg(long)]
    runtime: Option<String>,
    /// Show the plan and change nothing
    #[arg(long)]
    plan: bool,
    /// Ask nothing
    #[arg(short, long)]
    yes: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not NAME=VALUE"))?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Deploys.
pub fn run(client: &Client, args: &Args) -> Result<()> {
    let params: BTreeMap<_, _> = args.params.iter().cloned().collect();
    let options =
        Options { stage: args.stage.clone(), region: args.region.clone(), params, runtime: args.runtime.clone() };
    // The file is read before the platform is asked, so that a mistake in it is said even when nothing is running.
    let probe = discover::discover(&args.path, &options, "000000000000")?;
    let account = plan::account(client, &probe.project.region)?;
    let Found { project, single_file } = discover::discover(&args.path, &options, &account)?;
    let platform = if project.functions.is_empty() { Json::Null } else { client.admin("/_dunlin/runtimes")? };
    let mut notes = project.notes.clone();
    let layers = Layers::look(client, &project, &account)?;
    let mut ready = Vec::new();
    // The runtime of a function that waits for the runtime pack of Java.
    let mut needs_java = None;
    for function in &project.functions {
        let is_image = function.image.is_some();
        let runtime =
            if is_image { "image".to_owned() } else { runtime_of(&project, function, &platform, &mut notes)? };
        let environment = plan::names(&project, &account)
            .evaluate(&Json::Object(function.environment.clone().into_iter().collect::<Map<_, _>>()))
            .map_err(|message| anyhow::anyhow!("{}: environment: {message}", function.name))?;
        let Json::Object(environment) = environment else { bail!("{}: environment must be a map", function.name) };
        let package = if is_image {
            Package::none()
        } else {
            packed(&project, function, &runtime, single_file.as_deref(), &platform)
                .with_context(|| format!("function {}", function.name))?
        };
        if runtime.starts_with("java") && packs::provided(&runtime, &platform).is_empty() {
            needs_java.get_or_insert(runtime.clone());
        }
        let substitution = packs::serving(&runtime, &platform).and_then(|found| found["note"].as_str());
        let served = if !is_image && php::is_php(&project.root, function) {
            php::served_by(function, &platform).with_context(|| format!("function {}", function.name))?
        } else {
            interpreters::lacking(&runtime, &platform).map(|absent| interpreters::note(&runtime, &absent))
        };
        for note in package.notes.iter().map(String::as_str).chain(substitution).chain(served.as_deref()) {
            if !notes.iter().any(|known| known == note) {
                notes.push(note.to_owned());
            }
        }
        let listed = layers.of(&project, &account, function)?;
        ready.push(Ready { function, runtime, package, environment, layers: listed });
    }
    if needs_java.is_some() {
        notes.push("the runtime client of AWS for Java is installed first, as `dunlin runtimes add` does".into());
    }
    let mut steps = layers.steps;
    steps.extend(plan::plan(client, &project, &ready, &account)?);
    show_plan(&project, &steps, &notes);
    if args.plan {
        if args.json {
            output::data(
                &json!({"changed": false, "steps": steps.iter().map(shown).collect::<Vec<_>>(), "notes": notes})
                    .to_string(),
            );
        }
        return Ok(());
    }
    if !steps.is_empty() && !args.yes && std::io::stdin().is_terminal() && !confirmed() {
        bail!("nothing was changed");
    }
    if let Some(runtime) = needs_java {
        runtimes::add(client, &platform, &runtime, &[])?;
    }
    apply(client, &project, &ready, &account, &steps)?;
    let routes = routes(client, &project)?;
    show_routes(&project, &steps, &notes, &routes, args.json);
    Ok(())
}

/// The runtime that a function names, or that its handler's file asks for, which is noted.
fn runtime_of(project: &Project, function: &Function, platform: &Json, notes: &mut Vec<String>) -> Result<String> {
    let runtime = match &function.runtime {
        Some(runtime) => runtime.clone(),
        None => {
            let (runtime, why) = if web::is_web(function) {
                (
                    newest_of(web::family_of(project), platform)?,
                    "from the folder's files and the platform's interpreters",
                )
            } else {
                let runtime = infer_runtime(project, &function.handler, platform)?;
                (runtime, "from the handler's file and the platform's interpreters")
            };
            notes.push(format!("{}: runtime {runtime}, {why}", function.name));
            runtime
        }
    };
    if model::Runtime::parse(&runtime).is_none() {
        let accepted = model::runtime::ACCEPTED.join(", ");
        bail!("{}: the runtime {runtime:?} is not supported; there are {accepted}", function.name);
    }
    Ok(runtime)
}

/// A function's package: what the project's build has made, or its folder.
fn packed(
    project: &Project,
    function: &Function,
    runtime: &str,
    single_file: Option<&Path>,
    platform: &Json,
) -> Result<Package> {
    let is_java = runtime.starts_with("java");
    let package = match &function.artifact {
        Some(artifact) => package::of_artifact(&project.root.join(artifact))?,
        None if is_java && !web::is_web(function) => {
            bail!("{runtime} needs package.artifact, the jar or zip that the build of the project has made")
        }
        None => {
            if !web::is_web(function) {
                check_handler(project, runtime, function)?;
            }
            let provided = packs::provided(runtime, platform);
            package::build(&project.root, runtime, &function.patterns, single_file, &provided)?
        }
    };
    if !is_java && !web::is_web(function) {
        check_packed(project, runtime, function, &package)?;
    }
    Ok(package)
}

fn apply(client: &Client, project: &Project, ready: &[Ready<'_>], account: &str, steps: &[Step]) -> Result<()> {
    for (done, step) in steps.iter().enumerate() {
        plan::apply(client, project, ready, account, step).with_context(|| {
            format!(
                "{} {} ({done} of {} steps were done; the same command goes on from there)",
                step.verb,
                step.subject,
                steps.len()
            )
        })?;
        output::say(&format!("  done  {} {}", step.verb, step.subject));
    }
    Ok(())
}

fn shown(step: &Step) -> Json {
    json!({"action": step.verb, "resource": step.subject, "detail": step.detail})
}

fn show_plan(project: &Project, steps: &[Step], notes: &[String]) {
    output::say(&format!("{}, stage {}, region {}", project.service, project.stage, project.region));
    for note in notes {
        output::say(&format!("  note  {note}"));
    }
    if steps.is_empty() {
        output::say("  nothing to do: everything is as the project says");
    }
    for step in steps {
        let sign = match step.verb {
            "create" => "+",
            "delete" => "-",
            _ => "~",
        };
        output::say(&format!("  {sign}     {} {}: {}", step.verb, step.subject, step.detail));
    }
}

fn confirmed() -> bool {
    output::ask("Apply? [Y/n] ");
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    read.is_ok() && matches!(answer.trim().to_lowercase().as_str(), "" | "y" | "yes")
}

/// The runtime that a handler's file asks for: Node's major of the platform but below 24, which refuses callback
/// handlers; the newest Python of the platform.
fn infer_runtime(project: &Project, handler: &str, runtimes: &Json) -> Result<String> {
    let family = match handler_file(project, handler) {
        Some(file) if file.extension().is_some_and(|ending| ending == "py") => "python",
        Some(file) if file.extension().is_some_and(|ending| ending == "rb") => "ruby",
        Some(file) if file.extension().is_some_and(|ending| ending == "php") => return Ok("provided.al2023".into()),
        Some(file) if file.file_name().is_some_and(|name| name == "bootstrap") => return Ok("provided.al2023".into()),
        Some(_) => "nodejs",
        None => bail!(
            "the handler {handler:?} names no file in {}; expected such as handler.js, handler.ts, handler.py or handler.rb",
            project.root.display()
        ),
    };
    newest_of(family, runtimes)
}

/// The newest runtime of a family that the platform has an interpreter for.
fn newest_of(family: &str, runtimes: &Json) -> Result<String> {
    if family == "provided" {
        return Ok("provided.al2023".into());
    }
    let versions = runtimes["interpreters"]
        .as_array()
        .map_or(&[][..], Vec::as_slice)
        .iter()
        .filter(|found| found["family"] == family);
    let mut numbers: Vec<(u64, u64)> = versions
        .map(|found| (found["version"][0].as_u64().unwrap_or(0), found["version"][1].as_u64().unwrap_or(0)))
        .collect();
    numbers.sort_unstable();
    let identifiers = numbers.iter().rev().map(|(major, minor)| match family {
        "python" | "ruby" => format!("{family}{major}.{minor}"),
        _ => format!("nodejs{major}.x"),
    });
    let fitting = identifiers.filter(|identifier| identifier != "nodejs24.x" && identifier != "nodejs26.x");
    let mut accepted = fitting.filter(|identifier| model::Runtime::parse(identifier).is_some());
    if let Some(found) = accepted.next() {
        return Ok(found);
    }
    match (family, numbers.last()) {
        (_, None) => bail!("the platform has no usable {family} interpreter; `dunlin doctor` says why"),
        ("nodejs", _) => Ok("nodejs22.x".into()),
        ("ruby", _) => Ok("ruby3.4".into()),
        _ => Ok("python3.13".into()),
    }
}

/// The source file that a handler names, if it is there.
fn handler_file(project: &Project, handler: &str) -> Option<PathBuf> {
    if project.root.join(handler).is_file() {
        return Some(project.root.join(handler));
    }
    let (folder, base) = handler.rsplit_once('/').map_or(("", handler), |(folder, base)| (folder, base));
    let stems = [base.split('.').next(), base.rsplit_once('.').map(|(stem, _)| stem)];
    let endings = ["ts", "tsx", "mts", "cts", "js", "mjs", "cjs", "jsx", "py", "rb"];
    let candidates =
        stems.into_iter().flatten().flat_map(|stem| endings.iter().map(move |ending| format!("{stem}.{ending}")));
    let mut files = candidates.map(|name| project.root.join(folder).join(name));
    let found = files.find(|file| file.is_file());
    found.or_else(|| {
        let module = handler.rsplit_once('.')?.0.replace('.', "/");
        Some(project.root.join(format!("{module}.py"))).filter(|file| file.is_file())
    })
}

fn check_handler(project: &Project, runtime: &str, function: &Function) -> Result<()> {
    let handler = &function.handler;
    if php::is_php(&project.root, function) {
        if handler.ends_with(".php") && !project.root.join(handler).is_file() {
            bail!("the handler {handler:?} names no file in {}", project.root.display());
        }
        return Ok(());
    }
    if runtime.starts_with("provided") {
        let is_there = |file: &str| project.root.join(file).is_file();
        if !is_there("bootstrap") && !is_there(package::PROGRAM) {
            bail!(
                "the runtime {runtime} needs an executable file `bootstrap`, or a program `{}`, in {}",
                package::PROGRAM,
                project.root.display()
            );
        }
        return Ok(());
    }
    if !handler.contains('.') {
        bail!("the handler {handler:?} must be FILE.EXPORT, such as handler.main");
    }
    if handler_file(project, handler).is_none() {
        bail!("the handler {handler:?} names no file in {}", project.root.display());
    }
    Ok(())
}

/// The handler's file may be there and yet not get into the package: left out by patterns, or outside of the folder.
fn check_packed(project: &Project, runtime: &str, function: &Function, package: &Package) -> Result<()> {
    let handler = Path::new(function.handler.trim_start_matches("./"));
    let is_php = php::is_php(&project.root, function);
    if is_php && handler.extension().is_none() {
        // A class, which something in the package finds.
        return Ok(());
    }
    if handler.is_absolute() || handler.components().any(|part| part == Component::ParentDir) {
        bail!("the handler {} is outside of {}, the folder that is packed", handler.display(), project.root.display());
    }
    let is_custom = runtime.starts_with("provided") && !is_php;
    let stem = if is_custom {
        "bootstrap".to_owned()
    } else {
        let name = handler.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        name.split('.').next().unwrap_or_default().to_owned()
    };
    let folder = if is_custom { Path::new("") } else { handler.parent().unwrap_or(Path::new("")) };
    // `a.b.c` may be the export `c` of the Python module `a/b.py`.
    let packed = |file: &PathBuf| file.strip_prefix(folder).is_ok_and(|rest| rest.to_string_lossy().starts_with(&stem));
    if !package.files.iter().any(packed) {
        bail!("no file of the handler {} is in the package: does a pattern leave it out?", handler.display());
    }
    Ok(())
}

/// Every URL that reaches a function, path form and host form.
fn routes(client: &Client, project: &Project) -> Result<Vec<Json>> {
    let mut all = Vec::new();
    let site = Site::of(client)?;
    if project.rest_routes().next().is_some()
        && let Some(id) = rest_api::live_id(client, project)?
    {
        for (route, function) in project.rest_routes() {
            let path = format!("/{}{}", project.stage, route.path);
            all.push(site.route(
                &format!("{id}.execute-api.{}", project.region),
                &format!("/_dunlin/api/{id}"),
                &path,
                &route.method,
                &function.name,
            ));
        }
    }
    if project.http_routes().next().is_some()
        && let Some(api) = http_api::live_api(client, project)?
    {
        let id = api["apiId"].as_str().unwrap_or("");
        for (route, function) in project.http_routes() {
            let (method, path) = route.key.split_once(' ').unwrap_or(("ANY", "/"));
            // The path form names the stage; `$default` is the one that the host form leaves out.
            all.push(site.route(
                &format!("{id}.execute-api.{}", project.region),
                &format!("/_dunlin/api/{id}/$default"),
                path,
                method,
                &function.name,
            ));
        }
    }
    for function in project.functions.iter().filter(|function| function.url.is_some()) {
        if let Some(live) = plan::live_url(client, project, function)? {
            let text = live["FunctionUrl"].as_str().unwrap_or("");
            let id = text.split("://").nth(1).and_then(|rest| rest.split('.').next()).unwrap_or("");
            all.push(site.route(
                &format!("{id}.lambda-url.{}", project.region),
                &format!("/_dunlin/url/{id}"),
                "/",
                "ANY",
                &function.name,
            ));
        }
    }
    Ok(all)
}

/// How the platform is reached.
struct Site {
    scheme: String,
    authority: String,
    port: u16,
    local: bool,
}

impl Site {
    fn of(client: &Client) -> Result<Self> {
        let uri: http::Uri = client.endpoint.parse()?;
        let scheme = uri.scheme_str().unwrap_or("http").to_owned();
        let host = uri.host().unwrap_or("localhost").to_owned();
        let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
        let local = matches!(host.as_str(), "localhost" | "127.0.0.1" | "[::1]") || host.ends_with(".localhost");
        Ok(Self { scheme, authority: uri.authority().map(ToString::to_string).unwrap_or_default(), port, local })
    }

    /// The path form reaches every client; the host form only those whose resolver knows `*.localhost`.
    fn route(&self, name: &str, prefix: &str, path: &str, method: &str, function: &str) -> Json {
        let path_form = format!("{}://{}{prefix}{path}", self.scheme, self.authority);
        let host = format!("{name}.localhost");
        let host_form = self.local.then(|| format!("{}://{host}:{}{path}", self.scheme, self.port));
        let resolves = self.local
            && (host.as_str(), self.port)
                .to_socket_addrs()
                .is_ok_and(|mut all| all.all(|address| address.ip().is_loopback()));
        let url = if resolves { host_form.clone().unwrap_or_else(|| path_form.clone()) } else { path_form };
        json!({"function": function, "method": method, "url": url, "hostUrl": host_form})
    }
}

fn show_routes(project: &Project, steps: &[Step], notes: &[String], routes: &[Json], as_json: bool) {
    if as_json {
        let first = |name: &str| routes.first().map_or(Json::Null, |route| route[name].clone());
        let document = json!({
            "service": project.service, "stage": project.stage, "region": project.region,
            "changed": !steps.is_empty(), "steps": steps.iter().map(shown).collect::<Vec<_>>(), "notes": notes,
            "functions": project.functions.iter().map(|function| &function.name).collect::<Vec<_>>(),
            "tables": project.tables.iter().map(|table| &table.name).collect::<Vec<_>>(),
            "routes": routes, "url": first("url"), "hostUrl": first("hostUrl"),
        });
        output::data(&document.to_string());
        return;
    }
    for route in routes {
        output::data(&format!(
            "{} {} -> {}",
            route["method"].as_str().unwrap_or(""),
            route["url"].as_str().unwrap_or(""),
            route["function"].as_str().unwrap_or("")
        ));
    }
}
