//! The director's own kernel: a server of flows by local delivery, and nobody's otherwise.

use std::net::IpAddr;

use gyre::message::FlowRow;
use gyre::model::*;

use crate::talk::Face;
use crate::world::World;

impl World {
    /// A conversation's flow at a worker.
    pub(super) fn row_of(&self, worker: usize, at: usize) -> Option<FlowRow> {
        let talk = &self.talks[at];
        let mut rows = self.team.members[worker].rows(self.now());
        rows.find(|row| {
            (row.protocol, row.client, row.virtual_address)
                == (talk.protocol, talk.client, talk.service_at())
        })
    }

    /// The address by which the kernel is a conversation's server, if it is.
    pub(super) fn local_server(&self, worker: usize, at: usize) -> Option<IpAddr> {
        let row = self.row_of(worker, at).filter(|row| row.mode == ForwardMode::Local)?;
        Some(row.server.0)
    }

    /// A frame to a server here: as it came, by one worker.
    pub(super) fn reaches_local_server(
        &mut self,
        (worker, server): (usize, IpAddr),
        at: usize,
        came: Vec<u8>,
        bytes: &[u8],
    ) {
        assert_eq!(came, bytes, "the kernel gets a packet as it came");
        self.decided_by(worker, at);
        let talk = &self.talks[at];
        self.goes_to(at, Face { server, src: talk.client, dst: talk.service_at() });
        self.outcome.local += 1;
        self.server_hears(at, (Some(server), bytes));
    }
}
