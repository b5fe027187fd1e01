//! rr: servers in turn, those that may not take a flow left out.

use super::candidates::Candidates;
use super::cursor::Cursor;

/// Where nobody may, the cursor stays where it is.
pub(super) fn pick(servers: &mut Candidates, cursor: &mut Cursor) -> Option<usize> {
    let at = servers.walk(cursor).find(|at| servers.is_usable(*at))?;
    (cursor.last, cursor.last_at) = (Some(servers.servers[at].id), at);
    Some(at)
}
