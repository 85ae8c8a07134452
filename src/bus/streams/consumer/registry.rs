//! The consumers of a stream: those that have members now, and whose all are that there are.
//!
//! A durable consumer, or a group that acknowledges, is the principal's who made it. Whose each is lies in the store, and here, so
//! that somebody who may not have one is refused before he is in anybody's way.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::ledger::Ledger;
use super::{Consumer, Membership};
use crate::auth::{Action, Identity, Owner, Permissions};
use crate::bus::streams::Stream;
use crate::error::{BusError, BusResult};
use crate::limits;
use crate::store::Name;
use crate::topic::TopicPattern;

/// Who asks for a consumer, as far as that counts. By default somebody on a bus that asks nobody who he is: he may have all, and
/// what he makes is nobody's.
#[derive(Debug, Clone, Default)]
pub(crate) struct Claim(Option<Claimant>);

/// Somebody whom a policy has let in.
#[derive(Debug, Clone)]
struct Claimant {
    owner: Bytes,
    permissions: Arc<Permissions>,
    /// How many consumers of one stream he may have; `None` for all that there can be.
    most: Option<usize>,
}

impl Claim {
    /// Of somebody who may have so many consumers of one stream.
    pub(crate) fn of(identity: &Identity, most: usize) -> Self {
        let owner = Owner::of(&identity.principal);
        Self(Some(Claimant {
            most: (!owner.is_own_process()).then_some(most),
            owner: owner.to_bytes(),
            permissions: Arc::clone(&identity.permissions),
        }))
    }

    /// Whose a consumer is that he makes; empty for nobody.
    pub(super) fn owner(&self) -> Bytes {
        self.0.as_ref().map(|claimant| claimant.owner.clone()).unwrap_or_default()
    }

    /// Whether he may have a consumer that belongs to this owner, or to nobody.
    ///
    /// # Errors
    /// [`BusError::Denied`], which says what it would need, and not whose it is.
    fn check(&self, stream: &Name, consumer: &Name, owner: &[u8]) -> BusResult<()> {
        let Some(Claimant { owner: own, permissions, .. }) = &self.0 else { return Ok(()) };
        let name = TopicPattern::new(format!("{stream}/{consumer}"))?;
        if let Some(denied) = permissions.denial(Action::Consume, &name) {
            return Err(denied.into());
        }
        let is_free = owner.is_empty() || owner == &own[..];
        if is_free || permissions.allows(Action::Consume, &name).is_ok() {
            return Ok(());
        }
        Err(BusError::Denied {
            what: format!(
                "the consumer \"{consumer}\" of the stream \"{stream}\" belongs to somebody else, and others need a \
                 permission to `consume` whose allow list covers \"{name}\"; get that, or take another name"
            ),
        })
    }
}

/// The consumers of a stream.
#[derive(Debug, Default)]
pub(crate) struct Consumers {
    registry: Mutex<Registry>,
    /// Whoever works has one of these.
    working: Arc<Working>,
}

/// Those without a name included, a consumer is at work as long as it has this.
#[derive(Debug, Default)]
pub(super) struct Working;

#[derive(Debug, Default)]
pub(super) struct Registry {
    /// Those that have members now.
    pub(super) busy: HashMap<Name, Arc<Consumer>>,
    /// Whose those are that there are, with members or without: those that the store keeps, and those that it is about to. Empty
    /// for nobody.
    owners: BTreeMap<Name, Bytes>,
}

/// What has been noted of a consumer before its store has it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reserved {
    /// That it is there.
    Made,
    /// That it is somebody's, which was nobody's.
    Taken,
}

/// What a consumer is at.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Busy {
    pub(crate) members: usize,
    /// All before this is done, once it has been read from the store.
    #[cfg_attr(not(feature = "metrics"), expect(dead_code, reason = "introspection asks the store"))]
    pub(crate) floor: Option<u64>,
    /// Messages that its members have.
    pub(crate) pending: u64,
    /// Messages that come again.
    pub(crate) again: u64,
    /// What it waits for before it hands over more, where there is more.
    pub(crate) waits_for: Option<&'static str>,
}

