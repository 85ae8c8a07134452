//! What follows from a journal, by entries that are made up.

use whispeer::store::{Change, Name, Outcome, StoreError, StreamSettings};
use whispeer::topic::TopicPattern;

use super::*;
use crate::jetstream::address::Addresses;
use crate::jetstream::record::{self, Encoded};
use crate::subject::Subjects;
use whispeer::store::index::SettingsImage;

const LEASE: u64 = limits::JETSTREAM_LEASE.as_millis() as u64;

/// A replica, and the journal that it reads.
struct Journal {
    replica: Replica,
    addresses: Addresses,
    numbers: BTreeMap<u64, u64>,
}

impl Journal {
    fn new() -> Self {
        let addresses = Addresses::new(Subjects::new("whispeer").unwrap());
        let mut journal = Self { replica: Replica::default(), addresses, numbers: BTreeMap::new() };
        let settings = StreamSettings::new(stream(), vec![TopicPattern::new("**").unwrap()]);
        let action = Action::Open { settings: Box::new(SettingsImage::of(&settings)), epoch: [1; 16] };
        journal.act(1, 0, &action).unwrap();
        journal
    }

    fn act(&mut self, writer: u64, stored: u64, action: &Action) -> Result<Answer, StoreError> {
        let encoded = Encoded::action(self.addresses.of_action(&stream()), action).unwrap();
        self.call(writer, stored, encoded)
    }

    /// This writer makes these changes at this time.
    fn commit(&mut self, writer: u64, stored: u64, change: Change) -> Result<Answer, StoreError> {
        let encoded = Encoded::commit(&self.addresses, &stream(), vec![change], 1 << 20).unwrap();
        self.call(writer, stored, encoded)
    }

    fn call(&mut self, writer: u64, stored: u64, encoded: Encoded) -> Result<Answer, StoreError> {
        let next = self.numbers.entry(writer).or_default();
        let number = *next;
        *next += 1;
        let parts = u32::try_from(encoded.wires.len()).unwrap();
        let mut done = None;
        for (part, wire) in (0..).zip(encoded.wires) {
            let wire = wire.signed(Stamp { writer, number, part, parts });
            let read = record::decode(&self.addresses, &wire.subject, &wire.headers, stored);
            done = self.replica.apply(self.replica.applied + 1, stored, read).done;
        }
        done.expect("the last part ends the call").answer
    }
}

fn stream() -> Name {
    Name::new("s").unwrap()
}

fn make() -> Change {
    Change::Consumer { name: Name::new("worker").unwrap(), pattern: None, from: 1, owner: "".into() }
}

fn done(floor: u64) -> Change {
    Change::Done { consumer: Name::new("worker").unwrap(), floor, sequences: vec![] }
}

fn is_in_use(answer: &Result<Answer, StoreError>) -> bool {
    matches!(answer, Err(StoreError::InUse { .. }))
}

#[test]
fn a_consumer_is_free_when_its_writer_was_not_heard_of_for_the_lease() {
    let mut journal = Journal::new();
    journal.commit(1, 1_000, make()).unwrap();
    assert!(is_in_use(&journal.commit(2, 1_000 + LEASE - 1, make())));
    let made = journal.commit(2, 1_000 + LEASE, make()).unwrap();
    assert_eq!(made, Answer::Outcomes(vec![Outcome::Done { dropped: 0 }]));
    // Who had it and comes back changes nothing of it any more.
    assert!(is_in_use(&journal.commit(1, 1_001 + LEASE, done(7))));
    let worker = Name::new("worker").unwrap();
    assert_eq!(journal.replica.index.consumer(&stream(), &worker).unwrap().floor, 1);
}

#[test]
fn whoever_is_heard_of_keeps_his_consumers_and_gives_them_up_by_a_word() {
    let mut journal = Journal::new();
    journal.commit(1, 1_000, make()).unwrap();
    for turn in 1..5 {
        journal.act(1, 1_000 + turn * LEASE / 2, &Action::Idle).unwrap();
        assert!(is_in_use(&journal.commit(2, 1_001 + turn * LEASE / 2, make())));
    }
    let worker = Name::new("worker").unwrap();
    let now = 1_002 + 2 * LEASE;
    assert!(
        is_in_use(&journal.commit(2, now, Change::FreeConsumer(worker.clone()))),
        "it is not his to give"
    );
    journal.commit(1, now, done(3)).unwrap();
    journal.commit(1, now, Change::FreeConsumer(worker.clone())).unwrap();
    journal.commit(2, now, make()).unwrap();
    assert!(is_in_use(&journal.commit(1, now, done(9))));
    assert_eq!(journal.replica.index.consumer(&stream(), &worker).unwrap().floor, 3);
    journal.act(2, now, &Action::Leave).unwrap();
    journal.commit(1, now, make()).unwrap();
}

#[test]
fn what_is_known_to_be_anothers_is_told_without_the_journal() {
    let mut journal = Journal::new();
    journal.commit(1, 1_000, make()).unwrap();
    let asked = [make()];
    let held = |writer, now| journal.replica.held_by_another(writer, now, &stream(), asked.iter()).is_some();
    assert!(held(2, 1_000) && held(2, 999 + LEASE) && !held(2, 1_000 + LEASE));
    assert!(!held(1, 1_000), "it is his own");
}
