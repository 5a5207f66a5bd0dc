//! Layers that mean no good, and those that do.

use super::*;
use std::io::Cursor;

const LIMITS: Limits = Limits { bytes: 1_000_000, entries: 100 };

fn header(path: &[u8], kind: EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    // Written as it is: the crate's own way refuses what is to be tried here.
    header.as_old_mut().name[..path.len()].copy_from_slice(path);
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header
}

fn tar_of(entries: &[(&str, EntryType, u32, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, kind, mode, content) in entries {
        let is_link = matches!(kind, EntryType::Symlink | EntryType::Link);
        let mut header = header(path.as_bytes(), *kind, *mode, if is_link { 0 } else { content.len() as u64 });
        if is_link {
            header.as_old_mut().linkname[..content.len()].copy_from_slice(content);
        }
        header.set_cksum();
        builder.append(&header, if is_link { &b""[..] } else { content }).unwrap();
    }
    builder.into_inner().unwrap()
}

#[derive(Default)]
struct Seen(Vec<Entry>);

impl Sink for Seen {
    fn take(&mut self, entry: &Entry, _: &mut dyn Read) -> io::Result<()> {
        self.0.push(entry.clone());
        Ok(())
    }
}

fn look(entries: &[(&str, EntryType, u32, &[u8])]) -> Result<Vec<Entry>, Error> {
    let mut seen = Seen::default();
    walk(&tar_of(entries)[..], LIMITS, &mut seen).map(|_| seen.0)
}

fn path(text: &str) -> Names {
    text.split('/').map(|name| name.as_bytes().to_vec()).collect()
}

const FILE: EntryType = EntryType::Regular;

#[test]
fn paths_that_climb_are_refused_and_absolute_ones_are_the_images() {
    for wrong in ["../x", "a/../../x", "a/..", "/../x", ".wh...", ".wh.", ".wh..", "a/.wh..."] {
        assert!(matches!(look(&[(wrong, FILE, 0o644, b"x")]), Err(Error::Escapes(_))), "{wrong}");
    }
    assert!(matches!(look(&[("a", EntryType::Link, 0, b"../../etc/shadow")]), Err(Error::Escapes(_))));
    assert!(matches!(look(&[("a", EntryType::Link, 0, b"")]), Err(Error::Escapes(_))));
    assert!(matches!(look(&[("./", FILE, 0, b"x")]), Err(Error::Escapes(_))));
    for same in ["/etc/x", "etc/x", "./etc//x", "//etc/./x"] {
        let found = look(&[(same, FILE, 0o644, b"x")]).unwrap();
        assert_eq!(found[0].path, path("etc/x"), "{same}");
    }
}

#[test]
fn no_file_keeps_more_than_nine_permissions() {
    let found =
        look(&[("su", FILE, 0o4755, b"x"), ("g", FILE, 0o2711, b"x"), ("t", EntryType::Directory, 0o1777, b"")]);
    let kinds: Vec<Kind> = found.unwrap().into_iter().map(|entry| entry.kind).collect();
    assert_eq!(kinds, [Kind::File(0o755), Kind::File(0o711), Kind::Folder(0o777)]);
    let folder = tempfile::tempdir().unwrap();
    unpack(&tar_of(&[("su", FILE, 0o6755, b"x")])[..], folder.path(), LIMITS).unwrap();
    assert_eq!(fs::metadata(file(folder.path(), 0)).unwrap().permissions().mode() & 0o7777, 0o755);
}

#[test]
fn devices_and_pipes_are_left_out() {
    let kinds = [EntryType::Char, EntryType::Block, EntryType::Fifo];
    let entries: Vec<_> = kinds.iter().map(|kind| ("dev/x", *kind, 0o666, &b""[..])).collect();
    assert_eq!(look(&entries).unwrap(), []);
    assert!(matches!(look(&[("s", EntryType::GNUSparse, 0, b"")]), Err(Error::Kind(..))));
}

#[test]
fn whiteouts_are_told_from_files() {
    let found = look(&[
        ("a/.wh.b", FILE, 0, b""),
        ("a/.wh..wh..opq", FILE, 0, b""),
        ("a/.wh..wh.plnk/1.2", FILE, 0, b"x"),
        (".wh..wh.aufs", FILE, 0, b"x"),
    ]);
    let wanted = [Entry { path: path("a/b"), kind: Kind::Gone }, Entry { path: path("a"), kind: Kind::Opaque }];
    assert_eq!(found.unwrap(), wanted);
    assert!(look(&[("a/.wh.b/c", FILE, 0, b"x")]).is_err());
}

#[test]
fn every_byte_out_of_the_decompressor_counts() {
    let tar = tar_of(&[("zeros", FILE, 0o644, &vec![0; 1_100_000])]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(&tar).unwrap();
    let gzip = gzip.finish().unwrap();
    assert!(gzip.len() < 10_000);
    assert!(matches!(walk(&gzip[..], LIMITS, &mut ()), Err(Error::TooLarge(1_000_000))));
    // What an archive calls a long name counts too, and is not kept.
    let mut long = Vec::new();
    let mut head = header(b"././@LongLink", EntryType::GNULongName, 0, 50_000_000);
    head.set_cksum();
    long.extend_from_slice(head.as_bytes());
    let endless = long.chain(io::repeat(b'a')).take(60_000_000);
    assert!(matches!(walk(endless, LIMITS, &mut ()), Err(Error::TooLarge(_))));
    let wide = Limits { bytes: u64::MAX, ..LIMITS };
    let mut long = Cursor::new(head.as_bytes().to_vec()).chain(io::repeat(b'a').take(50_000_000));
    assert!(matches!(walk(&mut long, wide, &mut ()), Err(Error::Unreadable(_))));
    // Exactly full is not too large.
    let exact = Limits { bytes: tar.len() as u64, ..LIMITS };
    let summary = walk(&gzip[..], exact, &mut ()).unwrap();
    assert_eq!((summary.bytes, summary.diff_id), (tar.len() as u64, Digest::of(&tar)));
    assert!(walk(&gzip[..], Limits { bytes: tar.len() as u64 - 1, ..LIMITS }, &mut ()).is_err());
    let many: Vec<_> = (0..101).map(|_| ("a", FILE, 0o644, &b""[..])).collect();
    assert!(matches!(look(&many), Err(Error::TooMany(100))));
}

#[test]
fn every_compression_gives_the_same() {
    let tar = tar_of(&[("a", FILE, 0o644, b"hello"), ("b", EntryType::Symlink, 0o777, b"/a")]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar).unwrap();
    let gzip = gzip.finish().unwrap();
    let half = |bytes: &[u8]| ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest);
    let (first, second) = tar.split_at(700);
    let skipped = [&0x184d_2a53u32.to_le_bytes()[..], &5u32.to_le_bytes(), b"about"].concat();
    let zstd = [half(first), skipped, half(second)].concat();
    for blob in [&tar, &gzip, &zstd] {
        let mut seen = Seen::default();
        assert_eq!(walk(&blob[..], LIMITS, &mut seen).unwrap().diff_id, Digest::of(&tar));
        assert_eq!(seen.0.len(), 2);
    }
    for damaged in [&gzip[..gzip.len() - 9], &zstd[..zstd.len() - 4], &zstd[..20], &tar[..700]] {
        assert!(matches!(walk(damaged, LIMITS, &mut ()), Err(Error::Unreadable(_))));
    }
}

#[test]
fn long_names_come_in_both_forms() {
    let long = format!("{}/x", "n".repeat(200));
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o644);
    builder.append_data(&mut header, &long, &b"x"[..]).unwrap();
    builder.append_pax_extensions([("path", long.as_bytes()), ("SCHILY.xattr.security.capability", b"\x01")]).unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_size(1);
    header.set_path("short").unwrap();
    header.set_mode(0o644);
    header.set_cksum();
    builder.append(&header, &b"x"[..]).unwrap();
    let mut seen = Seen::default();
    walk(&builder.into_inner().unwrap()[..], LIMITS, &mut seen).unwrap();
    assert!(seen.0.iter().all(|entry| entry.path == path(&long)));
    assert!(matches!(names_of("n/".repeat(101).as_bytes()), Err(Error::Path(_))));
    assert!(matches!(names_of("n".repeat(256).as_bytes()), Err(Error::Path(_))));
}

#[test]
fn an_unpacked_layer_reads_back() {
    let folder = tempfile::tempdir().unwrap();
    let tar =
        tar_of(&[("d", EntryType::Directory, 0o755, b""), ("d/a", FILE, 0o600, b"one"), ("b", FILE, 0o755, b"two")]);
    unpack(&tar[..], folder.path(), LIMITS).unwrap();
    let entries = index(folder.path()).unwrap();
    assert_eq!(entries.len(), 3);
    assert_eq!(
        (fs::read(file(folder.path(), 0)).unwrap(), fs::read(file(folder.path(), 1)).unwrap()),
        (b"one".to_vec(), b"two".to_vec())
    );
    fs::write(folder.path().join(INDEX), [9, 0, 0, 0, 1]).unwrap();
    assert!(index(folder.path()).is_err());
}

proptest::proptest! {
    #[test]
    fn never_panics_on_noise(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..2_000), zstd: bool) {
        let magic: &[u8] = if zstd { &[0x28, 0xb5, 0x2f, 0xfd] } else { &[] };
        let _ = walk(&[magic, &bytes].concat()[..], LIMITS, &mut ());
    }
}
