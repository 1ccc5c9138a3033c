//! `dfsctl directory export`: a backup of the names.

use crate::client::Client;
use dfs_directory::backup;
use dfs_proto::msg::admin::{BeginExport, NextExport};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

/// Writes it beside `to`, reads it again, and renames it into place.
pub(crate) async fn run(client: &Client, to: &Path) -> Result<String, String> {
    let said = |path: &Path| {
        let path = path.display().to_string();
        move |e: std::io::Error| format!("{path}: {e}")
    };
    let mut beside = to.as_os_str().to_owned();
    beside.push(".new");
    let beside = Path::new(&beside);
    let file = File::create(beside).map_err(said(beside))?;
    let mut out = BufWriter::new(&file);
    let export = client.ask(&BeginExport).await?;
    let mut bytes = 0;
    loop {
        let (more, piece) = client.ask_piece(&NextExport { export }).await?;
        if !more {
            break;
        }
        bytes += piece.len();
        out.write_all(&piece).map_err(said(beside))?;
    }
    out.flush().map_err(said(beside))?;
    drop(out);
    file.sync_all().map_err(said(beside))?;
    let written = File::open(beside).map_err(said(beside))?;
    let head = backup::check(written).map_err(|e| e.to_string())?;
    fs::rename(beside, to).map_err(said(to))?;
    Ok(format!(
        "{}: {bytes} bytes, {} inodes of cluster {}; `dfs-directory --import` takes it\n",
        to.display(),
        head.inodes,
        head.cluster
    ))
}
