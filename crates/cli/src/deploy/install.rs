//! Lets npm, pip and Maven of this machine fill a folder. Used for dependencies of packages and for runtime packs.
//!
//! Python modules are compiled as well, in the form that is not compared with the source's time: a package's files have
//! none, and an environment cannot write what it compiles.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value as Json;

/// Packages by name, and the version that is wanted of each, in the manager's own words.
pub type Wanted = Vec<(String, String)>;

/// What npm reads besides the list of packages.
#[derive(Debug, Default)]
pub struct NpmOptions<'a> {
    /// The project's lock file.
    pub lock: Option<&'a [u8]>,
    /// The project's folder, whose `.npmrc` says where private packages come from.
    pub project: Option<&'a Path>,
}

/// The manifest that asks npm for these packages.
pub fn npm_manifest(wanted: &Wanted) -> String {
    let dependencies: serde_json::Map<String, Json> =
        wanted.iter().map(|(name, version)| (name.clone(), Json::String(version.clone()))).collect();
    serde_json::json!({"name": "package", "version": "1.0.0", "private": true, "dependencies": dependencies})
        .to_string()
}

/// Lets npm make `folder/node_modules`.
///
/// # Errors
/// There is no npm, or it fails; the message says what to do.
pub fn npm(folder: &Path, wanted: &Wanted, options: &NpmOptions<'_>) -> Result<()> {
    fs::write(folder.join("package.json"), npm_manifest(wanted))?;
    if let Some(lock) = options.lock {
        fs::write(folder.join("package-lock.json"), lock)?;
    }
    // The key to private packages never gets into a package.
    if let Some(project) = options.project.filter(|project| project.join(".npmrc").is_file()) {
        fs::copy(project.join(".npmrc"), folder.join(".npmrc")).context("reading .npmrc")?;
    }
    let arguments = [
        "install",
        "--omit=dev",
        "--no-audit",
        "--no-fund",
        "--no-progress",
        "--loglevel=error",
        "--ignore-scripts=false",
    ];
    run(Command::new("npm").args(arguments).current_dir(folder), "npm", "install Node.js with npm")?;
    for name in ["package.json", "package-lock.json", ".npmrc"] {
        let _ = fs::remove_file(folder.join(name));
    }
    Ok(())
}

/// A Python that has pip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Python {
    command: String,
    /// Major and minor version.
    line: (u32, u32),
}

/// The Python that installs for the version `line`: one of that version if this machine has it, else any.
///
/// # Errors
/// No Python with pip is here.
pub fn python(line: (u32, u32), known: Option<&Path>) -> Result<Python> {
    let named = [format!("python{}.{}", line.0, line.1), "python3".to_owned()];
    let candidates = known.map(|path| path.display().to_string()).into_iter().chain(named);
    let mut usable = candidates.filter_map(|command| Some(Python { line: pip_line(&command)?, command }));
    let Some(first) = usable.next() else {
        bail!("no Python with pip was found to install Python packages; install python3-pip");
    };
    Ok(if first.line == line { first } else { usable.find(|python| python.line == line).unwrap_or(first) })
}

/// The version of a Python, if it has pip.
fn pip_line(command: &str) -> Option<(u32, u32)> {
    let script = "import pip, sys; print(sys.version_info[0], sys.version_info[1])";
    let output = Command::new(command).args(["-c", script]).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let (major, minor) = text.trim().split_once(' ')?;
    output.status.success().then_some((major.parse().ok()?, minor.parse().ok()?))
}

/// Lets pip install what `requirements` (the text of a requirements file) asks for into `folder`, for Python `line`.
///
/// # Errors
/// pip fails; the message has its words.
pub fn pip(folder: &Path, python: &Python, line: (u32, u32), requirements: &str) -> Result<()> {
    let list = folder.join(".requirements.txt");
    fs::write(&list, requirements)?;
    let mut command = Command::new(&python.command);
    command.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile", "--target", "."]);
    command.args(["-r", ".requirements.txt"]);
    if python.line != line {
        // What is compiled must be for the version that runs it, which this pip can only get ready-made.
        let version = format!("{}.{}", line.0, line.1);
        command.args(["--python-version", &version, "--only-binary=:all:"]);
    }
    run(command.current_dir(folder), &python.command, "install python3-pip")?;
    let _ = fs::remove_file(list);
    let _ = fs::remove_dir_all(folder.join("bin"));
    if python.line == line {
        let mut command = Command::new(&python.command);
        command.args(["-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "."]);
        // Packages hold files of other versions' syntax; what cannot be compiled is left as it is.
        let _ = command.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
    Ok(())
}

/// Lets RubyGems install gems into a folder, with what they need, by the `gem` of this Ruby or else the one on the path.
///
/// # Errors
/// There is no `gem`, or it fails; the message has its words.
pub fn gems(folder: &Path, ruby: Option<&Path>, wanted: &[&str]) -> Result<()> {
    let beside = ruby.map(|ruby| ruby.with_file_name("gem")).filter(|gem| gem.is_file());
    let mut command = Command::new(beside.unwrap_or_else(|| "gem".into()));
    command.args(["install", "--no-document", "--conservative", "--install-dir"]).arg(folder).args(wanted);
    run(&mut command, "gem", "install RubyGems (the distribution's package `ruby`)")?;
    // What was downloaded lies unpacked beside it.
    let _ = fs::remove_dir_all(folder.join("cache"));
    Ok(())
}

/// Names and versions of what RubyGems installed.
///
/// # Errors
/// The folder cannot be read.
pub fn gem_versions(folder: &Path) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder.join("specifications"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if let Some((gem, version)) = name.strip_suffix(".gemspec").and_then(|name| name.rsplit_once('-')) {
            found.insert(gem.to_owned(), version.to_owned());
        }
    }
    Ok(found)
}

/// Names and versions of what npm installed.
///
/// # Errors
/// The folder cannot be read.
pub fn npm_versions(modules: &Path) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    let mut folders: Vec<PathBuf> = vec![modules.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let name = path.strip_prefix(modules).unwrap_or(&path).to_string_lossy().into_owned();
            let manifest =
                fs::read(path.join("package.json")).ok().and_then(|text| serde_json::from_slice::<Json>(&text).ok());
            match manifest.as_ref().and_then(|manifest| manifest["version"].as_str()) {
                Some(version) => drop(found.insert(name, version.to_owned())),
                None if name.starts_with('@') && !name.contains('/') => folders.push(path),
                None => {}
            }
        }
    }
    Ok(found)
}

