//! Which cores workers run on, and which are left to everything else.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Cores are listed wrongly.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("core {core} cannot be used; this process may run on {allowed:?}: change `runtime.cores`")]
pub struct NoSuchCore {
    /// The core asked for.
    pub core: usize,
    /// Those allowed.
    pub allowed: Vec<usize>,
}

/// Who runs where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CorePlan {
    /// By `WorkerId`. With fewer cores than workers some come twice.
    pub workers: Vec<usize>,
    /// For control, the kernel interface and EAL: cores without a worker, or all if none is left.
    pub others: Vec<usize>,
}

impl CorePlan {
    /// Plans `count` workers on the cores this process may use, or on those `wanted`, one each.
    pub fn choose(
        allowed: &[usize],
        wanted: Option<&[u16]>,
        count: usize,
    ) -> Result<Self, NoSuchCore> {
        let workers: Vec<usize> = match wanted {
            Some(wanted) => wanted.iter().map(|&core| usize::from(core)).collect(),
            None => {
                // The first core has the most interrupts, so it goes to the others if it can.
                let skipped = usize::from(allowed.len() > count);
                allowed.iter().skip(skipped).copied().cycle().take(count).collect()
            }
        };
        if let Some(&core) = workers.iter().find(|core| !allowed.contains(core)) {
            return Err(NoSuchCore { core, allowed: allowed.to_vec() });
        }
        let mut others: Vec<usize> =
            allowed.iter().filter(|core| !workers.contains(core)).copied().collect();
        if others.is_empty() {
            others = allowed.to_vec();
        }
        Ok(CorePlan { workers, others })
    }

    /// Whether control and the kernel interface have no core to themselves.
    pub fn is_crowded(&self) -> bool {
        self.others.iter().any(|core| self.workers.contains(core))
    }
}

/// Cores the calling thread may use.
pub fn allowed() -> Vec<usize> {
    match sched_getaffinity(None) {
        Ok(set) => (0..CpuSet::MAX_CPU).filter(|&core| set.is_set(core)).collect(),
        // Only a kernel with more cores than the set holds refuses.
        Err(_) => vec![0],
    }
}

/// Keeps the calling thread, and those it will start, on `cores`.
pub fn stay_on(cores: &[usize]) {
    let mut set = CpuSet::new();
    cores.iter().filter(|&&core| core < CpuSet::MAX_CPU).for_each(|&core| set.set(core));
    // A refusal leaves the thread where it was, which costs speed and nothing else.
    let _ = sched_setaffinity(None, &set);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_leave_the_first_core_to_others_where_there_are_enough() {
        let plan = CorePlan::choose(&[0, 1, 2, 3], None, 2).unwrap();
        assert_eq!(plan, CorePlan { workers: vec![1, 2], others: vec![0, 3] });
        assert!(!plan.is_crowded());
    }

    #[test]
    fn on_a_small_machine_all_share() {
        let plan = CorePlan::choose(&[0, 1], None, 2).unwrap();
        assert_eq!(plan, CorePlan { workers: vec![0, 1], others: vec![0, 1] });
        assert!(plan.is_crowded());
        assert_eq!(CorePlan::choose(&[5], None, 2).unwrap().workers, [5, 5]);
    }

    #[test]
    fn cores_asked_for_are_taken_or_refused() {
        assert_eq!(CorePlan::choose(&[0, 1, 2], Some(&[2, 0]), 2).unwrap().others, [1]);
        let refused = CorePlan::choose(&[0, 1], Some(&[7]), 1);
        assert_eq!(refused, Err(NoSuchCore { core: 7, allowed: vec![0, 1] }));
    }

    #[test]
    fn this_thread_is_allowed_somewhere() {
        assert!(!allowed().is_empty());
    }
}
