//! Cuts what a client sends into lines, with a bound on their length. No I/O and no JSON.

use bytes::{Bytes, BytesMut};

/// A line longer than the bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a request of more than {line_bytes_max} bytes")]
pub struct TooLong {
    /// The bound, newline included.
    pub line_bytes_max: usize,
}

/// Bytes received and not yet cut.
#[derive(Debug)]
pub struct LineBuffer {
    bytes: BytesMut,
    /// How many of them are known to hold no newline.
    scanned: usize,
    line_bytes_max: usize,
}

impl LineBuffer {
    /// An empty buffer for lines of at most `line_bytes_max` bytes, newline included.
    pub fn new(line_bytes_max: usize) -> Self {
        LineBuffer { bytes: BytesMut::new(), scanned: 0, line_bytes_max }
    }

    /// Where to read more bytes to.
    pub fn bytes_mut(&mut self) -> &mut BytesMut {
        &mut self.bytes
    }

    /// Whether part of a line waits for its rest.
    pub fn has_partial(&self) -> bool {
        !self.bytes.is_empty()
    }

    /// The next whole line without its newline, or `None` until more bytes are read.
    pub fn next_line(&mut self) -> Result<Option<Bytes>, TooLong> {
        let newline = self.bytes[self.scanned..].iter().position(|byte| *byte == b'\n');
        let too_long = Err(TooLong { line_bytes_max: self.line_bytes_max });
        match newline.map(|at| self.scanned + at) {
            Some(at) if at >= self.line_bytes_max => too_long,
            Some(at) => {
                let line = self.bytes.split_to(at + 1).freeze();
                self.scanned = 0;
                Ok(Some(line.slice(..at)))
            }
            None if self.bytes.len() >= self.line_bytes_max => too_long,
            None => {
                self.scanned = self.bytes.len();
                Ok(None)
            }
        }
    }

    /// What is left when the client has closed its side: a last line without newline.
    pub fn take_rest(&mut self) -> Bytes {
        self.scanned = 0;
        self.bytes.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_line_may_come_in_any_pieces() {
        let mut buffer = LineBuffer::new(64);
        for piece in ["ab", "c\nd", "ef", "\n\nx"] {
            buffer.bytes_mut().extend_from_slice(piece.as_bytes());
        }
        assert_eq!(buffer.next_line(), Ok(Some("abc".into())));
        assert_eq!(buffer.next_line(), Ok(Some("def".into())));
        assert_eq!(buffer.next_line(), Ok(Some("".into())));
        assert_eq!(buffer.next_line(), Ok(None));
        assert!(buffer.has_partial());
        assert_eq!(buffer.take_rest(), "x");
        assert!(!buffer.has_partial());
    }

    #[test]
    fn the_bound_holds_with_and_without_a_newline() {
        let mut buffer = LineBuffer::new(4);
        buffer.bytes_mut().extend_from_slice(b"abc\n");
        assert_eq!(buffer.next_line(), Ok(Some("abc".into())));
        buffer.bytes_mut().extend_from_slice(b"abcd");
        assert_eq!(buffer.next_line(), Err(TooLong { line_bytes_max: 4 }));
        let mut buffer = LineBuffer::new(4);
        buffer.bytes_mut().extend_from_slice(b"abcd\n");
        assert!(buffer.next_line().is_err());
    }

    proptest! {
        #[test]
        fn lines_are_what_split_gives(bytes: Vec<u8>, cut in 1usize..9) {
            let mut buffer = LineBuffer::new(1 << 20);
            let mut lines = Vec::new();
            for piece in bytes.chunks(cut) {
                buffer.bytes_mut().extend_from_slice(piece);
                while let Ok(Some(line)) = buffer.next_line() {
                    lines.push(line.to_vec());
                }
            }
            lines.push(buffer.take_rest().to_vec());
            let wanted: Vec<Vec<u8>> = bytes.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
            prop_assert_eq!(lines, wanted);
        }
    }
}
