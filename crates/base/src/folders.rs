//! Folders that a loss of power does not take away: what is in one is only as safe as the names of all above it.

use std::fs::{DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

/// Makes a folder with that mode, with all above it that are missing; returns when their names are on disk. So is the
/// name of one that was there already: who made it may have died before that.
///
/// # Errors
/// It cannot be made or flushed, or something else is in its place.
pub fn make(folder: &Path, mode: u32) -> io::Result<()> {
    if !folder.is_dir() {
        if let Some(above) = above(folder) {
            make(above, mode)?;
        }
        match DirBuilder::new().mode(mode).create(folder) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists && folder.is_dir() => {}
            made => made?,
        }
    }
    flush_name(folder)
}

/// Returns when the name of a file or folder is on disk. Who may not read the folder above has not made anything in it,
/// and leaves that to who has.
///
/// # Errors
/// The folder above cannot be flushed.
pub fn flush_name(path: &Path) -> io::Result<()> {
    let Some(above) = above(path) else { return Ok(()) };
    match File::open(above) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(()),
        folder => folder?.sync_all(),
    }
}

/// The folder that a path lies in; none of the root.
fn above(path: &Path) -> Option<&Path> {
    path.parent().map(|above| if above.as_os_str().is_empty() { Path::new(".") } else { above })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn missing_folders_are_made_with_the_mode_and_others_are_left() {
        let root = tempfile::tempdir().unwrap();
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let folder = root.path().join("a/b");
        make(&folder, 0o700).unwrap();
        make(&folder, 0o755).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!([mode(root.path()), mode(&root.path().join("a")), mode(&folder)], [0o755, 0o700, 0o700]);
    }

    #[test]
    fn a_file_in_the_way_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("a"), "").unwrap();
        assert!(make(&root.path().join("a"), 0o700).is_err());
        assert!(make(&root.path().join("a/b"), 0o700).is_err());
    }

    #[test]
    fn every_path_but_the_root_lies_in_a_folder() {
        assert_eq!(above(Path::new("a")), Some(Path::new(".")));
        assert_eq!(above(Path::new("a/b")), Some(Path::new("a")));
        assert_eq!(above(Path::new("/")), None);
        make(Path::new("."), 0o700).unwrap();
    }
}
