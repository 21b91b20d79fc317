//! Real files, written as people and tools write them.

use std::io::Write as _;
use std::net::IpAddr;

use super::*;
use crate::model::World;

/// A directory that is watched, and the state that follows.
struct Lab {
    path: PathBuf,
    events: mpsc::Receiver<Vec<Event>>,
    world: World,
    task: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

fn temporary(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("svc-source-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).unwrap();
    path
}

fn control_plane(state_file: Option<PathBuf>) -> ControlPlane {
    ControlPlane {
        service_cidrs: Some(vec!["10.0.0.0/28".parse().unwrap()]),
        node_ports: ControlPlane::NODE_PORTS,
        node_name: "n1".into(),
        state_file,
    }
}

fn yaml(name: &str, ip: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{clusterIP: {ip}, ports: [{{port: 80}}]}}\n---\n"
    )
}

impl Lab {
    async fn new(name: &str, files: &[(&str, String)]) -> Self {
        let path = temporary(name);
        for (file, text) in files {
            std::fs::write(path.join(file), text).unwrap();
        }
        Self::at(path.clone(), path, None).await
    }

    async fn at(path: PathBuf, watched: PathBuf, state: Option<PathBuf>) -> Self {
        let (tx, mut events) = mpsc::channel(16);
        let task = tokio::spawn(watch(watched, control_plane(state), tx));
        let mut world = World::default();
        for event in events.recv().await.unwrap() {
            world.fold(event);
        }
        assert!(world.is_synced());
        Self { path, events, world, task }
    }

    fn write(&self, file: &str, text: &str) {
        std::fs::write(self.path.join(file), text).unwrap();
    }

    /// The Services with their addresses, once they are `want`: within a second.
    async fn becomes(&mut self, want: &[(&str, &str)]) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(1);
        while self.services() != want {
            let Ok(events) = tokio::time::timeout_at(deadline, self.events.recv()).await else {
                panic!("after a second: {:?}, not {want:?}", self.services());
            };
            for event in events.unwrap() {
                self.world.fold(event);
            }
        }
    }

    /// Nothing changes although there is time.
    async fn stays(&mut self, want: &[(&str, &str)]) {
        tokio::time::sleep(Duration::from_millis(1200)).await;
        while let Ok(events) = self.events.try_recv() {
            events.into_iter().for_each(|event| _ = self.world.fold(event));
        }
        assert_eq!(self.services(), want);
    }

    fn services(&self) -> Vec<(&'static str, &'static str)> {
        let leak = |text: String| -> &'static str { text.leak() };
        let ip = |ips: &[IpAddr]| ips.first().map(ToString::to_string).unwrap_or_default();
        self.world
            .services()
            .map(|service| (leak(service.key.name.to_string()), leak(ip(&service.cluster_ips))))
            .collect()
    }
}

#[tokio::test]
async fn files_come_change_and_go() {
    let mut lab = Lab::new("files", &[("a.yaml", yaml("a", "10.0.0.1")), ("notes.txt", "kind: x".into())]).await;
    lab.becomes(&[("a", "10.0.0.1")]).await;
    lab.write("b.yml", &(yaml("b", "10.0.0.2") + &yaml("c", "10.0.0.3")));
    lab.becomes(&[("a", "10.0.0.1"), ("b", "10.0.0.2"), ("c", "10.0.0.3")]).await;
    lab.write("b.yml", &yaml("b", "10.0.0.9"));
    lab.becomes(&[("a", "10.0.0.1"), ("b", "10.0.0.9")]).await;
    std::fs::create_dir(lab.path.join("below")).unwrap();
    lab.write("below/d.json", r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"d"},"spec":{"clusterIP":"10.0.0.4","ports":[{"port":1}]}}"#);
    lab.becomes(&[("a", "10.0.0.1"), ("b", "10.0.0.9"), ("d", "10.0.0.4")]).await;
    std::fs::rename(lab.path.join("b.yml"), lab.path.join("z.yml")).unwrap();
    std::fs::remove_file(lab.path.join("a.yaml")).unwrap();
    lab.becomes(&[("b", "10.0.0.9"), ("d", "10.0.0.4")]).await;
    std::fs::remove_dir_all(lab.path.join("below")).unwrap();
    lab.becomes(&[("b", "10.0.0.9")]).await;
}

