//! tonic over a Unix socket, client to server: gRPC with one method.
//!
//! Client and server are written by hand as its generator writes them, so that nobody needs the
//! compiler of Protocol Buffers.

use std::convert::Infallible;
use std::task::{Context, Poll};

use anyhow::{Result, bail};
use bytes::Bytes;
use futures_util::future::{BoxFuture, Ready, ready};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::codegen::{Service, http};
use tonic::server::{Grpc as Answering, NamedService, UnaryService};
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use crate::address::Address;
use crate::load::client::Requester;

const METHOD: &str = "/bench.Echo/Echo";

/// Bytes that may be under way on a connection: 64 requests of 64 KiB. HTTP/2's default is 64 KiB
/// for all of them.
const WINDOW_BYTES: u32 = 8 * 1024 * 1024;

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct Payload {
    #[prost(bytes = "bytes", tag = "1")]
    bytes: Bytes,
}

/// A client of tonic, or its server.
pub struct Tonic(End);

enum End {
    Client(Channel),
    /// Where it is to listen.
    Server(Address),
}

impl Requester for Tonic {
    async fn connect(address: &Address) -> Result<Self> {
        let uri = format!("unix://{}", address.path()?.display());
        let channel = Endpoint::from_shared(uri)?
            .initial_connection_window_size(WINDOW_BYTES)
            .initial_stream_window_size(WINDOW_BYTES)
            .connect()
            .await?;
        Ok(Self(End::Client(channel)))
    }

    async fn answerer(address: &Address) -> Result<Self> {
        Ok(Self(End::Server(address.clone())))
    }

    async fn answer(self, say_ready: impl FnOnce()) -> Result<()> {
        let End::Server(address) = self.0 else {
            bail!("a client does not answer")
        };
        let listener = UnixListener::bind(address.path()?)?;
        say_ready();
        Server::builder()
            .initial_connection_window_size(WINDOW_BYTES)
            .initial_stream_window_size(WINDOW_BYTES)
            .add_service(EchoServer)
            .serve_with_incoming(UnixListenerStream::new(listener))
            .await?;
        Ok(())
    }

    async fn request<T>(&self, payload: Bytes, look: impl FnOnce(&[u8]) -> T) -> Result<T> {
        let End::Client(channel) = &self.0 else {
            bail!("a server does not ask")
        };
        let mut client = Grpc::new(channel.clone());
        client.ready().await?;
        let codec = ProstCodec::<Payload, Payload>::default();
        let path = http::uri::PathAndQuery::from_static(METHOD);
        let request = Request::new(Payload { bytes: payload });
        let answer: Response<Payload> = client.unary(request, path, codec).await?;
        Ok(look(&answer.get_ref().bytes))
    }
}

#[derive(Debug, Clone)]
struct EchoServer;

impl NamedService for EchoServer {
    const NAME: &'static str = "bench.Echo";
}

impl Service<http::Request<Body>> for EchoServer {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let codec = ProstCodec::<Payload, Payload>::default();
            Ok(Answering::new(codec).unary(Echo, request).await)
        })
    }
}

struct Echo;

impl UnaryService<Payload> for Echo {
    type Response = Payload;
    type Future = Ready<Result<Response<Payload>, Status>>;

    fn call(&mut self, request: Request<Payload>) -> Self::Future {
        ready(Ok(Response::new(request.into_inner())))
    }
}
