//! A snapshot file as openraft handles it: something to read, write and seek.
//!
//! The calls go straight to the file. They serve only the transfer of a snapshot to or from
//! another member, in pieces that the page cache holds; a thread hop for each would cost more.

use std::fs::File;
use std::io::{self, IoSlice, Read, Seek, SeekFrom, Write};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncSeek, AsyncWrite, ReadBuf};

/// An open snapshot file; none where no other member can ask for its bytes.
#[derive(Debug)]
pub(super) struct SnapshotData {
    file: Option<File>,
    /// Where a seek has ended.
    position: u64,
}

impl SnapshotData {
    pub(super) fn new(file: File) -> Self {
        Self {
            file: Some(file),
            position: 0,
        }
    }

    /// The snapshot of a member that has nobody to send it to.
    pub(super) fn unwritten() -> Self {
        Self {
            file: None,
            position: 0,
        }
    }

    pub(super) fn file(&mut self) -> io::Result<&mut File> {
        self.file
            .as_mut()
            .ok_or_else(|| io::Error::other("this snapshot was not written out"))
    }
}

impl AsyncRead for SnapshotData {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = self
            .get_mut()
            .file()
            .and_then(|file| file.read(buffer.initialize_unfilled()));
        Poll::Ready(read.map(|count| buffer.advance(count)))
    }
}

impl AsyncWrite for SnapshotData {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(self.get_mut().file().and_then(|file| file.write(bytes)))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(
            self.get_mut()
                .file()
                .and_then(|file| file.write_vectored(pieces)),
        )
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

impl AsyncSeek for SnapshotData {
    fn start_seek(self: Pin<&mut Self>, to: SeekFrom) -> io::Result<()> {
        let this = self.get_mut();
        this.position = this.file()?.seek(to)?;
        Ok(())
    }

    fn poll_complete(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<u64>> {
        Poll::Ready(Ok(self.position))
    }
}
