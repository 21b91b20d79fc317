//! An agent of another version has left its pins: this one replaces what it cannot use, and nobody notices.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use svc_agent::datapath::bpf::{self, MapShape};
use svc_agent::datapath::maps;
use svc_agent::datapath::table::Table;
use svc_common::tables::{Frontend, MAPS, SCHEMA, ServiceRecord, name};
use svc_tests::lab::service::TestService;
use svc_tests::lab::{self, At, Config, wait};
use svc_tests::traffic::{self, Ask};

/// What the first look of a started agent at its pins may take.
const SOON: Duration = Duration::from_secs(5);

/// The highest id of a Service that the other version has given out.
const OLDER_IDS: u32 = 20;

/// The way to an API server that does not exist.
const NOBODY: &str = r#"{"apiVersion": "v1", "kind": "Config", "current-context": "nobody",
    "clusters": [{"name": "nobody", "cluster": {"server": "http://127.0.0.1:9"}}],
    "users": [{"name": "nobody", "user": {}}],
    "contexts": [{"name": "nobody", "context": {"cluster": "nobody", "user": "nobody"}}]}"#;

/// Kernel ids of the pinned maps, by name.
fn pinned(dir: &Path) -> Result<BTreeMap<&'static str, u32>> {
    let id = |name: &'static str| -> Result<_> {
        let map = bpf::open_pin(&dir.join(name)).with_context(|| format!("no pin {name}"))?;
        Ok((name, bpf::map_info(map.as_fd())?.0))
    };
    MAPS.iter().map(|shape| id(shape.name)).collect()
}

/// Pins a map with other values in the place of one.
fn pin_instead(dir: &Path, name: &'static str, kind: u32, value: u32) -> Result<OwnedFd> {
    let shape = MAPS.iter().find(|shape| shape.name == name).context("a map")?;
    ensure!(shape.value != value, "{name} has values of {value} bytes anyway");
    let older = MapShape { kind, key: shape.key, value, entries: shape.entries, flags: 0 };
    let map = bpf::map_create(name, older)?;
    std::fs::remove_file(dir.join(name))?;
    bpf::pin(map.as_fd(), &dir.join(name))?;
    Ok(map)
}

