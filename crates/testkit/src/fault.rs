//! Links that break their promise: proof that the suite would notice.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;

use tokio::task::JoinSet;
use whispeer::proto::{Content, ContentRef, Flags, Header, Kind, Lane};
use whispeer::transport::{Batch, Form, Incoming, Link, LinkReceiver, LinkSender, Sent, memory_pair};

/// What goes wrong between a client and its bus. Counting begins at 1 and runs per link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Nothing: the link only relays.
    None,
    /// The delivery of this number is lost; the hole in the sequence is left to be seen.
    LoseDelivery(u64),
    /// The delivery of this number is lost and later ones are renumbered: a count is skipped.
    HideLoss(u64),
    /// Gaps are kept from the client, as if the bus had dropped messages without a word.
    SwallowGaps,
    /// The credit that the client gives back for its subscriptions is lost.
    LoseSubscriptionCredit,
    /// The credit that the bus gives back for publishes is lost.
    LosePublishCredit,
    /// The delivery of this number comes after the one that follows it.
    Reorder(u64),
    /// The bus never hears that a subscription has ended.
    SwallowUnsubscribe,
    /// The bus never hears that a request is no longer wanted.
    SwallowCancel,
}

/// Puts a relay with this fault before the link to the bus; the client gets what is returned. The
/// relay's two tasks belong to `tasks`.
#[must_use]
pub fn faulty_link(bus: Link, fault: Fault, tasks: &mut JoinSet<io::Result<()>>) -> Link {
    let (near, client) = memory_pair();
    let mut down = Downwards { fault, deliveries: 0, hidden: HashMap::new(), held: None };
    let (to_client, to_bus) = (near.sender, bus.sender);
    let form = to_bus.form();
    tasks.spawn(async move {
        relay(form, bus.receiver, &*to_client, |header, content, batch| down.pass(header, content, batch))
            .await
    });
    tasks.spawn(async move {
        relay(Form::Values, near.receiver, &*to_bus, |header, content, batch| {
            if !lost_upwards(fault, header) {
                batch.push(header, content);
            }
        })
        .await
    });
    client
}

/// Passes on what comes, frame by frame, until either end is gone.
async fn relay(
    form: Form,
    mut from: Box<dyn LinkReceiver>,
    to: &dyn LinkSender,
    mut pass: impl FnMut(&Header, &ContentRef<'_>, &mut Batch),
) -> io::Result<()> {
    let mut incoming = Incoming::new(form, usize::MAX);
    let mut batch = Batch::new(to.form());
    loop {
        let received = poll_fn(|context| from.poll_receive(context, &mut incoming)).await;
        if !matches!(received, Ok(1..)) {
            to.close();
            return received.map(|_| ());
        }
        while let Some((header, content)) = incoming.next_frame().map_err(io::Error::other)? {
            pass(&header, &content, &mut batch);
        }
        incoming.settle();
        while !batch.is_empty() {
            if to.try_send(&mut batch)? == Sent::Blocked {
                poll_fn(|context| to.poll_ready(context)).await?;
            }
        }
    }
}

fn lost_upwards(fault: Fault, header: &Header) -> bool {
    match fault {
        Fault::LoseSubscriptionCredit => {
            header.kind == Kind::Credit && header.flags == Flags(Lane::Subscription as u8)
        }
        Fault::SwallowUnsubscribe => header.kind == Kind::Unsubscribe,
        Fault::SwallowCancel => header.kind == Kind::Cancel,
        _ => false,
    }
}

/// The direction from the bus to the client.
struct Downwards {
    fault: Fault,
    deliveries: u64,
    /// How many matches were hidden, by subscription.
    hidden: HashMap<u32, u64>,
    held: Option<(Header, std::sync::Arc<Content>)>,
}

impl Downwards {
    fn pass(&mut self, header: &Header, content: &ContentRef<'_>, batch: &mut Batch) {
        let mut header = *header;
        let counted = matches!(header.kind, Kind::Deliver | Kind::Gap);
        if header.kind == Kind::Deliver {
            self.deliveries += 1;
            let number = self.deliveries;
            match self.fault {
                Fault::LoseDelivery(lost) if lost == number => return,
                Fault::HideLoss(lost) if lost == number => {
                    *self.hidden.entry(header.id).or_default() += 1;
                    return;
                }
                Fault::Reorder(late) if late == number => {
                    self.held = Some((header, content.shared()));
                    return;
                }
                _ => {}
            }
        }
        if counted || header.kind == Kind::Ended {
            header.sequence -= self.hidden.get(&header.id).copied().unwrap_or_default();
        }
        let lost = match self.fault {
            Fault::SwallowGaps => header.kind == Kind::Gap,
            Fault::LosePublishCredit => {
                header.kind == Kind::Credit && header.flags == Flags(Lane::Publish as u8)
            }
            _ => false,
        };
        if lost {
            return;
        }
        batch.push(&header, content);
        if counted && let Some((header, content)) = self.held.take() {
            batch.push(&header, &content.borrowed());
        }
    }
}
