//! The programs of the control plane. `cargo xtask setup --cluster` builds them, `cargo xtask test` says where they are.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

/// Where `cargo xtask` has put the programs of one release of Kubernetes.
const TOOLS: &str = "SVC_CLUSTER_TOOLS";
/// Where it has put etcd.
const ETCD: &str = "SVC_CLUSTER_ETCD";

/// Folders with the programs of a control plane.
#[derive(Clone, Debug)]
pub struct Tools {
    kubernetes: PathBuf,
    etcd: PathBuf,
}

impl Tools {
    /// From the environment; `None`: nobody has said where they are.
    pub fn find() -> Result<Option<Self>> {
        let folder = |name: &str| std::env::var_os(name).map(PathBuf::from);
        let (Some(kubernetes), Some(etcd)) = (folder(TOOLS), folder(ETCD)) else { return Ok(None) };
        let tools = Self { kubernetes, etcd };
        for program in [tools.etcd(), tools.program("kube-apiserver"), tools.program("kube-controller-manager")] {
            if !program.is_file() {
                bail!("{}: there is no such program: type `cargo xtask setup --cluster`", program.display());
            }
        }
        Ok(Some(tools))
    }

    /// etcd, whose command is called by the end of its module's path.
    pub fn etcd(&self) -> PathBuf {
        self.etcd.join("server")
    }

    /// A program of Kubernetes.
    pub fn program(&self, name: &str) -> PathBuf {
        self.kubernetes.join(name)
    }

    /// A program of Kubernetes that only a bench needs, and may not be built.
    pub fn optional(&self, name: &str) -> Result<PathBuf> {
        let path = self.program(name);
        path.is_file()
            .then_some(path)
            .with_context(|| format!("{name} is not built: type `cargo xtask setup --cluster`"))
    }
}
