//! What buses follow of streams, while they have the store open.

use std::collections::HashMap;

use tokio::sync::watch;
use whispeer::store::Name;
use whispeer::store::index::Index;

use super::replica::Place;

/// The streams that somebody follows. There are no more than the bus has.
#[derive(Debug, Default)]
pub(super) struct Watched(HashMap<Name, One>);

#[derive(Debug)]
struct One {
    /// The first sequence that is still to be assigned.
    end: watch::Sender<u64>,
    /// When the first message is due that is kept until then.
    due: watch::Sender<u64>,
}

impl Watched {
    /// The first sequence of a stream that is still to be assigned, as it rises.
    pub(super) fn end(&mut self, index: &Index<Place>, stream: &Name) -> watch::Receiver<u64> {
        self.one(index, stream).end.subscribe()
    }

    /// When its first delayed message is due, as that changes.
    pub(super) fn due(&mut self, index: &Index<Place>, stream: &Name) -> watch::Receiver<u64> {
        self.one(index, stream).due.subscribe()
    }

    fn one(&mut self, index: &Index<Place>, stream: &Name) -> &One {
        self.0.entry(stream.clone()).or_insert_with(|| {
            let end = index.stream(stream).map_or(1, |state| state.end);
            One { end: watch::Sender::new(end), due: watch::Sender::new(first_due(index, stream)) }
        })
    }

    /// Tells what has changed of a stream.
    pub(super) fn follow(&self, index: &Index<Place>, stream: &Name) {
        if let Some(one) = self.0.get(stream) {
            one.follow(index, stream);
        }
    }

    /// Tells what has changed of all.
    pub(super) fn follow_all(&self, index: &Index<Place>) {
        for (stream, one) in &self.0 {
            one.follow(index, stream);
        }
    }
}

impl One {
    fn follow(&self, index: &Index<Place>, stream: &Name) {
        let Ok(state) = index.stream(stream) else { return };
        self.end.send_if_modified(|end| {
            let grows = state.end > *end;
            *end = state.end;
            grows
        });
        let due = first_due(index, stream);
        self.due.send_if_modified(|told| std::mem::replace(told, due) != due);
    }
}

fn first_due(index: &Index<Place>, stream: &Name) -> u64 {
    index.first_due(stream).ok().flatten().unwrap_or(u64::MAX)
}
