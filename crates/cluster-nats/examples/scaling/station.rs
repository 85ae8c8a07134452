//! Hosts with some cores, and the processes at them.

use super::costs::Work;

/// A machine: work waits for the first core that is free, in the order in which it comes.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    /// When the first core is free.
    first: u64,
    /// When the others are.
    others: Vec<u64>,
}

impl Host {
    /// One with so many cores.
    pub(crate) fn new(cores: usize) -> Self {
        Self { first: 0, others: vec![0; cores.saturating_sub(1)] }
    }
}

/// A process: it has been woken, and is awake until it has done what it has.
#[derive(Debug, Clone, Default)]
pub(crate) struct Process {
    /// Until when it has work.
    awake: u64,
    /// Nanoseconds that it has worked.
    pub(crate) worked: f64,
}

impl Process {
    /// Does something from `now` on at its host. Returns when it is done.
    ///
    /// Calls come in the order of their times.
    pub(crate) fn work(&mut self, host: &mut Host, now: u64, work: Work) -> u64 {
        let core = host
            .others
            .iter_mut()
            .fold(&mut host.first, |best, core| if *core < *best { core } else { best });
        let start = now.max(*core);
        let takes = if self.awake < now { work.busy + work.wake } else { work.busy };
        let end = start + takes as u64;
        *core = end;
        self.awake = self.awake.max(end);
        self.worked += takes;
        end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORK: Work = Work { busy: 10.0, wake: 5.0 };

    #[test]
    fn who_sleeps_is_woken_and_who_works_is_not() {
        let (mut host, mut process) = (Host::new(1), Process::default());
        assert_eq!(process.work(&mut host, 100, WORK), 115);
        assert_eq!(process.work(&mut host, 105, WORK), 125);
        assert_eq!(process.work(&mut host, 200, WORK), 215);
        assert_eq!(process.worked, 40.0);
    }

    #[test]
    fn as_much_is_done_at_a_time_as_there_are_cores() {
        let (mut host, mut processes) = (Host::new(2), vec![Process::default(); 3]);
        let ends: Vec<u64> = processes.iter_mut().map(|process| process.work(&mut host, 100, WORK)).collect();
        assert_eq!(ends, [115, 115, 130]);
    }
}
