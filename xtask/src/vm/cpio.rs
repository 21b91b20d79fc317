//! An initramfs: the `newc` form of a cpio archive (Documentation/driver-api/early-userspace/buffer-format.rst of the
//! kernel), as far as folders, files and symbolic links need it.

use std::io::{self, Write};
use std::path::{Component, Path};

/// What an entry is, by the type bits of its mode.
const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const LINK: u32 = 0o120_777;

/// An archive being written.
pub(crate) struct Archive<W> {
    out: W,
    entries: u32,
    folders: Vec<String>,
}

impl<W: Write> Archive<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out, entries: 0, folders: Vec::new() }
    }

    /// A folder and those above it.
    pub(crate) fn folder(&mut self, path: &Path) -> io::Result<()> {
        let mut so_far = String::new();
        for part in path.components() {
            let Component::Normal(part) = part else { continue };
            if !so_far.is_empty() {
                so_far.push('/');
            }
            so_far += &part.to_string_lossy();
            if !self.folders.contains(&so_far) {
                self.entry(&so_far, FOLDER, &[])?;
                self.folders.push(so_far.clone());
            }
        }
        Ok(())
    }

    /// A file that everybody may run, and the folders above it.
    pub(crate) fn file(&mut self, path: &Path, content: &[u8]) -> io::Result<()> {
        self.within(path, PROGRAM, content)
    }

    /// A symbolic link, and the folders above it.
    pub(crate) fn link(&mut self, path: &Path, target: &str) -> io::Result<()> {
        self.within(path, LINK, target.as_bytes())
    }

    /// Ends the archive.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.entry("TRAILER!!!", 0, &[])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn within(&mut self, path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
        self.folder(path.parent().unwrap_or(Path::new("")))?;
        self.entry(path.to_string_lossy().trim_start_matches('/'), mode, content)
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        self.entries += 1;
        let size = u32::try_from(content.len()).map_err(|_| io::Error::other(format!("{name} is too large")))?;
        let name_size = name.len() as u32 + 1;
        // inode, mode, uid, gid, links, time, size, device (major, minor), node (major, minor), name, checksum
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        let header: String = fields.iter().map(|field| format!("{field:08X}")).collect();
        self.out.write_all(b"070701")?;
        self.out.write_all(header.as_bytes())?;
        self.out.write_all(name.as_bytes())?;
        // Name and content each end on a multiple of four, counted from the header's start.
        let name_end = 6 + header.len() + name_size as usize;
        self.out.write_all(&[0; 4][..1 + name_end.next_multiple_of(4) - name_end])?;
        self.out.write_all(content)?;
        self.out.write_all(&[0; 4][..content.len().next_multiple_of(4) - content.len()])
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::{Command, Stdio};

    use super::*;
    use crate::run::find;

    fn archive() -> Vec<u8> {
        let mut archive = Archive::new(Vec::new());
        archive.file(Path::new("/init"), b"hello").expect("a file");
        archive.file(Path::new("/a/deep/er/file"), b"").expect("a file");
        archive.link(Path::new("/a/link"), "deep/er").expect("a link");
        archive.finish().expect("an archive")
    }

    #[test]
    fn entries_are_aligned_and_folders_come_once() {
        let bytes = archive();
        let text = String::from_utf8_lossy(&bytes);
        assert!(bytes.len().is_multiple_of(4));
        let starts: Vec<usize> = text.match_indices("070701").map(|(at, _)| at).collect();
        assert_eq!(starts.len(), 7, "init, a, a/deep, a/deep/er, its file, the link, the trailer");
        assert!(starts.iter().all(|at| at.is_multiple_of(4)), "{starts:?}");
    }

    #[test]
    fn what_others_read_of_it() {
        // The kernel's reader is tried by every boot; this one gives the quicker answer where it is installed.
        if find("cpio").is_none() {
            return;
        }
        let mut cpio = Command::new("cpio");
        cpio.args(["--list", "--quiet"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = cpio.spawn().expect("cpio runs");
        child.stdin.take().expect("piped").write_all(&archive()).expect("it reads");
        let said = child.wait_with_output().expect("cpio ends");
        assert_eq!(String::from_utf8_lossy(&said.stdout), "init\na\na/deep\na/deep/er\na/deep/er/file\na/link\n");
    }
}