impl Consumers {
    /// Takes in those that a store keeps.
    pub(crate) fn know(&self, owners: impl Iterator<Item = (Name, Bytes)>) {
        self.lock().owners.extend(owners);
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the messages of the shared consumer of this name are handed out here.
    pub(crate) fn hands_out(&self, name: &str) -> bool {
        self.lock().hands_out(name)
    }

    /// One begins to work.
    pub(super) fn begin(&self) -> Arc<Working> {
        Arc::clone(&self.working)
    }

    /// Whether none is at work.
    pub(crate) fn are_idle(&self) -> bool {
        Arc::strong_count(&self.working) == 1
    }

    /// Takes the name of one without members back, and begins to remove it from the store by `remove`, so that whoever comes
    /// next makes another one. Says whose it was.
    ///
    /// # Errors
    /// [`BusError::ConsumerBusy`].
    pub(crate) fn remove<T>(&self, name: &Name, remove: impl FnOnce() -> T) -> BusResult<(T, Option<Bytes>)> {
        let mut registry = self.lock();
        if registry.busy.contains_key(name) {
            return Err(BusError::ConsumerBusy { consumer: name.to_string() });
        }
        // Before anybody can make it again, as stores take calls in their order.
        let removing = remove();
        Ok((removing, registry.owners.remove(name)))
    }

    /// Puts a name back whose consumer could not be removed.
    pub(crate) fn put_back(&self, name: Name, owner: Option<Bytes>) {
        if let Some(owner) = owner {
            self.lock().owners.entry(name).or_insert(owner);
        }
    }

    /// What those are at that have members, by name, of a stream that ends here.
    pub(crate) fn busy(&self, end: u64) -> BTreeMap<Name, Busy> {
        let consumers: Vec<_> =
            self.lock().busy.iter().map(|(name, consumer)| (name.clone(), Arc::clone(consumer))).collect();
        let busy = consumers.into_iter().map(|(name, consumer)| {
            let state = consumer.lock();
            let floor = state.ledger.as_ref().map(Ledger::floor);
            let (pending, again) = state.ledger.as_ref().map_or((0, 0), Ledger::counts);
            let waits_for = state.waits_for(end, consumer.is_shared);
            (name, Busy { members: state.members.len(), floor, pending, again, waits_for })
        });
        busy.collect()
    }
}

impl Registry {
    /// See [`Consumers::hands_out`].
    pub(super) fn hands_out(&self, name: &str) -> bool {
        let own = Name::new(name).ok().and_then(|name| self.busy.get(&name));
        own.is_some_and(|own| {
            let state = own.lock();
            own.is_shared && state.ledger.is_some() && !state.is_elsewhere && !state.is_over
        })
    }

    /// Whether somebody may have the consumer of this name, whether or not there is one.
    ///
    /// # Errors
    /// [`BusError::Denied`] where it is another's, and [`BusError::LimitReached`] where it is new and he has enough.
    pub(super) fn check(&self, stream: &Name, name: &Name, claim: &Claim) -> BusResult<()> {
        let owner = self.owners.get(name);
        claim.check(stream, name, owner.map_or(&[], |owner| owner))?;
        let Some(Claimant { owner: own, most: Some(most), .. }) =
            claim.0.as_ref().filter(|_| owner.is_none())
        else {
            return Ok(());
        };
        let has = self.owners.values().filter(|owner| *owner == own).count();
        if has < *most {
            return Ok(());
        }
        let what = format!(
            "one principal may have {most} consumers of a stream, and has {has} of \"{stream}\"; have one removed that is \
             of no use any more, or `max_consumers_per_principal` raised"
        );
        Err(BusError::LimitReached { what })
    }

    /// Notes a consumer that is about to be made, or taken by who comes first.
    ///
    /// # Errors
    /// [`BusError::LimitReached`] for one more than can have members.
    pub(super) fn reserve(&mut self, name: &Name, claim: &Claim) -> BusResult<Option<Reserved>> {
        if self.busy.len() >= limits::STREAM_CONSUMERS {
            let what = format!("a stream has at most {} consumers", limits::STREAM_CONSUMERS);
            return Err(BusError::LimitReached { what });
        }
        let reserved = match self.owners.get(name) {
            None => Some(Reserved::Made),
            Some(owner) => owner.is_empty().then_some(Reserved::Taken),
        };
        if reserved.is_some() {
            self.owners.insert(name.clone(), claim.owner());
        }
        Ok(reserved)
    }

    /// Takes back what was noted of a consumer that could not be opened.
    pub(super) fn forget(&mut self, name: &Name, reserved: Reserved) {
        match reserved {
            Reserved::Made => self.owners.remove(name),
            Reserved::Taken => self.owners.insert(name.clone(), Bytes::new()),
        };
    }
}

impl Consumer {
    /// Notes whose it is by the store, which has the last word.
    ///
    /// # Errors
    /// [`BusError::Denied`] where it is another's than was known here.
    pub(super) fn settle_owner(&self, name: &Name, owner: &Bytes) -> BusResult<()> {
        let mut registry = self.stream.consumers.lock();
        registry.owners.insert(name.clone(), owner.clone());
        self.lock().reserved = None;
        drop(registry);
        self.claim.check(&self.stream.name, name, owner)
    }
}

/// A durable consumer that a subscription takes part in.
#[derive(Debug)]
pub(crate) struct Held {
    stream: Arc<Stream>,
    name: Name,
    /// Who took part, when he came.
    owner: Bytes,
}

impl Held {
    pub(super) fn of(membership: &Membership) -> Option<Self> {
        let Consumer { name, stream, .. } = &*membership.consumer;
        let name = name.clone()?;
        Some(Self { stream: Arc::clone(stream), name, owner: membership.owner.clone() })
    }

    /// Whether somebody may go on with it who has come by now as `claim` says. It locks the stream's registry.
    ///
    /// # Errors
    /// [`BusError::Denied`].
    pub(crate) fn check(&self, claim: &Claim) -> BusResult<()> {
        let owner = self.stream.consumers.lock().owners.get(&self.name).cloned().unwrap_or_default();
        // What was his when he came is so as long as his session lasts, from wherever that goes on.
        let owner = if owner == self.owner { Bytes::new() } else { owner };
        claim.check(&self.stream.name, &self.name, &owner)
    }
}
