//! How many connections there are, and how many of them one address or one principal has.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use foldhash::fast::RandomState;

use super::Shared;
use crate::auth::Principal;
use crate::error::{BusError, BusResult};

/// Who has connections.
#[derive(Debug, Default)]
pub(super) struct Places(Mutex<HashMap<Holder, usize, RandomState>>);

/// Whose connections are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Holder {
    Address(IpAddr),
    Uid(u32),
    /// Somebody by the name that he has proven.
    Named(Arc<str>),
}

impl Holder {
    /// Whose connections count as those of this principal; nobody's for the bus's own process, and for who is
    /// known by his address alone.
    fn of(principal: &Principal) -> Option<Self> {
        match principal {
            Principal::Bus | Principal::Local | Principal::Network { .. } => None,
            Principal::Unix { uid, .. } => Some(Self::Uid(*uid)),
            principal => Some(Self::Named(principal.to_string().into())),
        }
    }
}

impl Places {
    fn take(&self, holder: &Holder, limit: usize) -> bool {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = places.entry(holder.clone()).or_default();
        let free = *count < limit;
        *count += usize::from(free);
        if *count == 0 {
            places.remove(holder);
        }
        free
    }

    fn give_back(&self, holder: Holder) {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut entry) = places.entry(holder) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

/// Counts a connection for as long as it lives.
pub(super) struct Place {
    shared: Arc<Shared>,
    address: Option<IpAddr>,
    principal: Option<Holder>,
}

impl Place {
    /// Counts one more, within the limits. The bus's own session always finds a place.
    ///
    /// # Errors
    /// [`BusError::LimitReached`].
    pub(super) fn open(shared: &Arc<Shared>, is_own: bool, address: Option<SocketAddr>) -> BusResult<Self> {
        let before = shared.links.fetch_add(1, Ordering::Relaxed);
        let mut place = Self { shared: Arc::clone(shared), address: None, principal: None };
        let live = shared.live();
        if before > live.max_sessions && !is_own {
            let what = format!("the bus has {} connections", live.max_sessions);
            return Err(BusError::LimitReached { what });
        }
        // The loopback is everybody on this host.
        let address = address.map(|address| address.ip().to_canonical()).filter(|ip| !ip.is_loopback());
        if let Some(ip) = address {
            if !shared.places.take(&Holder::Address(ip), live.max_sessions_per_address) {
                let what = format!("{ip} has {} connections", live.max_sessions_per_address);
                return Err(BusError::LimitReached { what });
            }
            place.address = Some(ip);
        }
        Ok(place)
    }

    /// Counts it for who it has turned out to be of.
    ///
    /// # Errors
    /// [`BusError::LimitReached`].
    pub(super) fn belongs_to(&mut self, principal: &Principal) -> BusResult<()> {
        let Some(holder) = Holder::of(principal) else { return Ok(()) };
        let limit = self.shared.live().max_sessions_per_principal;
        if !self.shared.places.take(&holder, limit) {
            return Err(BusError::LimitReached { what: format!("{principal} has {limit} connections") });
        }
        self.principal = Some(holder);
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.links.fetch_sub(1, Ordering::Relaxed);
        let holders = [self.address.take().map(Holder::Address), self.principal.take()];
        for holder in holders.into_iter().flatten() {
            self.shared.places.give_back(holder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_gives_a_place_back_gets_one_again_and_nothing_stays_behind() {
        let places = Places::default();
        let (alice, bob) = (Holder::Uid(1), Holder::Named("bob".into()));
        assert!(places.take(&alice, 2) && places.take(&alice, 2) && !places.take(&alice, 2));
        assert!(places.take(&bob, 2), "the places of others are their own");
        assert!(!places.take(&Holder::Uid(2), 0));
        places.give_back(alice.clone());
        assert!(places.take(&alice, 2));
        for holder in [alice.clone(), alice, bob] {
            places.give_back(holder);
        }
        assert!(places.0.lock().unwrap().is_empty());
    }

    #[test]
    fn a_principal_is_the_same_whatever_process_it_is_of() {
        let process = |pid| Principal::Unix { uid: 1, gid: pid as u32, pid: Some(pid) };
        assert_eq!(Holder::of(&process(1)), Holder::of(&process(2)));
        let user = Principal::User { name: "alice".into() };
        let certificate = Principal::Certificate { name: "alice".into() };
        assert_ne!(Holder::of(&user), Holder::of(&certificate));
        assert_eq!(Holder::of(&Principal::Local), None);
    }
}
