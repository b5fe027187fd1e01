//! Frames that the packet path makes besides those that came in: a fixed number of fixed size.

use crate::counters::DropReason;
use crate::limits::{OUTBOX_FRAME_BYTES, OUTBOX_FRAMES_MAX};
use crate::model::NicId;

/// One extra frame.
#[derive(Clone)]
struct OutFrame {
    nic: NicId,
    len: usize,
    bytes: [u8; OUTBOX_FRAME_BYTES],
}

/// The extra frames of one burst, in order.
pub struct Outbox {
    frames: Vec<OutFrame>,
    used: usize,
}

impl std::fmt::Debug for Outbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbox").field("used", &self.used).finish()
    }
}

impl Outbox {
    pub(super) fn new() -> Self {
        let empty = OutFrame { nic: NicId(0), len: 0, bytes: [0; OUTBOX_FRAME_BYTES] };
        Outbox { frames: vec![empty; OUTBOX_FRAMES_MAX], used: 0 }
    }

    /// Adds a frame that `fill` writes; it gets the whole buffer and returns the length.
    pub(super) fn push(
        &mut self,
        nic: NicId,
        fill: impl FnOnce(&mut [u8; OUTBOX_FRAME_BYTES]) -> Option<usize>,
    ) -> Result<(), DropReason> {
        let frame = self.frames.get_mut(self.used).ok_or(DropReason::OutboxFull)?;
        let len = fill(&mut frame.bytes).ok_or(DropReason::Internal)?;
        frame.len = len.min(OUTBOX_FRAME_BYTES);
        frame.nic = nic;
        self.used += 1;
        Ok(())
    }

    /// Frames waiting.
    pub fn len(&self) -> usize {
        self.used
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Hands each frame to `send` and empties the box. Tags are already in.
    pub fn drain(&mut self, mut send: impl FnMut(NicId, &[u8])) {
        for frame in &self.frames[..self.used] {
            send(frame.nic, &frame.bytes[..frame.len]);
        }
        self.used = 0;
    }
}
