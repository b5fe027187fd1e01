//! rr: servers in turn, weight 0 left out.

use super::{Cursor, is_usable, walk};
use crate::model::VirtualService;

pub(super) fn pick(service: &VirtualService, cursor: &mut Cursor) -> Option<usize> {
    let at = walk(service, cursor.last).find(|at| is_usable(&service.servers[*at]));
    cursor.last = at.map(|at| service.servers[at].id);
    at
}
