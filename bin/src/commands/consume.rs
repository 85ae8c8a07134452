//! What `whispeer sub` does where it acknowledges: each message, once it has been written out.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use bytes::Bytes;
use whispeer::client::{Acknowledged, Consumer, Delivery, Receipt};

use crate::connection::Connection;
use crate::interrupts::Interrupts;
use crate::output::{self, Output};

/// Messages that are written together at the most. None of them is acknowledged before all are written.
const TOGETHER: usize = 256;

/// What is printed, and acknowledged then.
pub(super) struct Consuming<'a> {
    connection: &'a Connection,
    consumer: Consumer<Bytes>,
    /// Of messages in the output's buffer.
    unwritten: Vec<Receipt>,
    /// The acknowledgement that was sent last. Those before it are kept when it is.
    last: Option<Acknowledged>,
    /// Messages that were skipped and have been told.
    told: u64,
}

impl<'a> Consuming<'a> {
    pub(super) fn new(connection: &'a Connection, consumer: Consumer<Bytes>) -> Self {
        Self { connection, consumer, unwritten: Vec::new(), last: None, told: 0 }
    }

    /// Prints messages by `push` until there are so many, or it is interrupted; then all that was printed is acknowledged, and
    /// kept.
    pub(super) async fn print(
        &mut self,
        output: &mut Output,
        interrupts: &Interrupts,
        mut left: Option<u64>,
        push: impl Fn(&Delivery<Bytes>, &mut Vec<u8>),
    ) -> anyhow::Result<()> {
        let mut interrupted = pin!(interrupts.first());
        let mut is_drained = false;
        while left != Some(0) {
            let next = match poll_fn(|context| Poll::Ready(pin!(self.consumer.recv()).poll(context))).await {
                Poll::Ready(next) => next,
                Poll::Pending => {
                    // Whoever reads the output should see what there is before a pause.
                    self.acknowledge(output).await?;
                    tokio::select! {
                        next = self.consumer.recv() => next,
                        error = output.failed() => return Err(error),
                        () = &mut interrupted, if !is_drained => {
                            is_drained = true;
                            self.connection.check(self.consumer.drain().await)?;
                            continue;
                        }
                    }
                }
            };
            self.tell_skipped();
            let Some(delivery) = next else {
                self.finish(output).await?;
                let reason = self.consumer.close_reason();
                return if is_drained { Ok(()) } else { Err(self.connection.ended(reason)) };
            };
            push(&delivery, output.buffer());
            self.unwritten.push(delivery.receipt);
            left = left.map(|left| left.saturating_sub(1));
            if self.unwritten.len() >= TOGETHER {
                self.acknowledge(output).await?;
            }
        }
        self.finish(output).await
    }

    /// Acknowledges what is in the buffer once it is written.
    async fn acknowledge(&mut self, output: &mut Output) -> anyhow::Result<()> {
        if self.unwritten.is_empty() {
            return Ok(());
        }
        output.write().await?;
        for receipt in self.unwritten.drain(..) {
            self.last = Some(receipt.ack());
        }
        Ok(())
    }

    /// The same, and waits until it is kept.
    async fn finish(&mut self, output: &mut Output) -> anyhow::Result<()> {
        self.acknowledge(output).await?;
        match self.last.take() {
            Some(last) => self.connection.check(last.await),
            None => Ok(()),
        }
    }

    fn tell_skipped(&mut self) {
        let skipped = self.consumer.gaps() - self.told;
        if skipped > 0 {
            self.told += skipped;
            let pattern = self.consumer.pattern();
            output::notice(format_args!(
                "gap: {skipped} messages for {pattern} were dropped, have expired or cannot be read"
            ));
        }
    }
}
