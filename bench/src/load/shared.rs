//! A receiver that several tasks or threads share: what callbacks deliver to, and what many
//! subscriptions of one connection deliver to.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use tokio::sync::oneshot;

use super::receiver::{Receiver, Step};

/// A receiver that is shared until it has had the last message.
#[derive(Debug)]
pub struct Shared {
    state: Mutex<Option<State>>,
}

#[derive(Debug)]
struct State {
    receiver: Receiver,
    received: oneshot::Sender<Result<Receiver>>,
}

impl Shared {
    /// Shares `receiver`. What is returned beside it ends with the receiver after its last
    /// message, or with why it did not get there.
    pub fn new(receiver: Receiver) -> (Arc<Self>, oneshot::Receiver<Result<Receiver>>) {
        let (received, is_received) = oneshot::channel();
        let state = Mutex::new(Some(State { receiver, received }));
        (Arc::new(Self { state }), is_received)
    }

    /// Takes the next message. What comes after the last is left alone.
    pub fn take(&self, payload: &[u8]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(taking) = state.as_mut() else {
            return;
        };
        let result = match taking.receiver.accept(payload) {
            Ok(Step::Message) => return,
            Ok(Step::End) => Ok(()),
            Err(error) => Err(error),
        };
        if let Some(State { receiver, received }) = state.take() {
            // Who waits for this has not ended, or else nobody wants to know.
            let _ = received.send(result.map(|()| receiver));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::load::message::{SMALLEST_BYTES, write_end, write_message};
    use crate::load::receiver::{Expecting, WarmUp};

    fn shared() -> (Arc<Shared>, oneshot::Receiver<Result<Receiver>>) {
        let warm_up = WarmUp::new(Duration::ZERO);
        Shared::new(Receiver::new(Expecting::Ordered, 0, 1, warm_up).unwrap())
    }

    #[tokio::test]
    async fn the_last_message_gives_the_receiver_back() {
        let (shared, received) = shared();
        let mut payload = [0; SMALLEST_BYTES];
        write_message(&mut payload, 0, 0);
        shared.take(&payload);
        write_end(&mut payload, 0, 1);
        shared.take(&payload);
        assert!(received.await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn a_message_that_must_not_come_is_told_to_who_waits() {
        let (shared, received) = shared();
        shared.take(&[0; 3]);
        assert!(received.await.unwrap().is_err());
    }
}
