//! The image starts from a plain OCI runtime, with what the DaemonSet grants it and no more, and serves.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use svc_tests::lab::place::Job;
use svc_tests::lab::service::TestService;
use svc_tests::lab::{self, At, Config, Lab, tool, wait};
use svc_tests::traffic::{self, Ask};

/// Name of the container: one lab stands at a time.
const CONTAINER: &str = "svc-agent-of-the-lab";

fn read(path: &Path) -> Result<Value> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}

fn untar(archive: &Path, into: &Path) -> Result<()> {
    fs::create_dir_all(into)?;
    tool::output(Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(into)).map(drop)
}

/// Makes the image and unpacks it as an engine would; returns its root and its configuration.
fn unpack(dir: &Path) -> Result<(PathBuf, Value)> {
    let archive = dir.join("image.tar");
    let agent = tool::sibling("svc-agent", "SVC_AGENT")?;
    let xtask = tool::sibling("xtask", "SVC_XTASK")?;
    tool::output(Command::new(xtask).arg("image").arg("--agent").arg(agent).arg("--output").arg(&archive))?;
    let layout = dir.join("layout");
    untar(&archive, &layout)?;
    let blob = |descriptor: &Value| -> Result<PathBuf> {
        let digest = descriptor["digest"].as_str().context("a digest")?;
        let path = layout.join("blobs").join(digest.replace(':', "/"));
        let sum = tool::output(Command::new("sha256sum").arg(&path))?;
        ensure!(digest.strip_prefix("sha256:") == sum.split(' ').next(), "{digest} is not the digest of its blob");
        ensure!(descriptor["size"] == json!(fs::metadata(&path)?.len()), "{digest}: wrong size");
        Ok(path)
    };
    let manifest = read(&blob(&read(&layout.join("index.json"))?["manifests"][0])?)?;
    let root = dir.join("root");
    untar(&blob(&manifest["layers"][0])?, &root)?;
    Ok((root, read(&blob(&manifest["config"])?)?))
}

/// The container of the DaemonSet.
fn container(list: &str) -> Result<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kustomize/base/daemonset.yaml");
    let set: Value = serde_saphyr::from_str(&fs::read_to_string(path)?)?;
    Ok(set["spec"]["template"]["spec"][list][0].clone())
}

/// A bundle for the runtime: the security context of a container of the DaemonSet, put into the runtime's words.
fn bundle(lab: &Lab, name: &str, root: &Path, args: &[String], container: &Value) -> Result<PathBuf> {
    let context = &container["securityContext"];
    let privileged = context["privileged"] == json!(true);
    let named: Vec<String> = match privileged {
        // What an engine gives a privileged container, as far as this program can use it.
        true => ["BPF", "NET_ADMIN", "PERFMON", "SYS_ADMIN"].map(|name| format!("CAP_{name}")).to_vec(),
        false => {
            ensure!(context["capabilities"]["drop"] == json!(["ALL"]), "everything else is dropped");
            let added = context["capabilities"]["add"].as_array().context("capabilities")?;
            added.iter().filter_map(|name| Some(format!("CAP_{}", name.as_str()?))).collect()
        }
    };
    let node = &lab.nodes[0];
    fs::create_dir_all(cgroup_folder(lab))?;
    let bind = |from: &Path, to: &str, mode: &str| json!({ "destination": to, "type": "bind", "source": from, "options": ["rbind", mode] });
    let config = json!({
        "ociVersion": "1.0.2",
        "root": { "path": root, "readonly": context["readOnlyRootFilesystem"] == json!(true) },
        "process": {
            "args": args,
            "cwd": "/",
            "env": ["PATH=/usr/bin"],
            "user": { "uid": 0, "gid": 0 },
            "noNewPrivileges": context["allowPrivilegeEscalation"] == json!(false),
            "capabilities": { "bounding": named, "effective": named, "permitted": named },
        },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"] },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"] },
            // With a directory as source the agent remembers what it has given out; in a cluster it needs no such place.
            { "destination": "/run/svc-agent", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"] },
            bind(&node.bpffs, "/sys/fs/bpf", "rw"),
            bind(&cgroup_folder(lab), "/run/svc/cgroup", "rw"),
            bind(lab.manifests.dir(), "/etc/kubernetes", "ro"),
        ],
        "linux": {
            // As with hostNetwork: the network namespace is that of the node.
            "namespaces": [{ "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" }],
            "readonlyPaths": if privileged { json!([]) } else { json!(["/proc/sys"]) },
        },
    });
    let folder = lab.dir().join(format!("bundle-{name}"));
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("config.json"), config.to_string())?;
    Ok(folder)
}

