//! The other systems, a file each: how their clients are used as their documents recommend for
//! speed, and how their programs are started.

pub mod t2_bus;

#[cfg(feature = "peers")]
mod iceoryx2;
#[cfg(feature = "peers")]
mod mosquitto;
#[cfg(feature = "peers")]
mod nats;
#[cfg(feature = "peers")]
mod paired;
#[cfg(feature = "peers")]
mod redis;
#[cfg(feature = "peers")]
mod tarpc;
#[cfg(feature = "peers")]
mod tonic;
#[cfg(feature = "peers")]
mod zenoh;

#[cfg_attr(not(feature = "peers"), path = "absent.rs")]
mod present;

pub use present::{command, play, tidy};
