//! The runtime pack of Java: AWS's own runtime client and serialization, installed by Maven, and the guest that connects
//! them to the platform, compiled by the JDK that Maven runs on.
//!
//! A server takes a pack with its own release of the guest only (`GUEST`), as both sides of the channel belong together.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use super::{install, package};

/// What AWS's runtimes run functions with. The guest calls private steps of it, so that its version is exact.
const CLIENT: &str = "com.amazonaws:aws-lambda-java-runtime-interface-client:2.10.1";
/// The oldest Java that the guest's classes run on.
const RELEASE: &str = "11";
/// The guest's jar in a pack.
const JAR: &str = "dunlin-guest.jar";

const SOURCES: &[(&str, &str)] = &[
    ("DNSManager.java", include_str!("../../../../runtimes/java/com/amazonaws/services/lambda/crac/DNSManager.java")),
    ("Bootstrap.java", include_str!("../../../../runtimes/java/dunlin/guest/Bootstrap.java")),
    ("Channel.java", include_str!("../../../../runtimes/java/dunlin/guest/Channel.java")),
    ("Folder.java", include_str!("../../../../runtimes/java/dunlin/guest/Folder.java")),
    ("Frames.java", include_str!("../../../../runtimes/java/dunlin/guest/Frames.java")),
    ("Json.java", include_str!("../../../../runtimes/java/dunlin/guest/Json.java")),
    ("Log.java", include_str!("../../../../runtimes/java/dunlin/guest/Log.java")),
    ("Native.java", include_str!("../../../../runtimes/java/dunlin/guest/Native.java")),
    ("Rehearsal.java", include_str!("../../../../runtimes/java/dunlin/guest/Rehearsal.java")),
    ("Serving.java", include_str!("../../../../runtimes/java/dunlin/guest/Serving.java")),
    ("Variables.java", include_str!("../../../../runtimes/java/dunlin/guest/Variables.java")),
];

/// Differs between any two releases of the guest or of the client that it calls.
pub fn guest_digest() -> String {
    let mut digest = Sha256::new();
    for text in SOURCES.iter().map(|(_, text)| *text).chain([CLIENT, RELEASE]) {
        digest.update(text);
        digest.update([0]);
    }
    digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Fills `folder/lib`; `more` are coordinates `group:artifact:version` of jars that functions find besides. Returns names
/// and versions of all jars.
///
/// # Errors
/// There is no Maven or JDK, one of them fails, or a coordinate is none.
pub fn make(folder: &Path, more: &[String]) -> Result<BTreeMap<String, String>> {
    let lib = folder.join("lib");
    fs::create_dir(&lib)?;
    let coordinates: Vec<&str> = [CLIENT].into_iter().chain(more.iter().map(String::as_str)).collect();
    install::maven(folder, &lib, &coordinates)?;
    let versions = install::jar_versions(&lib)?;
    compile(folder, &lib)?;
    Ok(versions)
}

fn compile(folder: &Path, lib: &Path) -> Result<()> {
    let (sources, classes) = (folder.join("guest"), folder.join("classes"));
    fs::create_dir(&sources)?;
    fs::create_dir(&classes)?;
    for (name, text) in SOURCES {
        fs::write(sources.join(name), text)?;
    }
    let mut command = Command::new(javac());
    command.args(["--release", RELEASE, "-nowarn", "-cp"]).arg(lib.join("*")).arg("-d").arg(&classes);
    command.args(SOURCES.iter().map(|(name, _)| sources.join(name)));
    install::run(&mut command, "javac", "install a JDK, such as openjdk-17-jdk-headless")?;
    fs::write(lib.join(JAR), package::of_folder(&classes)?)?;
    for left in [sources, classes] {
        fs::remove_dir_all(&left).with_context(|| format!("removing {}", left.display()))?;
    }
    Ok(())
}

/// The compiler of the JDK that is named, else the one on the path.
fn javac() -> std::path::PathBuf {
    let home = std::env::var_os("JAVA_HOME").map(|home| Path::new(&home).join("bin/javac"));
    home.filter(|path| path.is_file()).unwrap_or_else(|| "javac".into())
}

/// The parts of `group:artifact:version`.
///
/// # Errors
/// It has other parts, or characters that no such name has.
pub fn coordinate(text: &str) -> Result<[&str; 3]> {
    let allowed = |part: &&str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    let parts: Vec<&str> = text.split(':').filter(allowed).collect();
    match parts[..] {
        [group, artifact, version] if text.matches(':').count() == 2 => Ok([group, artifact, version]),
        _ => bail!("{text:?} is no jar's coordinate: GROUP:ARTIFACT:VERSION is needed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coordinates_are_checked() {
        assert_eq!(coordinate(CLIENT).unwrap()[1], "aws-lambda-java-runtime-interface-client");
        for text in ["", "a:b", "a:b:c:d", "a::c", "a:b:<c>", "a:b:c d"] {
            assert!(coordinate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_source_of_the_guest_is_in_the_pack() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../runtimes/java");
        let files = |folder: &str| fs::read_dir(root.join(folder)).unwrap();
        let there = files("dunlin/guest").chain(files("com/amazonaws/services/lambda/crac"));
        let mut there: Vec<String> = there.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        there.sort();
        let mut packed: Vec<&str> = SOURCES.iter().map(|(name, _)| *name).collect();
        packed.sort_unstable();
        assert_eq!(there, packed);
    }
}