/// Folders of maps below the folder of pins.
fn map_dirs(bpffs: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(bpffs)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with('v') {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

#[test]
fn tables_of_another_shape_are_replaced_under_load() -> Result<()> {
    lab::with(Config { nodes: 1, ..Config::default() }, |lab| {
        // No API server is there: an agent that asks it never comes to know a Service.
        let kubeconfig = lab.dir().join("kubeconfig");
        std::fs::write(&kubeconfig, NOBODY)?;
        lab.source.extend(["--kubeconfig".into(), kubeconfig.display().to_string()]);
        let service = TestService::new("web", 1);
        service.publish(lab)?;
        let (_one, _job1) = lab.add_server("web", "web-1", 0, At::Pod)?;
        let (_two, _job2) = lab.add_server("web", "web-2", 0, At::Pod)?;
        let (client, _job3) = lab.add_server("client", "client", 0, At::Pod)?;
        lab.start_agents()?;
        let mut loads = Vec::new();
        for family in 0..2 {
            let (at, at_node) = (service.at(family), service.at_node(lab, 0, family));
            loads.push((format!("held, {at}"), traffic::hold(&client.place, at, 4)?));
            loads.push((format!("held from outside, {at_node}"), traffic::hold(&lab.outside, at_node, 4)?));
            loads.push((format!("pod, {at}"), traffic::load(&client.place, Ask::Tcp, at)?));
            loads.push((format!("pod over UDP, {at}"), traffic::load(&client.place, Ask::Udp, at)?));
        }
        let bpffs = lab.nodes[0].bpffs.clone();
        let dir = maps::map_dir(&bpffs);
        ensure!(lab.agent(0)?.terminate()?, "the agent ended with an error after SIGTERM");
        let services: Table<u32, Frontend> =
            Table::new(pin_instead(&dir, name::SERVICES, bpf::ARRAY, size_of::<Frontend>() as u32)?)?;
        services.set(&OLDER_IDS, &Frontend { service: 1, ..Frontend::default() })?;
        pin_instead(&dir, name::SOCKETS_V6, bpf::LRU_HASH, 24)?;
        std::fs::remove_file(dir.join(name::FRAGMENTS_V4))?;
        let older = std::fs::read_dir(&dir)?.count();

        // Without a full state the old tables stay in force, and so they do when this agent is killed.
        let source = lab.manifests.dir().display().to_string();
        lab.agent(0)?.set_arg("--source", "kubernetes")?;
        lab.agent(0)?.restart()?;
        let next = format!("v{}-next", SCHEMA);
        wait::until("all maps are there a second time", SOON, || {
            let there = std::fs::read_dir(bpffs.join(&next))?.count();
            ensure!(there == MAPS.len(), "{there} maps");
            Ok(())
        })?;
        wait::until("the programs are loaded", SOON, || {
            ensure!(lab.agent_logs().contains("programs are loaded and wait"), "not yet");
            Ok(())
        })?;
        traffic::ask(&client.place, Ask::Tcp, service.at(0), 40)?.expect_all()?;
        lab.agent(0)?.kill()?;
        ensure!(std::fs::read_dir(&dir)?.count() == older, "the old set was touched before its time");
        let before: BTreeMap<_, _> =
            [name::FLOWS_V4, name::FLOWS_V6, name::FRONTENDS_V4, name::SOCKETS_V6, name::BACKEND_STATS]
                .into_iter()
                .map(|name| Ok((name, bpf::map_info(bpf::open_pin(&dir.join(name))?.as_fd())?.0)))
                .collect::<Result<_>>()?;

        lab.agent(0)?.set_arg("--source", &source)?;
        lab.agent(0)?.restart()?;
        let ready = lab.agent(0)?.wait_ready()?;
        eprintln!("ready after {} ms", ready.as_millis());
        let now = pinned(&dir)?;
        for (name, kept) in [
            (name::FLOWS_V4, true),
            (name::FLOWS_V6, true),
            (name::BACKEND_STATS, true),
            (name::FRONTENDS_V4, false),
            (name::SOCKETS_V6, false),
        ] {
            ensure!((now[name] == before[name]) == kept, "{name}: {} before, {} now", before[name], now[name]);
        }
        ensure!(map_dirs(&bpffs)? == [format!("v{}", SCHEMA)], "{:?}", map_dirs(&bpffs)?);
        let services: Table<u32, ServiceRecord> = Table::new(bpf::open_pin(&dir.join(name::SERVICES))?)?;
        let records = services.dump()?;
        let mut used = records.iter().filter(|(_, record)| record.family != 0).map(|(id, _)| *id);
        ensure!(used.next().is_some_and(|id| id > OLDER_IDS), "an id that flows name has got another meaning");
        // New connections come by way of the new tables, as changes do.
        lab.publish_pod("web-1", false)?;
        wait::until("a change is in force", SOON, || {
            traffic::ask(&client.place, Ask::Tcp, service.at(0), 40)?.expect_all()?.expect_spread(&["web-2"]).map(drop)
        })?;
        for (who, load) in loads {
            let report = load.stop()?;
            eprintln!("{who}: {} answered, slowest {} ms", report.ok, report.slowest_ms);
            report.expect_all().context(who)?;
        }
        Ok(())
    })
}

#[test]
fn tables_of_another_schema_are_replaced() -> Result<()> {
    lab::with(Config { nodes: 1, ..Config::default() }, |lab| {
        let service = TestService::new("web", 1);
        service.publish(lab)?;
        let (_one, _job1) = lab.add_server("web", "web-1", 0, At::Pod)?;
        let (client, _job2) = lab.add_server("client", "client", 0, At::Pod)?;
        lab.start_agents()?;
        ensure!(lab.agent(0)?.terminate()?, "the agent ended with an error after SIGTERM");
        let bpffs = lab.nodes[0].bpffs.clone();
        let dir = maps::map_dir(&bpffs);
        let before = pinned(&dir)?;
        std::fs::rename(&dir, bpffs.join("v999"))?;

        lab.agent(0)?.restart()?;
        lab.agent(0)?.wait_ready()?;
        let now = pinned(&dir)?;
        ensure!(now.iter().all(|(name, id)| before[name] != *id), "a map of another schema is in use");
        ensure!(map_dirs(&bpffs)? == [format!("v{}", SCHEMA)], "{:?}", map_dirs(&bpffs)?);
        for family in 0..2 {
            traffic::ask(&client.place, Ask::Tcp, service.at(family), 20)?.expect_all()?;
        }
        Ok(())
    })
}
