//! What layers make together, and that nothing of it leaves its folder.

use super::*;
use std::os::unix::fs::MetadataExt;

fn path(text: &str) -> Names {
    names(text)
}

fn entry(text: &str, kind: Kind) -> Entry {
    Entry { path: path(text), kind }
}

fn dir(text: &str) -> Entry {
    entry(text, Kind::Folder(0o755))
}

fn file(text: &str) -> Entry {
    entry(text, Kind::File(0o644))
}

fn link(text: &str, to: &str) -> Entry {
    entry(text, Kind::Link(to.as_bytes().to_vec()))
}

fn same(text: &str, to: &str) -> Entry {
    entry(text, Kind::Same(path(to)))
}

fn tree(layers: &[&[Entry]]) -> Result<Vec<String>, Error> {
    let mut tree = Tree::default();
    layers.iter().try_for_each(|layer| tree.apply(layer)).map(|()| tree.list())
}

#[test]
fn upper_layers_hide_and_remove() {
    let lower = [dir("a"), file("a/x"), file("a/y"), file("b"), dir("c"), file("c/z")];
    let upper =
        [file("a/y"), entry("b", Kind::Gone), entry("c", Kind::Gone), entry("nothing/here", Kind::Gone), dir("b")];
    assert_eq!(tree(&[&lower, &upper]).unwrap(), ["/a/", "/a/x=0.0", "/a/y=1.0", "/b/"]);
}

#[test]
fn marks_are_about_lower_layers_wherever_they_stand() {
    let lower = [dir("a"), file("a/old"), file("b")];
    let after = [file("a/new"), file("b"), entry("a", Kind::Opaque), entry("b", Kind::Gone)];
    let before = [entry("a", Kind::Opaque), entry("b", Kind::Gone), file("a/new"), file("b")];
    for upper in [&after, &before] {
        assert_eq!(tree(&[&lower, upper]).unwrap(), ["/a/", "/a/new=1.0", "/b=1.1"]);
    }
}

#[test]
fn links_above_an_entry_are_followed_within_the_image() {
    let lower = [dir("usr"), dir("usr/lib"), link("lib", "usr/lib"), link("up", "../../.."), link("abs", "/usr")];
    let upper = [file("lib/x"), file("up/y"), file("abs/z"), entry("lib/gone", Kind::Gone)];
    let list = tree(&[&lower, &upper]).unwrap();
    for wanted in ["/usr/lib/x=1.0", "/y=1.1", "/usr/z=1.2", "/lib->usr/lib"] {
        assert!(list.iter().any(|line| line == wanted), "{wanted} in {list:?}");
    }
    assert_eq!(tree(&[&[link("a", "b"), link("b", "a"), file("a/x")]]), Err(Error::Links("a".into())));
    assert_eq!(tree(&[&[file("a"), file("a/x")]]), Err(Error::BelowFile("a".into())));
    let far = "n/".repeat(90);
    let deep = [link("a", &far), link("a/b", &far), link("a/b/c", &far), file("a/b/c/x")];
    assert!(tree(&[&deep[..2]]).is_ok());
    assert!(matches!(tree(&[&deep]), Err(Error::Links(_))));
}

#[test]
fn hard_links_name_files_of_the_image_only() {
    let list = tree(&[&[file("a"), link("l", "/")], &[same("b", "a"), same("c", "l/a")]]).unwrap();
    assert_eq!(list, ["/a=0.0", "/b=0.0", "/c=0.0", "/l->/"]);
    for to in ["missing", "d", "d/missing"] {
        assert_eq!(tree(&[&[dir("d"), same("b", to)]]), Err(Error::Dangling("b".into())), "{to}");
    }
}

const FURNITURE: Furniture = Furniture {
    folders: &["/proc", "/tmp"],
    files: &[("/etc/hosts", "own")],
    links: (&["/etc/first/f.pem", "/etc/ssl/a.pem", "/etc/pki/b.pem", "/etc/none.pem"], "/run/own.pem"),
};

