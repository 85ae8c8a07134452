//! Looks after what waits outside of any session: messages of queue groups without credit, and
//! requests without a server's credit.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::Shared;
use super::group::Group;
use super::service::Service;
use super::stats::Totals;
use crate::limits;

/// What has to be looked at until nothing waits there.
#[derive(Debug, Default)]
pub(crate) struct Sweeper {
    watched: Mutex<Watched>,
    begun: Notify,
}

#[derive(Debug, Default)]
struct Watched {
    groups: Vec<Weak<Group>>,
    services: Vec<Weak<Service>>,
}

impl Sweeper {
    fn with<T>(&self, change: impl FnOnce(&mut Watched) -> T) -> T {
        change(&mut self.watched.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Something waits in the group, which knows whether it is watched already.
    pub(crate) fn watch_group(&self, group: &Arc<Group>) {
        self.with(|watched| watched.groups.push(Arc::downgrade(group)));
        self.begun.notify_one();
    }

    /// Something waits for the service, which knows whether it is watched already.
    pub(crate) fn watch_service(&self, service: &Arc<Service>) {
        self.with(|watched| watched.services.push(Arc::downgrade(service)));
        self.begun.notify_one();
    }

    /// Sweeps for as long as it is polled.
    ///
    /// # Cancel safety
    /// May be dropped at any time; a later call goes on.
    pub(super) async fn run(&self, shared: &Shared) {
        loop {
            let idle = self.with(|watched| watched.groups.is_empty() && watched.services.is_empty());
            if idle {
                self.begun.notified().await;
            }
            tokio::time::sleep(limits::SWEEP_INTERVAL).await;
            self.sweep(shared, Instant::now());
        }
    }

    fn sweep(&self, shared: &Shared, now: Instant) {
        let (groups, services) =
            self.with(|watched| (std::mem::take(&mut watched.groups), std::mem::take(&mut watched.services)));
        let mut totals = Totals::default();
        for group in groups.iter().filter_map(Weak::upgrade) {
            if group.expire(now, &mut totals) {
                self.with(|watched| watched.groups.push(Arc::downgrade(&group)));
            }
        }
        shared.past().add(&totals);
        for service in services.iter().filter_map(Weak::upgrade) {
            // The requester's own task answers what has timed out; here only the place is freed.
            let waiting = service.prune(|waiting| {
                waiting.deadline > now && waiting.requester.lock().requests.contains_key(&waiting.request)
            });
            if waiting {
                self.with(|watched| watched.services.push(Arc::downgrade(&service)));
            }
        }
    }
}