/// Names and versions of what pip installed.
///
/// # Errors
/// The folder cannot be read.
pub fn pip_versions(folder: &Path) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if let Some((package, version)) = name.strip_suffix(".dist-info").and_then(|name| name.rsplit_once('-')) {
            found.insert(package.to_lowercase(), version.to_owned());
        }
    }
    Ok(found)
}

/// Takes out of version 2 of the SDK what only browsers and editors read: more than half of it.
pub fn trim_sdk_v2(folder: &Path) {
    for name in ["dist", "dist-tools", "README.md", "UPGRADING.md", "CHANGELOG.md"] {
        let path = folder.join(name);
        let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
    }
    trim_types(folder);
}

/// Takes out what only editors read: declarations of types and their folders.
pub fn trim_types(folder: &Path) {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if path.is_dir() && !path.is_symlink() {
                if matches!(name.as_str(), "dist-types" | ".bin") {
                    let _ = fs::remove_dir_all(&path);
                } else {
                    folders.push(path);
                }
            } else if name.ends_with(".d.ts") || name.ends_with(".map") {
                let _ = fs::remove_file(&path);
            }
        }
    }
}

/// Lets Maven copy jars and what they need at run time into a folder; `coordinates` are `group:artifact:version`. The
/// project that says so is made in `folder`, and removed.
///
/// # Errors
/// There is no Maven, or it fails; the message says what to do.
pub fn maven(folder: &Path, jars: &Path, coordinates: &[&str]) -> Result<()> {
    let mut dependencies = String::new();
    for text in coordinates {
        let [group, artifact, version] = super::java::coordinate(text)?;
        let names =
            format!("<groupId>{group}</groupId><artifactId>{artifact}</artifactId><version>{version}</version>");
        dependencies.push_str(&format!("<dependency>{names}</dependency>"));
    }
    let project = format!(
        "<project xmlns=\"http://maven.apache.org/POM/4.0.0\"><modelVersion>4.0.0</modelVersion>\
         <groupId>dunlin</groupId><artifactId>pack</artifactId><version>1</version>\
         <dependencies>{dependencies}</dependencies></project>"
    );
    let file = folder.join("pom.xml");
    fs::write(&file, project)?;
    let mut command = Command::new("mvn");
    command.args(["-q", "-B", "dependency:copy-dependencies", "-DincludeScope=runtime"]);
    command.arg(format!("-DoutputDirectory={}", jars.display()));
    run(command.current_dir(folder), "Maven", "install Maven with a JDK (the distribution's package `maven`)")?;
    Ok(fs::remove_file(file)?)
}

/// Names and versions of jars, from the names of their files.
///
/// # Errors
/// The folder cannot be read.
pub fn jar_versions(folder: &Path) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let Some(name) = name.strip_suffix(".jar") else { continue };
        // A version begins with a digit; an artifact's own parts do not.
        let cut = name
            .match_indices('-')
            .map(|(at, _)| at)
            .find(|at| name[at + 1..].starts_with(|c: char| c.is_ascii_digit()));
        let (artifact, version) = cut.map_or((name, ""), |at| (&name[..at], &name[at + 1..]));
        found.insert(artifact.to_owned(), version.to_owned());
    }
    Ok(found)
}

/// Runs a command to its end, quietly.
///
/// # Errors
/// It cannot be started, which `remedy` helps against, or it fails; the message has its words.
pub fn run(command: &mut Command, name: &str, remedy: &str) -> Result<()> {
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("{name} could not be started; {remedy}"))?;
    if !output.status.success() {
        // Maven tells its errors where others tell results.
        let said = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
        let words = String::from_utf8_lossy(said);
        bail!("{name} failed ({}):\n{}", output.status, words.trim());
    }
    Ok(())
}