/// Starts the runtime in a mount namespace whose cgroups are as a node has them today: version 2 and nothing else.
fn crun(lab: &Lab, bundle: &Path, log: &Path) -> Result<Job> {
    const START: &str = "mount --bind $0 $1 && mount -t cgroup2 none /sys/fs/cgroup && shift && exec crun \"$@\"";
    let node = &lab.nodes[0].place;
    let cgroup = node.cgroup().parent().context("a host's cgroup lies below its node's")?.display().to_string();
    let [seen, state, bundle] =
        [cgroup_folder(lab), lab.dir().join("crun"), bundle.to_owned()].map(|path| path.display().to_string());
    let runtime = ["--root", &state, "--cgroup-manager=disabled", "run", "--bundle", &bundle, CONTAINER];
    let args = [&["--mount", "sh", "-c", START, &cgroup, &seen], &runtime[..]].concat();
    node.spawn("unshare", &args, log)
}

/// Where the runtime finds the cgroup of the node.
fn cgroup_folder(lab: &Lab) -> PathBuf {
    lab.dir().join("cgroup-of-the-node")
}

/// The metrics of the documents.
fn documented() -> impl Iterator<Item = &'static str> {
    let text = include_str!("../../docs/metrics.md");
    text.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next())
}

#[test]
fn the_image_serves_with_what_the_daemon_set_grants() -> Result<()> {
    lab::with(Config { nodes: 1, ..Config::default() }, |lab| {
        let service = TestService::new("web", 1);
        service.publish(lab)?;
        let (_, _web) = lab.add_server("web", "web-1", 0, At::Pod)?;
        let (client, _client) = lab.add_server("client", "client", 0, At::Pod)?;
        let (root, image) = unpack(&lab.dir())?;
        let entrypoint = image["config"]["Entrypoint"][0].as_str().context("an entry point")?;
        let log = lab.dir().join("container.log");
        let says = || fs::read_to_string(&log).unwrap_or_default();

        let init = container("initContainers")?;
        let words = init["args"].as_array().context("arguments")?.iter().filter_map(Value::as_str);
        let args: Vec<String> = [entrypoint].into_iter().chain(words).map(str::to_owned).collect();
        let mut job = crun(lab, &bundle(lab, "init", &root, &args, &init)?, &log)?;
        let ended = wait::until("the init container ends", Duration::from_secs(10), || {
            job.ended()?.context("it runs").map(drop)
        });
        ended.with_context(says)?;
        ensure!(job.ended()?.is_some_and(|status| status.success()), "{}", says());

        let mut args =
            [entrypoint, "run", "--source=/etc/kubernetes", "--cgroup=/run/svc/cgroup", "--metrics-of-backends"]
                .map(str::to_owned)
                .to_vec();
        args.push(format!("--node={}", lab.nodes[0].name));
        args.push(format!("--cluster-cidr={}", lab::topology::POD_RANGES.join(",")));
        let mut job = crun(lab, &bundle(lab, "agent", &root, &args, &container("containers")?)?, &log)?;
        let node = &lab.nodes[0].place;
        wait::until("the container is ready", Duration::from_secs(20), || {
            ensure!(job.ended()?.is_none(), "it ended");
            node.output("curl", &["-sSf", "--max-time", "2", "http://127.0.0.1:10256/readyz"]).map(drop)
        })
        .with_context(says)?;
        for family in 0..2 {
            for from in [&client.place, node] {
                let report = traffic::ask(from, Ask::Tcp, service.at(family), 20)?;
                report.expect_all().with_context(says)?;
            }
            let at_node: SocketAddr = service.at_node(lab, 0, family);
            traffic::ask(&lab.outside, Ask::Tcp, at_node, 20)?.expect_all().with_context(says)?;
        }
        wait::until("every documented metric is shown", Duration::from_secs(10), || {
            let shown = node.output("curl", &["-sSf", "--max-time", "2", "http://127.0.0.1:10249/metrics"])?;
            let shown: BTreeSet<_> =
                shown.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
            let missing: Vec<_> = documented().filter(|name| !shown.contains(name)).collect();
            ensure!(missing.is_empty(), "{missing:?} stand in docs/metrics.md");
            Ok(())
        })?;
        let state = lab.dir().join("crun").display().to_string();
        for command in ["status", "services", "backends", "connections"] {
            // As an engine does it: the process of the container, with other words.
            let mut process = read(&lab.dir().join("bundle-agent/config.json"))?["process"].take();
            process["args"] = json!([entrypoint, command]);
            let file = lab.dir().join(format!("exec-{command}.json"));
            fs::write(&file, process.to_string())?;
            let args = ["--root", &state, "exec", "--process", &file.to_string_lossy(), CONTAINER];
            let shown = node.output("crun", &args)?;
            ensure!(shown.lines().count() > 1, "{command} shows nothing: {shown}");
        }
        let log = says();
        ensure!(!log.contains(" WARN ") && !log.contains(" ERROR "), "it complains:\n{log}");
        ensure!(log.contains("are reserved for source translation"), "nothing was reserved:\n{log}");
        ensure!(job.signal("TERM")?.success(), "the agent ends by itself:\n{}", says());
        Ok(())
    })
}