#[tokio::test]
async fn broken_files_take_nothing_away() {
    let good = yaml("a", "10.0.0.1") + &yaml("b", "10.0.0.2");
    let both = [("a", "10.0.0.1"), ("b", "10.0.0.2")];
    let mut lab = Lab::new("broken", &[("x.yaml", good.clone())]).await;
    lab.becomes(&both).await;
    for broken in [
        good[..good.len() / 2 + 30].to_owned(),
        yaml("a", "10.0.0.1") + "apiVersion: v1\nkind: Serv",
        yaml("a", "10.0.0.1") + &yaml("b", "10.0.0.300"),
        yaml("a", "10.0.0.1") + "\tkind: [",
        "\u{0}\u{1}".to_owned(),
    ] {
        lab.write("x.yaml", &broken);
        lab.stays(&both).await;
    }
    // What is right in a broken file counts.
    lab.write("x.yaml", &(yaml("a", "10.0.0.7") + "kind: ["));
    lab.becomes(&[("a", "10.0.0.7"), ("b", "10.0.0.2")]).await;
    lab.write("x.yaml", &yaml("a", "10.0.0.7"));
    lab.becomes(&[("a", "10.0.0.7")]).await;
}

#[tokio::test]
async fn a_file_is_read_when_its_writer_closes_it() {
    let mut lab = Lab::new("slow", &[("x.yaml", yaml("a", "10.0.0.1") + &yaml("b", "10.0.0.2"))]).await;
    lab.becomes(&[("a", "10.0.0.1"), ("b", "10.0.0.2")]).await;
    // Complete documents all the way: only the open file tells that more is to come.
    let mut file = std::fs::File::create(lab.path.join("x.yaml")).unwrap();
    for part in [yaml("a", "10.0.0.1"), "# half way\n".into(), yaml("b", "10.0.0.3")] {
        file.write_all(part.as_bytes()).unwrap();
        tokio::time::sleep(Duration::from_millis(400)).await;
        assert!(lab.events.try_recv().is_err(), "read before it was closed");
    }
    drop(file);
    lab.becomes(&[("a", "10.0.0.1"), ("b", "10.0.0.3")]).await;
    // Somebody who never closes is not waited for.
    let mut file = std::fs::File::create(lab.path.join("y.yaml")).unwrap();
    file.write_all(yaml("c", "10.0.0.4").as_bytes()).unwrap();
    lab.becomes(&[("a", "10.0.0.1"), ("b", "10.0.0.3"), ("c", "10.0.0.4")]).await;
}

/// What happens to a file when it is edited: nothing is taken away for a moment.
#[tokio::test]
async fn files_that_are_put_in_the_place_of_others() {
    let mut lab = Lab::new("editors", &[("x.yaml", yaml("a", "10.0.0.1"))]).await;
    lab.becomes(&[("a", "10.0.0.1")]).await;
    let (file, backup) = (lab.path.join("x.yaml"), lab.path.join("x.yaml~"));
    for round in 0..20_u8 {
        let ip = format!("10.0.0.{}", 2 + round % 10);
        let pause = Duration::from_millis(u64::from(round));
        match round % 3 {
            0 => {
                std::fs::rename(&file, &backup).unwrap();
                tokio::time::sleep(pause).await;
                lab.write("x.yaml", &yaml("a", &ip));
                std::fs::remove_file(&backup).unwrap();
            }
            1 => {
                std::fs::remove_file(&file).unwrap();
                tokio::time::sleep(pause).await;
                lab.write("x.yaml", &yaml("a", &ip));
            }
            _ => {
                lab.write(".x.swp", &yaml("a", &ip));
                std::fs::rename(lab.path.join(".x.swp"), &file).unwrap();
            }
        }
        let mut seen = Vec::new();
        while lab.services() != [("a", &*ip)] {
            let events = tokio::time::timeout(Duration::from_secs(1), lab.events.recv()).await.unwrap().unwrap();
            seen.extend(events.iter().cloned());
            events.into_iter().for_each(|event| _ = lab.world.fold(event));
        }
        assert!(!seen.iter().any(|event| matches!(event, Event::Deleted(..))), "round {round}: {seen:?}");
    }
}

