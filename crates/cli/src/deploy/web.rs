//! Web servers: `web:` of a function in serverless.yml, and the `web` line of a Procfile. Pure.
//!
//! What is said becomes variables of the function (`model::web`), so that it stays with every version of it.

use std::collections::BTreeMap;
use std::path::Path;

use model::web;
use serde_json::Value as Json;

use super::project::{Function, Project};
use crate::yaml::{Error, Node, Value};

/// The handler of a web server that names none: nobody looks at it.
pub const HANDLER: &str = "web";

/// The variables that `web:` stands for.
pub fn variables(node: &Node, prefix: &str, of_image: bool) -> Result<BTreeMap<String, Json>, Error> {
    let mut all = BTreeMap::new();
    let mut put = |name: &str, value: String| all.insert(name.to_owned(), Json::String(value));
    let entries = match &node.value {
        Value::Text(command) => {
            put(web::COMMAND, command.clone());
            &[]
        }
        _ => node.map(&format!("{prefix}web"))?,
    };
    for (key, value) in entries {
        match key.as_str() {
            "command" => put(web::COMMAND, value.text("web.command")?),
            "port" => put(web::PORT, value.integer("web.port", 1_024, 65_535)?.to_string()),
            "concurrency" => {
                let most = u64::from(web::CONCURRENCY_MAX);
                put(web::CONCURRENCY, value.integer("web.concurrency", 1, most)?.to_string())
            }
            "readiness" => put(web::READINESS_PATH, value.text("web.readiness")?),
            "startup" => put(web::STARTUP, value.integer("web.startup", 1, 900)?.to_string()),
            other => {
                let words = "there are command, port, concurrency, readiness and startup";
                return Err(value.error(format!("{prefix}web.{other} is not known; {words}")));
            }
        };
    }
    if of_image {
        // One is needed that says so; what runs is the image's.
        all.entry(web::CONCURRENCY.to_owned()).or_insert_with(|| web::CONCURRENCY_DEFAULT.to_string().into());
        if all.contains_key(web::COMMAND) {
            return Err(
                node.error(format!("{prefix}web.command cannot stand beside {prefix}image; write image.command"))
            );
        }
    } else if !all.contains_key(web::COMMAND) {
        return Err(node.error(format!("{prefix}web.command is missing; write `command: node server.js`")));
    }
    Ok(all)
}

/// Whether a function is a web server by its variables.
pub fn is_web(function: &Function) -> bool {
    let text = |name: &str| function.environment.get(name).and_then(Json::as_str);
    text(web::COMMAND).is_some() || text("AWS_LAMBDA_EXEC_WRAPPER") == Some("/opt/bootstrap")
}

/// The command of a Procfile's `web` process.
pub fn of_procfile(text: &str) -> Option<String> {
    let command = text.lines().find_map(|line| line.trim_start().strip_prefix("web:"))?.trim();
    (!command.is_empty()).then(|| command.to_owned())
}

/// What a project without a handler is written in.
pub fn family_of(project: &Project) -> &'static str {
    let has = |name: &str| project.root.join(name).is_file();
    let ends = |ending: &str| {
        let entries = std::fs::read_dir(&project.root).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).any(|path| path.extension().is_some_and(|found| found == ending))
    };
    if has("package.json") {
        "nodejs"
    } else if has("Gemfile") || has("config.ru") {
        "ruby"
    } else if ["requirements.txt", "pyproject.toml", "Pipfile"].into_iter().any(has) || ends("py") {
        "python"
    } else if ["js", "mjs", "cjs", "ts"].into_iter().any(ends) {
        "nodejs"
    } else {
        "provided"
    }
}

/// The folder's command, where it has a Procfile.
pub fn command_of_folder(folder: &Path) -> Option<String> {
    of_procfile(&std::fs::read_to_string(folder.join("Procfile")).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<BTreeMap<String, Json>, String> {
        let node = Node::parse(Path::new("serverless.yml"), text).unwrap();
        variables(&node, "functions.f.", false).map_err(|error| error.to_string())
    }

    #[test]
    fn settings_become_variables() {
        let all = read("{command: node server.js, port: 3000, concurrency: 5, readiness: /up, startup: 60}").unwrap();
        let shown: Vec<String> =
            all.iter().map(|(name, value)| format!("{name}={}", value.as_str().unwrap())).collect();
        assert_eq!(
            shown,
            [
                "AWS_LWA_PORT=3000",
                "AWS_LWA_READINESS_CHECK_PATH=/up",
                "DUNLIN_WEB_COMMAND=node server.js",
                "DUNLIN_WEB_CONCURRENCY=5",
                "DUNLIN_WEB_STARTUP=60"
            ]
        );
        assert_eq!(read("node server.js").unwrap().len(), 1);
    }

    #[test]
    fn mistakes_are_said_with_their_place() {
        for (text, words) in [
            ("{port: 8080}", "web.command is missing"),
            ("{command: x, port: 80}", "web.port"),
            ("{command: x, concurrency: 0}", "web.concurrency"),
            ("{command: x, image: y}", "web.image is not known"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(words) && error.starts_with("serverless.yml:1:"), "{error}");
        }
    }

    #[test]
    fn a_procfile_names_the_command() {
        let text = "release: ./migrate\nweb: gunicorn app:app --bind :$PORT\nworker: x\n";
        assert_eq!(of_procfile(text).as_deref(), Some("gunicorn app:app --bind :$PORT"));
        assert_eq!(of_procfile("worker: x\nweb:\n"), None);
    }
}
