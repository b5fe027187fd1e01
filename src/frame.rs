//! A frame: editable bytes with room in front and behind.
//!
//! Workers borrow one from an mbuf, tests and `replay` from an array, so the packet path never
//! knows which. The window `start..end` moves; the buffer does not.

use crate::memory::Window;

/// One Ethernet frame inside a larger buffer.
#[derive(Debug, Default)]
pub struct Frame<'a> {
    window: Window<'a>,
}

/// A frame was asked to grow past its buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("frame has no room to grow")]
pub struct NoRoom;

impl<'a> Frame<'a> {
    /// The frame is `buffer[start..end]`; what lies before is headroom, behind it tailroom.
    /// An extent outside the buffer is cut to it.
    #[inline(always)]
    pub fn new(buffer: &'a mut [u8], start: usize, end: usize) -> Self {
        Frame { window: Window::new(buffer, start, end) }
    }

    /// The frame's bytes, Ethernet header first, without FCS.
    #[inline(always)]
    pub fn bytes(&self) -> &[u8] {
        self.window.bytes()
    }

    /// The frame's bytes to edit in place.
    #[inline(always)]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.window.bytes_mut()
    }

    /// Length in bytes.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.bytes().len()
    }

    /// Whether no byte is left.
    pub fn is_empty(&self) -> bool {
        self.bytes().is_empty()
    }

    /// Bytes free before the frame.
    #[inline(always)]
    pub fn headroom_bytes(&self) -> usize {
        self.window.ends().0
    }

    /// Bytes free behind the frame.
    pub fn tailroom_bytes(&self) -> usize {
        self.window.buffer_bytes() - self.window.ends().1
    }

    /// Where the frame now starts and ends in its buffer: what an mbuf's owner writes back.
    #[inline(always)]
    pub fn extent(&self) -> (usize, usize) {
        self.window.ends()
    }

    /// Adds `count` bytes at the front; their content is whatever was there.
    #[inline(always)]
    pub fn grow_front(&mut self, count: usize) -> Result<(), NoRoom> {
        let (start, end) = self.window.ends();
        let start = start.checked_sub(count).ok_or(NoRoom)?;
        self.window.set_ends(start, end).ok_or(NoRoom)
    }

    /// Cuts `count` bytes off the front.
    pub fn shrink_front(&mut self, count: usize) -> Result<(), NoRoom> {
        let (start, end) = self.window.ends();
        let start = start.checked_add(count).ok_or(NoRoom)?;
        self.window.set_ends(start, end).ok_or(NoRoom)
    }

    /// Sets the frame's length by moving its end; new bytes keep whatever was there.
    #[inline(always)]
    pub fn set_len(&mut self, len: usize) -> Result<(), NoRoom> {
        let (start, _) = self.window.ends();
        let end = start.checked_add(len).ok_or(NoRoom)?;
        self.window.set_ends(start, end).ok_or(NoRoom)
    }

    /// Opens a gap of `count` bytes at `offset` by moving the bytes before it into the headroom,
    /// which for a header is far less than moving the payload. The gap's content is undefined.
    pub fn open_gap(&mut self, offset: usize, count: usize) -> Result<(), NoRoom> {
        let start = self.window.ends().0.checked_sub(count).ok_or(NoRoom)?;
        self.window.move_start(start, offset).ok_or(NoRoom)
    }

    /// Removes `count` bytes at `offset` by moving the bytes before them back.
    pub fn close_gap(&mut self, offset: usize, count: usize) -> Result<(), NoRoom> {
        if offset.checked_add(count).is_none_or(|end| end > self.len()) {
            return Err(NoRoom);
        }
        self.window.move_start(self.window.ends().0 + count, offset).ok_or(NoRoom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gap_opens_into_headroom_and_closes_again() {
        let mut bytes = *b"....headTAIL";
        let mut frame = Frame::new(&mut bytes, 4, 12);
        frame.open_gap(4, 2).unwrap();
        assert_eq!(frame.len(), 10);
        assert_eq!(&frame.bytes()[..4], b"head");
        assert_eq!(&frame.bytes()[6..], b"TAIL");
        frame.close_gap(4, 2).unwrap();
        assert_eq!(frame.bytes(), b"headTAIL");
    }

    #[test]
    fn growing_past_the_buffer_is_refused() {
        let mut bytes = [0; 8];
        let mut frame = Frame::new(&mut bytes, 2, 6);
        assert_eq!(frame.grow_front(3), Err(NoRoom));
        assert_eq!(frame.open_gap(0, 3), Err(NoRoom));
        assert_eq!(frame.set_len(7), Err(NoRoom));
        assert_eq!(frame.shrink_front(5), Err(NoRoom));
        assert_eq!(frame.close_gap(3, 2), Err(NoRoom));
        assert_eq!(frame.set_len(6), Ok(()));
    }
}
