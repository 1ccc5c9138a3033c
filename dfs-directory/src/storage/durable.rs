//! Files that change as a whole: the old content or the new one, never a mixture.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

/// Makes names created, renamed or removed in a dir durable.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Renames a file whose content is already durable over `to` in the same dir, durably.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::rename(from, to)?;
    match to.parent() {
        Some(dir) => sync_dir(dir),
        None => Ok(()),
    }
}

/// Replaces the content of a file, durably and as a whole. A file `PATH.new` beside it is
/// scratch.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut scratch = path.as_os_str().to_owned();
    scratch.push(".new");
    let scratch = Path::new(&scratch);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(scratch)?;
    file.write_all(content)?;
    file.sync_all()?;
    drop(file);
    rename(scratch, path)
}
