//! What must hold of all that was noted, whoever was killed.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::journal::{Content, Got, Journal, Noted};

/// All that was acknowledged is in the store, nothing is there twice or was never sent, and each publisher's are in order.
pub(super) fn publishes(journal: &Journal, publisher: u64, stored: &[Content]) {
    let own = stored.iter().filter(|content| content.publisher == publisher);
    let kept: Vec<u64> = own.map(|content| content.number).collect();
    assert!(kept.is_sorted_by(|one, next| one < next), "publisher {publisher}: {:?}", disorder(&kept));
    let kept: BTreeSet<u64> = kept.into_iter().collect();
    let mut sent = BTreeSet::new();
    for (_, noted) in journal.of(&[&format!("publisher-{publisher}")]) {
        match noted {
            Noted::Sent(number) => assert!(sent.insert(number), "{number} is sent once"),
            Noted::Stored(number) => {
                assert!(
                    kept.contains(&number),
                    "publisher {publisher}: {number} was acknowledged and is lost"
                );
            }
            _ => {}
        }
    }
    assert!(kept.is_subset(&sent), "publisher {publisher}: nothing is there that was not sent");
}

fn disorder(numbers: &[u64]) -> Option<&[u64]> {
    numbers.windows(2).find(|pair| pair[0] >= pair[1])
}

/// Who takes part in a consumer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Consumer<'a> {
    pub(super) names: &'a [&'a str],
    /// The bus keeps its position.
    pub(super) is_kept: bool,
}

#[derive(Debug, Default)]
struct Handings {
    /// Who was handed it last.
    last: Option<usize>,
    /// Whoever had it last has refused it, or does not know whether it is done.
    is_open: bool,
    is_acked: bool,
    unmarked: u32,
}

impl Consumer<'_> {
    /// Everything comes, as it was stored and at first in order; nothing comes again that is done, to nobody twice, and what does
    /// come again is marked.
    pub(super) fn check(self, journal: &Journal, stored: &[Content]) {
        let is_shared = self.names.len() > 1;
        let mut messages: BTreeMap<u64, Handings> = BTreeMap::new();
        let mut newest = HashMap::new();
        for (process, noted) in journal.of(self.names) {
            let who = || format!("{} of {:?}", process, self.names);
            match noted {
                Noted::Got(Got { sequence, is_marked, content }) => {
                    assert_eq!(stored.get(sequence as usize - 1), Some(&content), "{}: {sequence}", who());
                    let message = messages.entry(sequence).or_default();
                    let is_first = message.last.is_none();
                    assert!(!message.is_acked, "{}: {sequence} is done and comes again", who());
                    assert!(
                        message.last != Some(process) || message.is_open,
                        "{}: {sequence} comes twice",
                        who()
                    );
                    assert!(
                        is_first || is_marked || is_shared || !self.is_kept,
                        "{}: {sequence} comes again and is not marked",
                        who()
                    );
                    message.unmarked += u32::from(!is_marked);
                    assert!(message.unmarked <= 1 || !self.is_kept, "{}: {sequence} is not marked", who());
                    (message.last, message.is_open) = (Some(process), false);
                    // Members of a group may be handed what another had, at any time.
                    if if is_shared { !is_marked } else { is_first } {
                        let newest = newest.entry(if is_shared { process } else { 0 }).or_default();
                        assert!(sequence > *newest, "{}: {sequence} comes behind {newest}", who());
                        *newest = sequence;
                    }
                }
                Noted::Refused(sequence) | Noted::Unsure(sequence) => {
                    messages.entry(sequence).or_default().is_open = true;
                    assert!(
                        is_shared || matches!(noted, Noted::Refused(_)),
                        "{}: whether {sequence} is done is unknown",
                        who()
                    );
                }
                Noted::Acked(sequence) => messages.entry(sequence).or_default().is_acked = true,
                other => panic!("{}: {other:?}", who()),
            }
        }
        assert!(messages.keys().copied().eq(1..=stored.len() as u64), "{:?}: all come", self.names);
    }

    /// Whether each message has come, and those who live have dealt with what they have. What somebody had who was killed
    /// may come again yet.
    pub(super) fn is_through(self, journal: &Journal, living: &[&str], count: u64) -> bool {
        let living: Vec<usize> = living.iter().filter_map(|name| journal.process(name)).collect();
        let (mut come, mut open) = (BTreeSet::new(), BTreeSet::new());
        for (process, noted) in journal.of(self.names) {
            match noted {
                Noted::Got(Got { sequence, .. }) => {
                    come.insert(sequence);
                    open.remove(&sequence);
                    if living.contains(&process) {
                        open.insert(sequence);
                    }
                }
                Noted::Acked(sequence) | Noted::Unsure(sequence) => drop(open.remove(&sequence)),
                _ => {}
            }
        }
        come.len() as u64 == count && open.is_empty()
    }
}

/// Whoever only reads gets each message once, and in order.
pub(super) fn follower(journal: &Journal, name: &str, stored: &[Content]) {
    let mut expected = (1..).zip(stored);
    for (_, noted) in journal.of(&[name]) {
        let Noted::Got(Got { sequence, content, .. }) = noted else { panic!("{noted:?}") };
        assert_eq!(Some((sequence, &content)), expected.next());
    }
    assert_eq!(expected.next(), None, "all come");
}