#[test]
fn what_the_platform_needs_takes_its_place() {
    let mut tree = Tree::default();
    let image = [
        dir("etc"),
        dir("etc/pki"),
        file("etc/pki/b.pem"),
        link("etc/ssl", "pki"),
        file("etc/pki/a.pem"),
        link("etc/hosts", "/elsewhere"),
        link("tmp", "/var/tmp"),
        file("proc"),
    ];
    tree.apply(&image).unwrap();
    tree.furnish(&FURNITURE);
    let list = tree.list();
    for wanted in [
        "/etc/hosts=own",
        "/etc/first/f.pem->/run/own.pem",
        "/etc/pki/a.pem->/run/own.pem",
        "/etc/pki/b.pem->/run/own.pem",
        "/proc/",
        "/tmp/",
    ] {
        assert!(list.iter().any(|line| line == wanted), "{wanted} in {list:?}");
    }
    assert!(!list.iter().any(|line| line.contains("none.pem")));
}

#[test]
fn images_share_files_on_disk_and_links_stay_text() {
    let root = tempfile::tempdir().unwrap();
    let layer = root.path().join("layer");
    fs::create_dir_all(layer.join("files/0")).unwrap();
    fs::write(layer.join("files/0/0"), "shared").unwrap();
    let mut tree = Tree::default();
    tree.apply(&[
        entry("d", Kind::Folder(0o500)),
        file("d/a"),
        same("b", "d/a"),
        link("out", "/etc"),
        link("up", "../../x"),
    ])
    .unwrap();
    tree.apply(&[dir("out2")]).unwrap();
    tree.furnish(&FURNITURE);
    let layers = [layer.clone(), layer.clone()];
    for name in ["one", "two"] {
        let folder = root.path().join(name);
        fs::create_dir(&folder).unwrap();
        tree.write(&folder, &layers).unwrap();
        assert_eq!(fs::read_link(folder.join("out")).unwrap(), Path::new("/etc"));
        assert_eq!(fs::read_link(folder.join("up")).unwrap(), Path::new("../../x"));
        assert_eq!(fs::metadata(folder.join("d")).unwrap().mode() & 0o777, 0o700);
        assert_eq!(fs::read_to_string(folder.join("etc/hosts")).unwrap(), "own");
    }
    assert_eq!(fs::metadata(layer.join("files/0/0")).unwrap().nlink(), 5);
    fs::remove_dir_all(root.path().join("one")).unwrap();
}

proptest::proptest! {
    /// Whatever layers say, what is written stays in its folder.
    #[test]
    fn nothing_is_written_outside(steps in proptest::collection::vec((0..6u8, "[ab](/[ab]){0,2}", "(/|\\.\\./|)[ab](/[ab]|/\\.\\.){0,2}"), 0..30)) {
        let outer = tempfile::tempdir().unwrap();
        let layer = outer.path().join("layer");
        fs::create_dir_all(layer.join("files/0")).unwrap();
        let mut files = 0;
        let entries: Vec<Entry> = steps.iter().map(|(kind, at, to)| match kind {
            0 => dir(at),
            1 => { fs::write(layer.join(format!("files/0/{files}")), "x").unwrap(); files += 1; file(at) }
            2 | 3 => link(at, to),
            4 => same(at, &to.replace("..", "a")),
            _ => entry(at, Kind::Gone),
        }).collect();
        let mut tree = Tree::default();
        let folder = outer.path().join("x/image");
        fs::create_dir_all(&folder).unwrap();
        if tree.apply(&entries).is_ok() {
            tree.furnish(&FURNITURE);
            tree.write(&folder, &[layer]).unwrap();
        }
        let beside: Vec<_> = fs::read_dir(outer.path().join("x")).unwrap().chain(fs::read_dir(outer.path()).unwrap()).map(|entry| entry.unwrap().file_name()).collect();
        proptest::prop_assert_eq!(beside.len(), 3);
    }
}
