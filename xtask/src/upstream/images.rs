//! What the pods of upstream's tests run: images with the names of upstream's, made of agnhost and of this machine's
//! programs. Nothing is fetched.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::image::oci::{self, Config};
use crate::image::root::Root;
use crate::run::{command, find, output, root as workspace};

/// (name in the image, program here). What upstream's tests type in a shell of a pod.
const PROGRAMS: &[(&str, &str)] = &[
    ("sh", "dash"),
    ("nc", "nc.openbsd"),
    ("bash", "bash"),
    ("cat", "cat"),
    ("conntrack", "conntrack"),
    ("curl", "curl"),
    ("date", "date"),
    ("dd", "dd"),
    ("dig", "dig"),
    ("grep", "grep"),
    ("head", "head"),
    ("hostname", "hostname"),
    ("ip", "ip"),
    ("ls", "ls"),
    ("mkdir", "mkdir"),
    ("nslookup", "nslookup"),
    ("rm", "rm"),
    ("sed", "sed"),
    ("seq", "seq"),
    ("sleep", "sleep"),
    ("socat", "socat"),
    ("sort", "sort"),
    ("ss", "ss"),
    ("tail", "tail"),
    ("timeout", "timeout"),
    ("touch", "touch"),
    ("tr", "tr"),
    ("true", "true"),
    ("uniq", "uniq"),
    ("wc", "wc"),
    ("wget", "wget"),
];

/// Writes the images that are not there yet into a folder; `programs` has agnhost and what else stands in one.
pub(super) fn make(programs: &Path, folder: &Path) -> Result<()> {
    let tests = output(
        command("go", &["list", "-m", "-f", "{{.Dir}}", "k8s.io/kubernetes"])
            .current_dir(workspace().join("tests/cluster/upstream/e2e")),
    )?;
    let tests = Path::new(tests.trim());
    let tag = |name: &str, constant: &str| tag(tests, name, constant);
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;

    let mut agnhost = with_shell()?;
    agnhost.program(&programs.join("agnhost"), "agnhost")?;
    for file in ["localhost.crt", "localhost.key"] {
        let path = tests.join("test/images/agnhost/porter").join(file);
        agnhost.file(file, fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?);
    }
    let names = [
        tag("registry.k8s.io/e2e-test-images/agnhost", "Agnhost")?,
        tag("registry.k8s.io/e2e-test-images/busybox", "BusyBox")?,
        tag("registry.k8s.io/build-image/distroless-iptables", "DistrolessIptables")?,
        // agnhost can wait too. The second name is that of each pod's sandbox in `cluster.sh`.
        tag("registry.k8s.io/pause", "Pause")?,
        "localhost/pause:1".to_owned(),
    ];
    write(folder, "agnhost", &agnhost, &names, "/agnhost", &["pause"])?;

    let mut regression = Root::default();
    regression.program(&programs.join("regression-issue-74839"), "regression-issue-74839")?;
    let names = [tag("registry.k8s.io/e2e-test-images/regression-issue-74839", "RegressionIssue74839")?];
    write(folder, "regression-issue-74839", &regression, &names, "/regression-issue-74839", &[])
}

/// A shell and what people type in it.
fn with_shell() -> Result<Root> {
    let mut root = Root::default();
    for (name, program) in PROGRAMS {
        let path = find(program).with_context(|| format!("{program} is missing: the images need it"))?;
        root.program(&path, &format!("bin/{name}"))?;
    }
    for file in ["services", "protocols"] {
        root.file(&format!("etc/{file}"), fs::read(Path::new("/etc").join(file)).unwrap_or_default());
    }
    root.file("etc/passwd", b"root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n".to_vec());
    root.file("etc/group", b"root:x:0:\nnobody:x:65534:\n".to_vec());
    for folder in ["dev", "proc", "sys", "tmp", "uploads", "var/tmp"] {
        root.folder(folder);
    }
    Ok(root)
}

/// An image's name with the tag that this release of the tests asks for.
fn tag(tests: &Path, name: &str, constant: &str) -> Result<String> {
    let path = tests.join("test/utils/image/manifest.go");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    match tag_in(&text, constant) {
        Some(tag) => Ok(format!("{name}:{tag}")),
        None => bail!("{} does not say which tag of {constant} it wants", path.display()),
    }
}

/// The last text in `configs[Constant] = Config{list.Registry, "name", "tag"}`.
fn tag_in<'a>(text: &'a str, constant: &str) -> Option<&'a str> {
    let line = text.lines().find(|line| line.trim_start().starts_with(&format!("configs[{constant}] ")))?;
    line.rsplit('"').nth(1)
}

fn write(folder: &Path, name: &str, root: &Root, names: &[String], entrypoint: &str, command: &[&str]) -> Result<()> {
    let made_by = "cargo xtask upstream";
    let config = Config { names, entrypoint, command, arch: std::env::consts::ARCH, made_by };
    let path = folder.join(format!("{name}.tar"));
    fs::write(&path, oci::archive(&root.layer()?, &config)?.archive)
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::tag_in;

    #[test]
    fn tags_are_found() {
        let text = "\tconfigs[AgnhostPrev] = Config{list.P, \"agnhost\", \"2.55\"}\n\
                    \tconfigs[Agnhost] = Config{list.P, \"agnhost\", \"2.66.1\"}\n";
        assert_eq!(tag_in(text, "Agnhost"), Some("2.66.1"));
        assert_eq!(tag_in(text, "Perl"), None);
    }
}
