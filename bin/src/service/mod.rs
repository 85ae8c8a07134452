//! What `whispeer serve` and a service manager such as systemd tell each other.
//!
//! Without one, nothing here does anything: the manager says by variables of the environment what it
//! offers.
//!
//! | file | what it holds |
//! |---|---|
//! | `activation` | sockets that the manager has made and passed on |
//! | `assignment` | which address of the configuration each of them is for |
//! | `notices` | telling it that the bus is ready, rereads its configuration, or ends |
//! | `watchdog` | telling it that the bus is alive |

mod activation;
mod assignment;
pub(crate) mod notices;
mod watchdog;

pub(crate) use activation::Passed;
pub(crate) use assignment::assign;
pub(crate) use watchdog::Watchdog;