#[tokio::test]
async fn links_are_turned_as_in_a_config_map_volume() {
    let path = temporary("links");
    for (version, ip) in [("..1", "10.0.0.1"), ("..2", "10.0.0.2")] {
        std::fs::create_dir(path.join(version)).unwrap();
        std::fs::write(path.join(version).join("a.yaml"), yaml("a", ip)).unwrap();
    }
    std::os::unix::fs::symlink("..1", path.join("..data")).unwrap();
    std::os::unix::fs::symlink("..data/a.yaml", path.join("a.yaml")).unwrap();
    let mut lab = Lab::at(path.clone(), path.clone(), None).await;
    lab.becomes(&[("a", "10.0.0.1")]).await;
    std::os::unix::fs::symlink("..2", path.join("..data_tmp")).unwrap();
    std::fs::rename(path.join("..data_tmp"), path.join("..data")).unwrap();
    std::fs::remove_dir_all(path.join("..1")).unwrap();
    lab.becomes(&[("a", "10.0.0.2")]).await;
}

#[tokio::test]
async fn one_file_and_its_replacement() {
    let path = temporary("single");
    let file = path.join("x.yaml");
    std::fs::write(&file, yaml("a", "10.0.0.1")).unwrap();
    let mut lab = Lab::at(path.clone(), file.clone(), None).await;
    lab.becomes(&[("a", "10.0.0.1")]).await;
    lab.write("x.new", &yaml("b", "10.0.0.2"));
    std::fs::rename(path.join("x.new"), &file).unwrap();
    lab.becomes(&[("b", "10.0.0.2")]).await;
}

#[tokio::test]
async fn a_directory_that_goes_away_and_comes_back() {
    let mut lab = Lab::new("away", &[("x.yaml", yaml("a", "10.0.0.1"))]).await;
    lab.becomes(&[("a", "10.0.0.1")]).await;
    std::fs::remove_dir_all(&lab.path).unwrap();
    lab.stays(&[("a", "10.0.0.1")]).await;
    std::fs::create_dir(&lab.path).unwrap();
    lab.write("x.yaml", &yaml("b", "10.0.0.2"));
    lab.becomes(&[("b", "10.0.0.2")]).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    lab.write("y.yaml", &yaml("c", "10.0.0.3"));
    lab.becomes(&[("b", "10.0.0.2"), ("c", "10.0.0.3")]).await;
}

#[tokio::test]
async fn two_files_with_one_object() {
    let mut lab = Lab::new("two", &[("a.yaml", yaml("a", "10.0.0.1")), ("b.yaml", yaml("a", "10.0.0.2"))]).await;
    lab.becomes(&[("a", "10.0.0.2")]).await;
    lab.write("a.yaml", &yaml("a", "10.0.0.3"));
    lab.stays(&[("a", "10.0.0.2")]).await;
    std::fs::remove_file(lab.path.join("b.yaml")).unwrap();
    lab.becomes(&[("a", "10.0.0.3")]).await;
}

#[tokio::test]
async fn a_restart_gives_the_same_addresses() {
    let text = |names: &[usize]| -> String {
        names.iter().map(|i| format!("{{apiVersion: v1, kind: Service, metadata: {{name: s{i:02}}}, spec: {{ports: [{{port: 1}}]}}}}\n---\n")).collect()
    };
    let path = temporary("restart");
    let state = path.join("state.json");
    std::fs::write(path.join("x.yaml"), text(&Vec::from_iter(0..12))).unwrap();
    let lab = Lab::at(path.clone(), path.join("x.yaml"), Some(state.clone())).await;
    let before = lab.services();
    lab.task.abort();
    // Four go while the agent is away; a range of 14 is so narrow that names alone would not do.
    let left: Vec<usize> = (4..12).collect();
    std::fs::write(path.join("x.yaml"), text(&left)).unwrap();
    let lab2 = Lab::at(path.clone(), path.join("x.yaml"), Some(state)).await;
    assert_eq!(lab2.services(), before[4..]);
}

#[tokio::test]
async fn a_missing_directory_is_one_line() {
    let (tx, _events) = mpsc::channel(1);
    let error = watch("/nowhere/at/all".into(), control_plane(None), tx).await.unwrap_err();
    let text = format!("{error:#}");
    assert_eq!(
        text,
        "the manifests in /nowhere/at/all cannot be read: give --source a directory or a file: No such file or directory (os error 2)"
    );
}
