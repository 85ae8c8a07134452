//! Tokio's channels: the limit for a bus within one process.

use anyhow::{Context, Result, ensure};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::load::deliveries::Deliveries;
use crate::load::message::{self, SMALLEST_BYTES, Sequence, Step};
use crate::load::round_trips::one_at_a_time;
use crate::load::{Measured, Phases};

/// Messages that the channel holds before its sender has to wait.
const CAPACITY_MESSAGES: usize = 1024;

/// Messages sent between two looks at the clock; at 3 million a second that is every 20 µs.
const MESSAGES_A_LOOK: u64 = 64;

type Message = [u8; SMALLEST_BYTES];

/// One task sends messages by value to another through a bounded channel.
///
/// # Errors
/// When a message is lost or out of order.
pub async fn one_to_one(phases: Phases) -> Result<Measured> {
    let (sender, mut receiver) = mpsc::channel::<Message>(CAPACITY_MESSAGES);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { send_all(sender, phases).await });
    let receiving = tokio::spawn(async move {
        let mut deliveries = Deliveries::new(phases.warm_up);
        let mut sequence = Sequence::default();
        while let Some(message) = receiver.recv().await {
            if sequence.accept(&message)? == Step::End {
                deliveries.end_stream();
            } else {
                deliveries.add(1);
            }
        }
        deliveries.measured()
    });
    let measured = receiving.await??;
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(measured)
}

async fn send_all(sender: mpsc::Sender<Message>, phases: Phases) -> Result<()> {
    let until = std::time::Instant::now() + phases.warm_up + phases.measure;
    let mut message = Message::default();
    let mut sequence = 0;
    while std::time::Instant::now() < until {
        for _ in 0..MESSAGES_A_LOOK {
            message::write_message(&mut message, sequence);
            sender.send(message).await?;
            sequence += 1;
        }
    }
    message::write_end(&mut message, sequence);
    Ok(sender.send(message).await?)
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
        message::write_message(&mut message, sequence);
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
