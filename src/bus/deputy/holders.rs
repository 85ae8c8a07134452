//! Who has how much of a room that is for all principals.

use std::collections::HashMap;

use super::Mandate;

/// Messages and their bytes, by whom they count for. It has as many entries as there are messages, at the most.
#[derive(Debug, Default)]
pub(super) struct Holders(HashMap<String, (usize, usize)>);

impl Holders {
    /// Whether somebody may have one more, behind which so many messages and bytes are free for others.
    ///
    /// # Errors
    /// What he has, in words, where that is not less than what is free.
    pub(super) fn check(&self, mandate: &Mandate, free: usize, free_bytes: usize) -> Result<(), String> {
        let Some(holder) = mandate.author.holder() else { return Ok(()) };
        let (messages, bytes) = self.0.get(&holder).copied().unwrap_or_default();
        if messages >= free || bytes.saturating_add(mandate.content.size()) > free_bytes {
            return Err(format!("{holder} has {messages} messages and {bytes} bytes"));
        }
        Ok(())
    }

    pub(super) fn add(&mut self, mandate: &Mandate) {
        if let Some(holder) = mandate.author.holder() {
            let (messages, bytes) = self.0.entry(holder).or_default();
            (*messages, *bytes) = (*messages + 1, *bytes + mandate.content.size());
        }
    }

    pub(super) fn remove(&mut self, mandate: &Mandate) {
        let Some(holder) = mandate.author.holder() else { return };
        if let Some((messages, bytes)) = self.0.get_mut(&holder) {
            (*messages, *bytes) = (messages.saturating_sub(1), bytes.saturating_sub(mandate.content.size()));
            if *messages == 0 {
                self.0.remove(&holder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use tokio::time::Instant;

    use crate::auth::{Author, Principal};
    use crate::bus::budget::Budget;
    use crate::bus::deputy::{Deputy, Mandate};
    use crate::error::BusError;
    use crate::proto::{Content, Encoding};

    const KIB: usize = 1024;

    fn will(author: &str, bytes: usize) -> Mandate {
        let principal = match author {
            "" => Principal::Local,
            name => Principal::User { name: name.into() },
        };
        let content = Content::new("".into(), "wills".into(), Bytes::from(vec![0; bytes - "wills".len()]));
        Mandate { author: Author::unasked(&principal), content: Arc::new(content) }
    }

    /// So many wills as are taken from somebody.
    fn fill(deputy: &Deputy, budget: &Budget, author: &str) -> usize {
        let mut taken = 0;
        loop {
            match deputy.publish(None, will(author, KIB), budget) {
                Ok(()) => taken += 1,
                Err(BusError::LimitReached { .. }) => return taken,
                Err(other) => panic!("{other}"),
            }
        }
    }

    #[test]
    fn what_was_counted_is_given_back_also_where_a_message_was_encoded_meanwhile() {
        let (deputy, budget) = (Deputy::default(), Budget::new(8 * 64 * KIB));
        let (one, other) = (will("alice", KIB), will("alice", KIB));
        let contents = [Arc::clone(&one.content), Arc::clone(&other.content)];
        deputy.publish(None, one, &budget).unwrap();
        deputy.keep(Instant::now(), other, &budget).unwrap();
        assert_eq!(deputy.held(), (2, 2 * KIB));
        for content in contents {
            content.encoded(Encoding::Json, || vec![0; 4 * KIB].into());
        }
        assert_eq!(deputy.held(), (2, 2 * KIB));
        // The first is let go: what is counted is the other one.
        assert!(deputy.next(None, Instant::now(), &budget).is_some());
        assert_eq!(deputy.held(), (1, KIB));
        assert!(deputy.next(None, Instant::now(), &budget).is_some());
        assert_eq!((deputy.held(), budget.used()), ((0, 0), 0));
    }

    #[test]
    fn one_principal_leaves_room_for_the_wills_of_others_until_they_are_published() {
        let (deputy, budget) = (Deputy::default(), Budget::new(8 * 64 * KIB));
        assert_eq!(fill(&deputy, &budget, "hog"), 32);
        assert_eq!(fill(&deputy, &budget, "alice"), 16);
        assert!(deputy.publish(None, will("bob", KIB), &budget).is_ok());
        // The bus's own process may have all that there is.
        assert_eq!(fill(&deputy, &budget, ""), 15);
        assert!(deputy.publish(None, will("bob", KIB), &budget).is_err());
        while deputy.next(None, Instant::now(), &budget).is_some() {}
        assert_eq!(fill(&deputy, &budget, "hog"), 32, "what has been published counts no more");
    }
}
