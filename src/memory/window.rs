//! A window that moves over borrowed bytes: what a frame is. Its ends are checked when they move,
//! so that looking through it costs no check: the packet path does it several times a frame.

/// Bytes `start..end` of a buffer.
#[derive(Debug, Default)]
pub struct Window<'a> {
    buffer: &'a mut [u8],
    // Always: start <= end <= buffer.len().
    start: usize,
    end: usize,
}

impl<'a> Window<'a> {
    /// A window over all of a buffer that lies between these ends; cut to the buffer.
    #[inline(always)]
    pub fn new(buffer: &'a mut [u8], start: usize, end: usize) -> Self {
        let end = end.min(buffer.len());
        Window { start: start.min(end), end, buffer }
    }

    /// What is seen.
    #[inline(always)]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: every function keeps `start <= end <= buffer.len()`.
        unsafe { self.buffer.get_unchecked(self.start..self.end) }
    }

    /// What is seen, to edit.
    #[inline(always)]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`.
        unsafe { self.buffer.get_unchecked_mut(self.start..self.end) }
    }

    /// Its ends in the buffer.
    #[inline(always)]
    pub fn ends(&self) -> (usize, usize) {
        (self.start, self.end)
    }

    /// Size of the buffer in bytes.
    #[inline(always)]
    pub fn buffer_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Moves both ends; none, and it stays, where they would leave the buffer or pass each other.
    #[inline(always)]
    pub fn set_ends(&mut self, start: usize, end: usize) -> Option<()> {
        if start > end || end > self.buffer.len() {
            return None;
        }
        (self.start, self.end) = (start, end);
        Some(())
    }

    /// Moves the start, and the `count` bytes behind it with it; none, and nothing happened, where
    /// they are not there or would leave the buffer.
    pub fn move_start(&mut self, start: usize, count: usize) -> Option<()> {
        let (old, end) = self.ends();
        let room = end.checked_sub(old.max(start))?;
        if count > room {
            return None;
        }
        self.buffer.copy_within(old..old + count, start);
        self.set_ends(start, end)
    }
}

#[cfg(test)]
mod tests {
    use super::Window;

    #[test]
    fn ends_stay_inside_the_buffer_and_in_order() {
        let mut bytes = *b"0123456789";
        let mut window = Window::new(&mut bytes, 20, 30);
        assert_eq!((window.ends(), window.bytes()), ((10, 10), &b""[..]));
        assert_eq!(window.set_ends(4, 11), None);
        assert_eq!(window.set_ends(5, 4), None);
        assert_eq!(window.set_ends(usize::MAX, 0), None);
        assert_eq!((window.ends(), window.bytes_mut().len()), ((10, 10), 0));
        assert_eq!(window.set_ends(4, 8), Some(()));
        assert_eq!((window.bytes(), window.buffer_bytes()), (&b"4567"[..], 10));
    }

    #[test]
    fn bytes_behind_the_start_move_with_it() {
        let mut bytes = *b"0123456789";
        let mut window = Window::new(&mut bytes, 4, 8);
        assert_eq!(window.move_start(2, 5), None);
        assert_eq!(window.move_start(9, 1), None);
        assert_eq!(window.move_start(7, 2), None);
        assert_eq!(window.move_start(2, 2), Some(()));
        assert_eq!(window.bytes(), b"454567");
        assert_eq!(window.move_start(4, 2), Some(()));
        assert_eq!(window.bytes(), b"4567");
    }
}
