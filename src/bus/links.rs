//! What a bus's links to other systems are like, as those who keep them report it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{BusView, Shared};
use crate::error::{BusError, BusResult};
use crate::limits;

/// How a link of the bus to another system is, such as to a broker that joins it to other buses. The bus knows no more of it than this, which
/// is reported by [`BusView::report_link`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkStats {
    /// What it leads to, in small letters, digits and `_`, as it is part of the names of metrics: `nats`.
    pub name: String,
    /// How it is, in a word: `connected`, `away`.
    pub state: String,
    /// Whether it can be used now.
    pub connected: bool,
    /// How long it has been so.
    pub since: Duration,
    /// What is at its other end, where that is known.
    #[serde(default)]
    pub peer: Option<String>,
    /// Why it cannot be used, where that is known.
    #[serde(default)]
    pub error: Option<String>,
    /// What it has counted since the bus started, by names as for `name`: `connects`, `out_messages`.
    #[serde(default)]
    pub counts: BTreeMap<String, u64>,
}

type Tell = Arc<dyn Fn() -> LinkStats + Send + Sync>;

/// Those that report.
#[derive(Default)]
pub(super) struct Links {
    next: AtomicU64,
    reporting: Mutex<BTreeMap<u64, Reporting>>,
}

#[derive(Clone)]
struct Reporting {
    name: String,
    tell: Tell,
}

/// A link that is reported, until this is dropped.
#[must_use = "dropping it ends the report"]
pub struct LinkReport {
    shared: Weak<Shared>,
    id: u64,
}

impl BusView {
    /// Has `$bus/stats`, metrics and readiness tell how a link to another system is, for as long as what is returned is kept. `tell` is
    /// called whenever somebody asks, on whatever thread that is: it should look and not wait. In metrics each count is
    /// `whispeer_NAME_COUNT_total`, and `whispeer_NAME_connected` is 1 or 0.
    ///
    /// # Errors
    /// [`BusError::InvalidSettings`] for a name that cannot be part of a metric's, or that another link has;
    /// [`BusError::LimitReached`] for more links than [`COMPANIONS`](crate::limits::COMPANIONS);
    /// [`BusError::Closed`] when the bus has stopped.
    ///
    /// # Examples
    /// ```
    /// use whispeer::bus::LinkStats;
    /// use whispeer::prelude::*;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> BusResult<()> {
    /// let bus = Bus::builder().start()?;
    /// let away = || LinkStats { state: "away".into(), ..LinkStats::default() };
    /// let report = bus.view().report_link("broker", away)?;
    /// assert_eq!(bus.stats().links[0].name, "broker");
    /// assert!(!bus.stats().links[0].connected);
    /// drop(report);
    /// assert!(bus.stats().links.is_empty());
    /// # Ok(())
    /// # }
    /// ```
    pub fn report_link(
        &self,
        name: &str,
        tell: impl Fn() -> LinkStats + Send + Sync + 'static,
    ) -> BusResult<LinkReport> {
        let shared = self.shared()?;
        if !is_part_of_a_metric(name) {
            let what = format!("{name:?} is no name of a link: give one of small letters, digits and `_`");
            return Err(BusError::InvalidSettings(what));
        }
        let mut reporting = shared.reported.locked();
        if reporting.values().any(|known| known.name == name) {
            return Err(BusError::InvalidSettings(format!("there is a link {name:?} already")));
        }
        if reporting.len() >= limits::COMPANIONS {
            return Err(BusError::LimitReached { what: format!("links, {}", limits::COMPANIONS) });
        }
        let id = shared.reported.next.fetch_add(1, Ordering::Relaxed);
        reporting.insert(id, Reporting { name: name.to_owned(), tell: Arc::new(tell) });
        drop(reporting);
        Ok(LinkReport { shared: Arc::downgrade(&shared), id })
    }

    /// The links that are [reported](Self::report_link), as they are now. Beside asking each it costs nothing.
    ///
    /// # Errors
    /// [`BusError::Closed`] when the bus has stopped.
    pub fn links(&self) -> BusResult<Vec<LinkStats>> {
        Ok(self.shared()?.reported.stats())
    }
}

impl Links {
    pub(super) fn stats(&self) -> Vec<LinkStats> {
        // Asked without the lock: they are others' code.
        let reporting: Vec<_> = self.locked().values().cloned().collect();
        let told = reporting.into_iter().map(|Reporting { name, tell }| {
            let mut told = tell();
            told.counts.retain(|count, _| is_part_of_a_metric(count));
            LinkStats { name, ..told }
        });
        told.collect()
    }

    fn locked(&self) -> MutexGuard<'_, BTreeMap<u64, Reporting>> {
        self.reporting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Links {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(self.locked().values().map(|known| &known.name)).finish()
    }
}

impl Drop for LinkReport {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            // Dropped without the lock, as it is others' code.
            let _reporting = shared.reported.locked().remove(&self.id);
        }
    }
}

impl fmt::Debug for LinkReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("LinkReport").field("id", &self.id).finish_non_exhaustive()
    }
}

fn is_part_of_a_metric(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    (1..=limits::LINK_NAME_BYTES).contains(&name.len()) && name.bytes().all(fits)
}
