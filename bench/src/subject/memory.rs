//! Tokio's channels: the limit for a bus within one process.

use anyhow::{Context, Result, ensure};
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::load::Phases;
use crate::load::client::Publisher;
use crate::load::measured::Measured;
use crate::load::message::{self, SMALLEST_BYTES};
use crate::load::receiver::{Receiver, Step};
use crate::load::requests::one_at_a_time;

/// Messages that a channel holds before its sender has to wait.
const CAPACITY_MESSAGES: usize = 1024;

type Message = [u8; SMALLEST_BYTES];

/// The sending end of a bounded channel.
#[derive(Debug)]
pub struct MpscPublisher(mpsc::Sender<Message>);

impl Publisher for MpscPublisher {
    async fn send(&mut self, write: impl FnOnce(&mut [u8])) -> Result<()> {
        let mut message = Message::default();
        write(&mut message);
        Ok(self.0.send(message).await?)
    }
}

/// Both ends of a bounded channel.
pub fn mpsc(
    mut receiver: Receiver,
) -> (
    MpscPublisher,
    impl Future<Output = Result<Receiver>> + Send + 'static,
) {
    let (sender, mut messages) = mpsc::channel::<Message>(CAPACITY_MESSAGES);
    let receiving = async move {
        while let Some(message) = messages.recv().await {
            if receiver.accept(&message)? == Step::End {
                break;
            }
        }
        Ok(receiver)
    };
    (MpscPublisher(sender), receiving)
}

/// The sending end of a broadcast channel. It would overwrite what nobody has taken yet, so it
/// lets others run while the channel is full.
#[derive(Debug)]
pub struct BroadcastPublisher(broadcast::Sender<Message>);

impl Publisher for BroadcastPublisher {
    async fn send(&mut self, write: impl FnOnce(&mut [u8])) -> Result<()> {
        while self.0.len() >= CAPACITY_MESSAGES {
            tokio::task::yield_now().await;
        }
        let mut message = Message::default();
        write(&mut message);
        self.0.send(message)?;
        Ok(())
    }
}

/// Both ends of a broadcast channel.
pub fn broadcast(
    mut receiver: Receiver,
) -> (
    BroadcastPublisher,
    impl Future<Output = Result<Receiver>> + Send + 'static,
) {
    let (sender, mut messages) = broadcast::channel::<Message>(CAPACITY_MESSAGES);
    let receiving = async move {
        loop {
            if receiver.accept(&messages.recv().await?)? == Step::End {
                return Ok(receiver);
            }
        }
    };
    (BroadcastPublisher(sender), receiving)
}

/// One task asks another through a bounded channel and is answered through a `oneshot`.
///
/// # Errors
/// When an answer is not the request's.
pub async fn request(phases: Phases) -> Result<Measured> {
    let (sender, mut receiver) =
        mpsc::channel::<(Message, oneshot::Sender<Message>)>(CAPACITY_MESSAGES);
    let serving = tokio::spawn(async move {
        while let Some((request, answer)) = receiver.recv().await {
            // A requester that has gone ends the channel, and with it this loop.
            let _ = answer.send(request);
        }
    });
    let mut message = Message::default();
    let measured = one_at_a_time(phases, async |sequence| {
        message::write_message(&mut message, 0, sequence);
        let (answer, answered) = oneshot::channel();
        sender
            .send((message, answer))
            .await
            .ok()
            .context("the server has gone")?;
        ensure!(
            answered.await? == message,
            "request {sequence} got the answer to another"
        );
        Ok(())
    })
    .await?;
    drop(sender);
    serving.await?;
    Ok(measured)
}
