//! The session at the bus by which requests go and come: frames as they are, so that nothing of them is lost on the way.

use std::future::poll_fn;
use std::task::{Context, Poll};

use whispeer::auth::Principal;
use whispeer::bus::BusView;
use whispeer::limits::{SERVING_WINDOW, WINDOW_BYTES};
use whispeer::proto::fields::FieldsBuilder;
use whispeer::proto::{ContentRef, Header, Hello, Kind, Refusal, Welcome};
use whispeer::transport::{Batch, Form, Incoming, Link, LinkSender, Peer, Sent};
use whispeer::{BusError, BusResult};

/// What this session is called at the bus.
const NAME: &str = "requests over NATS";

/// The topic that makes a session the uplink of its bus, and the id of its serving.
const UPLINK: &str = "$bus/uplink";
const SERVING: u32 = 1;

/// A session of the bus's own that is its uplink.
pub(super) struct BusLink {
    link: Link,
    incoming: Incoming,
    pub(super) welcome: Welcome,
    /// The link has taken what it could.
    blocked: bool,
}

impl BusLink {
    /// Joins the bus and becomes its uplink.
    ///
    /// # Errors
    /// That the bus has stopped, or has an uplink.
    pub(super) async fn join(bus: &BusView) -> BusResult<Self> {
        let mut link = bus.connect(Peer::new(Principal::Bus, "nats"))?;
        let form = link.sender.form();
        let mut incoming = Incoming::new(form, usize::MAX);
        let mut batch = Batch::new(form);
        let hello = Hello { name: NAME.into(), ..Hello::default() };
        batch.push(&Header::new(Kind::Hello, 0, 0), &ContentRef::of_payload(&hello.encode()));
        send_all(&*link.sender, &mut batch).await?;
        let mut welcome = None;
        loop {
            while let Some((header, content)) = incoming.next_frame().map_err(BusError::from)? {
                match header.kind {
                    Kind::Welcome => {
                        welcome = Some(Welcome::decode(content.payload()).map_err(BusError::from)?);
                        let mut fields = FieldsBuilder::new();
                        fields.window(SERVING_WINDOW, WINDOW_BYTES)?;
                        let content = ContentRef::lent(fields.as_bytes(), UPLINK.as_bytes(), &[]);
                        batch.push(&Header::new(Kind::Serve, SERVING, 0), &content);
                    }
                    Kind::Accepted => {
                        let Some(welcome) = welcome else { break };
                        return Ok(Self { link, incoming, welcome, blocked: false });
                    }
                    Kind::Failed | Kind::Goodbye => {
                        return Err(Refusal::decode(content.payload()).map_err(BusError::from)?.into_error());
                    }
                    Kind::Ping => {
                        batch.push(&Header::new(Kind::Pong, 0, header.sequence), &ContentRef::empty());
                    }
                    _ => {}
                }
            }
            send_all(&*link.sender, &mut batch).await?;
            let receiver = &mut link.receiver;
            if poll_fn(|context| receiver.poll_receive(context, &mut incoming)).await.map_err(broken)? == 0 {
                return Err(closed());
            }
        }
    }

    pub(super) fn form(&self) -> Form {
        self.link.sender.form()
    }

    /// Bytes of the largest frame that the bus takes.
    pub(super) fn frame_limit(&self) -> usize {
        self.welcome.frame_limit as usize
    }

    /// Sends what is in the batch, as far as it goes; ready when all of it is sent.
    pub(super) fn poll_send(&mut self, context: &mut Context<'_>, batch: &mut Batch) -> Poll<BusResult<()>> {
        loop {
            if self.blocked {
                match self.link.sender.poll_ready(context) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(ready) => ready.map_err(broken)?,
                }
                self.blocked = false;
            }
            if batch.is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.blocked = self.link.sender.try_send(batch).map_err(broken)? == Sent::Blocked;
        }
    }

    /// Waits until something has come; `false` when the session has ended.
    pub(super) fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<BusResult<bool>> {
        let received = self.link.receiver.poll_receive(context, &mut self.incoming);
        received.map(|received| Ok(received.map_err(broken)? > 0))
    }

    /// The next frame that has come.
    pub(super) fn next_frame(&mut self) -> BusResult<Option<(Header, ContentRef<'_>)>> {
        Ok(self.incoming.next_frame()?)
    }
}

async fn send_all(sender: &dyn LinkSender, batch: &mut Batch) -> BusResult<()> {
    while !batch.is_empty() {
        if sender.try_send(batch).map_err(broken)? == Sent::Blocked {
            poll_fn(|context| sender.poll_ready(context)).await.map_err(broken)?;
        }
    }
    Ok(())
}

fn broken(error: std::io::Error) -> BusError {
    BusError::Disconnected { reason: error.to_string() }
}

fn closed() -> BusError {
    BusError::Closed { what: "the bus".into() }
}
