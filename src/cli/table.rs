//! Aligned columns of plain text.

use std::io::{self, Write};

use super::paint::{self, Ink};

/// Which way a column leans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// Rows under a heading, two spaces between columns.
#[derive(Debug)]
pub struct Table {
    columns: Vec<Align>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings; one that starts with `#` stands over numbers.
    pub fn new(headings: &[&str]) -> Self {
        let align = |h: &&str| if h.starts_with('#') { Align::Right } else { Align::Left };
        let names = headings.iter().map(|h| h.trim_start_matches('#').to_owned()).collect();
        Table { columns: headings.iter().map(align).collect(), rows: vec![names] }
    }

    /// Adds a row; a missing value shows as `-`.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let shown = |cell: String| if cell.is_empty() { "-".to_owned() } else { cell };
        self.rows.push(cells.into_iter().map(shown).collect());
    }

    /// Whether there is nothing below the headings.
    pub fn is_empty(&self) -> bool {
        self.rows.len() < 2
    }

    /// Writes headings and rows, on a terminal in colours.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let ink = if paint::is_on() { ink } else { |_, _: &str, _: &str| None };
        self.write_in(ink, out)
    }

    fn write_in(
        &self,
        ink: fn(usize, &str, &str) -> Option<Ink>,
        out: &mut impl Write,
    ) -> io::Result<()> {
        let width = |at: usize| {
            self.rows.iter().filter_map(|row| row.get(at)).map(|c| c.chars().count()).max()
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(|at| width(at).unwrap_or(0)).collect();
        for (at, row) in self.rows.iter().enumerate() {
            let mut line = String::new();
            let columns = self.rows[0].iter().zip(&widths).zip(&self.columns);
            for (cell, ((heading, width), align)) in row.iter().zip(columns) {
                let padded = match align {
                    Align::Left => format!("{cell:<width$}  "),
                    Align::Right => format!("{cell:>width$}  "),
                };
                match ink(at, heading, cell) {
                    // Blanks around it stay plain, or the line's end would not be trimmed.
                    Some(ink) => line.push_str(&padded.replacen(cell, &ink.over(cell), 1)),
                    None => line.push_str(&padded),
                }
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Headings are bold; states may be alarming.
fn ink(row: usize, heading: &str, cell: &str) -> Option<Ink> {
    match (row, heading) {
        (0, _) => Some(Ink::Bold),
        (_, "STATE" | "LINK" | "HEALTH") => Ink::of_state(cell),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_lean_left_and_numbers_right() {
        let mut table = Table::new(&["NAME", "#COUNT"]);
        table.row(["a".into(), "7".into()]);
        table.row([String::new(), "1234567".into()]);
        let mut out = Vec::new();
        table.write(&mut out).unwrap();
        let wanted = "NAME    COUNT\na           7\n-     1234567\n";
        assert_eq!(String::from_utf8(out).unwrap(), wanted);
    }

    #[test]
    fn colours_leave_columns_where_they_are() {
        let mut table = Table::new(&["NAME", "STATE", "#COUNT"]);
        table.row(["a".into(), "down".into(), "7".into()]);
        table.row(["b".into(), "up 10G".into(), "12".into()]);
        let mut plain = Vec::new();
        table.write_in(|_, _, _| None, &mut plain).unwrap();
        let mut painted = Vec::new();
        table.write_in(ink, &mut painted).unwrap();
        let (plain, painted) =
            (String::from_utf8(plain).unwrap(), String::from_utf8(painted).unwrap());
        assert!(painted.contains("\x1b[31mdown\x1b[0m") && !painted.contains("\x1b[31mup"));
        let mut bare = painted;
        for code in ["\x1b[1m", "\x1b[31m", "\x1b[0m"] {
            bare = bare.replace(code, "");
        }
        assert_eq!(bare, plain);
    }
}
