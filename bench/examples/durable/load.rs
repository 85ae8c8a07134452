//! Publishers that each wait for the answer to their publish before they make the next.

use std::fmt::{self, Display, Formatter};
use std::time::{Duration, Instant};

use anyhow::Result;
use futures_util::future::try_join_all;

/// Bytes of each message.
pub const PAYLOAD: usize = 100;

/// How long publishes are counted at a time, and how long they are made before that.
const COUNTED: Duration = Duration::from_millis(400);
const WARM_UP: Duration = Duration::from_millis(100);

/// How many publishes are under way, and over how many connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InFlight {
    pub connections: usize,
    /// Publishers that share each of them.
    pub each: usize,
}

impl InFlight {
    /// The most of one client: what targets are set for.
    pub const MOST: Self = Self::new(1, 64);
    pub const ALL: [Self; 4] = [
        Self::new(1, 1),
        Self::new(1, 8),
        Self::MOST,
        Self::new(64, 1),
    ];

    const fn new(connections: usize, each: usize) -> Self {
        Self { connections, each }
    }

    pub fn count(self) -> usize {
        self.connections * self.each
    }
}

impl Display for InFlight {
    fn fmt(&self, output: &mut Formatter<'_>) -> fmt::Result {
        write!(output, "{}", self.count())?;
        match self.connections {
            1 => Ok(()),
            connections => write!(output, ", of {connections} clients"),
        }
    }
}

/// Answers a second to all of these publishers.
///
/// # Errors
/// That of the first publish that fails.
pub async fn rate<P: AsyncFn() -> Result<()>>(publishers: &[P]) -> Result<f64> {
    let from = Instant::now() + WARM_UP;
    let until = from + COUNTED;
    let publishing = publishers.iter().map(async |publish| {
        let mut count = 0_u64;
        loop {
            publish().await?;
            let now = Instant::now();
            if now >= until {
                return anyhow::Ok(count);
            }
            count += u64::from(now >= from);
        }
    });
    let counts = try_join_all(publishing).await?;
    Ok(counts.into_iter().sum::<u64>() as f64 / COUNTED.as_secs_f64())
}
