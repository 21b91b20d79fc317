//! A tar archive (POSIX ustar) that depends on its contents alone: owner root, time 0, the order in which things are
//! put in.

use anyhow::{Result, ensure};

const BLOCK: usize = 512;

/// An archive in the making.
#[derive(Default)]
pub(super) struct Archive(Vec<u8>);

impl Archive {
    pub(super) fn folder(&mut self, path: &str) -> Result<()> {
        self.entry(&format!("{path}/"), b'5', 0o755, &[])
    }

    pub(super) fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.entry(path, b'0', mode, content)
    }

    /// The finished archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 2 * BLOCK, 0);
        self.0
    }

    fn entry(&mut self, path: &str, kind: u8, mode: u32, content: &[u8]) -> Result<()> {
        ensure!(path.len() <= 100, "{path} is longer than a tar header holds");
        let mut header = [0; BLOCK];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, path.as_bytes());
        put(100, format!("{mode:07o}\0").as_bytes());
        put(108, b"0000000\0");
        put(116, b"0000000\0");
        put(124, format!("{:011o}\0", content.len()).as_bytes());
        put(136, b"00000000000\0");
        // The sum is taken with blanks in its own place.
        put(148, b"        ");
        put(156, &[kind]);
        put(257, b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        self.0.extend(header);
        self.0.extend(content);
        self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::Archive;

    #[test]
    fn others_can_read_it() {
        let mut archive = Archive::default();
        archive.folder("etc").expect("short");
        archive.file("etc/a", 0o644, b"hello").expect("short");
        archive.file("b", 0o755, &[7; 513]).expect("short");
        assert!(archive.file(&"x".repeat(101), 0o644, b"").is_err());
        let mut tar = Command::new("tar")
            .args(["-tv", "--full-time", "--utc"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("tar");
        tar.stdin.take().expect("piped").write_all(&archive.finish()).expect("taken");
        let output = tar.wait_with_output().expect("ended");
        assert!(output.status.success());
        let listing = String::from_utf8_lossy(&output.stdout).into_owned();
        let lines: Vec<Vec<&str>> = listing.lines().map(|line| line.split_ascii_whitespace().collect()).collect();
        assert_eq!(lines[0], ["drwxr-xr-x", "0/0", "0", "1970-01-01", "00:00:00", "etc/"]);
        assert_eq!(lines[1], ["-rw-r--r--", "0/0", "5", "1970-01-01", "00:00:00", "etc/a"]);
        assert_eq!(lines[2], ["-rwxr-xr-x", "0/0", "513", "1970-01-01", "00:00:00", "b"]);
    }
}
