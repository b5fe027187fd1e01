//! The kernel's connection states: tables per direction, timeouts, what counts as active.
//!
//! Source: the recordings `states/seq-*.json` of Linux IPVS. The names are the server's view:
//! a client's FIN leads to CLOSE_WAIT, a server's to FIN_WAIT. Modes that see only the client's
//! direction have a table of their own.

use super::flow::{Direction, FlowCore, flag};
use crate::message::FlowState;
use crate::model::{Protocol, TimeoutOverrides, Timeouts};
use crate::wire::tcp::TcpFlags;

use FlowState::{
    Close as CL, CloseWait as CW, Established as ES, FinWait as FW, LastAck as LA, Listen as LI,
    SynAck as SA, SynRecv as SR, SynSent as SS, TimeWait as TW,
};

/// Next state by present state, in the order of `FlowState`'s discriminants up to SYNACK.
type Row = [FlowState; 11];
/// Rows for SYN, FIN, ACK, RST.
type Table = [Row; 4];

/// Transitions by direction.
#[derive(Debug)]
pub struct Tables {
    inbound: Table,
    outbound: Table,
    /// The client's segments where nothing of the server has been seen.
    input_only: Table,
}

/// The kernel's usual tables.
pub static NORMAL: Tables = Tables { inbound: INBOUND, outbound: OUTBOUND, input_only: INPUT_ONLY };
/// With `secure_tcp`: a client's segments alone establish nothing, and a server's SYN-ACK makes
/// SYNACK, so that half-open connections can be told from others.
pub static STRICT: Tables =
    Tables { inbound: STRICT_INBOUND, outbound: STRICT_OUTBOUND, input_only: STRICT_INPUT_ONLY };

const INBOUND: Table = [
    [SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SR],
    [CL, CW, SS, TW, TW, TW, CL, CW, LA, LI, TW],
    [ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES],
    [CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, SR],
];

const OUTBOUND: Table = [
    [SS, ES, SS, SR, SS, SS, SS, SS, SS, LI, SR],
    [TW, FW, SS, TW, FW, TW, CL, TW, LA, LI, TW],
    [ES, ES, SS, ES, FW, TW, CL, CW, LA, ES, ES],
    [CL, CL, SS, CL, CL, TW, CL, CL, CL, CL, CL],
];

const INPUT_ONLY: Table = [
    [SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SR],
    [CL, FW, SS, TW, FW, TW, CL, CW, LA, LI, TW],
    [ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES],
    [CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, CL],
];

const STRICT_INBOUND: Table = [
    [SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SA],
    [CL, CW, SS, TW, TW, TW, CL, CW, LA, LI, SA],
    [ES, ES, SS, SR, FW, TW, CL, CW, CL, LI, SA],
    [CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, CL],
];

const STRICT_OUTBOUND: Table = [
    [SS, ES, SS, SA, SS, SS, SS, SS, SS, LI, SA],
    [TW, FW, SS, TW, FW, TW, CL, TW, LA, LI, TW],
    [ES, ES, SS, ES, FW, TW, CL, CW, LA, ES, ES],
    [CL, CL, SS, CL, CL, TW, CL, CL, CL, CL, CL],
];

const STRICT_INPUT_ONLY: Table = [
    [SA, ES, ES, SR, SA, SA, SA, SA, SA, SA, SA],
    [CL, FW, SS, TW, FW, TW, CL, CW, LA, LI, TW],
    [ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES],
    [CL, CL, CL, CL, CL, CL, CL, CL, LA, LI, CL],
];

/// The bits that decide.
const DECIDING: u8 = TcpFlags::RST.0 | TcpFlags::SYN.0 | TcpFlags::FIN.0 | TcpFlags::ACK.0;
/// Stands for no row.
const NO_ROW: u8 = 4;

