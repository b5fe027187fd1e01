//! The core's part for next hops: kernel events in, slots, routes and wishes out.

use tracing::debug;

use super::work::Work;
use super::{Core, sweep};
use crate::config::{Config, Kernel};
use crate::message::FlowFilter;
use crate::model::NicModel;
use crate::model::next_hops::{KernelEvent, NicFacts, RouteUpdate};

impl Core {
    /// The kernel told something new.
    pub(super) fn kernel_events(&mut self, batch: &[KernelEvent]) {
        debug!(events = batch.len(), "kernel events");
        self.next_hops.apply(batch);
        self.flush_hops();
        self.pump();
    }

    /// Takes the static part of a configuration.
    pub(super) fn set_static(&mut self, config: &Config) {
        let routes = config.static_routes(|port| port.kernel == Kernel::None);
        self.next_hops.set_static(&config.static_neighbours(), &routes);
    }

    /// Hands out whatever changed of next hops.
    pub(super) fn flush_hops(&mut self) {
        let updates = self.next_hops.take_updates();
        self.workers.iter_mut().for_each(|worker| worker.hops(&updates));
        self.tell_of_hops(&updates);
        if let Some(wanted) = self.next_hops.take_wanted() {
            self.kernel.want(wanted);
        }
        if let Some(update) = self.next_hops.take_routes() {
            self.enqueue_routes(update);
        }
        if let Some(facts) = self.next_hops.take_interfaces() {
            let nics = self.nics.iter().map(|nic| with_facts(nic, &facts)).collect();
            self.enqueue_nics(nics);
        }
    }

    /// Newer routes take the place of ones that wait.
    fn enqueue_routes(&mut self, mut update: RouteUpdate) {
        self.work.retain(|work| match work {
            Work::Routes(older) => {
                update.targets_changed |= older.targets_changed;
                false
            }
            _ => true,
        });
        self.enqueue(Work::Routes(update));
    }

    fn enqueue_nics(&mut self, nics: Vec<NicModel>) {
        self.work.retain(|work| !matches!(work, Work::Nics(_)));
        if *nics != **self.snapshot.nics {
            self.enqueue(Work::Nics(nics));
        }
    }

    /// Has flows forget what is retired; the slots are free when all workers are through.
    pub(super) fn reclaim_hops(&mut self) {
        if self.building.is_some() || !self.work.is_empty() {
            // Workers may be about to get routes that no longer name what they name now.
            return;
        }
        let retired = self.next_hops.retired();
        if !retired.is_empty() {
            let purpose = sweep::Purpose::ForgetRoutes { retired };
            self.sweeps.want(FlowFilter::default(), purpose, &mut self.workers);
        }
    }

    /// Has flows ask the new routes.
    pub(super) fn forget_routes(&mut self) {
        let purpose = sweep::Purpose::ForgetRoutes { retired: Vec::new() };
        self.sweeps.want(FlowFilter::default(), purpose, &mut self.workers);
    }
}

/// A port as its interface has it now; where there is none, as it is.
fn with_facts(nic: &NicModel, facts: &[NicFacts]) -> NicModel {
    let mut nic = nic.clone();
    if let Some(facts) = facts.iter().find(|facts| facts.nic == nic.id && facts.ifindex.is_some()) {
        nic.mac = facts.mac;
        nic.mtu = nic.mtu.min(facts.mtu);
        nic.addresses.clone_from(&facts.addresses);
    }
    nic
}
