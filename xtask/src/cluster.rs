//! The programs of a Kubernetes control plane, built from their Go modules and kept outside the tree.
//!
//! `tests/cluster/` has a module for each release, one for etcd, whose dependencies clash with those of Kubernetes, and one
//! for helm and kustomize, which render `deploy/`. A program is built again when the go.mod that it was built from has
//! changed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::run::{command, find, root, run as run_command};

/// What tests need of Kubernetes.
pub(crate) const FOR_TESTS: &[&str] = &["kube-apiserver", "kube-controller-manager"];
/// What is measured against.
pub(crate) const FOR_BENCH: &[&str] = &["kube-proxy"];

/// Releases that the tests can be run against.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Release {
    /// The newest minor release
    #[default]
    Newest,
    /// The oldest one that upstream supports
    Oldest,
}

impl Release {
    /// Its folder in `tests/cluster`.
    fn module(self) -> &'static str {
        match self {
            Self::Newest => "v1.37",
            Self::Oldest => "v1.35",
        }
    }
}

/// Folders with programs.
pub(crate) struct Built {
    pub(crate) kubernetes: PathBuf,
    pub(crate) etcd: PathBuf,
}

impl Built {
    /// How the tests and the bench are told.
    pub(crate) fn environment(&self) -> [(&'static str, &Path); 2] {
        [("SVC_CLUSTER_TOOLS", &self.kubernetes), ("SVC_CLUSTER_ETCD", &self.etcd)]
    }
}

/// Builds what is not there yet.
pub(crate) fn build(release: Release, programs: &[&str]) -> Result<Built> {
    let kubernetes: Vec<(&str, String)> =
        programs.iter().map(|name| (*name, format!("k8s.io/kubernetes/cmd/{name}"))).collect();
    Ok(Built {
        // The command of etcd is called by the last part of its module's path.
        etcd: module("etcd", "go.etcd.io/etcd/server/v3", &[("server", "go.etcd.io/etcd/server/v3".to_owned())])?,
        kubernetes: module(release.module(), "k8s.io/kubernetes", &kubernetes)?,
    })
}

/// Builds helm and kustomize, unless they are there: the folder with both.
pub(crate) fn deploy() -> Result<PathBuf> {
    let programs = [("helm", "helm.sh/helm/v4/cmd/helm"), ("kustomize", "sigs.k8s.io/kustomize/kustomize/v5")];
    module("deploy", "helm.sh/helm/v4", &programs.map(|(name, package)| (name, package.to_owned())))
}

/// How a program is built.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// Without C: what that would bring (name services) nobody needs here, and not every machine has the headers.
    Plain,
    /// With C, and with seccomp.
    WithC,
    /// The module's own tests, as a program.
    Tests,
}

/// Builds programs of a module without C.
fn module(name: &str, main: &str, programs: &[(&str, String)]) -> Result<PathBuf> {
    module_with(How::Plain, name, main, programs)
}

/// Builds programs of a module, each called by the last part of its package's path; `main` is the dependency whose
/// version is theirs.
pub(crate) fn module_with(how: How, name: &str, main: &str, programs: &[(&str, String)]) -> Result<PathBuf> {
    let folder = root().join("tests/cluster").join(name);
    let path = folder.join("go.mod");
    let manifest = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let version = required(&manifest, main).with_context(|| format!("{} does not require {main}", path.display()))?;
    let out = cache()?.join(format!("{name}-{version}"));
    let stamp = |program: &str| out.join(format!("{program}.go.mod"));
    let built = |program: &str| {
        out.join(program).is_file() && fs::read_to_string(stamp(program)).is_ok_and(|from| from == manifest)
    };
    let missing: Vec<_> = programs.iter().filter(|(program, _)| !built(program)).collect();
    if missing.is_empty() {
        return Ok(out);
    }
    let Some(go) = find("go") else { bail!("needs Go, to build {main} {version} from its module: https://go.dev/dl") };
    let names: Vec<&str> = missing.iter().map(|(program, _)| *program).collect();
    println!(
        "setup: {main} {version}: Go builds {} into {}, once: minutes, seven for a control plane on two cores",
        names.join(", "),
        out.display()
    );
    fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    let words: &[&str] = match how {
        How::Plain => &["build"],
        How::WithC => &["build", "-tags", "seccomp"],
        How::Tests => &["test", "-c"],
    };
    let mut build = command(go, words);
    // A slash at its end makes it a folder, for one program too.
    build.args(["-trimpath", "-mod=readonly", "-ldflags", &flags(version), "-o"]).arg(out.join(""));
    build.args(missing.iter().map(|(_, package)| package)).current_dir(&folder);
    let with_c = if how == How::WithC { "1" } else { "0" };
    run_command(build.env("CGO_ENABLED", with_c).env("GOFLAGS", "-buildvcs=false"))?;
    for name in names {
        fs::write(stamp(name), &manifest)?;
    }
    Ok(out)
}

/// Programs say which version they are, and some refuse to work with one that says nothing.
fn flags(version: &str) -> String {
    let mut numbers = version.trim_start_matches('v').split('.');
    let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    let base = "k8s.io/component-base/version";
    format!(
        "-s -w -X {base}.gitVersion={version} -X {base}.gitMajor={major} -X {base}.gitMinor={minor} \
         -X {base}.gitTreeState=clean -X k8s.io/client-go/pkg/version.gitVersion={version}"
    )
}

/// The version of a dependency that a go.mod requires.
fn required<'a>(manifest: &'a str, module: &str) -> Option<&'a str> {
    let words = manifest.lines().map(|line| line.trim_start_matches("require").split_ascii_whitespace());
    words
        .filter_map(|mut words| (words.next()? == module).then(|| words.next())?)
        .find(|version| version.starts_with('v'))
}

/// Where what takes long to build is kept: `$SVC_CACHE`, or a folder of its own in the user's cache.
fn cache() -> Result<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = variable("SVC_CACHE")
        .or_else(|| Some(variable("XDG_CACHE_HOME")?.join("svc")))
        .or_else(|| Some(variable("HOME")?.join(".cache/svc")));
    Ok(folder.context("nowhere to keep programs: set SVC_CACHE to a folder")?.join("cluster"))
}

#[cfg(test)]
mod tests {
    use super::{flags, required};

    #[test]
    fn versions_are_found() {
        let manifest = "module a\n\nrequire k8s.io/kubernetes v1.37.2\n\nrequire (\n\tk8s.io/api v0.0.0\n)\n\
                        replace (\n\tk8s.io/api => k8s.io/api v0.37.2\n)\n";
        assert_eq!(required(manifest, "k8s.io/kubernetes"), Some("v1.37.2"));
        assert_eq!(required(manifest, "k8s.io/api"), Some("v0.0.0"));
        assert_eq!(required(manifest, "k8s.io"), None);
        assert!(flags("v1.37.2").contains("gitMajor=1 ") && flags("v1.37.2").contains("gitMinor=37 "));
    }
}
