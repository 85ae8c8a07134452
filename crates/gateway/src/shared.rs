//! What all requests share.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use whispeer::bus::BusView;
use whispeer::client::ClientBuilder;
use whispeer::engine::PayloadOpener;
use whispeer::transport::{Link, Peer};
use whispeer::{BusError, BusResult, Client};

use crate::api::Api;
use crate::gateway::{GatewayError, Phase};
use crate::limits;
use crate::metrics::Metrics;
use crate::origins::Origins;
use crate::popsub::PopSub;
use crate::rates::Rates;
use crate::received::Budget;
use crate::settings::Settings;
use crate::turbine::Turbine;

/// Between two times that a link is asked for.
const JOIN_PAUSE: Duration = Duration::from_millis(5);

/// Where a request comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Remote(pub(crate) SocketAddr);

pub(crate) struct Shared {
    pub(crate) bus: BusView,
    pub(crate) settings: Settings,
    pub(crate) origins: Origins,
    pub(crate) rates: Rates,
    /// For what is being received.
    pub(crate) budget: Arc<Budget>,
    pub(crate) metrics: Metrics,
    pub(crate) turbine: Option<Arc<Turbine>>,
    pub(crate) popsub: Option<PopSub>,
    pub(crate) api: Api,
    /// Opens sealed payloads, where the gateway was given engines.
    pub(crate) opener: Option<PayloadOpener>,
    phase: watch::Receiver<Phase>,
    /// Held by each socket while it is open.
    sockets: watch::Sender<()>,
}

/// What a socket holds while it is open, so that who drains waits for it.
pub(crate) struct SocketPlace {
    _place: watch::Receiver<()>,
}

impl Shared {
    pub(crate) fn new(
        bus: BusView,
        settings: Settings,
        local: &[SocketAddr],
        phase: watch::Receiver<Phase>,
    ) -> Result<Self, GatewayError> {
        let Some(rate) = NonZeroU32::new(settings.rate) else {
            return Err(GatewayError::Settings(
                "a rate of 0 lets nobody ask anything; give one of 1 or more".into(),
            ));
        };
        if settings.bodies_limit < settings.body_limit {
            return Err(GatewayError::Settings(format!(
                "all bodies together may have {} bytes (`bodies_limit`), and one of them {} (`body_limit`); raise the first, or lower the \
                 second",
                settings.bodies_limit, settings.body_limit
            )));
        }
        Ok(Self {
            budget: Budget::new(settings.bodies_limit),
            origins: Origins::new(&settings, local)?,
            rates: Rates::new(rate),
            metrics: Metrics::new().with(bus.collector()?),
            turbine: settings.turbine.as_ref().map(Turbine::new).transpose()?.map(Arc::new),
            popsub: settings.popsub.as_ref().map(PopSub::new).transpose()?,
            api: Api::new()?,
            opener: opener(&settings)?,
            bus,
            settings,
            phase,
            sockets: watch::channel(()).0,
        })
    }

    /// A link to the bus for this peer. Where many come at once it waits a little, until the bus has taken over those before it.
    ///
    /// # Errors
    /// What the bus says; [`BusError::Overloaded`] after [`limits::JOIN_TIME`].
    ///
    /// # Cancel safety
    /// Nothing is left behind when the future is dropped.
    pub(crate) async fn link(&self, peer: Peer) -> BusResult<Link> {
        let until = Instant::now() + limits::JOIN_TIME;
        loop {
            match self.bus.connect(peer.clone()) {
                Err(BusError::Overloaded { .. }) if Instant::now() < until => sleep(JOIN_PAUSE).await,
                linked => return linked,
            }
        }
    }

    /// A session of the bus over this link, by which name it is listed.
    pub(crate) fn join(&self, link: Link, name: &str) -> BusResult<Client> {
        Client::builder().name(name).connect_link(link)
    }

    /// [`join`](Self::join) for somebody who publishes: what is not sealed yet is sealed by the gateway's engines.
    pub(crate) fn join_to_publish(&self, link: Link, name: &str) -> BusResult<Client> {
        self.sealing(Client::builder()).name(name).connect_link(link)
    }

    /// Has a client seal by the gateway's engines. What arrives is left to the opener, once for all subscribers.
    pub(crate) fn sealing(&self, builder: ClientBuilder) -> ClientBuilder {
        match &self.settings.engines {
            Some(engines) => builder.engines(engines.clone()).pass_sealed(),
            None => builder,
        }
    }

    /// Waits until the gateway drains.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn draining(self: &Arc<Self>) {
        // Where the gateway is gone, so is whoever waits for this.
        let _ = self.phase.clone().wait_for(|phase| *phase >= Phase::Draining).await;
    }

    pub(crate) fn is_draining(&self) -> bool {
        *self.phase.borrow() >= Phase::Draining
    }

    pub(crate) fn socket_place(&self) -> SocketPlace {
        SocketPlace { _place: self.sockets.subscribe() }
    }

    /// Waits until all sockets are closed.
    pub(crate) async fn sockets_closed(&self) {
        self.sockets.closed().await;
    }
}

fn opener(settings: &Settings) -> Result<Option<PayloadOpener>, GatewayError> {
    let opener = settings.engines.clone().map(PayloadOpener::new).transpose();
    opener.map_err(|error| {
        GatewayError::Settings(format!("the engines for sealed payloads cannot be used: {error}"))
    })
}