/// Rows by the deciding bits: RST goes before SYN, SYN before FIN, FIN before ACK.
const ROWS: [u8; DECIDING as usize + 1] = {
    let mut rows = [NO_ROW; DECIDING as usize + 1];
    let mut flags = 0;
    while flags < rows.len() {
        let bits = flags as u8;
        rows[flags] = if bits & TcpFlags::RST.0 != 0 {
            3
        } else if bits & TcpFlags::SYN.0 != 0 {
            0
        } else if bits & TcpFlags::FIN.0 != 0 {
            1
        } else if bits & TcpFlags::ACK.0 != 0 {
            2
        } else {
            NO_ROW
        };
        flags += 1;
    }
    rows
};

/// Row of a segment; none where none of the four flags is set.
#[inline]
fn row(flags: TcpFlags) -> Option<usize> {
    let row = ROWS[usize::from(flags.0 & DECIDING)];
    (row != NO_ROW).then_some(usize::from(row))
}

impl Tables {
    /// The state after a packet.
    #[inline]
    pub fn next(&self, core: &FlowCore, direction: Direction, flags: TcpFlags) -> FlowState {
        if core.protocol() == Protocol::Udp {
            return FlowState::Udp;
        }
        let table = match direction {
            Direction::Outbound => &self.outbound,
            Direction::Inbound if core.has(flag::INPUT_ONLY) => &self.input_only,
            Direction::Inbound => &self.inbound,
        };
        // A segment with none of the four flags closes, as in the kernel.
        let Some(row) = row(flags) else { return FlowState::Close };
        table[row].get(core.state() as usize).copied().unwrap_or(FlowState::Close)
    }
}

/// Idle milliseconds after which a flow in `state` ends; `own` is what its service says of it.
pub fn timeout_ms(state: FlowState, general: &Timeouts, own: Option<&TimeoutOverrides>) -> u32 {
    macro_rules! of {
        ($field:ident) => {
            own.and_then(|own| own.$field).unwrap_or(general.$field)
        };
    }
    match state {
        FlowState::None | FlowState::Assured => 2_000,
        FlowState::Listen => 120_000,
        FlowState::Established => of!(established_ms),
        FlowState::SynSent => of!(syn_sent_ms),
        FlowState::SynRecv => of!(syn_recv_ms),
        FlowState::FinWait => of!(fin_wait_ms),
        FlowState::TimeWait => of!(time_wait_ms),
        FlowState::Close => of!(close_ms),
        FlowState::CloseWait => of!(close_wait_ms),
        FlowState::LastAck => of!(last_ack_ms),
        FlowState::SynAck => of!(synack_ms),
        FlowState::Udp => of!(udp_ms),
    }
}

/// Whether the kernel counts the state under ActiveConn. UDP never is.
pub fn is_active(state: FlowState) -> bool {
    matches!(state, ES | SS | SR | SA)
}

/// Whether a client's SYN is all there is of the connection, but maybe the answer to it.
#[inline]
pub fn is_half_open(state: FlowState) -> bool {
    matches!(state, SR | SA)
}

/// Whether the connection is over, as far as a SYN is concerned.
pub fn has_ended(core: &FlowCore) -> bool {
    core.protocol() == Protocol::Tcp && matches!(core.state(), TW | CL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flag_order_is_rst_syn_fin_ack() {
        let all = TcpFlags::RST | TcpFlags::SYN | TcpFlags::FIN | TcpFlags::ACK;
        assert_eq!(row(all), Some(3));
        assert_eq!(row(all.without(TcpFlags::RST)), Some(0));
        assert_eq!(row(TcpFlags::FIN | TcpFlags::ACK), Some(1));
        assert_eq!(row(TcpFlags::ACK | TcpFlags::PSH), Some(2));
        assert_eq!(row(TcpFlags::PSH), None);
    }

    #[test]
    fn udp_is_never_active() {
        assert!(!is_active(FlowState::Udp));
        assert!(is_active(FlowState::Established));
        assert!(!is_active(FlowState::CloseWait));
    }
}
