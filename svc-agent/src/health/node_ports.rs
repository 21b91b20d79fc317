//! `healthCheckNodePort`: a load balancer asks which nodes have endpoints of a Service with external policy Local.
//!
//! Listeners follow [`Checks`] as soon as they change; counts are read at the moment of the answer. A port that cannot
//! be bound is said once and tried again until it can or is no longer wanted.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use http::{Request, StatusCode};
use tokio::sync::watch;

use super::status::{Checks, Status};
use super::web::{self, Answer, Handler, RETRY, Served, answer, with_number};
use crate::model::{Family, ObjectKey};

/// Load balancers spread connections by it.
const WEIGHT: &str = "x-load-balancing-endpoint-weight";

/// Listens for as long as it is polled. `complain` is told, once, when a port cannot be bound.
pub async fn serve(status: Arc<Status>, complain: impl Fn(&ObjectKey, String)) {
    let mut checks = status.checks();
    let mut listeners = Listeners::new(status);
    loop {
        let present = checks.borrow_and_update().clone();
        let missing = listeners.follow(&present, &complain);
        let again = async {
            match missing {
                true => tokio::time::sleep(RETRY).await,
                false => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = checks.changed() => if changed.is_err() { return },
            () = again => {}
        }
    }
}

/// Every socket that is wanted, and those that want it: ports are unique in a cluster, but files may say anything.
fn wanted(checks: &Checks) -> BTreeMap<SocketAddr, Vec<ObjectKey>> {
    let mut wanted = BTreeMap::<_, Vec<_>>::new();
    for (key, check) in &checks.services {
        for addr in checks.addresses.iter().flatten() {
            wanted.entry(SocketAddr::new(*addr, check.port)).or_default().push(key.clone());
        }
    }
    wanted
}

/// What is listened on.
pub(super) struct Listeners {
    status: Arc<Status>,
    open: HashMap<SocketAddr, (ObjectKey, Served)>,
    /// What cannot be listened on, and was said.
    said: BTreeSet<(ObjectKey, SocketAddr)>,
}

impl Listeners {
    pub(super) fn new(status: Arc<Status>) -> Self {
        Self { status, open: HashMap::new(), said: BTreeSet::new() }
    }

    /// Closes what is no longer wanted and opens what is; `true` if something is still missing.
    pub(super) fn follow(&mut self, checks: &Checks, complain: &impl Fn(&ObjectKey, String)) -> bool {
        let wanted = wanted(checks);
        self.open.retain(|addr, (key, _)| wanted.get(addr).is_some_and(|keys| keys.contains(key)));
        let mut missing = BTreeSet::new();
        for (addr, keys) in &wanted {
            for key in keys {
                let problem = match self.open.get(addr) {
                    Some((owner, _)) if owner == key => continue,
                    Some((owner, _)) => format!("it is that of Service {owner}"),
                    None => match web::bind(*addr) {
                        Ok(listener) => {
                            let handler = Arc::new(Check {
                                service: key.clone(),
                                family: Family::of(addr.ip()),
                                status: Arc::clone(&self.status),
                                checks: self.status.checks(),
                            });
                            self.open.insert(*addr, (key.clone(), Served::start(listener, handler)));
                            continue;
                        }
                        Err(error) if web::has_no_family(&error) => continue,
                        Err(error) => error.to_string(),
                    },
                };
                let item = (key.clone(), *addr);
                if !self.said.contains(&item) {
                    complain(key, format!("cannot listen on {addr}, its healthCheckNodePort: {problem}"));
                }
                missing.insert(item);
            }
        }
        self.said = missing;
        !self.said.is_empty()
    }
}

/// What answers for one Service in one family.
struct Check {
    service: ObjectKey,
    family: Family,
    status: Arc<Status>,
    checks: watch::Receiver<Checks>,
}

impl Handler for Check {
    async fn answer(&self, _: Request<()>) -> Answer {
        let endpoints = self.checks.borrow().services.get(&self.service).map(|check| check.local_endpoints);
        let endpoints = endpoints.map_or(0, |by_family| by_family[self.family as usize]);
        let healthy = self.status.report().healthy;
        let code = if endpoints > 0 && healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let body = body(&self.service, endpoints, healthy);
        with_number(answer(code, "application/json", body), WEIGHT, endpoints)
    }
}

/// As kube-proxy writes it, to the blank.
fn body(service: &ObjectKey, endpoints: usize, healthy: bool) -> String {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let (namespace, name) = (quoted(&service.namespace), quoted(&service.name));
    format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": {namespace},\n\t\t\"name\": {name}\n\t}},\n\
         \t\"localEndpoints\": {endpoints},\n\t\"serviceProxyHealthy\": {healthy}\n}}"
    )
}
