//! Notices ports whose links go down and come back. The devices are asked by `port_info`; what it
//! means for routes is the kernel's to say.

use std::time::Duration;

use tracing::{info, warn};

use super::Core;
use crate::control::api::Event;
use crate::control::port_info::PortInfo;
use crate::model::NicId;

/// How often links are looked at.
pub const LINKS_EVERY: Duration = Duration::from_secs(1);

/// The ports whose links were down at the last look.
#[derive(Debug, Default)]
pub struct Links {
    down: Vec<NicId>,
}

impl Links {
    /// Those that went down since the last look, and those that came back.
    fn look(&mut self, ports: &[PortInfo]) -> (Vec<NicId>, Vec<NicId>) {
        let down = ports.iter().filter(|port| !port.link_up).map(|port| port.nic);
        let before = std::mem::replace(&mut self.down, down.collect());
        let not_in = |these: &[NicId], those: &[NicId]| {
            these.iter().filter(|nic| !those.contains(nic)).copied().collect()
        };
        (not_in(&self.down, &before), not_in(&before, &self.down))
    }
}

impl Core {
    /// Tells of links that changed.
    pub(super) fn look_at_links(&mut self) {
        let (down, up) = self.links.look(&(self.port_info)());
        let name = |nic: &NicId| {
            let found = self.nics.iter().find(|model| model.id == *nic);
            found.map_or_else(String::new, |model| model.name.clone())
        };
        for port in down.iter().map(name) {
            warn!("port {port}: the link is down; nothing is received or sent there");
            self.notices.tell(Event::PortDown { port });
        }
        for port in up.iter().map(name) {
            info!("port {port}: the link is up");
            self.notices.tell(Event::PortUp { port });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_told_when_it_changes_and_not_while_it_stays() {
        let mut links = Links::default();
        let mut look = |up: [bool; 2]| {
            let port = |at: u8| PortInfo {
                nic: NicId(at),
                link_up: up[usize::from(at)],
                ..PortInfo::default()
            };
            links.look(&[port(0), port(1)])
        };
        assert_eq!(look([true, true]), (vec![], vec![]));
        assert_eq!(look([true, false]), (vec![NicId(1)], vec![]));
        assert_eq!(look([true, false]), (vec![], vec![]));
        assert_eq!(look([false, true]), (vec![NicId(0)], vec![NicId(1)]));
    }
}
