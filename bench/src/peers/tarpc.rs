//! tarpc over a Unix socket, client to server, with the bincode format.

use std::future::{self, ready};

use anyhow::{Result, bail};
use bytes::Bytes;
use futures_util::StreamExt;
use tarpc::client::Config;
use tarpc::context::{self, Context};
use tarpc::serde_transport::unix;
use tarpc::server::{BaseChannel, Channel};
use tarpc::tokio_serde::formats::Bincode;
use tokio::task::JoinSet;

use crate::address::Address;
use crate::load::client::Requester;

/// Answers each request with its payload.
#[tarpc::service]
trait Echo {
    async fn echo(payload: Bytes) -> Bytes;
}

#[derive(Debug, Clone)]
struct Echoing;

impl Echo for Echoing {
    async fn echo(self, _: Context, payload: Bytes) -> Bytes {
        payload
    }
}

/// A client of tarpc, or its server.
pub struct Tarpc(End);

enum End {
    Client(EchoClient),
    /// Where it is to listen.
    Server(Address),
}

impl Requester for Tarpc {
    async fn connect(address: &Address) -> Result<Self> {
        let transport = unix::connect(address.path()?, Bincode::default).await?;
        let client = EchoClient::new(Config::default(), transport).spawn();
        Ok(Self(End::Client(client)))
    }

    async fn answerer(address: &Address) -> Result<Self> {
        Ok(Self(End::Server(address.clone())))
    }

    async fn answer(self, say_ready: impl FnOnce()) -> Result<()> {
        let End::Server(address) = self.0 else {
            bail!("a client does not answer")
        };
        let mut connections = unix::listen(address.path()?, Bincode::default).await?;
        say_ready();
        let mut serving = JoinSet::new();
        while let Some(connection) = connections.next().await {
            let responses = BaseChannel::with_defaults(connection?).execute(Echoing.serve());
            serving.spawn(responses.for_each(|response| {
                // Each response runs by itself, as in tarpc's own examples.
                tokio::spawn(response);
                ready(())
            }));
        }
        future::pending().await
    }

    async fn request<T>(&self, payload: Bytes, look: impl FnOnce(&[u8]) -> T) -> Result<T> {
        let End::Client(client) = &self.0 else {
            bail!("a server does not ask")
        };
        let answer = client.echo(context::current(), payload).await?;
        Ok(look(&answer))
    }
}
