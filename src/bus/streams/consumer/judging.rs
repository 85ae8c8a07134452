//! What plugins say of messages that a consumer is about to hand over.

use std::collections::HashMap;

use super::Consumer;
use super::handing::{Ready, is_of_use};
use super::ledger::{Ledger, MemberId};
use super::task::ledger;
use crate::bus::streams::held;
use crate::error::BusError;
use crate::plugin::{Delivery, Hooks, Receiver, Verdict};
use crate::proto::ContentRef;
use crate::store::Message;

/// What plugins have said of messages that a member is about to be handed. They are asked once for each time that one is.
#[derive(Debug, Default)]
pub(super) struct Judged {
    member: MemberId,
    /// Nobody wants to be asked.
    all_pass: bool,
    verdicts: HashMap<u64, Verdict>,
}

impl Judged {
    /// Asks about the first of these messages that are to be handed over, as many as the member has credit and room for. They
    /// are asked without any lock held.
    pub(super) fn ask<'m>(
        &mut self,
        consumer: &Consumer,
        member: &Ready,
        most: usize,
        messages: impl Iterator<Item = &'m Message>,
        is_due: impl Fn(&Ledger, u64) -> bool,
    ) -> Result<(), BusError> {
        let Some(plugins) = consumer.plugins.as_ref().filter(|plugins| plugins.want(Hooks::DELIVER)) else {
            self.all_pass = true;
            return Ok(());
        };
        if self.member != member.id {
            *self = Self { member: member.id, ..Self::default() };
        }
        let due: Vec<&Message> = {
            let mut state = consumer.lock();
            let ledger = ledger(&mut state)?;
            let credit = usize::try_from(member.credit.messages).unwrap_or(usize::MAX);
            let most = most.min(credit).min(ledger.room());
            messages.filter(|message| is_due(ledger, message.sequence)).take(most).collect()
        };
        let mut left = usize::try_from(member.credit.bytes).unwrap_or(usize::MAX).min(member.room);
        for message in due {
            if left == 0 {
                break;
            }
            let verdict = *self.verdicts.entry(message.sequence).or_insert_with(|| {
                // What is of no use any more is not handed over whatever they say.
                if !is_of_use(message) {
                    return Verdict::Passes;
                }
                let topic = message.topic.as_str().as_bytes();
                let content = ContentRef::lent(&message.fields, topic, &message.payload);
                let (session, pattern) = (&member.session, &consumer.pattern);
                let receiver = Receiver::subscription(session.id, &session.peer.principal, pattern);
                plugins.judge(&Delivery::new(receiver, &content))
            });
            if verdict == Verdict::Passes {
                left = left.saturating_sub(held::size(message));
            }
        }
        Ok(())
    }

    /// Whether it is known what becomes of a message.
    pub(super) fn knows(&self, sequence: u64) -> bool {
        self.all_pass || self.verdicts.contains_key(&sequence)
    }

    /// What becomes of a message that is handed over now.
    pub(super) fn take(&mut self, sequence: u64) -> Verdict {
        self.verdicts.remove(&sequence).unwrap_or(Verdict::Passes)
    }
}
