//! What `whispeer serve` and a service manager such as systemd tell each other, and what the system allows a service.
//!
//! Without a manager, nothing is told: it says by variables of the environment what it offers.
//!
//! | file | what it holds |
//! |---|---|
//! | `activation` | sockets that the manager has made and passed on |
//! | `assignment` | which address of the configuration each of them is for |
//! | `descriptors` | how many connections the system allows |
//! | `notices` | telling it that the bus is ready, rereads its configuration, or ends |
//! | `watchdog` | telling it that the bus is alive |

mod activation;
mod assignment;
mod descriptors;
pub(crate) mod notices;
mod watchdog;

pub(crate) use activation::Passed;
pub(crate) use assignment::assign;
pub(crate) use descriptors::Descriptors;
pub(crate) use watchdog::Watchdog;
